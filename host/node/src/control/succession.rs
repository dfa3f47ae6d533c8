//! Another leader at once, where the old one is known to be dead.
//!
//! A voter that hears from a leader refuses every other candidate for an election timeout: its
//! promise to that leader, who cannot be elected away by a node that merely lost its connection.
//! To a dead leader nothing was promised. So each voter that has the proof takes its promise back,
//! and they ask to be elected in turn.
//!
//! What they ask first is the pre-vote, which changes no term: without a majority that took back
//! its promise, and without the newest entries, nothing comes of it. So a node that is wrong about
//! the death, alone, topples nobody. That a leader is elected sooner than usual breaks nothing
//! else: leases count from the election, whenever it was (docs/GUARANTEES.md).

use std::time::{Duration, Instant};

use holdfast_model::NodeId;
use openraft::{async_runtime::WatchReceiver, raft::TransferLeaderRequest};
use tokio::time::timeout_at;

use super::{Core, types::Peer};

impl Core {
    /// Does what this node can to have another leader than `dead`, which is known to be dead.
    /// Returns once there is one, or after some attempts: then the usual election timeouts count.
    pub(crate) async fn succeed(&self, dead: NodeId) {
        let voters = self.members().voters;
        let heirs = voters.iter().filter(|voter| **voter != dead);
        let heirs: Vec<NodeId> = heirs.copied().collect();
        let Some(place) = heirs.iter().position(|heir| *heir == self.me) else {
            return;
        };
        self.take_back_promise(dead).await;
        let begun = Instant::now();
        let mut leadership = self.leadership.clone();
        let mut seen = leadership.borrow().term;
        for round in 0..ROUNDS {
            let turn = u32::try_from(place + round * heirs.len()).unwrap_or(u32::MAX);
            let another = leadership.wait_for(|now| now.leader.is_some_and(|who| who != dead));
            match timeout_at((begun + turn * TURN).into(), another).await {
                Ok(_) => return,
                Err(_late) => {}
            }
            // A term that has begun meanwhile is somebody's who is being elected.
            let term = leadership.borrow().term;
            if std::mem::replace(&mut seen, term) == term {
                // Fails only when the library has stopped, which `failed` reports.
                let _ = self.raft.trigger().elect(true).await;
            }
        }
    }

    async fn take_back_promise(&self, dead: NodeId) {
        let vote = self.raft.metrics().borrow_watched().vote;
        // In the library's words, the leader gives its office to itself: all that follows from it
        // on any other node is that the promise ends, unless another leader was found meanwhile.
        let resigned = TransferLeaderRequest::new(vote, Peer(dead), None);
        let _ = self.raft.handle_transfer_leader(resigned).await;
    }
}

/// How long a candidate is left alone: a pre-vote, and two writes to a slow disk. Shorter, and two
/// split the votes; longer, and it takes longer where the first one is dead too, or behind.
const TURN: Duration = Duration::from_millis(50);

/// How many times each voter asks. The others may see the death a little later.
const ROUNDS: usize = 5;
