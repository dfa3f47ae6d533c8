//! The replicated log of the node: the real consensus library, on virtual time, on disks and wires of
//! the simulation.
//!
//! Each process has a runtime of its own that stands still or ends with it. Time passes between two
//! steps of the world, in [`Logs::run_until`]; what was asked of the library meanwhile happens then.
//!
//! Absent: snapshots in pieces, and a copy that is left out of the membership for good. Both are the
//! node's own, and tested there.

mod disk;
mod link;
mod machine;
mod runtime;
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use holdfast_cluster::{
    handover::Now,
    state::{Position, State},
};
use holdfast_model::NodeId;
use openraft::{
    ChangeMembers, Config, EmptyNode, Instant as _, ReadPolicy, SnapshotPolicy,
    async_runtime::{AsyncRuntime as _, WatchReceiver as _},
    impls::leader_id_std::LeaderId,
    type_config::alias,
};
use openraft_rt_sim::{SimInstant, SimRuntime};
use rand::{RngExt as _, rngs::ChaCha8Rng};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use self::{
    disk::{Disk, LogStore, Writer},
    link::{Links, Rpc},
    machine::{Kept, Machine},
    runtime::{Life, Runtime},
};
use crate::log::{
    CHECKPOINT_EVERY, Checkpoint, Committed, ELECTION_MAX, ELECTION_MIN, HEARTBEAT, KEPT, LAG_MAX,
    Lead, Log, Logs, Message, Proposal, Store,
};

openraft::declare_raft_types!(
    #[derive(Serialize, Deserialize)]
    pub(crate) Types:
        D = Payload,
        R = (),
        NodeId = NodeId,
        Node = EmptyNode,
        LeaderId = LeaderId<u64, NodeId>,
        AsyncRuntime = Runtime,
);

type Raft = openraft::Raft<Types, Machine>;
type Entry = alias::EntryOf<Types>;
type LogId = alias::LogIdOf<Types>;
type LeaderOfTerm = alias::CommittedLeaderIdOf<Types>;
type Vote = alias::VoteOf<Types>;
type Membership = alias::StoredMembershipOf<Types>;

/// A proposal on its way into the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Payload(Arc<Proposal>);

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.number)
    }
}

/// The library and its runtime, for all nodes.
pub(crate) struct Consensus {
    runtime: SimRuntime,
    began: SimInstant,
    work: Work,
}

/// What is to run when time passes: whose, and what.
type Work = Arc<Mutex<Vec<(Arc<Life>, BoxFuture<'static, ()>)>>>;

impl Consensus {
    pub(crate) fn new(seed: u64) -> Self {
        let mut runtime = SimRuntime::with_seed(seed);
        let began = runtime.block_on(async { SimInstant::now() });
        let work = Work::default();
        Self {
            runtime,
            began,
            work,
        }
    }
}

impl Logs for Consensus {
    fn store(&mut self, node: NodeId, first: &[Arc<Proposal>]) -> Box<dyn Store> {
        Box::new(Idle {
            node,
            disk: Disk::new(first),
            work: self.work.clone(),
        })
    }

    fn run_until(&mut self, now: Duration) {
        let work = std::mem::take(&mut *lock(&self.work));
        let until = self.began + now;
        self.runtime.block_on(async {
            for (life, work) in work {
                life.spawn(work);
            }
            SimRuntime::sleep_until(until).await;
        });
    }
}

/// The disk of a node while no process runs.
struct Idle {
    node: NodeId,
    disk: Disk,
    work: Work,
}

impl Store for Idle {
    fn open(
        self: Box<Self>,
        now: Now,
        mut rng: ChaCha8Rng,
        careless: bool,
    ) -> (Box<dyn Log>, Arc<Checkpoint>) {
        let Self { node, disk, work } = *self;
        let kept = disk.kept();
        let checkpoint = kept.checkpoint.clone();
        let core = Core {
            raft: None,
            panicked: false,
            // An answer that comes late is not one to a question of the next process.
            calls: u64::from(rng.random::<u32>()) << 32,
            waiting: BTreeMap::new(),
            out: Vec::new(),
            committed: VecDeque::new(),
            applying: Vec::new(),
            kept,
            pending: BTreeSet::new(),
            changing: false,
            confirming: false,
            confirmed: None,
        };
        let writer = Writer::new(disk, rng, careless);
        let process = Process {
            node,
            life: Arc::default(),
            core: Arc::new(Mutex::new(core)),
            writer,
            work,
            lead: None,
            confirm_at: now,
        };
        process.start();
        (Box::new(process), checkpoint)
    }

    fn quorums(&self) -> Vec<BTreeSet<NodeId>> {
        self.disk.quorums()
    }
}

/// What a process and the library's tasks share.
struct Core {
    /// None until it has read the disk.
    raft: Option<Raft>,
    panicked: bool,
    calls: u64,
    /// Who waits for an answer of another node.
    waiting: BTreeMap<u64, oneshot::Sender<link::Answer>>,
    out: Vec<(NodeId, Rpc)>,
    committed: VecDeque<Committed>,
    /// What is told when the process has applied everything up to a position.
    applying: Vec<(u64, oneshot::Sender<()>)>,
    /// A state of a moment ago.
    kept: Arc<Kept>,
    pending: BTreeSet<u64>,
    /// This process changes the membership.
    changing: bool,
    confirming: bool,
    /// A term, and when a contact with a quorum began that has confirmed it.
    confirmed: Option<(u64, Now)>,
}

type Shared = Arc<Mutex<Core>>;

struct Process {
    node: NodeId,
    life: Arc<Life>,
    core: Shared,
    writer: Writer,
    work: Work,
    lead: Option<Lead>,
    confirm_at: Now,
}

impl Process {
    fn run(&self, work: impl Future<Output = ()> + Send + 'static) {
        lock(&self.work).push((self.life.clone(), Box::pin(work)));
    }

    fn start(&self) {
        let (node, core) = (self.node, self.core.clone());
        let links = Links(core.clone());
        let (log, machine) = (LogStore(self.writer.clone()), Machine::new(self));
        let writer = self.writer.clone();
        self.run(async move { writer.run().await });
        self.run(async move {
            let raft = Raft::new(node, Arc::new(config()), links, log, machine).await;
            let raft = raft.expect("the disk is in order");
            let voters = raft.voter_ids().collect::<Vec<_>>();
            if voters == [node] {
                // There is nobody to wait for.
                let elected = raft.trigger().elect(false).await;
                elected.expect("the library has just begun");
            }
            let mut metrics = raft.metrics();
            lock(&core).raft = Some(raft);
            while metrics.changed().await.is_ok() {}
            // The library's task is gone. Where it ended in order, its metrics say why.
            lock(&core).panicked = true;
        });
    }

    fn metrics<T>(&self, read: impl FnOnce(&openraft::RaftMetrics<Types>) -> T) -> Option<T> {
        let raft = lock(&self.core).raft.clone()?;
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        Some(read(&metrics))
    }

    /// Does something with the library when time passes; nothing while it starts.
    fn with_raft<F>(&self, act: impl FnOnce(Raft) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let raft = lock(&self.core).raft.clone();
        if let Some(raft) = raft {
            self.run(act(raft));
        }
    }

    fn change(&self, change: ChangeMembers<NodeId, EmptyNode>) {
        let busy = std::mem::replace(&mut lock(&self.core).changing, true);
        if !busy {
            let core = self.core.clone();
            self.with_raft(|raft| async move {
                // Whatever came of it is seen in the membership.
                let _ = raft.change_membership(change, true).await;
                lock(&core).changing = false;
            });
        }
    }

    /// Asks a quorum whether this process leads, as the node does.
    fn confirm(&mut self, now: Now) {
        let busy = std::mem::replace(&mut lock(&self.core).confirming, true);
        if busy {
            return;
        }
        self.confirm_at = now + CONFIRM_EVERY;
        let core = self.core.clone();
        self.with_raft(|raft| async move {
            let term = || raft.as_leader().ok().map(|leader| leader.term());
            let before = term();
            let confirm = raft.get_read_linearizer(ReadPolicy::ReadIndex);
            let confirmed = Runtime::timeout(CONFIRM_MAX, confirm).await;
            let mut core = lock(&core);
            core.confirming = false;
            if let Ok(Ok(_)) = confirmed
                && let Some(term) = term().filter(|term| Some(*term) == before)
            {
                core.confirmed = Some((term, now));
            }
        });
    }
}

impl Log for Process {
    fn failure(&self) -> Option<String> {
        let failed = self.metrics(|metrics| metrics.running_state.clone().err());
        let failed = failed.flatten().map(|fatal| fatal.to_string());
        failed.or(lock(&self.core).panicked.then(|| "it panicked".to_owned()))
    }

    fn leader(&self) -> Option<NodeId> {
        self.metrics(|metrics| metrics.current_leader)?
    }

    fn lead(&self) -> Option<Lead> {
        self.lead
    }

    fn contact(&self, _: Now) -> Option<(u64, Now)> {
        lock(&self.core).confirmed.filter(|(term, _)| {
            let led = self.lead.map(|lead| lead.term);
            led == Some(*term)
        })
    }

    fn quorums(&self) -> Vec<BTreeSet<NodeId>> {
        let quorums = self.metrics(|metrics| {
            let membership = metrics.membership_config.membership();
            membership.get_joint_config().clone()
        });
        quorums.unwrap_or_else(|| self.writer.quorums())
    }

    fn changes_voters(&self) -> bool {
        let under_way = self.metrics(|metrics| {
            let quorums = metrics.membership_config.membership().get_joint_config();
            quorums.len() != 1
                || metrics.membership_config.log_id()
                    != metrics.committed_membership_config.log_id()
        });
        lock(&self.core).changing || under_way.unwrap_or(true)
    }

    fn is_near(&self, node: NodeId) -> bool {
        let near = self.metrics(|metrics| {
            let last = metrics.last_log_index.unwrap_or(0);
            let matched = metrics.replication.as_ref()?.get(&node)?.as_ref()?.index;
            Some(matched + LAG_MAX >= last)
        });
        node == self.node || near.flatten().unwrap_or(false)
    }

    fn propose(&mut self, proposal: Proposal) -> bool {
        if self.lead.is_none() {
            return false;
        }
        let number = proposal.number;
        lock(&self.core).pending.insert(number);
        let core = self.core.clone();
        self.with_raft(|raft| async move {
            // What was applied is seen in the log.
            let _ = raft.client_write(Payload(Arc::new(proposal))).await;
            lock(&core).pending.remove(&number);
        });
        true
    }

    fn is_pending(&self, number: u64) -> bool {
        self.lead.is_some() && lock(&self.core).pending.contains(&number)
    }

    fn change_voters(&mut self, voters: BTreeSet<NodeId>) {
        self.change(ChangeMembers::ReplaceAllVoters(voters));
    }

    fn transfer(&mut self, _: Now, to: NodeId) {
        self.with_raft(|raft| async move {
            // The library has ended, or it tries.
            let _ = raft.trigger().transfer_leader(to).await;
        });
    }

    fn receive(&mut self, _: Now, from: NodeId, message: Message) {
        match message.downcast_ref::<Rpc>() {
            Some(Rpc::Ask(call, question)) => {
                let (core, call, question) = (self.core.clone(), *call, question.clone());
                self.with_raft(|raft| async move {
                    let answer = question.answer(&raft).await;
                    lock(&core).out.push((from, Rpc::Answer(call, answer)));
                });
            }
            Some(Rpc::Answer(call, answer)) => {
                if let Some(waiting) = lock(&self.core).waiting.remove(call) {
                    // Who asked may have given up.
                    let _ = waiting.send(answer.clone());
                }
            }
            None => {}
        }
    }

    fn tick(&mut self, now: Now, others: &BTreeSet<NodeId>) {
        let led = self.metrics(|metrics| {
            let applied = metrics.last_applied.as_ref();
            let applied = applied.filter(|id| term(id) == metrics.current_term)?;
            let leads = metrics.state.is_leader();
            leads.then_some((metrics.current_term, applied.index + 1))
        });
        let same = |term: u64| self.lead.filter(|lead| lead.term == term);
        self.lead = led.flatten().map(|(term, first)| {
            same(term).unwrap_or(Lead {
                term,
                elected: now,
                first,
            })
        });
        if self.lead.is_none() {
            return;
        }
        if now >= self.confirm_at {
            self.confirm(now);
        }
        let quorums = self.quorums();
        if quorums.len() > 1 {
            // Its leader may have died in the middle of it.
            self.change(ChangeMembers::AddVoterIds(BTreeSet::new()));
        } else if !self.changes_voters() {
            let unknown = self.metrics(|metrics| {
                let membership = metrics.membership_config.membership();
                let unknown = others.iter();
                unknown
                    .filter(|node| membership.get_node(node).is_none())
                    .map(|node| (*node, EmptyNode::default()))
                    .collect::<BTreeMap<_, _>>()
            });
            if let Some(unknown) = unknown.filter(|unknown| !unknown.is_empty()) {
                self.change(ChangeMembers::AddNodes(unknown));
            }
        }
    }

    fn sent(&mut self, _: Now) -> Vec<(NodeId, Message)> {
        let out = std::mem::take(&mut lock(&self.core).out);
        let message = |(to, rpc)| (to, Arc::new(rpc) as Message);
        out.into_iter().map(message).collect()
    }

    fn next(&mut self) -> Option<Committed> {
        lock(&self.core).committed.pop_front()
    }

    fn applied(&mut self, at: Position, state: &State) {
        let mut core = lock(&self.core);
        if at.index >= core.kept.checkpoint.at.index + CHECKPOINT_EVERY / 4 {
            core.kept = Arc::new(Kept {
                checkpoint: Arc::new(Checkpoint {
                    at,
                    state: state.clone(),
                    voters: Vec::new(),
                }),
                membership: self.writer.membership_at(at.index - 1),
            });
        }
        let done = core
            .applying
            .extract_if(.., |(index, _)| *index <= at.index);
        for (_, done) in done {
            // The library waits for it, or has ended.
            let _ = done.send(());
        }
    }

    fn stall(&mut self, stalls: bool) {
        self.writer.stall(stalls);
    }

    fn stand_still(&mut self, still: bool) {
        self.life.pause(still);
    }

    fn kill(self: Box<Self>) -> Box<dyn Store> {
        self.life.end();
        Box::new(Idle {
            node: self.node,
            disk: self.writer.end(),
            work: self.work,
        })
    }
}

/// As the node has it, but for snapshots: those are to happen within a short simulation.
fn config() -> Config {
    let millis = |duration: Duration| duration.as_millis() as u64;
    let config = Config {
        cluster_name: "holdfast".into(),
        heartbeat_interval: millis(HEARTBEAT),
        election_timeout_min: millis(ELECTION_MIN),
        election_timeout_max: millis(ELECTION_MAX),
        install_snapshot_timeout: 60_000,
        max_payload_entries: 1_024,
        replication_lag_threshold: CHECKPOINT_EVERY + KEPT,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(CHECKPOINT_EVERY),
        max_in_snapshot_log_to_keep: KEPT,
        purge_batch_size: 2,
        enable_pre_vote: Some(true),
        backoff: "50ms 100ms 200ms ...500ms".into(),
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().expect("the times fit each other")
}

/// The term of a log position.
fn term(id: &LogId) -> u64 {
    **id.committed_leader_id()
}

/// Nothing panics while it is locked, but in a test that has failed already.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often a leader makes sure that it leads, and how long that may take.
const CONFIRM_EVERY: Duration = Duration::from_millis(150);
const CONFIRM_MAX: Duration = Duration::from_secs(1);
