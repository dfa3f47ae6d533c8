//! A handler that misbehaves harms its own resource, and nothing else.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use holdfast_model::api::{FailureKind, ResourceStatus};
use holdfast_tests::{
    Api, Cluster, LONG, Probe, SOON,
    checker::{Event, Fact, Key},
    never, wait_until,
};
use serde_json::{Value, json};

use crate::BIN;

/// How long a misbehaving call or hook goes on.
const WILD: Duration = Duration::from_secs(20);

/// How soon a well-behaved resource answers meanwhile, on a loaded machine of two cores: well
/// before the misbehaviour is over.
const QUICK: Duration = Duration::from_secs(10);

/// How soon a call is turned away whose caller waits for a second, on a machine as loaded.
const WITHOUT_WAITING: Duration = Duration::from_secs(15);

/// One node, so that the good and the bad share a process: modules `good` and `bad`, each with
/// a resource `fine`.
fn one_node() -> Cluster {
    let cluster = Cluster::builder(BIN).alone().start();
    for module in ["good", "bad"] {
        Probe::deploy(&cluster.api(0), module, cluster.collector());
        let fine = cluster.api(0).allocate_held(module, "fine", &json!({}));
        let _ = fine.answer().expect(201);
    }
    cluster
}

/// The well-behaved of both modules answer quickly.
fn fine(api: &Api) -> Result<(), String> {
    for module in ["good", "bad"] {
        let answer = api.invoke(module, "fine", Probe::echo()).answer();
        if answer.status != 200 || answer.took > QUICK {
            return Err(format!("{answer} after {:?}", answer.took));
        }
    }
    Ok(())
}

fn wait_status(api: &Api, id: &str, expected: ResourceStatus) {
    let what = format!("bad/{id} is {expected}");
    wait_until(&what, SOON, || {
        let status = api.resource("bad", id).status;
        (status == expected).then_some(()).ok_or(status)
    });
}

/// No instance was ever lost but of these of module `bad`.
fn assert_others_undisturbed(cluster: &Cluster, wild: &[&str]) {
    let findings = cluster.collector().findings();
    let wild: Vec<Key> = wild.iter().map(|id| Key::new("bad", id)).collect();
    findings.assert_undisturbed_but_for(&wild);
    for module in ["good", "bad"] {
        let fine = findings.holder(module, "fine");
        assert!(fine.is_some(), "{module}/fine is not held");
    }
}

/// Makes calls of `bad/wild` while the well-behaved must answer quickly; checks that the call had
/// `status`, and that `wild` itself recovers.
fn misbehave(call: &str, status: u16) -> Cluster {
    let cluster = one_node();
    let api = cluster.api(0);
    let wild = api.allocate_held("bad", "wild", &json!({})).answer();
    let _ = wild.expect(201);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let ask = api.invoke("bad", "wild", call.to_owned());
            let ask = ask.header("holdfast-timeout-ms", WILD.as_millis());
            let answer = ask.patience(LONG).send();
            done.store(true, Ordering::Relaxed);
            answer
        });
        never("others are disturbed", Duration::from_secs(3), || {
            fine(&api)
        });
        let answer = caller.join().expect("the caller does not panic");
        let answer = answer.expect("it is answered");
        assert_eq!(answer.status, status, "{answer}");
    });
    wait_until("the wild one recovers", SOON, || {
        api.invoke("bad", "wild", Probe::echo()).answer().is(200)
    });
    assert_others_undisturbed(&cluster, &["wild"]);
    cluster
}

#[test]
fn a_panic_restarts_its_own_resource_only() {
    let cluster = misbehave(&Probe::panic(), 500);
    let info = cluster.api(0).resource("bad", "wild");
    assert_eq!(info.status, ResourceStatus::Held);
    assert_eq!(info.restarts, 1);
    let error = info.last_error.expect("the panic is remembered");
    assert_eq!(error.kind, FailureKind::Trap);
    assert!(error.message.contains("told to panic"), "{}", error.message);
}

#[test]
fn an_endless_loop_is_cut_off_and_holds_nobody_up() {
    let cluster = misbehave(&Probe::spin(), 504);
    let info = cluster.api(0).resource("bad", "wild");
    assert_eq!(info.restarts, 1);
    let error = info.last_error.expect("the timeout is remembered");
    assert_eq!(error.kind, FailureKind::Timeout);
}

#[test]
fn many_endless_loops_hold_nobody_up() {
    let cluster = one_node();
    let api = cluster.api(0);
    let wild: Vec<String> = holdfast_tests::probe::ids("wild-", 8);
    api.allocate_all("bad", &wild);
    cluster.collector().wait_held(
        "bad",
        &[wild.clone(), vec!["fine".to_owned()]].concat(),
        LONG,
    );
    thread::scope(|scope| {
        for id in &wild {
            let ask = api.invoke("bad", id, Probe::spin());
            let ask = ask.header("holdfast-timeout-ms", WILD.as_millis());
            scope.spawn(|| ask.patience(LONG).send());
        }
        never("others are disturbed", Duration::from_secs(3), || {
            fine(&api)
        });
        api.ready().expect("the node itself is not held up");
    });
    let wild: Vec<&str> = wild.iter().map(String::as_str).collect();
    assert_others_undisturbed(&cluster, &wild);
}

/// Has many resources of one module loop at once, in one lane, while others and the node itself must
/// answer quickly.
fn hundreds_of_loops_hold_nobody_up(lane: &str) {
    let cluster = one_node();
    let api = cluster.api(0);
    // As short calls are, and in the lane of the loops.
    let settings = json!({"lane": lane, "limits": {"call_timeout_ms": WILD.as_millis()}});
    for module in ["loops", "beside"] {
        Probe::deploy_with(&api, module, &settings);
    }
    let loops = holdfast_tests::probe::ids("r", LOOPS);
    api.allocate_all("loops", &loops);
    let _ = api.allocate_held("beside", "it", &json!({})).answer();
    wait_until("all are held", LONG, || {
        let held = api.cluster()?.resources.held;
        (held == LOOPS as u64 + 3)
            .then_some(())
            .ok_or(held.to_string())
    });
    let incarnation = || {
        let info = api.node(cluster.listening(0).node);
        info.expect("it answers").incarnation
    };
    let before = incarnation();
    thread::scope(|scope| {
        for id in &loops {
            let ask = api.invoke("loops", id, Probe::spin());
            scope.spawn(|| ask.patience(LONG).send());
        }
        wait_until("they loop", SOON, || {
            let busy = |id: &String| api.resource("loops", id).in_flight == 1;
            let busy = loops.iter().take(50).filter(|id| busy(id)).count();
            (busy == 50).then_some(()).ok_or(busy)
        });
        never("others are disturbed", Duration::from_secs(3), || {
            fine(&api)?;
            let beside = api.invoke("beside", "it", Probe::echo()).answer();
            let health = api.get("/healthz").answer();
            for answer in [beside, health] {
                if answer.status != 200 || answer.took > QUICK {
                    return Err(format!("{answer} after {:?}", answer.took));
                }
            }
            Ok(())
        });
    });
    // Each ended at its deadline, and is held again.
    wait_until("all are held again", LONG, || {
        let held = api.cluster()?.resources.held;
        (held == LOOPS as u64 + 3)
            .then_some(())
            .ok_or(held.to_string())
    });
    assert_eq!(incarnation(), before, "it lost its lease");
    assert_others_undisturbed(&cluster, &[]);
}

const LOOPS: usize = 300;

#[test]
fn hundreds_of_loops_in_the_direct_lane_hold_nobody_up() {
    hundreds_of_loops_hold_nobody_up("direct");
}

#[test]
fn hundreds_of_loops_in_the_fiber_lane_hold_nobody_up() {
    hundreds_of_loops_hold_nobody_up("fiber");
}

#[test]
fn an_endless_loop_on_another_node_holds_up_no_call_on_the_way_there() {
    let cluster = Cluster::builder(BIN).nodes(2).start();
    let api = cluster.api(0);
    // Without a grant it runs in the direct lane, where a loop has its thread for itself.
    let settings = json!({"limits": {"call_timeout_ms": 5_000}});
    Probe::deploy_with(&api, "bad", &settings);
    let mut theirs = Vec::new();
    for id in holdfast_tests::probe::ids("r", 12) {
        let held = api.allocate_held("bad", &id, &json!({})).answer();
        let _ = held.expect(201);
        let owner = api.resource("bad", &id).owner.expect("it is held").node;
        if cluster.number_of(owner) == 1 {
            theirs.push(id);
        }
    }
    let [wild, others @ ..] = theirs.as_slice() else {
        panic!("node 1 has none of them");
    };
    assert!(!others.is_empty());
    thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let ask = api.invoke("bad", wild, Probe::spin());
            ask.header("holdfast-timeout-ms", 3_000).answer()
        });
        wait_until("it runs", SOON, || {
            let info = cluster.api(1).resource("bad", wild);
            (info.in_flight == 1).then_some(()).ok_or("it does not")
        });
        for id in others.iter().cycle().take(20) {
            let answer = api.invoke("bad", id, Probe::echo()).answer().expect(200);
            assert!(answer.took < QUICK, "{id} after {:?}", answer.took);
        }
        let answer = caller.join().expect("the caller does not panic");
        answer.problem(504, "timeout");
    });
}

#[test]
fn memory_beyond_the_limit_is_refused_to_its_own_resource_only() {
    let cluster = misbehave(&Probe::alloc(), 200);
    let api = cluster.api(0);
    let answer: Value = api
        .invoke("bad", "wild", Probe::alloc())
        .answer()
        .expect(200)
        .json();
    let bytes = answer["bytes"].as_u64().expect("a number");
    let limit = 16 << 20; // of `Probe::settings`
    assert!((8 << 20..limit).contains(&bytes), "{bytes} of {limit}");
}

#[test]
fn a_failing_handle_is_tried_again_with_growing_pauses() {
    let cluster = one_node();
    let api = cluster.api(0);
    let begun = cluster.collector().now();
    let failing = api.allocate("bad", "late", &json!({"fail_handle": 7}));
    let _ = failing.answer().expect(201);
    wait_status(&api, "late", ResourceStatus::Failed);
    let info = api.resource("bad", "late");
    let error = info.last_error.expect("the failure is told");
    assert_eq!(error.kind, FailureKind::Retry);
    assert!(error.message.contains("told to fail this attempt"));
    fine(&api).expect("others answer meanwhile");

    wait_status(&api, "late", ResourceStatus::Held);
    let late = Key::new("bad", "late");
    let events = cluster.collector().events();
    let held = |event: &Event| match &event.fact {
        Fact::Handled { key, attempt, .. } if *key == late => Some((*attempt, event.at)),
        _ => None,
    };
    let held: Vec<_> = events.iter().filter_map(held).collect();
    let [(attempt, at)] = held.as_slice() else {
        panic!("held once: {held:?}");
    };
    assert_eq!(*attempt, 8);
    // Seven pauses; were they all as short as the first, it would be much less.
    assert!(
        *at - begun > Duration::from_millis(3_000),
        "{:?}",
        *at - begun
    );
    assert_others_undisturbed(&cluster, &[]);
}

#[test]
fn a_resource_that_waits_for_its_next_attempt_turns_calls_away() {
    let cluster = one_node();
    let api = cluster.api(0);
    let spec = json!({"fail_handle": 1_000_000});
    let _ = api.allocate("bad", "never", &spec).answer().expect(201);
    wait_status(&api, "never", ResourceStatus::Failed);
    let ask = api.invoke("bad", "never", Probe::echo());
    let answer = ask.header("holdfast-timeout-ms", 1_000).answer();
    match answer.status {
        503 => drop(answer.retry_after()),
        504 => {}
        _ => panic!("{answer}"),
    }
    assert!(answer.took < WITHOUT_WAITING, "{:?}", answer.took);
}

#[test]
fn a_panicking_handle_is_told_with_its_words() {
    let cluster = one_node();
    let api = cluster.api(0);
    let spec = json!({"panic_in_handle": true});
    let _ = api.allocate("bad", "broken", &spec).answer().expect(201);
    wait_status(&api, "broken", ResourceStatus::Failed);
    let error = api.resource("bad", "broken").last_error;
    let error = error.expect("the panic is told");
    assert_eq!(error.kind, FailureKind::Trap);
    assert!(error.message.contains("told to panic in handle"));
    wait_until("it is tried again", SOON, || {
        let attempt = api.resource("bad", "broken").attempt;
        (attempt >= 3).then_some(()).ok_or(attempt)
    });
    assert_others_undisturbed(&cluster, &[]);
}

#[test]
fn a_fatal_error_quarantines_its_resource_until_it_is_changed() {
    let cluster = one_node();
    let api = cluster.api(0);
    let _ = api
        .allocate("bad", "doomed", &json!({"fatal": true}))
        .answer();
    wait_status(&api, "doomed", ResourceStatus::Quarantined);
    let info = api.resource("bad", "doomed");
    let error = info.last_error.expect("the reason is told");
    assert_eq!(error.kind, FailureKind::Fatal);
    assert!(error.message.contains("told to fail for good"));
    never("it is tried again", Duration::from_secs(3), || {
        let now = api.resource("bad", "doomed");
        let same = now.attempt == info.attempt && now.status == ResourceStatus::Quarantined;
        same.then_some(()).ok_or_else(|| format!("{now:?}"))
    });
    let call = api.invoke("bad", "doomed", Probe::echo());
    let answer = call.header("holdfast-timeout-ms", 1_000).answer();
    assert_eq!(answer.status, 503, "{answer}");
    assert!(answer.took < WITHOUT_WAITING, "{:?}", answer.took);
    let counted = api.cluster().expect("the node answers").resources;
    assert_eq!((counted.held, counted.quarantined), (2, 1));

    let changed = api.allocate_held("bad", "doomed", &json!({})).answer();
    let _ = changed.expect(200);
    wait_status(&api, "doomed", ResourceStatus::Held);
    assert_others_undisturbed(&cluster, &[]);
}

#[test]
fn an_endless_terminate_is_cut_off() {
    let cluster = one_node();
    let api = cluster.api(0);
    let mut settings = Probe::settings(cluster.collector());
    settings["limits"]["terminate_timeout_ms"] = json!(WILD.as_millis());
    Probe::deploy_with(&api, "bad", &settings);
    let spec = json!({"spin_in_terminate": true});
    let _ = api
        .allocate_held("bad", "clinging", &spec)
        .answer()
        .expect(201);
    thread::scope(|scope| {
        let gone = scope.spawn(|| api.deallocate("bad", "clinging").answer());
        never("others are disturbed", Duration::from_secs(3), || {
            fine(&api)
        });
        let _ = gone.join().expect("the caller does not panic").expect(204);
    });
    assert_others_undisturbed(&cluster, &[]);
}

#[test]
fn a_handler_reaches_only_what_it_was_granted() {
    let cluster = Cluster::builder(BIN).start();
    let api = cluster.api(0);
    let mut settings = Probe::settings(cluster.collector());
    settings["grants"] = json!({ "http": ["api.example.com:443"] });
    Probe::deploy_with(&api, "bad", &settings);
    let _ = api.allocate("bad", "mute", &json!({})).answer().expect(201);
    wait_status(&api, "mute", ResourceStatus::Failed);
    let error = api.resource("bad", "mute").last_error;
    let message = error.expect("the refusal is told").message;
    assert!(message.contains("denied"), "{message}");
    let observed = cluster.collector().events();
    assert!(observed.is_empty(), "it reached what it was not granted");
}
