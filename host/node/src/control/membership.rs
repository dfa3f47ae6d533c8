//! Who votes, who only follows, and how far each has come.
//!
//! Changes are made by the leader alone, and one at a time. They do not wait for a node to catch
//! up; but a node that is not known to be alive and near is not made a voter, because a dead voter
//! brings the cluster one failure nearer to a standstill, and two can end it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_model::NodeId;
use openraft::{
    ChangeMembers, EmptyNode, Instant as _,
    async_runtime::WatchReceiver,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
};
use tokio::time::timeout_at;

use super::{Core, types::Peer};

/// Who takes part in the control state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Nodes whose votes count. During a change, both the old and the new ones.
    pub voters: BTreeSet<NodeId>,
    /// The same as sets that each need a majority of their own: one, or during a change two.
    pub quorums: Vec<BTreeSet<NodeId>>,
    /// Nodes that only follow.
    pub learners: BTreeSet<NodeId>,
    /// Whether a change is under way, or was begun by a leader that did not end it.
    pub changing: bool,
    /// How far each node has come. Known to the leader only.
    pub progress: BTreeMap<NodeId, Progress>,
    /// When a majority last confirmed this leader. It is for people: it says nothing about a process
    /// that was paused; for a lease use [`Control::confirm_leadership`](super::Control::confirm_leadership).
    pub last_quorum_contact: Option<Instant>,
    /// This node was removed from the cluster, as another node says.
    pub excluded: bool,
}

/// How far a node has come, as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The last entry it is known to have.
    pub matched: Option<u64>,
    /// How many entries it lacks.
    pub lag: u64,
    /// When it last answered.
    pub last_contact: Option<Instant>,
}

/// Why the membership was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Only the leader can change it.
    #[error("only the leader can change the membership")]
    NotLeader {
        /// Who is believed to lead.
        leader: Option<NodeId>,
    },
    /// Another change is under way.
    #[error("another change of the membership is under way")]
    InProgress,
    /// The node may not vote yet: it is silent, or too far behind.
    #[error("node {node} cannot become a voter: it is silent, or too far behind")]
    NotReady {
        /// The node.
        node: NodeId,
    },
    /// The change makes no sense.
    #[error("the membership cannot become that: {0}")]
    Impossible(String),
    /// It is unknown whether the change was made, or will be.
    #[error("it did not become known in time whether the membership was changed")]
    TimedOut,
    /// This node's copy of the control state has stopped.
    #[error("the control state of this node has stopped")]
    Shutdown,
}

impl Core {
    /// The membership as this node knows it.
    pub(crate) fn members(&self) -> Membership {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let config = metrics.membership_config.membership();
        let voters: BTreeSet<NodeId> = config.voter_ids().map(|peer| peer.0).collect();
        let learners = config.learner_ids().map(|peer| peer.0).collect();
        let quorums = config.get_joint_config().iter();
        let quorums: Vec<BTreeSet<NodeId>> = quorums
            .map(|quorum| quorum.iter().map(|peer| peer.0).collect())
            .collect();
        let leads = metrics.state.is_leader();
        let last = metrics.last_log_index.unwrap_or(0);
        let contact = |peer: &Peer| {
            let known = metrics.heartbeat.as_ref()?.get(peer)?.as_ref()?;
            at(known.elapsed())
        };
        let progress = metrics.replication.iter().flatten().map(|(peer, matched)| {
            let matched = matched.as_ref().map(|id| id.index);
            let lag = last.saturating_sub(matched.unwrap_or(0));
            (
                peer.0,
                Progress {
                    matched,
                    lag,
                    last_contact: contact(peer),
                },
            )
        });
        let last_quorum_contact = match leads && voters.len() == 1 && voters.contains(&self.me) {
            // Nobody is asked, so the library's answer grows old while nothing is written.
            true => Some(Instant::now()),
            false => metrics
                .last_quorum_acked
                .as_ref()
                .and_then(|acked| at(acked.elapsed())),
        };
        Membership {
            changing: quorums.len() > 1
                || metrics.membership_config.log_id()
                    != metrics.committed_membership_config.log_id(),
            progress: progress.collect(),
            excluded: *self.links.excluded.borrow(),
            voters,
            quorums,
            learners,
            last_quorum_contact,
        }
    }

    /// Ends a change that a leader has begun and not ended.
    pub(crate) async fn finish_change(&self, deadline: Instant) -> Result<(), ChangeError> {
        let nothing_more = ChangeMembers::AddVoterIds(BTreeSet::new());
        self.change(nothing_more, true, deadline).await
    }

    pub(crate) async fn add_learner(
        &self,
        node: NodeId,
        deadline: Instant,
    ) -> Result<(), ChangeError> {
        let nodes = BTreeMap::from([(Peer(node), EmptyNode::default())]);
        self.change(ChangeMembers::AddNodes(nodes), true, deadline)
            .await
    }

    pub(crate) async fn change_voters(
        &self,
        voters: BTreeSet<NodeId>,
        deadline: Instant,
    ) -> Result<(), ChangeError> {
        let present = self.members();
        for node in voters.difference(&present.voters) {
            let ready = present.progress.get(node).is_some_and(|progress| {
                let heard = progress.last_contact.map(|at| at.elapsed());
                progress.matched.is_some()
                    && progress.lag <= PROMOTED_LAG_MAX
                    && heard.is_some_and(|heard| heard <= self.options.election_max + SLACK)
            });
            if !ready {
                return Err(ChangeError::NotReady { node: *node });
            }
        }
        let voters = voters.into_iter().map(Peer).collect();
        self.change(ChangeMembers::ReplaceAllVoters(voters), true, deadline)
            .await
    }

    pub(crate) async fn remove(&self, node: NodeId, deadline: Instant) -> Result<(), ChangeError> {
        let members = self.members();
        let nodes = BTreeSet::from([Peer(node)]);
        if members.voters.contains(&node) {
            self.change(ChangeMembers::RemoveVoters(nodes), false, deadline)
                .await
        } else if members.learners.contains(&node) {
            self.change(ChangeMembers::RemoveNodes(nodes), false, deadline)
                .await
        } else if self.leadership.borrow().me {
            Ok(())
        } else {
            Err(ChangeError::NotLeader {
                leader: self.leadership.borrow().leader,
            })
        }
    }

    async fn change(
        &self,
        change: ChangeMembers<Peer, EmptyNode>,
        retain: bool,
        deadline: Instant,
    ) -> Result<(), ChangeError> {
        // One at a time: the second step of one must not be taken for a change that nobody ends.
        let turn = Arc::clone(&self.changing).try_lock_owned();
        let turn = turn.map_err(|_| ChangeError::InProgress)?;
        // On a task of its own: dropped half way it would leave a joint configuration behind.
        let raft = self.raft.clone();
        let changed = tokio::spawn(async move {
            let changed = raft.change_membership(change, retain).await;
            drop(turn);
            changed
        });
        match timeout_at(deadline.into(), changed).await {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err(RaftError::APIError(error)))) => Err(match error {
                ClientWriteError::ForwardToLeader(forward) => ChangeError::NotLeader {
                    leader: forward.leader_id.map(|peer| peer.0),
                },
                ClientWriteError::LogEntryDiscarded(_) => ChangeError::TimedOut,
                ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_)
                    | ChangeMembershipError::UncommittedLeaderLog(_),
                )
                | ClientWriteError::PreconditionFailed(_) => ChangeError::InProgress,
                ClientWriteError::ChangeMembershipError(error) => {
                    ChangeError::Impossible(error.to_string())
                }
            }),
            Ok(Ok(Err(RaftError::Fatal(_))) | Err(_)) => Err(ChangeError::Shutdown),
            Err(_) => Err(ChangeError::TimedOut),
        }
    }

    pub(crate) async fn transfer_leadership(
        &self,
        to: NodeId,
        deadline: Instant,
    ) -> Result<(), ChangeError> {
        let leader = self.leadership.borrow().leader;
        if leader == Some(to) {
            return Ok(());
        }
        if leader != Some(self.me) {
            return Err(ChangeError::NotLeader { leader });
        }
        if !self.members().voters.contains(&to) {
            return Err(ChangeError::Impossible(format!(
                "node {to} is no voter, so it cannot lead"
            )));
        }
        let transfer = self.raft.trigger().transfer_leader(Peer(to)).await;
        transfer.map_err(|_| ChangeError::Shutdown)?;
        let mut leadership = self.leadership.clone();
        let led = leadership.wait_for(|leadership| leadership.leader == Some(to));
        match timeout_at(deadline.into(), led).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ChangeError::Shutdown),
            Err(_) => Err(ChangeError::TimedOut),
        }
    }
}

/// The instant some time ago; none when that was before this system's clock began.
fn at(ago: Duration) -> Option<Instant> {
    Instant::now().checked_sub(ago)
}

/// A node that lacks more entries than this is not made a voter: until it has them, a majority that
/// counts on it cannot acknowledge anything.
const PROMOTED_LAG_MAX: u64 = 1_000;

/// For the way of an answer from the network to the numbers shown.
const SLACK: Duration = Duration::from_millis(500);
