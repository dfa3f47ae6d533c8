//! A cluster founded anew from one node's files.

use holdfast_model::Token;

use super::{store::closed, *};
use crate::control::{Remains, RemainsError};

/// Founds anew from a node's files, into a directory of their own.
async fn anew(dir: &Path, me: NodeId, cluster: ClusterId) -> TempDir {
    let into = TempDir::new().unwrap();
    let remains = Remains::read(dir, me).await.unwrap();
    remains.found_anew(cluster, 9, into.path()).unwrap();
    into
}

#[tokio::test(flavor = "multi_thread")]
async fn one_nodes_files_found_a_cluster_with_all_that_is_in_its_log() {
    let mut cluster = Cluster::start(3).await;
    deploy(&cluster.nodes[0], "clocks").await;
    allocate(&cluster.nodes[0], "clocks", "agreed").await;
    cluster.converge().await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let node = cluster.nodes[leader].clone();
    let (me, term) = (node.core.me, node.leadership().borrow().term);
    // It reaches its own disk alone, so nobody can say whether it was agreed on.
    cluster.net.cut.lock().insert(me);
    let deadline = Instant::now() + Duration::from_millis(300);
    let proposed = node.propose(allocation("clocks", "maybe"), deadline).await;
    assert!(proposed.is_err(), "{proposed:?}");
    let epoch = node.read(State::epoch);
    node.shutdown().await;
    drop(node);
    cluster.net.forget(me);
    cluster.nodes.remove(leader);
    let dir = cluster.dirs[leader].path();
    closed(dir, me).await;

    let remains = Remains::read(dir, me).await.unwrap();
    let (last, last_term) = remains.last();
    assert!(remains.known_agreed().unwrap() < last && last_term == term);
    assert_eq!(remains.voters().len(), 3);
    drop(remains);
    let id_anew = ClusterId::random();
    let files = anew(dir, me, id_anew).await;

    let net = Net::new();
    let again = net.start(files.path(), me).await;
    lead(&again).await;
    assert_eq!(again.members().voters, BTreeSet::from([me]));
    assert!(again.leadership().borrow().term > term);
    for resource in ["agreed", "maybe"] {
        assert!(has(&again, "clocks", resource), "{resource}");
    }
    let state = again.read(State::clone);
    assert_eq!(state.cluster().unwrap().id, id_anew);
    assert!(state.epoch().0 > epoch.0 + (1 << 39));
    allocate(&again, "clocks", "after").await;
    assert!(*again.applied().borrow() > last, "positions go on");
    // Another gets all of it, though nothing before it is in the log.
    let empty = TempDir::new().unwrap();
    let fresh = net.start(empty.path(), id(9)).await;
    again.add_learner(id(9), soon()).await.unwrap();
    within(|| async { has(&fresh, "clocks", "maybe") && has(&fresh, "clocks", "after") }).await;
    // And what was founded anew restarts like any other.
    again.shutdown().await;
    drop(again);
    net.forget(me);
    closed(files.path(), me).await;
    let restarted = net.start(files.path(), me).await;
    lead(&restarted).await;
    assert!(has(&restarted, "clocks", "after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_founded_from_files_without_a_cluster() {
    let dir = TempDir::new().unwrap();
    let net = Net::new();
    let node = net.start(dir.path(), id(1)).await;
    node.shutdown().await;
    drop(node);
    net.forget(id(1));
    closed(dir.path(), id(1)).await;
    let nothing = Remains::read(dir.path(), id(1)).await.err().unwrap();
    assert!(matches!(nothing, RemainsError::Nothing { .. }), "{nothing}");
    let other = Remains::read(dir.path(), id(2)).await.err().unwrap();
    assert!(matches!(other, RemainsError::Open(_)), "{other}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_are_nobodys_under_larger_tokens_when_a_cluster_is_founded_anew() {
    let mut cluster = Cluster::start(1).await;
    deploy(&cluster.nodes[0], "clocks").await;
    allocate(&cluster.nodes[0], "clocks", "r").await;
    let node = cluster.nodes.pop().unwrap();
    let me = node.core.me;
    node.shutdown().await;
    drop(node);
    cluster.net.forget(me);
    closed(cluster.dirs[0].path(), me).await;
    let files = anew(cluster.dirs[0].path(), me, ClusterId::random()).await;
    let again = Net::new().start(files.path(), me).await;
    again.read(|state| {
        let module = &state.modules()["clocks"];
        for slot in module.slots.values() {
            assert_eq!((slot.owner, slot.next), (None, None));
            assert!(slot.token > Token(1 << 39));
        }
    });
}
