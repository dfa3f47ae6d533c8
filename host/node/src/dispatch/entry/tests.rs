//! Entries with real instances of the probe.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use holdfast_model::{
    Digest, Lane, Settings,
    call::{self, Request},
};
use holdfast_runtime::{Options, Runtime};
use holdfast_test_components::probe;
use tokio::{task::unconstrained, time::timeout};

use super::{
    super::turns::{NodeTurns, Start},
    *,
};
use crate::{metrics::Metrics, modules::Fetch};

/// A node's part of entries.
struct Node {
    host: Arc<Host>,
    ended: mpsc::Receiver<(ModuleName, ResourceId)>,
    digest: Digest,
    settings: Arc<Settings>,
    _dir: tempfile::TempDir,
}

struct Nowhere;

impl Fetch for Nowhere {
    fn fetch(&self, _: Digest) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async { Err("there is nobody to ask".to_owned()) })
    }
}

fn version(number: u64, digest: Digest, settings: &Arc<Settings>) -> Arc<Version> {
    Arc::new(Version {
        number,
        digest,
        size: 1,
        settings: Arc::clone(settings),
        deployed_at_ms: 1,
    })
}

impl Node {
    async fn start(lane: Lane) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new(Options::default()).unwrap();
        let modules = Modules::open(dir.path(), runtime, Arc::new(Nowhere)).unwrap();
        let digest = modules.keep(probe()).await.unwrap();
        let (sender, ended) = mpsc::channel(8);
        let mut settings = Settings {
            lane: Some(lane),
            ..Settings::default()
        };
        settings.limits.terminate_timeout_ms = HOUR_MS;
        let settings = Arc::new(settings);
        let name = "probe".parse().unwrap();
        for load in modules.want(&name, &[version(1, digest, &settings)]) {
            assert!(load.run().await);
        }
        Self {
            host: Arc::new(Host {
                modules,
                teller: Teller::new(holdfast_model::NodeId::default(), Metrics::new()),
                traces: crate::traces::Traces::default(),
                start_faults: crate::start_faults::StartFaults::default(),
                ended: sender,
            }),
            ended,
            digest,
            settings,
            _dir: dir,
        }
    }

    fn version(&self, number: u64) -> Arc<Version> {
        version(number, self.digest, &self.settings)
    }

    fn run(&self, revision: u64, spec: &str) -> Run {
        Run {
            token: Token(1),
            revision,
            spec: Spec::from_json(spec.as_bytes()).unwrap(),
            version: self.version(1),
        }
    }

    async fn held(&self, spec: &str) -> Arc<Entry> {
        let entry = entry(&Turns::new(NodeTurns::new(8)));
        entry.run(&self.host, self.run(1, spec));
        assert_eq!(soon(entry.settled(1)).await, Some(ResourceStatus::Held));
        entry
    }

    async fn call(&self, entry: &Arc<Entry>, body: &str, time: Duration) -> Answered {
        let request = Request {
            id: "1".to_owned(),
            created_at_ms: 1,
            timeout: time,
            idempotency_key: None,
            content_type: None,
            body: body.to_owned().into(),
        };
        let scope = Scope::default();
        let called = entry.call(&self.host, 8, request, Instant::now() + time, &scope);
        match soon(called).await {
            Called::Answered(answered) => Some(answered.map(|response| response.body.to_vec())),
            Called::NotHere => None,
        }
    }

    async fn ended(&mut self) {
        soon(self.ended.recv()).await.unwrap();
    }
}

type Answered = Option<Result<Vec<u8>, call::Error>>;

fn entry(turns: &Arc<Turns>) -> Arc<Entry> {
    let (module, id) = ("probe".parse().unwrap(), "r".parse().unwrap());
    Entry::new(module, id, Arc::clone(turns))
}

/// Every turn that there is.
fn take_all(turns: &Turns) -> Vec<Start<'_>> {
    std::iter::from_fn(|| turns.start().now_or_never()).collect()
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("it comes soon")
}

const SOON: Duration = Duration::from_secs(60);
const HOUR_MS: u64 = 3_600_000;

#[tokio::test]
async fn a_start_that_waits_for_its_turn_is_given_up_when_it_is_wanted_no_more() {
    let mut node = Node::start(Lane::Direct).await;
    let turns = Turns::new(NodeTurns::new(8));
    let _taken = take_all(&turns);
    for drop in [true, false] {
        let entry = entry(&turns);
        entry.run(&node.host, node.run(1, "{}"));
        // On the only thread there is: the driver gets as far as it can.
        tokio::task::yield_now().await;
        if drop {
            entry.drop_now(&node.host);
        } else {
            entry.end(&node.host, TerminateReason::Removed);
        }
        node.ended().await;
        assert!(entry.has_ended());
    }
}

#[tokio::test]
async fn a_changed_spec_is_what_a_start_that_had_to_wait_uses() {
    let node = Node::start(Lane::Direct).await;
    let turns = Turns::new(NodeTurns::new(8));
    let taken = take_all(&turns);
    let entry = entry(&turns);
    entry.run(&node.host, node.run(1, r#"{"fatal": true}"#));
    // On the only thread there is: the driver gets as far as it can.
    tokio::task::yield_now().await;
    entry.run(&node.host, node.run(2, "{}"));
    drop(taken);
    assert_eq!(soon(entry.settled(2)).await, Some(ResourceStatus::Held));
    assert!(entry.report().last_error.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_does_not_bring_a_hook_to_what_is_to_be_dropped() {
    let mut node = Node::start(Lane::Direct).await;
    let entry = node.held(r#"{"spin_in_terminate": true}"#).await;
    // So that the driver sees only what is wanted in the end.
    let cell = entry.cell.lock().await;
    entry.drop_now(&node.host);
    entry.end(&node.host, TerminateReason::Stopping);
    drop(cell);
    node.ended().await;
    assert!(entry.cell.lock().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_is_not_terminated_when_it_comes_back() {
    let node = Node::start(Lane::Direct).await;
    let entry = node.held(r#"{"spin_in_terminate": true}"#).await;
    let cell = entry.cell.lock().await;
    entry.drop_now(&node.host);
    entry.run(&node.host, node.run(2, "{}"));
    drop(cell);
    assert_eq!(soon(entry.settled(2)).await, Some(ResourceStatus::Held));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_midway_is_given_up_when_the_resource_is_dropped() {
    for lane in [Lane::Direct, Lane::Fiber] {
        let mut node = Node::start(lane).await;
        let entry = node.held(r#"{"spin_in_terminate": true}"#).await;
        entry.end(&node.host, TerminateReason::Moved);
        while entry.report().version.is_some() {
            tokio::task::yield_now().await;
        }
        entry.drop_now(&node.host);
        node.ended().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_are_turned_away_when_the_resource_is_dropped() {
    let mut node = Node::start(Lane::Direct).await;
    let entry = node.held("{}").await;
    let cell = entry.cell.lock().await;
    let calls = async {
        tokio::join!(
            node.call(&entry, "", SOON),
            node.call(&entry, "", SOON),
            async {
                while entry.report().waiting < 2 {
                    tokio::task::yield_now().await;
                }
                entry.drop_now(&node.host);
                drop(cell);
            }
        )
    };
    let (first, second, ()) = calls.await;
    assert_eq!((first, second), (None, None));
    node.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_midway_is_given_up_when_the_resource_is_dropped() {
    let sleep = r#"{"op":"sleep_ms","ms":3600000}"#;
    let spin = r#"{"op":"spin"}"#;
    for (lane, body) in [
        (Lane::Fiber, sleep),
        (Lane::Fiber, spin),
        (Lane::Direct, spin),
    ] {
        let mut node = Node::start(lane).await;
        let mut settings = Settings::clone(&node.settings);
        settings.limits.call_timeout_ms = HOUR_MS;
        node.settings = Arc::new(settings);
        let entry = node.held("{}").await;
        let (called, ()) = tokio::join!(node.call(&entry, body, SOON), async {
            // The call has the instance, and has begun.
            let guests = node.host.modules.guests();
            let runs = |report: Report| {
                report.in_flight == 1 && report.waiting == 0 && guests.load().waiting == 0
            };
            while !runs(entry.report()) {
                tokio::task::yield_now().await;
            }
            entry.drop_now(&node.host);
        });
        assert_eq!(
            called,
            Some(Err(call::Error::Interrupted)),
            "{lane:?} {body}"
        );
        node.ended().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_ended_before_a_call_came_to_wait_for_it_is_seen() {
    let node = Node::start(Lane::Direct).await;
    let entry = node.held("{}").await;
    let wait = entry.await_instance(8, Instant::now() + SOON * 60);
    assert!(soon(wait).await.is_ok());
}

#[tokio::test]
async fn calls_go_on_while_an_end_waits_for_its_turn() {
    let mut node = Node::start(Lane::Direct).await;
    let entry = node.held("{}").await;
    let stop = || unconstrained(entry.turns.stop(SOON)).now_or_never();
    let taken: Vec<_> = std::iter::from_fn(stop).collect();
    entry.end(&node.host, TerminateReason::Moved);
    // On the only thread there is: the driver gets as far as it can.
    tokio::task::yield_now().await;
    let call = node.call(&entry, "", Duration::from_secs(5)).await;
    assert!(call.is_some_and(|answer| answer.is_ok()));
    drop(taken);
    node.ended().await;
    assert!(entry.has_ended());
}

#[tokio::test]
async fn an_end_that_waits_for_its_turn_gives_way_to_a_drop() {
    let mut node = Node::start(Lane::Direct).await;
    let entry = node.held("{}").await;
    let stop = || unconstrained(entry.turns.stop(SOON)).now_or_never();
    let _taken: Vec<_> = std::iter::from_fn(stop).collect();
    entry.end(&node.host, TerminateReason::Moved);
    tokio::task::yield_now().await;
    entry.drop_now(&node.host);
    node.ended().await;
    assert!(entry.has_ended());
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_queue_hold_up_no_move() {
    let mut node = Node::start(Lane::Fiber).await;
    let entry = node.held("{}").await;
    let call = |body: &'static str| node.call(&entry, body, SOON);
    let end = async {
        while entry.report().waiting < 3 {
            tokio::task::yield_now().await;
        }
        entry.end(&node.host, TerminateReason::Moved);
    };
    let slow = r#"{"op":"sleep_ms","ms":500}"#;
    // Were they served here, the last would wait too long.
    let endless = r#"{"op":"sleep_ms","ms":3600000}"#;
    let (first, second, third, fourth, ()) =
        tokio::join!(call(slow), call(endless), call(endless), call(endless), end);
    assert!(first.is_some_and(|answer| answer.is_ok()), "it ran already");
    assert_eq!([second, third, fourth], [None, None, None]);
    node.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_little_patience_cost_a_resource_nothing() {
    let node = Node::start(Lane::Fiber).await;
    let entry = node.held("{}").await;
    let little = Duration::from_millis(50);
    let called = node
        .call(&entry, r#"{"op":"sleep_ms","ms":300}"#, little)
        .await;
    let error = called.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            call::Error::TimedOut(time) if time == little
        ) || matches!(error, call::Error::Unavailable { .. }),
        "{error:?}"
    );
    let answer = node.call(&entry, "", SOON).await.unwrap().unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["id"], "r");
    assert_eq!(entry.report().restarts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_in_the_direct_lane_does_not_keep_its_caller_beyond_the_deadline() {
    let mut node = Node::start(Lane::Direct).await;
    let mut settings = Settings::clone(&node.settings);
    settings.limits.call_timeout_ms = HOUR_MS;
    node.settings = Arc::new(settings);
    let entry = node.held("{}").await;
    let time = Duration::from_secs(2);
    let called = node.call(&entry, r#"{"op":"spin"}"#, time).await;
    assert_eq!(called, Some(Err(call::Error::TimedOut(time))));
    assert_eq!(entry.report().in_flight, 1, "the guest goes on");
    entry.drop_now(&node.host);
    node.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_old_instance_is_not_held_against_the_version_on_trial() {
    let node = Node::start(Lane::Direct).await;
    let entry = node.held("{}").await;
    let mut cell = entry.cell.lock().await;
    assert!(entry.begin_trial(&node.host, &node.version(2)));
    let trap = Failure::Fatal("an old error".to_owned());
    *cell = None;
    entry.died(&node.host, Some(&trap));
    drop(cell);
    assert_eq!(soon(entry.tried(2)).await, Some(Ok(())));
    assert!(entry.report().last_error.is_none(), "nor told of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_former_version_or_spec_failed_with_is_gone_with_it() {
    let node = Node::start(Lane::Direct).await;
    let entry = entry(&Turns::new(NodeTurns::new(8)));
    entry.run(&node.host, node.run(1, r#"{"fatal": true}"#));
    assert_eq!(
        soon(entry.settled(1)).await,
        Some(ResourceStatus::Quarantined)
    );
    assert!(entry.report().last_error.is_some());
    // Another owner of the same: its failure stays known until it is held.
    let mut again = node.run(1, r#"{"fatal": true}"#);
    again.token = Token(2);
    entry.run(&node.host, again);
    assert!(entry.report().last_error.is_some());
    let mut run = node.run(1, r#"{"fatal": true}"#);
    run.version = node.version(2);
    entry.run(&node.host, run);
    soon(entry.until(|| (entry.report().status == ResourceStatus::Quarantined).then_some(())))
        .await;
    entry.run(&node.host, node.run(2, "{}"));
    assert_eq!(soon(entry.settled(2)).await, Some(ResourceStatus::Held));
    assert!(entry.report().last_error.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_that_is_over_leaves_no_trace_and_none_replaces_a_later_version() {
    let node = Node::start(Lane::Direct).await;
    let entry = node.held("{}").await;
    let runs = |number| {
        let entry = Arc::clone(&entry);
        async move {
            let look = || (entry.report().version == Some(number)).then_some(());
            soon(entry.until(look)).await;
        }
    };
    assert!(entry.begin_trial(&node.host, &node.version(3)));
    assert!(!entry.begin_trial(&node.host, &node.version(2)));
    assert_eq!(soon(entry.tried(2)).await, None);
    runs(3).await;
    entry.end_trial(&node.host, 2);
    entry.end_trial(&node.host, 3);
    runs(1).await;

    // A version that serves is no trial any more, and what holds it stays.
    assert!(entry.begin_trial(&node.host, &node.version(4)));
    runs(4).await;
    let mut run = node.run(1, "{}");
    run.version = node.version(4);
    entry.run(&node.host, run);
    entry.end_trial(&node.host, 4);
    assert_eq!(soon(entry.settled(1)).await, Some(ResourceStatus::Held));
    assert_eq!(entry.report().version, Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_another_spec_does_not_settle_the_one_waited_for() {
    let node = Node::start(Lane::Direct).await;
    let entry = node.held("{}").await;
    entry.run(&node.host, node.run(2, r#"{"fatal": true}"#));
    assert_eq!(
        soon(entry.settled(2)).await,
        Some(ResourceStatus::Quarantined)
    );
    entry.run(&node.host, node.run(3, "{}"));
    assert_eq!(soon(entry.settled(3)).await, Some(ResourceStatus::Held));
    assert_eq!(soon(entry.settled(2)).await, None, "it was replaced since");
    // Not even while nobody here knows of it yet.
    let early = timeout(Duration::from_millis(50), entry.settled(4));
    assert!(early.await.is_err());
}
