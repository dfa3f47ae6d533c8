//! The replicated control state: one [`State`] on every node, agreed on by Raft.
//!
//! A node that starts has its state at once, as it last knew it; whatever was acknowledged, to
//! anybody, is read after [`Control::read_index`]. Commands may be proposed on any node.
//!
//! Invariants:
//! - nothing is acknowledged before a majority of the voters has it on disk;
//! - a node that could not write once writes no more: [`Control::failed`] resolves and the process
//!   has to end;
//! - a message is answered only by the node it names, and only to the node that sent it.
//!
//! Nothing outside this module names the consensus library or the database, and nothing in it knows
//! about leases, gossip or resources.

mod file;
mod happened;
mod leadership;
mod log;
mod machine;
mod membership;
mod network;
mod options;
mod propose;
mod purge;
mod recover;
mod seal;
mod serve;
mod snapshot;
mod subscription;
mod succession;
#[cfg(test)]
pub(crate) mod tests;
mod types;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use holdfast_cluster::{
    copies::Mark,
    state::{self, Command, Decision, Outcome, State},
};
use holdfast_model::NodeId;
use openraft::{
    EmptyNode,
    errors::{InitializeError, RaftError},
};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinSet, spawn_blocking},
};

pub use self::{
    file::OpenError,
    happened::Happened,
    leadership::{Failure, Leadership},
    membership::{ChangeError, Membership, Progress},
    network::{HandleError, Transport, TransportError},
    options::Options,
    propose::{DecideError, ProposeError, ReadError},
    recover::{Remains, RemainsError},
    subscription::Subscription,
};
use self::{
    log::LogStore,
    machine::{Machine, Replica},
    network::Links,
    propose::{ROUND_MAX, ReadRequest, ask_read_index},
    snapshot::Incoming,
    types::{Peer, Raft},
};

/// Why a cluster was not founded.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    /// This node is part of a cluster.
    #[error("this node is part of a cluster already")]
    Member,
    /// The first leader could not be elected, or the cluster not be written down.
    #[error("write down the new cluster")]
    Write(#[from] ProposeError),
}

/// A node's part in the control state. Clones share it.
#[derive(Clone)]
pub struct Control {
    core: Arc<Core>,
    reads: mpsc::Sender<ReadRequest>,
    failure: watch::Receiver<Option<Failure>>,
    /// Ends the tasks with the last clone.
    tasks: Arc<parking_lot::Mutex<JoinSet<()>>>,
}

/// What the handle and its tasks share.
struct Core {
    me: NodeId,
    options: Options,
    raft: Raft,
    replica: Arc<Replica>,
    links: Links,
    incoming: Incoming,
    leadership: watch::Receiver<Leadership>,
    /// Held while this node changes the membership.
    changing: Arc<tokio::sync::Mutex<()>>,
}

impl Control {
    /// Opens this node's log and state, or begins them, and takes part from now on.
    ///
    /// # Errors
    /// When a file is damaged, in use, or not this node's or version's.
    pub async fn open(options: Options, transport: Arc<dyn Transport>) -> Result<Self, OpenError> {
        let config = Arc::new(options.config()?);
        let start = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Start {
            dir: options.dir.clone(),
            source,
        };
        let opened = spawn_blocking({
            let options = options.clone();
            move || open_files(&options)
        });
        let (log, replica) = opened.await.map_err(|error| start(error.into()))??;
        let replica = Arc::new(replica);
        let links = Links {
            me: options.me,
            transport,
            excluded: watch::Sender::new(false),
            append_timeout: options.election_max,
        };
        let me = Peer(options.me);
        let machine = Machine(replica.clone());
        let raft = Raft::new(me, config, links.clone(), log.clone(), machine).await;
        let raft = raft.map_err(|error| start(error.into()))?;
        let voters = raft.with_raft_state(|state| {
            state
                .membership_state
                .effective()
                .voter_ids()
                .collect::<Vec<_>>()
        });
        if voters.await.map_err(|error| start(error.into()))? == [me] {
            // There is nobody to wait for.
            raft.trigger()
                .elect(false)
                .await
                .map_err(|error| start(error.into()))?;
        }
        let (leadership_sender, leadership) = watch::channel(Leadership::default());
        let (failure_sender, failure) = watch::channel(None);
        let core = Arc::new(Core {
            me: options.me,
            options,
            raft,
            replica,
            links,
            incoming: Incoming::default(),
            leadership,
            changing: Arc::default(),
        });
        let (reads, requests) = mpsc::channel(ROUND_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let core = core.clone();
            async move { core.follow_raft(leadership_sender, failure_sender).await }
        });
        tasks.spawn({
            let core = core.clone();
            async move { core.run_reads(requests).await }
        });
        tasks.spawn({
            let core = core.clone();
            async move { core.keep_log_short(log).await }
        });
        let tasks = Arc::new(parking_lot::Mutex::new(tasks));
        Ok(Self {
            core,
            reads,
            failure,
            tasks,
        })
    }

    /// Founds a cluster with this node as its only voter. Repeating it after a crash is safe.
    ///
    /// # Errors
    /// When this node is part of a cluster already.
    pub async fn found(
        &self,
        cluster: state::Cluster,
        deadline: Instant,
    ) -> Result<(), FoundError> {
        let core = &self.core;
        let members = BTreeMap::from([(Peer(core.me), EmptyNode::default())]);
        match core.raft.initialize(members).await {
            Ok(()) => {}
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                // The process may have died between the two steps of founding.
                let alone = core.members().voters == BTreeSet::from([core.me]);
                if !alone || self.read(|state| state.cluster().is_some()) {
                    return Err(FoundError::Member);
                }
            }
            Err(RaftError::APIError(InitializeError::NotInMembers(_))) => {
                unreachable!("the node initializes itself with itself")
            }
            Err(RaftError::Fatal(_)) => return Err(ProposeError::Shutdown.into()),
        }
        let id = cluster.id;
        self.propose(Command::Found(cluster), deadline).await?;
        // A repetition may be refused, naming the very cluster that the first attempt founded.
        match self.read(|state| state.cluster().map(|cluster| cluster.id)) == Some(id) {
            true => Ok(()),
            false => Err(FoundError::Member),
        }
    }

    /// Whether this node is part of a cluster, or was.
    pub async fn is_initialized(&self) -> bool {
        self.core.raft.is_initialized().await.unwrap_or(false)
    }

    /// Has a command applied, wherever the leader is, and brings back its outcome. It is tried again
    /// until the deadline, so it may be applied twice, which every command bears.
    ///
    /// This node's own state may get there a moment later: see [`Control::read_index`].
    ///
    /// # Errors
    /// The error says whether the command may have been applied.
    pub async fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Outcome, ProposeError> {
        self.core.propose(command, deadline).await
    }

    /// Has a decision applied that this node made as the leader of a term. It is tried once, and
    /// refused if the term is over, whoever leads then.
    ///
    /// # Errors
    /// The error says whether the decision may have been applied.
    pub async fn propose_as_leader(
        &self,
        term: u64,
        decision: Decision,
        deadline: Instant,
    ) -> Result<Outcome, DecideError> {
        self.core.decide(term, decision, deadline).await
    }

    /// Waits until this node's state has everything that was acknowledged to anybody before the
    /// call. Calls at the same time share the work.
    ///
    /// # Errors
    /// When no leader confirms itself in time, or this node does not catch up in time.
    pub async fn read_index(&self, deadline: Instant) -> Result<(), ReadError> {
        let leader = || self.core.leadership.borrow().leader;
        let index = ask_read_index(&self.reads, deadline, leader).await?;
        self.core.wait_applied(index, deadline).await
    }

    /// Confirms with a quorum that this node leads, and returns the term. A lease that relies on it
    /// counts from before the call.
    ///
    /// # Errors
    /// When this node does not lead, or no quorum answers in time.
    pub async fn confirm_leadership(&self, deadline: Instant) -> Result<u64, ReadError> {
        self.core.confirm_leadership(deadline).await
    }

    /// Reads this node's state, as far as it knows. It must not take long: nothing is applied
    /// meanwhile.
    pub fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        self.core.replica.read(read)
    }

    /// The digests of this node's copy of the state at some positions of the log, by which copies are
    /// compared.
    #[must_use]
    pub fn digests(&self) -> Vec<Mark> {
        self.core.replica.digests()
    }

    /// Index of the last applied entry.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.core.replica.applied()
    }

    /// Follows the changes of this node's state, beginning with every row there is.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.core.replica.subscribe()
    }

    /// Who leads.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.core.leadership.clone()
    }

    /// Who takes part.
    #[must_use]
    pub fn members(&self) -> Membership {
        self.core.members()
    }

    /// Makes a node follow. It does not wait for the node to catch up. Only the leader can.
    ///
    /// # Errors
    /// When the membership was not changed, or not known to be in time.
    pub async fn add_learner(&self, node: NodeId, deadline: Instant) -> Result<(), ChangeError> {
        self.core.add_learner(node, deadline).await
    }

    /// Makes these nodes the voters; the others of the present ones follow from now on. New ones
    /// must be learners that answer and are nearly caught up. Only the leader can.
    ///
    /// # Errors
    /// When the membership was not changed, or not known to be in time.
    pub async fn change_voters(
        &self,
        voters: BTreeSet<NodeId>,
        deadline: Instant,
    ) -> Result<(), ChangeError> {
        self.core.change_voters(voters, deadline).await
    }

    /// Ends a change of the voters whose leader died in the middle of it. Only the leader can.
    ///
    /// # Errors
    /// When it was not ended, or not known to be in time; and when this node makes a change itself.
    pub async fn finish_change(&self, deadline: Instant) -> Result<(), ChangeError> {
        self.core.finish_change(deadline).await
    }

    /// Removes a node for good: it must not come back under this identity. Only the leader can.
    ///
    /// # Errors
    /// When the membership was not changed, or not known to be in time.
    pub async fn remove(&self, node: NodeId, deadline: Instant) -> Result<(), ChangeError> {
        self.core.remove(node, deadline).await
    }

    /// Hands the leadership to another voter, and waits until it leads.
    ///
    /// # Errors
    /// When this node does not lead, or the other does not take over in time.
    pub async fn transfer_leadership(
        &self,
        to: NodeId,
        deadline: Instant,
    ) -> Result<(), ChangeError> {
        self.core.transfer_leadership(to, deadline).await
    }

    /// Has another leader elected at once, as far as this node can, where the present one is known
    /// to be dead. Returns once there is another, or after some attempts.
    pub async fn succeed(&self, dead: NodeId) {
        self.core.succeed(dead).await;
    }

    /// Answers a message that a [`Transport`] has brought. `from` is the node at the other end of the
    /// connection, as its handshake has shown.
    ///
    /// # Errors
    /// When the message is not for this node, not from that one, or not readable.
    pub async fn handle(&self, from: NodeId, message: Bytes) -> Result<Bytes, HandleError> {
        self.core.handle(from, &message).await
    }

    /// What the log has told lately.
    #[must_use]
    pub fn happened(&self) -> Arc<Happened> {
        self.core.replica.happened()
    }

    /// Waits until this node's copy has failed. The process must end then: what it says is no longer
    /// backed by its disk. Never resolves after [`Control::shutdown`].
    pub async fn failed(&self) -> Failure {
        let mut failure = self.failure.clone();
        if let Ok(failure) = failure.wait_for(Option::is_some).await
            && let Some(failure) = failure.clone()
        {
            return failure;
        }
        std::future::pending().await
    }

    /// Stops taking part, with everything applied made durable.
    pub async fn shutdown(&self) {
        // Before the library: to the task that follows it, its end would be a failure.
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
        // Fails only when the library's task has panicked, which `failed` reported.
        let _ = self.core.raft.shutdown().await;
        let replica = self.core.replica.clone();
        if let Ok(Err(error)) = spawn_blocking(move || replica.sync()).await {
            // The log has it all: the next start takes longer, that is all.
            tracing::warn!(error = %error, "the state could not be written at shutdown");
        }
    }
}

/// Makes the files of a node that knows nothing yet, in a directory that has none.
///
/// # Errors
/// When they cannot be written.
pub fn begin(dir: &Path, me: NodeId) -> Result<(), OpenError> {
    open_files(&Options::new(dir.to_owned(), me)).map(drop)
}

/// Opens both files and checks that they belong together.
fn open_files(options: &Options) -> Result<(LogStore, Replica), OpenError> {
    let Options { dir, me, .. } = options;
    snapshot::sweep(dir)
        .and_then(|()| file::sync_directory(dir))
        .map_err(|source| OpenError::Directory {
            dir: dir.clone(),
            source,
        })?;
    let (log_file, state_file) = (dir.join(LOG_FILE), dir.join(STATE_FILE));
    let damaged = |file: &Path, what: String| OpenError::Damaged {
        file: file.to_owned(),
        source: what.into(),
    };
    if !log_file.exists() && (options.member || state_file.exists()) {
        // A node that forgot its vote could vote twice.
        let what = "it is missing, but the node was part of a cluster";
        return Err(damaged(&log_file, what.to_owned()));
    }
    let log = LogStore::open(&log_file, *me)?;
    let replica = Replica::open(state_file.clone(), *me)?;
    let applied = replica
        .position()
        .map_err(|error| damaged(&state_file, error.to_string()))?
        .0;
    if let Some(purged) = log.purged()
        && applied.is_none_or(|applied| applied.index < purged.index)
    {
        let applied = applied.map_or(0, |applied| applied.index);
        let what = format!(
            "it ends at entry {applied}, but the log begins after {}",
            purged.index
        );
        return Err(damaged(&state_file, what));
    }
    file::sync_directory(dir).map_err(|source| OpenError::Directory {
        dir: dir.clone(),
        source,
    })?;
    Ok((log, replica))
}

/// Vote and log of a node.
const LOG_FILE: &str = "control-log.redb";

/// State of a node.
const STATE_FILE: &str = "control-state.redb";
