//! Several nodes.

use holdfast_cluster::codec;
use openraft::async_runtime::WatchReceiver;

use super::{super::*, *};

#[tokio::test(flavor = "multi_thread")]
async fn any_node_takes_commands_and_reads_what_was_acknowledged_elsewhere() {
    let cluster = Cluster::start(3).await;
    deploy(&cluster.nodes[1], "clocks").await;
    for round in 0..30 {
        let (writer, reader) = (&cluster.nodes[round % 3], &cluster.nodes[(round + 1) % 3]);
        let resource = format!("r{round}");
        allocate(writer, "clocks", &resource).await;
        reader.read_index(soon()).await.unwrap();
        assert!(has(reader, "clocks", &resource), "{resource}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_leads_when_the_leader_is_cut_off_and_nothing_acknowledged_is_lost() {
    let cluster = Cluster::start(3).await;
    deploy(&cluster.nodes[0], "clocks").await;
    allocate(&cluster.nodes[0], "clocks", "before").await;
    let old = *cluster.nodes[0].leadership().borrow();
    cluster.net.cut.lock().insert(id(1));

    // Proposed while there is no leader: it waits for the next.
    allocate(&cluster.nodes[1], "clocks", "meanwhile").await;
    let leader = cluster.leader(&[1, 2]).await;
    let new = *cluster.nodes[leader].leadership().borrow();
    assert!(new.term > old.term);
    assert!(has(&cluster.nodes[leader], "clocks", "before"));

    // The old one can neither read nor write nor vouch for itself.
    let short = || Instant::now() + Duration::from_millis(700);
    let read = cluster.nodes[0].read_index(short()).await;
    assert!(matches!(read, Err(ReadError::NoLeader { .. })), "{read:?}");
    cluster.nodes[0]
        .confirm_leadership(short())
        .await
        .unwrap_err();
    cluster.nodes[0]
        .propose(allocation("clocks", "lost"), short())
        .await
        .unwrap_err();
    assert_eq!(
        cluster.nodes[leader].confirm_leadership(soon()).await,
        Ok(new.term)
    );

    cluster.net.cut.lock().clear();
    cluster.nodes[0].read_index(soon()).await.unwrap();
    assert!(has(&cluster.nodes[0], "clocks", "meanwhile"));
    cluster.converge().await;
}

/// Nobody is elected by waiting, as far as these tests go.
fn patient(options: Options) -> Options {
    Options {
        election_min: Duration::from_secs(300),
        election_max: Duration::from_secs(600),
        ..options
    }
}

/// Has these nodes know that the first one is dead, all of them at about the same time.
async fn succeed(cluster: &Cluster, heirs: &[usize]) {
    let knowing = heirs.iter().map(|heir| cluster.nodes[*heir].succeed(id(1)));
    futures_util::future::join_all(knowing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_leads_at_once_when_the_leader_is_known_to_be_dead() {
    let cluster = Cluster::start_with(3, patient).await;
    deploy(&cluster.nodes[0], "clocks").await;
    allocate(&cluster.nodes[0], "clocks", "before").await;
    cluster.converge().await;
    cluster.net.cut.lock().insert(id(1));
    succeed(&cluster, &[1, 2]).await;
    let leader = cluster.leader(&[1, 2]).await;
    allocate(&cluster.nodes[leader], "clocks", "after").await;
    assert!(has(&cluster.nodes[leader], "clocks", "before"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_the_newest_entries_does_not_succeed_a_dead_leader() {
    let cluster = Cluster::start_with(3, patient).await;
    deploy(&cluster.nodes[0], "clocks").await;
    cluster.converge().await;
    cluster.net.cut.lock().insert(id(2));
    allocate(&cluster.nodes[0], "clocks", "newest").await;
    *cluster.net.cut.lock() = BTreeSet::from([id(1)]);
    succeed(&cluster, &[1, 2]).await;
    assert_eq!(cluster.leader(&[1, 2]).await, 2);
    cluster.nodes[1].read_index(soon()).await.unwrap();
    assert!(has(&cluster.nodes[1], "clocks", "newest"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_one_node_takes_for_dead_stays() {
    let cluster = Cluster::start_with(3, patient).await;
    let before = *cluster.nodes[0].leadership().borrow();
    succeed(&cluster, &[1]).await;
    deploy(&cluster.nodes[1], "clocks").await;
    assert_eq!(*cluster.nodes[0].leadership().borrow(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_answer_is_lost_is_tried_again_and_done_once() {
    let cluster = Cluster::start(3).await;
    deploy(&cluster.nodes[0], "clocks").await;
    cluster.net.mute.lock().insert(id(1));
    let node = cluster.nodes[1].clone();
    let proposing = tokio::spawn(async move { allocate(&node, "clocks", "once").await });
    within(|| std::future::ready(has(&cluster.nodes[0], "clocks", "once"))).await;
    cluster.net.mute.lock().clear();
    proposing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_leader_a_command_is_surely_not_applied() {
    let cluster = Cluster::start(1).await;
    let dir = TempDir::new().unwrap();
    let stranger = cluster.net.start(dir.path(), id(9)).await;
    let proposed = stranger
        .propose(deployment("x"), Instant::now() + Duration::from_millis(100))
        .await;
    assert_eq!(proposed, Err(ProposeError::NoLeader { leader: None }));
    assert!(!stranger.is_initialized().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_counts_only_in_its_term() {
    let cluster = Cluster::start(3).await;
    let term = cluster.nodes[0].leadership().borrow().term;
    let place = || Decision::Place { slots: Vec::new() };
    let outcome = cluster.nodes[0]
        .propose_as_leader(term, place(), soon())
        .await
        .unwrap();
    assert_eq!(outcome, Outcome::Done);
    for (node, term) in [(0, term - 1), (0, term + 1), (1, term)] {
        let decided = cluster.nodes[node]
            .propose_as_leader(term, place(), soon())
            .await;
        assert!(
            matches!(decided, Err(DecideError::NotLeader { .. })),
            "{decided:?}"
        );
    }
    // Even one that gets into the log in another term is refused when it is applied.
    let late = Command::Decide {
        term: term - 1,
        decision: place(),
    };
    let outcome = cluster.nodes[1].propose(late, soon()).await.unwrap();
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_node_gets_a_snapshot_when_the_log_is_purged() {
    let small = |options| Options {
        snapshot_every: 20,
        log_kept: 5,
        ..options
    };
    let mut cluster = Cluster::start_with(1, small).await;
    deploy(&cluster.nodes[0], "clocks").await;
    for batch in 0..100 {
        // Large enough for several pieces.
        let spec =
            Spec::from_json(format!(r#"{{"text":"{}"}}"#, "x".repeat(1000)).as_bytes()).unwrap();
        let entry = |i| (format!("r{batch}-{i}").parse().unwrap(), spec.clone());
        let command = Command::Allocate {
            module: "clocks".parse().unwrap(),
            entries: (0..30).map(entry).collect(),
            placed: Vec::new(),
            at_ms: 3,
        };
        cluster.nodes[0].propose(command, soon()).await.unwrap();
    }
    let purged = || cluster.nodes[0].core.raft.metrics().borrow_watched().purged;
    within(|| std::future::ready(purged().is_some_and(|purged| purged.index > 50))).await;

    let dir = TempDir::new().unwrap();
    let late = cluster
        .net
        .start_with(small(options(dir.path(), id(2))))
        .await;
    let mut subscription = late.subscribe();
    assert_eq!(subscription.changed().await, BTreeSet::from([Key::Cluster]));
    cluster.nodes[0].add_learner(id(2), soon()).await.unwrap();
    cluster.nodes.push(late);
    cluster.dirs.push(dir);
    cluster.converge().await;
    let count = |node: &Control| node.read(|state| state.keys().count());
    assert!(count(&cluster.nodes[1]) > 3000);
    let mut told = BTreeSet::new();
    while told.len() < count(&cluster.nodes[1]) {
        told.extend(subscription.changed().await);
    }
    let left = std::fs::read_dir(cluster.dirs[1].path()).unwrap().count();
    assert_eq!(left, 2, "nothing but the two files");

    // And it votes, and leads.
    vote(&cluster.nodes[0], BTreeSet::from([id(1), id(2)])).await;
    cluster.nodes[0]
        .transfer_leadership(id(2), soon())
        .await
        .unwrap();
    lead(&cluster.nodes[1]).await;
    allocate(&cluster.nodes[0], "clocks", "after").await;
    assert!(has(&cluster.nodes[1], "clocks", "after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over() {
    let cluster = Cluster::start(3).await;
    let term = cluster.nodes[0].leadership().borrow().term;
    cluster.nodes[0]
        .transfer_leadership(id(3), soon())
        .await
        .unwrap();
    lead(&cluster.nodes[2]).await;
    assert!(cluster.nodes[2].leadership().borrow().term > term);
    let refused = cluster.nodes[0].transfer_leadership(id(2), soon()).await;
    assert_eq!(
        refused,
        Err(ChangeError::NotLeader {
            leader: Some(id(3))
        })
    );
    let refused = cluster.nodes[2].transfer_leadership(id(9), soon()).await;
    assert!(
        matches!(refused, Err(ChangeError::Impossible(_))),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_may_follow_but_not_vote() {
    let cluster = Cluster::start(1).await;
    // Nobody has that id: adding it does not wait for it.
    cluster.nodes[0].add_learner(id(7), soon()).await.unwrap();
    let promoted = cluster.nodes[0]
        .change_voters(BTreeSet::from([id(1), id(7)]), soon())
        .await;
    assert_eq!(promoted, Err(ChangeError::NotReady { node: id(7) }));
    let promoted = cluster.nodes[0]
        .change_voters(BTreeSet::from([id(1), id(8)]), soon())
        .await;
    assert_eq!(promoted, Err(ChangeError::NotReady { node: id(8) }));
    let asked = Instant::now();
    let members = cluster.nodes[0].members();
    assert_eq!(members.voters, BTreeSet::from([id(1)]));
    assert_eq!(members.learners, BTreeSet::from([id(7)]));
    let contact = members.last_quorum_contact.unwrap();
    assert!(contact >= asked, "a lone voter is always in contact");
    cluster.nodes[0].remove(id(7), soon()).await.unwrap();
    cluster.nodes[0].remove(id(7), soon()).await.unwrap();
    assert_eq!(cluster.nodes[0].members().learners, BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_voters_whose_leader_vanished_is_ended_by_the_next() {
    let mut cluster = Cluster::start(3).await;
    for number in [4, 5] {
        let dir = TempDir::new().unwrap();
        let node = cluster.net.start(dir.path(), id(number)).await;
        cluster.nodes.push(node);
        cluster.dirs.push(dir);
        let added = cluster.nodes[0].add_learner(id(number), soon()).await;
        added.unwrap();
    }
    let nodes = &cluster.nodes;
    let all: BTreeSet<NodeId> = (1..=5).map(id).collect();
    let ready = || {
        let members = nodes[0].members();
        let lags = |number| members.progress.get(&id(number)).map(|of| of.lag);
        std::future::ready([4, 5].iter().all(|number| lags(*number) == Some(0)))
    };
    within(ready).await;
    // The leader's first step reaches the others, and none of their answers reaches the leader.
    cluster.net.mute.lock().extend((2..=5).map(id));
    let short = Instant::now() + Duration::from_millis(1);
    let begun = nodes[0].change_voters(all.clone(), short).await;
    assert_eq!(begun, Err(ChangeError::TimedOut));
    let joint = |node: &Control| node.members().quorums.len() == 2;
    within(|| std::future::ready(nodes[1..3].iter().all(joint))).await;
    cluster.net.cut.lock().insert(id(1));
    cluster.net.mute.lock().clear();

    let leader = cluster.leader(&[1, 2, 3, 4]).await;
    assert!(joint(&nodes[leader]), "nobody ends it unasked");
    nodes[leader].finish_change(soon()).await.unwrap();
    let members = nodes[leader].members();
    assert_eq!((members.quorums, members.changing), (vec![all], false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_voter_that_did_not_hear_of_it_stops_campaigning() {
    let cluster = Cluster::start(3).await;
    cluster.net.cut.lock().insert(id(3));
    cluster.nodes[0].remove(id(3), soon()).await.unwrap();
    deploy(&cluster.nodes[0], "clocks").await;
    let before = *cluster.nodes[0].leadership().borrow();
    cluster.net.cut.lock().clear();
    within(|| std::future::ready(cluster.nodes[2].members().excluded)).await;
    assert_eq!(
        *cluster.nodes[0].leadership().borrow(),
        before,
        "the leader was not disturbed"
    );
    // It is let in again: it hears from the leader, so it may vote again.
    cluster.nodes[0].add_learner(id(3), soon()).await.unwrap();
    within(|| std::future::ready(!cluster.nodes[2].members().excluded)).await;
    cluster.converge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_leader_hands_over() {
    let cluster = Cluster::start(3).await;
    cluster.nodes[0].remove(id(1), soon()).await.unwrap();
    let leader = cluster.leader(&[1, 2]).await;
    deploy(&cluster.nodes[leader], "clocks").await;
    let members = cluster.nodes[leader].members();
    assert_eq!(members.voters, BTreeSet::from([id(2), id(3)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_for_or_from_another_node_are_refused() {
    let cluster = Cluster::start(1).await;
    let message = |to, from| {
        let body = network::Request::ReadIndex { within_ms: 1000 };
        Bytes::from(codec::encode(&network::Envelope { to, from, body }))
    };
    let node = &cluster.nodes[0];
    node.handle(id(2), message(id(1), id(2))).await.unwrap();
    let refused = node.handle(id(2), message(id(5), id(2))).await;
    assert!(
        matches!(refused, Err(HandleError::NotForMe { to, .. }) if to == id(5)),
        "{refused:?}"
    );
    let refused = node.handle(id(3), message(id(1), id(2))).await;
    assert!(
        matches!(refused, Err(HandleError::OtherSender { .. })),
        "{refused:?}"
    );
    let refused = node.handle(id(2), Bytes::from_static(&[0xff; 40])).await;
    assert!(
        matches!(refused, Err(HandleError::Unreadable(_))),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_begins_with_everything_and_unites_what_follows() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    deploy(node, "clocks").await;
    let mut subscription = node.subscribe();
    let all = node.read(|state| state.keys().collect::<BTreeSet<_>>());
    assert_eq!(subscription.changed().await, all);
    for _ in 0..3 {
        allocate(node, "clocks", "a").await;
        let ids = vec!["a".parse().unwrap()];
        let module = "clocks".parse().unwrap();
        node.propose(Command::Deallocate { module, ids }, soon())
            .await
            .unwrap();
    }
    let changes = subscription.changed().await;
    let key = Key::Resource("clocks".parse().unwrap(), "a".parse().unwrap());
    assert!(changes.contains(&key) && changes.len() <= 4, "{changes:?}");
    let more = tokio::time::timeout(Duration::from_millis(50), subscription.changed()).await;
    assert!(more.is_err(), "nothing else has changed: {more:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn founding_is_done_once() {
    let cluster = Cluster::start(1).await;
    let again = cluster.nodes[0].found(new_cluster("other"), soon()).await;
    assert!(matches!(again, Err(FoundError::Member)), "{again:?}");
    assert!(cluster.nodes[0].is_initialized().await);
    let name = cluster.nodes[0].read(|state| state.cluster().unwrap().name.clone());
    assert_eq!(name.as_str(), "test");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_reads_share_few_rounds() {
    let cluster = Cluster::start(3).await;
    let node = &cluster.nodes[1];
    let reads = futures_util::future::join_all((0..1000).map(|_| node.read_index(soon())));
    let before = cluster.net.messages.load(Ordering::Relaxed);
    assert!(reads.await.iter().all(Result::is_ok));
    let sent = cluster.net.messages.load(Ordering::Relaxed) - before;
    // Heartbeats are among them. One round for each read would be more than a thousand.
    assert!(sent < 500, "{sent} messages for 1000 reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_write_says_so_and_stops() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    // The disk gives back something else than was written.
    let transaction = node.core.replica.db().begin_write().unwrap();
    let mut meta = transaction.open_table(file::META).unwrap();
    meta.insert(snapshot::POSITION, [0xff; 4].as_slice())
        .unwrap();
    drop(meta);
    transaction.commit().unwrap();
    let proposed = node.propose(deployment("x"), soon()).await;
    assert!(proposed.is_err(), "{proposed:?}");
    let failure = node.failed().await;
    assert!(failure.to_string().contains("has stopped"), "{failure}");
    assert_eq!(
        node.propose(deployment("x"), soon()).await,
        Err(ProposeError::Shutdown)
    );
    assert!(!node.leadership().borrow().me);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_library_panics_says_so_and_leads_no_more() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    assert!(node.leadership().borrow().me);
    let panicked = node.core.raft.with_raft_state(|_| panic!("a defect"));
    panicked.await.unwrap_err();
    let failure = tokio::time::timeout_at(soon().into(), node.failed())
        .await
        .unwrap();
    assert!(failure.to_string().contains("panicked"), "{failure}");
    assert!(!node.leadership().borrow().me);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_shut_down_has_not_failed() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    node.shutdown().await;
    let failed = tokio::time::timeout(Duration::from_millis(200), node.failed());
    failed.await.unwrap_err();
}
