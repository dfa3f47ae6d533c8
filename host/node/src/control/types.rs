//! What is agreed on and by whom, in the consensus library's terms.
//!
//! Standard Raft: one leader per term, so that a term names one leader and a decision stamped with
//! a term can be nobody else's.

use std::fmt;

use holdfast_cluster::state::{Command, Outcome};
use holdfast_model::NodeId;
use openraft::{EmptyNode, impls::leader_id_std::LeaderId, type_config::alias};
use serde::{Deserialize, Serialize};

use super::machine::Machine;

openraft::declare_raft_types!(
    #[derive(Serialize, Deserialize)]
    pub(crate) Types:
        D = Proposal,
        R = Outcome,
        NodeId = Peer,
        Node = EmptyNode,
        LeaderId = LeaderId<u64, Peer>,
);

pub(crate) type Raft = openraft::Raft<Types, Machine>;
pub(crate) type Entry = alias::EntryOf<Types>;
pub(crate) type LogId = alias::LogIdOf<Types>;
pub(crate) type Vote = alias::VoteOf<Types>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<Types>;

/// A node as the consensus library names it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub(crate) struct Peer(pub(crate) NodeId);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
impl From<u64> for Peer {
    fn from(number: u64) -> Self {
        Self(NodeId(uuid::Uuid::from_u128(number.into())))
    }
}

/// A command on its way into the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Proposal(pub(crate) Command);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Command::Found { .. } => "found",
            Command::Set(_) => "set",
            Command::Decide { .. } => "decide",
            Command::Release { .. } => "release",
            Command::Drain { .. } => "drain",
            Command::Weigh { .. } => "weigh",
            Command::Restart { .. } => "restart",
            Command::Remove { .. } => "remove",
            Command::Deploy { .. } => "deploy",
            Command::Tried { .. } => "tried",
            Command::RemoveModule { .. } => "remove module",
            Command::Allocate { .. } => "allocate",
            Command::Deallocate { .. } => "deallocate",
        })
    }
}

/// The term of a log position.
pub(crate) fn term(id: &LogId) -> u64 {
    **id.committed_leader_id()
}
