//! The replicated log, as the node of a simulation sees it, whoever agrees on it.
//!
//! A [`Log`] is one process's part in it, a [`Store`] what is left of that on the disk while no
//! process runs. What is committed comes out of [`Log::next`] in order; a process that starts is
//! given a state that its disk has, and everything after that again.
//!
//! Absent: the state machine. The caller applies what is committed, when it likes to.

pub(crate) mod model;

use std::{any::Any, collections::BTreeSet, sync::Arc, time::Duration};

use holdfast_cluster::{
    handover::Now,
    state::{Command, Position, State},
};
use holdfast_model::NodeId;
use rand::rngs::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// What was agreed on at one position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) term: u64,
    pub(crate) proposal: Arc<Proposal>,
}

/// What somebody proposed, under a number that nobody else uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposal {
    pub(crate) number: u64,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    /// The first entry of a term.
    Blank,
    Command(Command),
    /// A majority of each set decides, from here on.
    Voters(Vec<BTreeSet<NodeId>>),
}

/// What a process hears from its log.
#[derive(Clone)]
pub(crate) enum Committed {
    Entry(Position, Entry),
    /// Everything up to a position, in the place of the entries.
    State(Arc<Checkpoint>),
}

/// The state at a position, with what the log needs to go on from there.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) at: Position,
    pub(crate) state: State,
    /// The sets that decide at that position.
    pub(crate) voters: Vec<BTreeSet<NodeId>>,
}

/// A term that a process leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lead {
    pub(crate) term: u64,
    /// Not before it was elected.
    pub(crate) elected: Now,
    /// The position of an entry of this term. What earlier leaders decided stands before it.
    pub(crate) first: u64,
}

/// Between two logs. Only logs of the same kind read it.
pub(crate) type Message = Arc<dyn Any + Send + Sync>;

/// The logs of one simulation.
pub(crate) trait Logs {
    /// An empty disk, or one with these first entries, which are committed.
    fn store(&mut self, node: NodeId, first: &[Arc<Proposal>]) -> Box<dyn Store>;

    /// True time is that now, counted from the beginning.
    fn run_until(&mut self, now: Duration);
}

/// What a log leaves on a disk.
pub(crate) trait Store {
    /// Starts a process's part, from a state that the disk has.
    fn open(
        self: Box<Self>,
        now: Now,
        rng: ChaCha8Rng,
        careless: bool,
    ) -> (Box<dyn Log>, Arc<Checkpoint>);

    /// The sets that decide, as the disk has it.
    fn quorums(&self) -> Vec<BTreeSet<NodeId>>;
}

/// One process's part.
pub(crate) trait Log {
    /// Why this part does nothing any more, if that is so.
    fn failure(&self) -> Option<String> {
        None
    }

    /// Who leads, as far as is known here.
    fn leader(&self) -> Option<NodeId>;

    /// The term that this process leads.
    fn lead(&self) -> Option<Lead>;

    /// In which term, and when at the latest, a contact with a quorum began that has succeeded.
    fn contact(&self, now: Now) -> Option<(u64, Now)>;

    /// The sets that decide.
    fn quorums(&self) -> Vec<BTreeSet<NodeId>>;

    /// Whether the sets that decide are about to change.
    fn changes_voters(&self) -> bool;

    /// Whether a node has all but the latest entries.
    fn is_near(&self, node: NodeId) -> bool;

    /// Appends what is proposed, if this process leads, as far as it knows.
    fn propose(&mut self, proposal: Proposal) -> bool;

    /// Whether what was proposed here is still on its way.
    fn is_pending(&self, number: u64) -> bool;

    /// Has these nodes vote, and no others.
    fn change_voters(&mut self, voters: BTreeSet<NodeId>);

    /// Hands the leadership over to a voter.
    fn transfer(&mut self, now: Now, to: NodeId);

    fn receive(&mut self, now: Now, from: NodeId, message: Message);

    /// Time has passed. A leader replicates to `others` beside the voters.
    fn tick(&mut self, now: Now, others: &BTreeSet<NodeId>);

    /// What is to be sent since this was asked last.
    fn sent(&mut self, now: Now) -> Vec<(NodeId, Message)>;

    /// The next thing that is committed.
    fn next(&mut self) -> Option<Committed>;

    /// Everything up to there is in the caller's state.
    fn applied(&mut self, at: Position, state: &State);

    /// Whether the disk takes long to write.
    fn stall(&mut self, stalls: bool);

    /// The process stands still, or goes on.
    fn stand_still(&mut self, still: bool);

    /// The process is killed.
    fn kill(self: Box<Self>) -> Box<dyn Store>;
}

/// Whether those with the property are a majority of every set.
pub(crate) fn decides(sets: &[BTreeSet<NodeId>], has: impl Fn(&NodeId) -> bool) -> bool {
    let majority =
        |set: &BTreeSet<NodeId>| set.iter().filter(|node| has(node)).count() > set.len() / 2;
    !sets.is_empty() && sets.iter().all(majority)
}

/// Every node waits at least this long for a leader, and at most [`ELECTION_MAX`].
pub(crate) const ELECTION_MIN: Duration = Duration::from_millis(300);
pub(crate) const ELECTION_MAX: Duration = Duration::from_millis(600);

pub(crate) const HEARTBEAT: Duration = Duration::from_millis(100);

/// Entries after which a state is written to the disk, so that the log may be shortened.
pub(crate) const CHECKPOINT_EVERY: u64 = 32;

/// Entries before the last checkpoint that are kept for nodes that are behind.
pub(crate) const KEPT: u64 = 16;

/// How many entries a node may lack to be near.
pub(crate) const LAG_MAX: u64 = 20;
