//! How a node that stops gives its vote away first, so that those who stay keep a majority.
//!
//! The node asks whoever leads, again and again, until it votes no more, nobody is there to vote in its
//! place, or its time is up. The leader only notes who asks: what it does about it is its rounds', by
//! `cluster::voters`. A wish that is not repeated is forgotten, so that a node which goes on after all,
//! or ends before its turn, is not taken for one that stops.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use holdfast_cluster::state::State;
use holdfast_model::NodeId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Placement, leader::is_on_its_way_out};
use crate::{
    clock::boot_time,
    modules::chain,
    peer::{Kind, Lane},
    rpc::{self, Question},
};

/// Asks the leader to let another node vote in the place of the asking one, which stops.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GiveVote;

/// What can be hoped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Successor {
    /// There is a node that may vote in its place, once it has caught up.
    Awaited,
    /// There is none: the vote stays where it is.
    None,
    /// The node that was asked does not lead.
    NotLeader,
}

impl Question for GiveVote {
    const KIND: Kind = Kind(21);
    const LANE: Lane = Lane::Control;
    type Answer = Successor;
}

/// The nodes that have said that they stop, and when.
#[derive(Default)]
pub(super) struct Stopping(Mutex<BTreeMap<NodeId, Duration>>);

impl Stopping {
    fn note(&self, node: NodeId, now: Duration) {
        self.0.lock().insert(node, now);
    }

    /// Those that said so lately.
    pub(super) fn at(&self, now: Duration) -> BTreeSet<NodeId> {
        let mut stopping = self.0.lock();
        stopping.retain(|_, said| now < *said + FORGOTTEN_AFTER);
        stopping.keys().copied().collect()
    }
}

impl Placement {
    /// Gives this node's vote to another one, as far as that can be done by `deadline`. The node stops
    /// in any case.
    pub(crate) async fn give_vote(&self, deadline: Instant) {
        let control = &self.0.control;
        if !control.members().voters.contains(&self.0.me) {
            return;
        }
        if self.successors(BTreeSet::new()) == 0 {
            return;
        }
        info!("giving the vote to another node");
        loop {
            let successor = self.ask_for_successor().await;
            let members = control.members();
            if !members.voters.contains(&self.0.me) && !members.changing {
                info!("another node votes in the place of this one");
                return;
            }
            match successor {
                Some(Successor::None) => {
                    info!("no other node can vote in the place of this one; it keeps its vote");
                    return;
                }
                Some(Successor::Awaited | Successor::NotLeader) | None => {}
            }
            if Instant::now() >= deadline || self.lost_quorum().is_some() {
                warn!("no other node votes in the place of this one yet; it stops all the same");
                return;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn ask_for_successor(&self) -> Option<Successor> {
        let leader = self.0.control.leadership().borrow().leader?;
        if leader == self.0.me {
            return Some(self.answer_give_vote(self.0.me));
        }
        let asked = rpc::ask(&self.0.peers, leader, &GiveVote, PATIENCE).await;
        asked
            .inspect_err(|error| {
                debug!(error = chain(error), "the leader did not hear of the vote")
            })
            .ok()
    }

    /// Answers a node that stops.
    pub(crate) fn answer_give_vote(&self, asker: NodeId) -> Successor {
        let control = &self.0.control;
        if !control.leadership().borrow().me {
            return Successor::NotLeader;
        }
        let now = boot_time();
        self.0.stopping.note(asker, now);
        self.0.news.notify_one();
        // A change that is under way may be this one.
        if control.members().changing || self.successors(self.0.stopping.at(now)) > 0 {
            Successor::Awaited
        } else {
            Successor::None
        }
    }

    /// How many nodes could vote in the place of another, once they have caught up.
    fn successors(&self, stopping: BTreeSet<NodeId>) -> usize {
        let (learners, live) = (self.0.control.members().learners, self.0.live());
        let standing = |node: &NodeId| {
            let node = |state: &State| state.nodes().get(node).map(|known| known.standing);
            self.0.control.read(node)
        };
        let may_vote = |node: &&NodeId| {
            let stays = standing(node).is_some_and(|standing| !is_on_its_way_out(standing));
            stays && live.contains(*node) && !stopping.contains(*node)
        };
        learners.iter().filter(may_vote).count()
    }
}

/// How often the wish is repeated.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How long the leader may take to answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long a wish counts that is not repeated. Shorter, and one that was lost on a busy network would end
/// it. Longer, and a node that goes on would get no vote meanwhile.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_repeat_that_it_stops_goes_on() {
        let [a, b] = [1, 2].map(|n| NodeId(uuid::Uuid::from_u128(n)));
        let s = Duration::from_secs;
        let stopping = Stopping::default();
        stopping.note(a, s(10));
        stopping.note(b, s(11));
        assert_eq!(stopping.at(s(11)), BTreeSet::from([a, b]));
        assert_eq!(stopping.at(s(12)), BTreeSet::from([b]));
        stopping.note(b, s(12));
        assert_eq!(stopping.at(s(13)), BTreeSet::from([b]));
        assert_eq!(stopping.at(s(14)), BTreeSet::new());
    }
}
