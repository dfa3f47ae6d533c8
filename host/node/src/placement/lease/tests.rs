//! A leader's leases, on the real control state.

use futures_util::poll;
use holdfast_cluster::{
    lease::Terms,
    state::{About, Command, Decision},
};
use holdfast_model::{Incarnation, Labels, Weight};

use super::*;
use crate::{
    conditions::Conditions,
    control::{
        self,
        tests::{Cluster, id, soon, within},
    },
    peer,
};

/// The first node of a cluster, which leads and is a member; it is in contact with the others as long
/// as the token is not cancelled.
async fn leader(cluster: &Cluster) -> (Placement, Owner, CancellationToken) {
    let control = cluster.nodes[0].clone();
    let me = Owner {
        node: id(1),
        incarnation: Incarnation(1),
    };
    let addr = "127.0.0.1:1".parse().unwrap();
    let about = About {
        addr,
        http: addr,
        weight: Weight::MAX,
        zone: None,
        labels: Labels::default(),
        boot_id: "b".into(),
        version: "v".into(),
    };
    let decision = Decision::Join {
        node: me.node,
        incarnation: me.incarnation,
        about,
        at_ms: 1,
    };
    let term = control.leadership().borrow().term;
    let joined = control.propose(Command::Decide { term, decision }, soon());
    joined.await.unwrap().accepted().unwrap();
    let (_, members) = watch::channel(Default::default());
    let (placement, _) = Placement::new(
        me.node,
        control,
        peer::tests::nobody(),
        members,
        Conditions::default(),
    );
    let stop = CancellationToken::new();
    tokio::spawn(placement.contacts().run(stop.clone()));
    (placement, me, stop)
}

fn renew(runs: bool) -> Renew {
    Renew {
        readiness: Readiness {
            runs,
            ..Readiness::default()
        },
    }
}

fn is_granted(placement: &Placement, asker: Owner) -> bool {
    let renewed = placement.answer_renew(asker, &renew(true));
    matches!(renewed.answer, Answer::Granted(_))
}

// On one thread: nothing else happens between two lines without an `await`.
#[tokio::test]
async fn a_leader_grants_nothing_from_before_it_hands_over() {
    let cluster = Cluster::start(2).await;
    let (placement, me, _contact) = leader(&cluster).await;
    within(|| std::future::ready(is_granted(&placement, me))).await;

    // Nobody takes over who is no voter: it goes on.
    placement.hand_over(id(9), soon()).await.unwrap_err();
    assert!(is_granted(&placement, me));

    let mut handing = std::pin::pin!(placement.hand_over(id(2), soon()));
    assert!(poll!(handing.as_mut()).is_pending());
    assert!(cluster.nodes[0].leadership().borrow().me, "it leads still");
    assert!(!is_granted(&placement, me), "and grants nothing any more");
    handing.await.unwrap();
    assert!(!is_granted(&placement, me));
}

#[tokio::test]
async fn who_would_not_run_at_once_what_it_is_given_is_known_until_it_would() {
    let cluster = Cluster::start(1).await;
    let (placement, me, _contact) = leader(&cluster).await;
    // Nobody has said anything in this term.
    assert_eq!(placement.unready(), BTreeSet::new());
    let stranger = Owner { node: id(7), ..me };
    for (asker, ready, unready) in [
        (me, false, BTreeSet::from([me.node])),
        (me, true, BTreeSet::new()),
        (me, false, BTreeSet::from([me.node])),
        // No member, so it is given nothing anyway.
        (stranger, false, BTreeSet::from([me.node])),
    ] {
        placement.answer_renew(asker, &renew(ready));
        assert_eq!(placement.unready(), unready, "{asker:?} {ready}");
    }
}

#[tokio::test]
async fn modules_that_a_node_would_not_run_are_known_until_it_would() {
    let cluster = Cluster::start(1).await;
    let (placement, me, _contact) = leader(&cluster).await;
    let module: holdfast_model::ModuleName = "m6".parse().unwrap();
    let mut question = renew(true);
    question.readiness.pending = vec![module.clone()];
    placement.answer_renew(me, &question);
    assert_eq!(
        placement.unready(),
        BTreeSet::new(),
        "of others it is given"
    );
    assert_eq!(placement.unfit().pending[&module], [me.node].into());
    (question.readiness.pending, question.readiness.unable) = (vec![], vec![module.clone()]);
    placement.answer_renew(me, &question);
    assert_eq!(placement.unfit().unable[&module], [me.node].into());
    placement.answer_renew(me, &renew(true));
    assert_eq!(placement.unfit(), Unfit::default());
}

#[test]
fn leases_count_on_elections_as_long_as_they_are() {
    let control = control::Options::new("data".into(), NodeId::default());
    assert!(control.election_max <= Terms::DEFAULT.contact);
}
