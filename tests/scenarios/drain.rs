//! Leaving on purpose and being out of reach: nothing overlaps, and nothing moves without need.

use holdfast_model::{NodeId, api::NodeStatus};
use holdfast_tests::{
    Callers, Cluster, LONG, Probe, SOON,
    callers::Due,
    checker::{Event, Fact, Holding},
    probe::ids,
    wait_until,
};

use crate::BIN;

fn holding(count: usize) -> (Cluster, Vec<String>) {
    let cluster = Cluster::builder(BIN).nodes(3).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let ids = ids("r", count);
    let slow = Probe::slow_to_terminate();
    cluster.api(0).allocate_all_as("probe", &ids, &slow);
    cluster.collector().wait_held("probe", &ids, LONG);
    (cluster, ids)
}

/// How many resources this process has terminated for this reason.
fn terminated(cluster: &Cluster, process: u32, why: &str) -> usize {
    let events = cluster.collector().events();
    let is_one = |event: &&Event| match &event.fact {
        Fact::Terminated { pid, reason, .. } => *pid == process && reason == why,
        _ => false,
    };
    events.iter().filter(is_one).count()
}

fn wait_status(cluster: &Cluster, seen_by: usize, node: NodeId, expected: NodeStatus) {
    let api = cluster.api(seen_by);
    wait_until(&format!("{node} is shown as {expected}"), LONG, || {
        let status = api.node(node)?.status;
        let is_it = (status == expected).then_some(());
        is_it.ok_or_else(|| format!("it is {status}"))
    });
}

#[test]
fn a_drain_moves_everything_without_overlap_and_can_be_taken_back() {
    let (cluster, ids) = holding(300);
    let (node, pid) = (cluster.listening(1).node, cluster.pid(1));
    let mut callers = Callers::default();
    for through in 0..3 {
        callers.add(&cluster.api(through), &ids, Due::Success);
    }
    callers.wait_answered(30);
    let begun = cluster.collector().now();

    let path = format!("/v1/cluster/nodes/{node}/drain");
    let query = "?wait=empty&timeout_ms=180000";
    let ask = cluster.api(0).ask("POST", &format!("{path}{query}"));
    let _ = ask.patience(LONG + SOON).answer().expect(200);
    wait_status(&cluster, 0, node, NodeStatus::Draining);
    let findings = cluster.collector().wait_held("probe", &ids, LONG);
    findings.assert_undisturbed();
    assert_eq!(findings.spread("probe").get(&pid), None);
    let gaps = findings.gaps_since(begun).expect("something moved");
    println!("drain: {gaps}");

    let ask = cluster.api(2).ask("POST", &format!("{path}?cancel=true"));
    let _ = ask.answer().expect(200);
    wait_until("the node gets its share back", LONG, || {
        let share = cluster
            .collector()
            .findings()
            .spread("probe")
            .get(&pid)
            .copied();
        share
            .filter(|share| *share >= 98)
            .ok_or(format!("{share:?}"))
    });
    let findings = cluster.collector().wait_held("probe", &ids, LONG);
    findings.assert_undisturbed();
    callers.wait_answered(30);
    callers.stop();
}

#[test]
fn a_drain_of_an_unknown_node_is_refused() {
    let cluster = Cluster::builder(BIN).start();
    let path = "/v1/cluster/nodes/00000000-0000-4000-8000-000000000000/drain";
    let answer = cluster.api(0).ask("POST", path).answer();
    answer.problem(404, "unknown-node");
}

#[test]
fn sigterm_hands_everything_over_before_the_process_ends_well() {
    for leads in [false, true] {
        let (mut cluster, ids) = holding(300);
        let leader = cluster.leader();
        let leaver = if leads { leader } else { (leader + 1) % 3 };
        let pid = cluster.pid(leaver);
        let share = cluster.collector().findings().spread("probe")[&pid];
        let mut callers = Callers::default();
        for through in (0..3).filter(|node| *node != leaver) {
            callers.add(&cluster.api(through), &ids, Due::Success);
        }
        callers.wait_answered(30);
        let begun = cluster.collector().now();
        let status = cluster.stop(leaver);
        assert_eq!(status.code(), Some(0), "exit of node {leaver}");
        let took = cluster.collector().now() - begun;

        assert_eq!(terminated(&cluster, pid, "moved"), share);
        let findings = cluster.collector().wait_held("probe", &ids, LONG);
        findings.assert_undisturbed();
        let gaps = findings.gaps_since(begun).expect("something moved");
        println!("SIGTERM (leader: {leads}) took {took:?}: {gaps}");
        callers.wait_answered(30);
        callers.stop();
    }
}

#[test]
fn a_single_node_ends_well_on_sigterm_after_terminating_its_resources() {
    let mut cluster = Cluster::builder(BIN).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let ids = ids("r", 20);
    cluster.api(0).allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);
    let pid = cluster.pid(0);
    let status = cluster.stop(0);
    assert_eq!(status.code(), Some(0));
    assert_eq!(terminated(&cluster, pid, "stopping"), ids.len());
}

#[test]
fn a_node_that_falls_silent_is_replaced_once_its_lease_is_over() {
    let (mut cluster, ids) = holding(60);
    let follower = (cluster.leader() + 1) % 3;
    let other = (follower + 1) % 3;
    let (node, pid) = (cluster.listening(follower).node, cluster.pid(follower));
    let holds = |cluster: &Cluster| -> Vec<String> {
        let findings = cluster.collector().findings();
        let its = |holders: &Vec<Holding>| holders.iter().any(|holding| holding.pid == pid);
        let its = findings.holders.iter().filter(|(_, held)| its(held));
        its.map(|(key, _)| key.id.clone()).collect()
    };
    let its = holds(&cluster);
    assert!(!its.is_empty());
    let api = cluster.api(other);
    let incarnation = api.node(node).expect("it is known").incarnation;

    // It executes nothing and its port answers, so nothing but silence speaks of it.
    cluster.pause(follower);
    let findings = cluster.collector().wait_held("probe", &ids, LONG);
    findings.assert_undisturbed();
    wait_status(&cluster, other, node, NodeStatus::Down);
    wait_until("calls of its resources are answered", LONG, || {
        api.invoke("probe", &its[0], Probe::echo()).answer().is(200)
    });

    // It wakes up to find its lease over, and begins a new run on the same ports.
    cluster.resume(follower);
    wait_status(&cluster, other, node, NodeStatus::Active);
    let anew = api.node(node).expect("it is known").incarnation;
    assert!(anew > incarnation, "{anew} after {incarnation}");
    wait_until("it holds its share again", LONG, || {
        let held = holds(&cluster).len();
        (held >= 19).then_some(()).ok_or(format!("it holds {held}"))
    });
    let findings = cluster.collector().wait_held("probe", &ids, LONG);
    findings.assert_undisturbed();
    let through_it = cluster.api(follower);
    wait_until("it brings calls to others", LONG, || {
        through_it
            .invoke("probe", &its[0], Probe::echo())
            .answer()
            .is(200)
    });
}

#[test]
fn a_node_that_is_confirmed_dead_gives_up_what_it_held_even_if_it_lives() {
    let (mut cluster, ids) = holding(60);
    let follower = (cluster.leader() + 1) % 3;
    let other = (follower + 1) % 3;
    let node = cluster.listening(follower).node;
    let api = cluster.api(other);
    let path = format!("/v1/cluster/nodes/{node}");
    let refused = api.ask("DELETE", &path).answer();
    refused
        .problem(400, "invalid-request")
        .names(&["confirm_dead"]);

    // What is confirmed is wrong: the process is stopped, and goes on later.
    cluster.pause(follower);
    let confirmed = format!("{path}?confirm_dead=true");
    wait_until("it is not taken for alive any more", LONG, || {
        api.ask("DELETE", &confirmed).answer().is(204)
    });
    let findings = cluster.collector().wait_held("probe", &ids, LONG);
    findings.assert_undisturbed();
    wait_until("the node is gone", LONG, || match api.node(node) {
        Ok(info) => Err(format!("it is {}", info.status)),
        Err(_) => Ok(()),
    });
    cluster.resume(follower);
    let status = cluster.ended(follower);
    assert_ne!(status.code(), Some(0), "it says that it was removed");
    cluster
        .collector()
        .wait_held("probe", &ids, LONG)
        .assert_undisturbed();
}
