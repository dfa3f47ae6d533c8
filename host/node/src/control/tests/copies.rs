//! Copies, and what they are compared by.

use holdfast_cluster::copies::{self, Verdict};
use openraft::storage::RaftStateMachine as _;
use tempfile::TempDir;

use super::*;

fn judge(cluster: &Cluster, node: usize) -> Verdict {
    let others = (0..cluster.nodes.len()).filter(|other| *other != node);
    let marks = |other: usize| (id(other as u64 + 1), cluster.nodes[other].digests());
    let others = others.map(marks).collect();
    let me = &cluster.nodes[node];
    copies::judge(me.core.me, &me.digests(), &others, &me.members().quorums)
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_copies_have_equal_digests_and_one_that_was_changed_has_not() {
    let cluster = Cluster::start(3).await;
    deploy(&cluster.nodes[0], "clocks").await;
    // More than the positions that all copies remember are apart.
    for i in 0..300 {
        allocate(&cluster.nodes[0], "clocks", &format!("r{i}")).await;
    }
    cluster.converge().await;
    for node in 0..3 {
        assert_eq!(judge(&cluster, node), Verdict::Right, "{node}");
    }
    // The same as if it were read anew from the file.
    let replica = &cluster.nodes[2].core.replica;
    let last = |marks: Vec<copies::Mark>| marks.into_iter().max();
    let read_anew = replica.read(|state| machine::digests(state, *replica.applied().borrow()));
    assert_eq!(last(replica.digests()), last(read_anew.marks()));

    // A change that nobody agreed on.
    replica.alter(allocation("clocks", "only-here"));
    deploy(&cluster.nodes[0], "other").await;
    within(|| {
        let verdict = judge(&cluster, 2);
        let majority = BTreeSet::from([id(1), id(2)]);
        let wrong = matches!(&verdict, Verdict::Wrong { majority: m, .. } if *m == majority);
        std::future::ready(wrong)
    })
    .await;
    assert_eq!(judge(&cluster, 0), Verdict::Right);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_installed_has_the_digest_of_the_one_it_came_from() {
    let cluster = Cluster::start(1).await;
    deploy(&cluster.nodes[0], "clocks").await;
    let source = cluster.nodes[0].core.replica.clone();
    let mut machine = machine::Machine(source.clone());
    let copy = machine.get_current_snapshot().await.unwrap().unwrap();
    let dir = TempDir::new().unwrap();
    let target = super::machine::Replica::open(dir.path().join(STATE_FILE), id(9)).unwrap();
    let target = Arc::new(target);
    let mut installed = super::machine::Machine(target.clone());
    installed
        .install_snapshot(&copy.meta, copy.snapshot)
        .await
        .unwrap();
    let marks = target.digests();
    assert!(
        source.digests().contains(marks.last().unwrap()),
        "{marks:?}"
    );
}
