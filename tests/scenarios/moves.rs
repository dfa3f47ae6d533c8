//! Planned moves in which the owner, the new owner or the leader dies or hangs: nothing overlaps,
//! everything is held again, and whoever called is told in time.
//!
//! Every blow falls while a node drains, at three steps at once: some of its resources have a call
//! that runs, some are in `terminate`, and some were released and are in `handle` on their new
//! owner.

use std::{collections::BTreeSet, process::Command, thread, time::Duration};

use holdfast_model::{
    NodeId,
    api::{NodeInfo, NodeStatus, SlotList},
};
use holdfast_tests::{
    Api, Cluster, LONG, Probe, SOON,
    checker::{Event, Fact, Findings, Key},
    probe::ids,
    wait_until,
};
use serde_json::{Value, json};

use crate::BIN;

/// How long each of the three steps takes: long enough for the blow to fall into all of them.
const STEP_MS: u64 = 2_500;

/// How long those wait who called what the owner holds: longer than any failover.
const CALL_TIMEOUT: Duration = Duration::from_secs(25);

/// How many resources are at each step, over all nodes.
const COUNT: usize = 18;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Owner,
    /// A node that gets what the owner gives away, and does not lead.
    Target,
    Leader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    Kill,
    Hang,
}

/// Three nodes, and resources whose moves take long at one step each.
struct Scene {
    cluster: Cluster,
    owner: usize,
    target: usize,
    leader: usize,
    /// What the owner holds, by the step that takes long.
    calling: Vec<String>,
    terminating: Vec<String>,
    handling: Vec<String>,
}

impl Scene {
    fn new() -> Self {
        let cluster = Cluster::builder(BIN).nodes(3).start();
        Probe::deploy(&cluster.api(0), "probe", cluster.collector());
        for (prefix, spec) in [
            ("calling-", json!({})),
            ("terminating-", json!({ "terminate_ms": STEP_MS })),
            ("handling-", json!({ "handle_ms": STEP_MS })),
        ] {
            let ids = ids(prefix, COUNT);
            cluster.api(0).allocate_all_as("probe", &ids, &spec);
        }
        let findings = cluster.collector().wait_held("probe", &all(), LONG);
        let leader = cluster.leader();
        let (owner, target) = ((leader + 1) % 3, (leader + 2) % 3);
        let pid = cluster.pid(owner);
        let of_owner = |prefix: &str| {
            let mut ids = ids(prefix, COUNT);
            ids.retain(|id| findings.holder("probe", id).is_some_and(|h| h.pid == pid));
            assert!(ids.len() >= 3, "an even spread");
            ids
        };
        Self {
            owner,
            target,
            leader,
            calling: of_owner("calling-"),
            terminating: of_owner("terminating-"),
            handling: of_owner("handling-"),
            cluster,
        }
    }

    fn id(&self, node: usize) -> NodeId {
        self.cluster.listening(node).node
    }

    /// Has the owner drain, and waits until all three steps are under way. `seen_by` is a node that
    /// the blow spares.
    fn begin_moves(&self, seen_by: usize) {
        let api = self.cluster.api(seen_by);
        wait_until("the calls are under way", SOON, || {
            let mut calling = self.calling.iter();
            let idle = calling.find(|id| api.resource("probe", id).in_flight == 0);
            idle.map_or(Ok(()), |id| Err(format!("{id} is idle")))
        });
        let _ = drain(&api, self.id(self.owner), "").answer().expect(200);
        wait_until("all ends that can end", SOON, || {
            let events = self.cluster.collector().events().into_iter();
            let begun = events.filter_map(|event| match event.fact {
                Fact::Terminating { key, .. } => Some(key.id),
                _ => None,
            });
            let begun: BTreeSet<String> = begun.collect();
            let late = self.terminating.iter().find(|id| !begun.contains(*id));
            late.map_or(Ok(()), |id| Err(format!("{id} does not terminate yet")))
        });
        wait_until("what takes long to handle is released", SOON, || {
            let slots = api.get("/v1/cluster/slots?module=probe").answer();
            let slots: SlotList = slots.expect(200).json();
            let owner = self.id(self.owner);
            let owned = |id: &&String| {
                let id: holdfast_model::ResourceId = id.parse().expect("it is an id");
                let slot = slots.slots.iter().find(|slot| slot.slot == id.slot());
                slot.is_some_and(|slot| slot.owner.is_some_and(|o| o.node == owner))
            };
            let kept = self.handling.iter().find(owned);
            kept.map_or(Ok(()), |id| Err(format!("{id} is the old owner's")))
        });
    }
}

fn all() -> Vec<String> {
    let prefixes = ["calling-", "terminating-", "handling-"];
    prefixes
        .iter()
        .flat_map(|prefix| ids(prefix, COUNT))
        .collect()
}

fn drain(api: &Api, node: NodeId, query: &str) -> holdfast_tests::Ask {
    api.ask("POST", &format!("/v1/cluster/nodes/{node}/drain{query}"))
}

/// Runs `holdfast drain`; gives its exit code, what it said, and what it told of errors.
fn command(server: &str, node: NodeId, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(BIN);
    command.args(["--server", server, "--format", "json", "drain"]);
    let output = command.arg(node.to_string()).args(args).output();
    let output = output.expect("the binary can be started");
    let text = |bytes| String::from_utf8(bytes).expect("it is text");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// A call that runs long on the owner: it ends well, or its caller is told in time that it is not
/// known, and when to ask again.
fn call(api: &Api, id: &str) {
    let ask = api
        .invoke("probe", id, Probe::sleep_ms(STEP_MS))
        .header("holdfast-timeout-ms", CALL_TIMEOUT.as_millis());
    let answer = ask.patience(CALL_TIMEOUT + SOON).answer();
    match answer.status {
        200 => {}
        503 => assert!(answer.header("retry-after").is_some(), "{answer}"),
        _ => panic!("{id}: {answer} after {:?}", answer.took),
    }
}

fn strike(who: Who, blow: Blow) {
    let mut scene = Scene::new();
    let struck = match who {
        Who::Owner => scene.owner,
        Who::Target => scene.target,
        Who::Leader => scene.leader,
    };
    let spared = if who == Who::Leader {
        scene.target
    } else {
        scene.leader
    };
    let api = scene.cluster.api(spared);
    thread::scope(|scope| {
        for id in scene.calling.clone() {
            let api = api.clone();
            scope.spawn(move || call(&api, &id));
        }
        scene.begin_moves(spared);
        match blow {
            Blow::Kill => scene.cluster.kill9(struck),
            Blow::Hang => scene.cluster.pause(struck),
        }
        let begun = scene.cluster.collector().now();
        let findings = scene.cluster.collector().wait_held("probe", &all(), LONG);
        findings.assert_undisturbed();
        let took = scene.cluster.collector().now() - begun;
        println!(
            "{who:?} {blow:?}: all held {:.1} s later",
            took.as_secs_f64()
        );
    });
    if blow == Blow::Hang {
        // Its lease is over, and with it whatever it was in the middle of.
        scene.cluster.resume(struck);
        scene.cluster.wait_started_anew(struck);
        let findings = scene.cluster.collector().wait_held("probe", &all(), LONG);
        findings.assert_undisturbed();
    }
    for id in all() {
        wait_until("a call of the resource is answered", SOON, || {
            api.invoke("probe", &id, Probe::echo()).answer().is(200)
        });
    }
    scene.cluster.collector().findings().assert_undisturbed();
}

#[test]
fn the_owner_dies_in_the_middle_of_moves() {
    strike(Who::Owner, Blow::Kill);
}

#[test]
fn the_owner_hangs_in_the_middle_of_moves() {
    strike(Who::Owner, Blow::Hang);
}

#[test]
fn the_new_owner_dies_in_the_middle_of_moves() {
    strike(Who::Target, Blow::Kill);
}

#[test]
fn the_new_owner_hangs_in_the_middle_of_moves() {
    strike(Who::Target, Blow::Hang);
}

#[test]
fn the_leader_dies_in_the_middle_of_moves() {
    strike(Who::Leader, Blow::Kill);
}

#[test]
fn the_leader_hangs_in_the_middle_of_moves() {
    strike(Who::Leader, Blow::Hang);
}

#[test]
fn a_node_that_was_lost_is_given_nothing_before_it_has_stayed_for_a_while() {
    let mut cluster = Cluster::builder(BIN).nodes(3).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let ids = ids("r", 30);
    cluster.api(0).allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);
    let flapping = (cluster.leader() + 1) % 3;
    // Twice as long after each loss, from a second on.
    for wait in [Duration::from_secs(2), Duration::from_secs(4)] {
        cluster.kill9(flapping);
        cluster.collector().wait_held("probe", &ids, LONG);
        let began = cluster.collector().now();
        cluster.restart(flapping);
        let pid = cluster.pid(flapping);
        wait_until("it holds its share", LONG, || {
            let spread = cluster.collector().findings().spread("probe");
            let share = spread.get(&pid).copied().unwrap_or(0);
            (share >= 9).then_some(()).ok_or(share)
        });
        let handled = |fact: &Fact| matches!(fact, Fact::Handled { pid: by, .. } if *by == pid);
        let events = cluster.collector().events();
        let first = events.iter().find(|event| handled(&event.fact));
        let waited = first.expect("it holds something").at - began;
        assert!(waited >= wait, "{waited:?} instead of {wait:?}");
    }
    cluster.collector().findings().assert_undisturbed();
}

/// Whether nothing is wrong but that these were dropped without their `terminate`, which nobody
/// reports.
fn assert_undisturbed_but_dropped(findings: &Findings, dropped: &[String]) {
    let strange = |key: &Key| !dropped.contains(&key.id);
    assert!(
        !findings
            .overlaps
            .iter()
            .any(|overlap| strange(&overlap.key))
    );
    assert!(
        findings.regressions.is_empty(),
        "{:?}",
        findings.regressions
    );
    assert!(findings.strays.is_empty(), "{:?}", findings.strays);
}

#[test]
fn a_drain_with_a_deadline_drops_what_does_not_end_and_nothing_else() {
    let cluster = Cluster::builder(BIN).nodes(3).start();
    let api = cluster.api(cluster.leader());
    let mut settings = Probe::settings(cluster.collector());
    settings["limits"]["terminate_timeout_ms"] = json!(3_600_000);
    Probe::deploy_with(&api, "probe", &settings);
    let ids = ids("r-", 60);
    api.allocate_all_as("probe", &ids, &Probe::slow_to_terminate());
    // Nothing clings before the nodes have their shares, for it would never get to its own.
    wait_until("they are even", LONG, || {
        let spread = cluster.collector().findings().spread("probe");
        let even = spread.len() == 3 && spread.values().all(|share| *share == 20);
        even.then_some(()).ok_or(format!("{spread:?}"))
    });
    let before = cluster.collector().wait_held("probe", &ids, LONG);
    let leaver = (cluster.leader() + 1) % 3;
    let (node, pid) = (cluster.listening(leaver).node, cluster.pid(leaver));
    let of_leaver = |id: &&String| before.holder("probe", id).is_some_and(|h| h.pid == pid);
    let clinging: Vec<String> = ids.iter().filter(of_leaver).take(3).cloned().collect();
    let seen = cluster.collector().events().len();
    let clings: Value = json!({ "spin_in_terminate": true });
    api.allocate_all_as("probe", &clinging, &clings);
    wait_until("what clings is there", LONG, || {
        let since = cluster.collector().events_after(seen);
        let is_handled = |event: &&Event| matches!(event.fact, Fact::Handled { .. });
        let handled = since.iter().filter(is_handled).count();
        (handled == clinging.len()).then_some(()).ok_or(handled)
    });

    // Without one, it waits; and whoever waits for it is told what for.
    let _ = drain(&api, node, "").answer().expect(200);
    wait_until("all that can go is gone", LONG, || {
        let info = api.node(node)?;
        let waits = info.status == NodeStatus::Draining && info.resources == 3;
        waits.then_some(()).ok_or(format!("{info:?}"))
    });
    let wait = drain(&api, node, "?wait=empty&timeout_ms=100").answer();
    wait.problem(504, "timeout").names(&["3 resources"]);
    let server = format!("http://{}", cluster.listening(cluster.leader()).http);
    let (code, _, told) = command(&server, node, &["--wait", "--timeout", "100ms"]);
    assert_eq!(code, Some(6), "{told}");
    assert!(told.contains("3 resources"), "{told}");

    let (code, said, told) = command(
        &server,
        node,
        &["--wait", "--timeout", "50s", "--deadline", "500ms"],
    );
    assert_eq!(code, Some(0), "{told}");
    let info: NodeInfo = serde_json::from_str(&said).expect("it says how the node is");
    assert_eq!((info.status, info.resources), (NodeStatus::Draining, 0));
    wait_until("all is held elsewhere", LONG, || {
        let findings = cluster.collector().findings();
        let elsewhere = |id: &&String| {
            let holders = findings.holders.get(&Key::new("probe", id));
            holders.is_some_and(|holders| holders.iter().any(|h| h.pid != pid))
        };
        let held = ids.iter().filter(elsewhere).count();
        (held == ids.len()).then_some(()).ok_or(held)
    });
    assert_undisturbed_but_dropped(&cluster.collector().findings(), &clinging);
    for id in &ids {
        wait_until("a call of the resource is answered", SOON, || {
            api.invoke("probe", id, Probe::echo()).answer().is(200)
        });
    }
    let refused = drain(&api, node, "?cancel=true&deadline_ms=1").answer();
    refused.problem(400, "invalid-request").names(&["deadline"]);
}
