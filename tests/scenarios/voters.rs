//! Voters that stop: those who stay keep a majority.

use holdfast_tests::{Cluster, LONG, Probe, SOON, probe::ids, wait_until};
use serde_json::json;

use crate::BIN;

/// Five nodes, which hold something; and their voters by number, the leader first.
fn five() -> (Cluster, Vec<String>, Vec<usize>) {
    let cluster = Cluster::builder(BIN).nodes(5).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let ids = ids("r", 30);
    cluster.api(0).allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);
    let mut voters = voters(&cluster, 0);
    assert_eq!(voters.len(), 3);
    let leader = cluster.leader();
    voters.sort_by_key(|voter| *voter != leader);
    (cluster, ids, voters)
}

fn voters(cluster: &Cluster, seen_by: usize) -> Vec<usize> {
    let voters = cluster.api(seen_by).cluster().expect("it answers").voters;
    let number = |voter: &holdfast_model::NodeId| cluster.number_of(*voter);
    voters.iter().map(number).collect()
}

/// What is left goes on: it takes changes, all is held, and its voters all run.
#[track_caller]
fn goes_on(cluster: &Cluster, ids: &mut Vec<String>) {
    let running = cluster.running();
    let id = format!("with-{}", running.len());
    let allocated = cluster
        .api(running[0])
        .allocate_held("probe", &id, &json!({}))
        .patience(SOON)
        .answer();
    assert!(matches!(allocated.status, 200 | 201), "{allocated}");
    ids.push(id);
    let findings = cluster.collector().wait_held("probe", ids, LONG);
    findings.assert_undisturbed();
    wait_until("the voters are among those that run", LONG, || {
        let voters = voters(cluster, running[0]);
        let run = voters.len() == 3 && voters.iter().all(|voter| running.contains(voter));
        run.then_some(()).ok_or_else(|| format!("{voters:?}"))
    });
}

#[test]
fn voters_that_stop_one_after_the_other_leave_a_majority() {
    let (mut cluster, mut ids, voters) = five();
    for voter in &voters[..2] {
        assert_eq!(cluster.stop(*voter).code(), Some(0));
        goes_on(&cluster, &mut ids);
    }
    // They come back and follow.
    for voter in &voters[..2] {
        cluster.restart(*voter);
    }
    cluster.wait_formed();
}

#[test]
fn voters_that_stop_at_once_leave_a_majority() {
    let (mut cluster, mut ids, voters) = five();
    // The leader is one of them.
    for voter in &voters[..2] {
        cluster.tell_to_stop(*voter);
    }
    for voter in &voters[..2] {
        assert_eq!(cluster.ended(*voter).code(), Some(0));
    }
    goes_on(&cluster, &mut ids);
}
