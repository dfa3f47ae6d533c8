//! What the leader does for all: admits nodes, frees the slots of dead ones, keeps the voters,
//! plans who owns what; and how any node has resources allocated.
//!
//! The leader only proposes: what it decided on holds once the state has applied it. It acts on
//! its own applied state of its own term, and a decision carries that term, so that one of a
//! deposed leader changes nothing.

mod allocator;
mod copies;
mod leader;
mod lease;
mod placing;
mod quorum;
mod readiness;
mod vote;
mod withheld;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use holdfast_cluster::{
    evidence::{Death, Evidence},
    lease::Grants,
    membership::Member,
    state::{Allocation, Owner, Refused},
};
use holdfast_model::{ModuleName, NodeId, ResourceId, Spec};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::debug;

use self::allocator::Allocator;
pub use self::copies::WrongCopy;
pub use self::{
    allocator::Allocations,
    leader::Leader,
    lease::{Contacts, Lease, Renewals},
    quorum::{LostQuorum, QuorumWatch},
};
pub(crate) use self::{copies::ReadDigests, lease::Renew, vote::GiveVote, withheld::ConditionsOf};
use self::{quorum::Heard, vote::Stopping};
use crate::{
    clock::boot_time,
    conditions::Conditions,
    control::Control,
    peer::{Contact, Kind, Lane, Peers},
    rpc::{self, AskError, Question},
};

/// Allocates, and takes proofs of death, on any node. Cheap to clone.
#[derive(Clone)]
pub struct Placement(Arc<Inner>);

struct Inner {
    me: NodeId,
    control: Control,
    peers: Peers,
    allocator: Allocator,
    members: watch::Receiver<Members>,
    conditions: Conditions,
    evidence: Mutex<Evidence>,
    grants: Mutex<Grants<lease::Notes>>,
    heard: Mutex<Heard>,
    stopping: Stopping,
    /// Something happened that the leader should look at now.
    news: Notify,
}

/// The nodes that gossip sees, without this one.
pub type Members = Arc<[Member]>;

/// Why nothing was allocated, or it is not known to be.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum AllocateError {
    /// The state refuses it.
    #[error(transparent)]
    Refused(Refused),
    /// No leader took it in time. It was not done and will not be.
    #[error("no leader took the allocation in time: {0}")]
    NotTaken(String),
    /// No leader acknowledged it in time. It may have been done; it may be repeated.
    #[error("the allocation was not acknowledged in time: {0}")]
    NotAcknowledged(String),
}

impl AllocateError {
    /// What is known after one more attempt: an attempt that may have had its effect may have had
    /// it however the later ones fail.
    fn then(self, later: Self) -> Self {
        match (&self, &later) {
            (Self::NotAcknowledged(_), Self::NotTaken(_)) => self,
            _ => later,
        }
    }
}

impl From<AskError> for AllocateError {
    fn from(error: AskError) -> Self {
        let reason = crate::modules::chain(&error);
        match error {
            AskError::Call { source, .. } if !source.may_have_run() => Self::NotTaken(reason),
            AskError::Call { .. } | AskError::Malformed { .. } => Self::NotAcknowledged(reason),
        }
    }
}

/// Asks the leader to allocate.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Allocate {
    module: ModuleName,
    entries: Vec<(ResourceId, Spec)>,
    /// How long the asker waits.
    within_ms: u32,
}

impl Question for Allocate {
    const KIND: Kind = Kind(8);
    const LANE: Lane = Lane::Control;
    type Answer = Result<Vec<Allocation>, AllocateError>;
}

/// Tells the leader of incarnations that have ended.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Died {
    deaths: Vec<Death>,
}

impl Question for Died {
    const KIND: Kind = Kind(9);
    const LANE: Lane = Lane::Control;
    type Answer = ();
}

impl Placement {
    /// Makes the placement of a node. [`Leader`] must run for it.
    #[must_use]
    pub fn new(
        me: NodeId,
        control: Control,
        peers: Peers,
        members: watch::Receiver<Members>,
        conditions: Conditions,
    ) -> (Self, Allocations) {
        let (allocator, jobs) = Allocator::new();
        let inner = Inner {
            me,
            control,
            peers,
            allocator,
            members,
            conditions,
            evidence: Mutex::default(),
            grants: Mutex::default(),
            heard: Mutex::new(Heard::new(boot_time())),
            stopping: Stopping::default(),
            news: Notify::new(),
        };
        let placement = Self(Arc::new(inner));
        (placement.clone(), Allocations::new(placement, jobs))
    }

    /// Allocates resources, or changes their specs; durable when it returns.
    ///
    /// # Errors
    /// When the state refuses it, or no leader acknowledged it before the deadline.
    pub async fn allocate(
        &self,
        module: &ModuleName,
        entries: Vec<(ResourceId, Spec)>,
        deadline: Instant,
    ) -> Result<Vec<Allocation>, AllocateError> {
        let mut allocated = Vec::with_capacity(entries.len());
        for piece in pieces(entries) {
            match self.allocate_piece(module, piece, deadline).await {
                Ok(more) => allocated.extend(more),
                Err(AllocateError::NotTaken(why)) if !allocated.is_empty() => {
                    return Err(AllocateError::NotAcknowledged(why));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(allocated)
    }

    async fn allocate_piece(
        &self,
        module: &ModuleName,
        entries: Vec<(ResourceId, Spec)>,
        deadline: Instant,
    ) -> Result<Vec<Allocation>, AllocateError> {
        let mut question = Allocate {
            module: module.clone(),
            entries,
            within_ms: 0,
        };
        let mut late = AllocateError::NotTaken("there is no leader".to_owned());
        while Instant::now() < deadline {
            let leader = self.0.control.leadership().borrow().leader;
            let left = deadline.saturating_duration_since(Instant::now());
            // A leader with much to do takes long; one that is gone is noticed by its connection.
            let attempt = left.min(ATTEMPT.max(left / 4));
            question.within_ms = u32::try_from(attempt.as_millis()).unwrap_or(u32::MAX);
            let answer = match leader {
                None => Err(AllocateError::NotTaken("there is no leader".to_owned())),
                Some(leader) if leader == self.0.me => {
                    let Allocate {
                        module, entries, ..
                    } = &question;
                    self.0
                        .allocator
                        .allocate(module.clone(), entries.clone(), attempt)
                        .await
                }
                Some(leader) => {
                    let asked = rpc::ask(&self.0.peers, leader, &question, attempt).await;
                    asked.unwrap_or_else(|error| Err(error.into()))
                }
            };
            let error = match answer {
                Ok(allocated) => return Ok(allocated),
                Err(AllocateError::Refused(refused)) => {
                    return Err(AllocateError::Refused(refused));
                }
                Err(error) => error,
            };
            // All of it may be repeated: what is allocated already stays as it is.
            debug!(reason = %error, "allocating again");
            late = late.then(error);
            tokio::time::sleep(AGAIN).await;
        }
        Err(late)
    }

    /// Answers a peer that takes this node for the leader.
    pub(crate) async fn answer_allocate(
        &self,
        question: Allocate,
    ) -> Result<Vec<Allocation>, AllocateError> {
        if !self.0.control.leadership().borrow().me {
            return Err(AllocateError::NotTaken(
                "the node that was asked does not lead".to_owned(),
            ));
        }
        let within = Duration::from_millis(question.within_ms.into());
        self.0
            .allocator
            .allocate(question.module, question.entries, within)
            .await
    }

    /// Takes a proof of death, its own.
    pub fn died(&self, death: Death) {
        self.0.evidence.lock().add(death);
        self.0.news.notify_one();
    }

    /// Takes the proof that a run of a node ended before a later one began.
    pub fn replaced(&self, death: Death) {
        self.0.evidence.lock().replaced(death);
    }

    /// Takes the proofs of death of a peer.
    pub(crate) fn answer_died(&self, question: Died) {
        for death in question.deaths {
            self.died(death);
        }
    }

    /// The nodes that answer now, this one included.
    #[must_use]
    pub fn live(&self) -> BTreeSet<NodeId> {
        self.0.live()
    }
}

impl Inner {
    /// Whether a connection to some run of a node stands.
    fn is_connected(&self, node: NodeId) -> bool {
        let contacts = self.peers.connected();
        contacts.iter().any(|contact| contact.peer.node == node)
    }

    /// The nodes that answer, this one included.
    fn live(&self) -> BTreeSet<NodeId> {
        let others = self.reached().into_iter().map(|run| run.node);
        others.chain([self.me]).collect()
    }

    /// The other nodes that answer: a connection to that very run stands, and membership sees it or
    /// something came over the connection just now. What works is not taken for dead on hearsay.
    fn reached(&self) -> Vec<Owner> {
        let members = self.members.borrow();
        let contacts = self.peers.connected().into_iter();
        let answers = |Contact { peer, quiet_for }: &Contact| {
            let run = (peer.node, peer.incarnation);
            *quiet_for < HEARD || members.iter().any(|m| (m.node, m.incarnation) == run)
        };
        let run = |contact: Contact| Owner {
            node: contact.peer.node,
            incarnation: contact.peer.incarnation,
        };
        contacts.filter(answers).map(run).collect()
    }
}

/// Cuts what is to be allocated so that no message and no entry of the log is much larger than
/// [`PIECE_BYTES_MAX`]: a large one holds up the heartbeats behind it.
fn pieces(entries: Vec<(ResourceId, Spec)>) -> Vec<Vec<(ResourceId, Spec)>> {
    let mut pieces = Vec::new();
    let mut bytes = usize::MAX;
    for entry in entries {
        let size = size(&entry);
        if bytes.saturating_add(size) > PIECE_BYTES_MAX {
            pieces.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        pieces
            .last_mut()
            .expect("the first entry begins one")
            .push(entry);
    }
    pieces
}

/// About how many bytes a resource takes in a message.
fn size((id, spec): &(ResourceId, Spec)) -> usize {
    id.as_str().len() + spec.as_str().len()
}

/// Bytes of ids and specs that are allocated at once. Larger: entries of the log that take long to
/// spread. Smaller: more round trips for an import.
const PIECE_BYTES_MAX: usize = 1 << 20;

/// How long ago something may have come over a connection of a node that membership does not see.
/// Longer: a process that stands still is taken for one that answers.
const HEARD: Duration = Duration::from_secs(2);

/// How long one attempt to allocate may take at least, if the caller has the time.
const ATTEMPT: Duration = Duration::from_secs(5);

/// The pause before the next attempt, about the time of a round trip and a commit.
const AGAIN: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_cut_into_pieces_that_lose_nothing() {
        let spec = serde_json::json!({"text": "x".repeat(60_000)});
        let spec = Spec::from_value(&spec).unwrap();
        let entries: Vec<(ResourceId, Spec)> = (0..100)
            .map(|n| (format!("r-{n}").parse().unwrap(), spec.clone()))
            .collect();
        let pieces = pieces(entries.clone());
        assert!(pieces.len() > 5, "{} pieces", pieces.len());
        for piece in &pieces {
            let bytes: usize = piece.iter().map(size).sum();
            assert!(bytes <= PIECE_BYTES_MAX, "{bytes} bytes");
            assert!(!piece.is_empty());
        }
        assert_eq!(pieces.concat(), entries);
        assert!(super::pieces(Vec::new()).is_empty());
    }

    #[test]
    fn an_allocation_that_may_have_been_made_is_never_said_not_to_be() {
        let not_taken = || AllocateError::NotTaken("there is no leader".to_owned());
        let lost = || AllocateError::NotAcknowledged("the connection broke".to_owned());
        let after = |attempts: [AllocateError; 3]| {
            let last = attempts.into_iter().reduce(AllocateError::then);
            last.map(|error| error.to_string()).unwrap_or_default()
        };
        assert!(after([not_taken(), lost(), not_taken()]).contains("the connection broke"));
        assert!(after([not_taken(), not_taken(), lost()]).contains("the connection broke"));
        assert!(after([not_taken(), not_taken(), not_taken()]).contains("no leader took"));
    }
}
