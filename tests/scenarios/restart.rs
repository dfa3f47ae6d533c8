//! Restarts that are announced: nothing moves. And settings that change meanwhile.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use holdfast_model::{Incarnation, NodeId, api::NodeStatus};
use holdfast_tests::{
    Api, Callers, Cluster, LONG, Probe, SOON,
    callers::Due,
    checker::{Fact, Holding},
    probe::ids,
    wait_until,
};
use serde_json::{Value, json};

use crate::BIN;

fn holding(count: usize, args: &[&str]) -> (Cluster, Vec<String>) {
    let cluster = Cluster::builder(BIN).nodes(3).args(args).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let ids = ids("r", count);
    cluster.api(0).allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);
    cluster.wait_formed();
    (cluster, ids)
}

/// Which process holds each resource.
fn holders(cluster: &Cluster, ids: &[String]) -> Vec<u32> {
    let findings = cluster.collector().findings();
    let holder = |id: &String| {
        let Holding { pid, .. } = findings.holder("probe", id).expect("it is held");
        pid
    };
    ids.iter().map(holder).collect()
}

fn incarnation(api: &Api, node: NodeId) -> Incarnation {
    let info = api.node(node);
    info.expect("the node is known").incarnation
}

fn wait_back(api: &Api, node: NodeId, former: Incarnation) {
    wait_until("the node is back", LONG, || {
        let info = api.node(node)?;
        let back = info.incarnation > former && info.status == NodeStatus::Active;
        let holds = info.held == Some(info.resources);
        let seen = format!(
            "{} at {}, holds {:?}",
            info.status, info.incarnation, info.held
        );
        (back && holds).then_some(()).ok_or(seen)
    });
}

#[test]
fn an_announced_restart_moves_nothing_and_no_call_fails() {
    let (cluster, ids) = holding(300, &[]);
    let before = holders(&cluster, &ids);
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    let other = cluster.api((leader + 2) % 3);
    let mut callers = Callers::default();
    callers.add(&other, &ids, Due::Success);
    callers.wait_answered(30);
    let begun = cluster.collector().now();

    // The leader's last, so that the roles are as they were found.
    let node = cluster.listening(follower).node;
    let former = incarnation(&other, node);
    let path = format!("/v1/cluster/nodes/{node}/restart");
    let _ = other.ask("POST", &path).answer().expect(202);
    wait_back(&other, node, former);

    let node = cluster.listening(leader).node;
    let former = incarnation(&other, node);
    cluster.tell_to_restart(leader);
    wait_back(&other, node, former);

    let findings = cluster.collector().wait_held("probe", &ids, LONG);
    findings.assert_undisturbed();
    let gaps = findings.gaps_since(begun).expect("instances were replaced");
    println!("announced restarts: {gaps}");
    // The processes have kept their ids: nothing was held by another node in between, or the
    // observer had seen its `handle`.
    assert_eq!(holders(&cluster, &ids), before);
    let third = cluster.pid((leader + 2) % 3);
    let events = cluster.collector().events().into_iter();
    let taken = events.filter(|event| {
        let by_third = matches!(&event.fact, Fact::Handled { pid, .. } if *pid == third);
        by_third && event.at > begun
    });
    assert_eq!(taken.count(), 0, "the third node got nothing");
    callers.wait_answered(30);
    callers.stop();
}

#[test]
fn a_restart_that_is_acknowledged_too_late_is_made() {
    let (mut cluster, ids) = holding(60, &[]);
    let leader = cluster.leader();
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    let other = cluster.api(followers[0]);
    let node = cluster.listening(leader).node;
    let former = incarnation(&other, node);
    for follower in followers {
        cluster.pause(follower);
    }
    cluster.tell_to_restart(leader);
    // The announcement is in the leader's log, and nobody acknowledges it while the leader waits.
    wait_until("the leader gives up waiting", SOON, || {
        let log = cluster.log(leader);
        let gave_up = log.contains("not acknowledged in time") || log.contains("starting anew");
        gave_up.then_some(()).ok_or("it waits")
    });
    for follower in followers {
        cluster.resume(follower);
    }
    wait_back(&other, node, former);
    wait_until("every node is ready", LONG, || {
        (0..3).try_for_each(|node| cluster.api(node).ready())
    });
    cluster.collector().wait_held("probe", &ids, LONG);
}

#[test]
fn what_a_reserving_node_held_waits_for_its_next_run_and_not_for_ever() {
    let (mut cluster, ids) = holding(60, &["--on-stop", "reserve"]);
    let follower = (cluster.leader() + 1) % 3;
    let other = cluster.api((follower + 1) % 3);
    let node = cluster.listening(follower).node;
    let spread = |cluster: &Cluster| cluster.collector().findings().spread("probe");
    let before = spread(&cluster);
    let share = before[&cluster.pid(follower)];
    let former = incarnation(&other, node);

    let status = cluster.stop(follower);
    assert_eq!(status.code(), Some(0));
    assert_eq!(other.node(node).unwrap().status, NodeStatus::Restarting);
    cluster.restart(follower);
    wait_back(&other, node, former);
    cluster.collector().wait_held("probe", &ids, LONG);
    let after = spread(&cluster);
    assert_eq!(after[&cluster.pid(follower)], share);
    for other in (0..3).filter(|other| *other != follower) {
        let pid = cluster.pid(other);
        assert_eq!(after[&pid], before[&pid], "nothing came to node {other}");
    }

    cluster.stop(follower);
    let findings = cluster.collector().wait_held("probe", &ids, LONG);
    findings.assert_undisturbed();
    let gap = findings
        .gaps_since(Duration::ZERO)
        .expect("they were not held")
        .worst;
    assert!(
        gap >= Duration::from_secs(5),
        "they were kept for {gap:?} only"
    );
}

#[test]
fn a_node_that_cannot_tell_a_majority_goes_on_as_it_is() {
    let (mut cluster, _) = holding(3, &[]);
    let node = cluster.leader();
    let path = format!("/v1/cluster/nodes/{}/restart", cluster.listening(node).node);
    let unknown = "/v1/cluster/nodes/00000000-0000-4000-8000-000000000000/restart";
    let answer = cluster.api(node).ask("POST", unknown).answer();
    answer.problem(404, "unknown-node");
    for other in (0..3).filter(|other| *other != node) {
        cluster.kill9(other);
    }
    let answer = cluster.api(node).ask("POST", &path).answer();
    // Unless it ends before that, because its lease is over.
    match answer.status {
        503 if answer.json::<Value>()["type"] == "urn:holdfast:problem:interrupted" => {}
        _ => answer.problem(503, "no-leader").names(&["hears of it yet"]),
    }
}

/// Asks for something small, each time on a connection of its own, until `done`. Gives how often it
/// was answered, and what was not.
fn knock(api: &Api, done: &AtomicBool) -> (usize, Vec<String>) {
    let (mut answered, mut wrong) = (0, Vec::new());
    while !done.load(Ordering::Relaxed) {
        let ask = api.get("/healthz").header("connection", "close");
        match ask.patience(LONG).send() {
            Ok(answer) if answer.status == 200 => answered += 1,
            Ok(answer) => wrong.push(answer.to_string()),
            Err(unanswered) => wrong.push(format!("{unanswered:?}")),
        }
    }
    (answered, wrong)
}

#[test]
fn no_client_is_refused_while_another_run_takes_the_place_of_one() {
    let (mut cluster, _) = holding(3, &[]);
    let node = (cluster.leader() + 1) % 3;
    let (api, id) = (cluster.api(node), cluster.listening(node).node);
    let other = cluster.api((node + 1) % 3);
    let done = AtomicBool::new(false);
    let (answered, wrong) = std::thread::scope(|scope| {
        let knocking = scope.spawn(|| knock(&api, &done));
        let former = incarnation(&other, id);
        cluster.tell_to_restart(node);
        wait_back(&other, id, former);

        // It loses its lease.
        let former = incarnation(&other, id);
        cluster.pause(node);
        std::thread::sleep(Duration::from_secs(4));
        cluster.resume(node);
        wait_back(&other, id, former);
        done.store(true, Ordering::Relaxed);
        knocking.join().expect("it does not panic")
    });
    assert_eq!(wrong, Vec::<String>::new());
    assert!(answered > 0, "it was never answered");
}

#[test]
fn settings_change_while_the_cluster_runs() {
    let (cluster, ids) = holding(30, &[]);
    let api = cluster.api(1);
    let change = |body: Value| {
        api.ask("PATCH", "/v1/cluster/settings")
            .json(&body)
            .answer()
    };
    let failover = || api.cluster().map(|cluster| cluster.failover_ms_max);
    assert_eq!(failover(), Ok(4_700));

    let settings = change(json!({"lease_ttl_ms": 5_000, "fast_failover": false})).expect(200);
    let expected = json!({
        "voters": 3, "lease_ttl_ms": 5_000, "lease_guard_ms": 500,
        "replace_voters_after_ms": 30_000, "fast_failover": false, "stable_after_ms": 1_000,
    });
    assert_eq!(settings.json::<Value>(), expected);
    assert_eq!(failover(), Ok(6_700), "longer leases hold at once");

    for bad in [
        json!({"lease_ttl_ms": 1_000}),
        json!({"lease_guard_ms": 100}),
        json!({"lease_ttl_ms": u64::MAX}),
        json!({"voters": 2}),
        json!({"voters": 300}),
        json!({"colour": "red"}),
        json!([]),
    ] {
        change(bad).problem(400, "invalid-request");
    }
    let change_back = change(json!({"lease_ttl_ms": 3_000, "fast_failover": true}));
    let _ = change_back.expect(200);
    assert_eq!(failover(), Ok(6_700), "grants of 5 s may be in force");
    wait_until("the longer leases are over", LONG, || {
        let failover = failover()?;
        (failover == 4_700)
            .then_some(())
            .ok_or(failover.to_string())
    });
    let settings = cluster
        .api(2)
        .get("/v1/cluster/settings")
        .answer()
        .expect(200);
    assert_eq!(settings.json::<Value>()["lease_ttl_ms"], 3_000);
    // Nobody has lost its lease over it.
    cluster
        .collector()
        .wait_held("probe", &ids, LONG)
        .assert_undisturbed();
    assert!((0..3).all(|node| !cluster.log(node).contains("starting anew")));
}
