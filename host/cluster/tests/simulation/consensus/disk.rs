//! The log and the vote on a disk that takes its time, and loses what was on its way when the process
//! is killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    io,
    ops::RangeBounds,
    sync::{Arc, Mutex},
    time::Duration,
};

use holdfast_cluster::state::Position;
use holdfast_model::NodeId;
use openraft::{
    EmptyNode, EntryPayload, Membership as Config, OptionalSend, RaftLogReader,
    async_runtime::AsyncRuntime as _,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use rand::{RngExt as _, rngs::ChaCha8Rng};
use tokio::sync::{Notify, oneshot};

use super::{
    Entry, LeaderOfTerm, LogId, Membership, Payload, Types, Vote, lock, machine::Kept,
    runtime::Runtime,
};
use crate::log::{Checkpoint, Proposal, What};

/// What is on a disk.
#[derive(Clone)]
pub(super) struct Disk {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    log: BTreeMap<u64, Entry>,
    kept: Arc<Kept>,
}

/// What is done to a disk.
#[derive(Clone)]
enum Write {
    Vote(Vote),
    Committed(LogId),
    Append(Vec<Entry>),
    Truncate(u64),
    Purge(LogId),
    Keep(Arc<Kept>),
}

impl Disk {
    /// A disk with these first entries, written in the first term.
    pub(super) fn new(first: &[Arc<Proposal>]) -> Self {
        let mut disk = Self {
            vote: None,
            committed: None,
            purged: None,
            log: BTreeMap::new(),
            kept: Arc::new(Kept {
                checkpoint: Arc::new(Checkpoint {
                    at: Position { index: 0, term: 0 },
                    state: Default::default(),
                    voters: Vec::new(),
                }),
                membership: Membership::default(),
            }),
        };
        for (index, proposal) in (0..).zip(first) {
            let payload = match &proposal.what {
                What::Voters(sets) => {
                    let nodes = sets.iter().flatten();
                    let nodes = nodes.map(|node| (*node, EmptyNode::default()));
                    let nodes: BTreeMap<NodeId, EmptyNode> = nodes.collect();
                    let config = Config::new(sets.clone(), nodes);
                    EntryPayload::Membership(config.expect("all voters are nodes"))
                }
                What::Blank | What::Command(_) => EntryPayload::Normal(Payload(proposal.clone())),
            };
            let log_id = LogId::new(LeaderOfTerm::new(1), index);
            let entry = Entry { log_id, payload };
            disk.write(Write::Append(vec![entry]));
        }
        disk
    }

    pub(super) fn kept(&self) -> Arc<Kept> {
        self.kept.clone()
    }

    pub(super) fn quorums(&self) -> Vec<BTreeSet<NodeId>> {
        let membership = self.membership_at(u64::MAX);
        membership.membership().get_joint_config().clone()
    }

    fn membership_at(&self, index: u64) -> Membership {
        let changes = self.log.range(..=index).rev();
        let mut changes = changes.filter_map(|(_, entry)| match &entry.payload {
            EntryPayload::Membership(config) => {
                Some(Membership::new(Some(entry.log_id), config.clone()))
            }
            EntryPayload::Blank | EntryPayload::Normal(_) => None,
        });
        let last = changes.next();
        last.unwrap_or_else(|| self.kept.membership.clone())
    }

    fn write(&mut self, write: Write) {
        match write {
            Write::Vote(vote) => self.vote = Some(vote),
            Write::Committed(id) => self.committed = Some(id),
            Write::Append(entries) => {
                let entries = entries.into_iter();
                self.log
                    .extend(entries.map(|entry| (entry.log_id.index, entry)));
            }
            Write::Truncate(from) => drop(self.log.split_off(&from)),
            Write::Purge(through) => {
                self.log = self.log.split_off(&(through.index + 1));
                self.purged = Some(through);
            }
            Write::Keep(kept) => self.kept = kept,
        }
    }
}

/// Writes to a disk, one flush after the other.
#[derive(Clone)]
pub(super) struct Writer(Arc<(Mutex<Writing>, Notify)>);

struct Writing {
    /// As this process sees it; what was written lately may not be on it yet.
    seen: Disk,
    /// What a crash leaves.
    durable: Disk,
    queue: Vec<(Write, Done)>,
    /// On its way to the disk.
    flushing: Vec<Write>,
    stalls: bool,
    careless: bool,
    rng: ChaCha8Rng,
}

/// Who is told that something is on the disk.
enum Done {
    Nobody,
    Library(IOFlushed<Types>),
    Waiting(oneshot::Sender<()>),
}

impl Writer {
    pub(super) fn new(disk: Disk, rng: ChaCha8Rng, careless: bool) -> Self {
        let writing = Writing {
            seen: disk.clone(),
            durable: disk,
            queue: Vec::new(),
            flushing: Vec::new(),
            stalls: false,
            careless,
            rng,
        };
        Self(Arc::new((Mutex::new(writing), Notify::new())))
    }

    /// Flushes what is queued, for as long as the process lives.
    pub(super) async fn run(self) {
        let (writing, queued) = &*self.0;
        loop {
            let flush = {
                let mut writing = lock(writing);
                let queue = std::mem::take(&mut writing.queue);
                let (flushing, done): (Vec<Write>, Vec<Done>) = queue.into_iter().unzip();
                writing.flushing = flushing;
                let micros = match writing.stalls {
                    true => 30_000..900_000,
                    false => 200..3_000,
                };
                let takes = Duration::from_micros(writing.rng.random_range(micros));
                (!done.is_empty()).then_some((done, takes))
            };
            let Some((done, takes)) = flush else {
                queued.notified().await;
                continue;
            };
            Runtime::sleep(takes).await;
            let mut writing = lock(writing);
            for write in std::mem::take(&mut writing.flushing) {
                writing.durable.write(write);
            }
            drop(writing);
            done.into_iter().for_each(Done::tell);
        }
    }

    fn write(&self, write: Write, done: Done) {
        let (writing, queued) = &*self.0;
        let mut writing = lock(writing);
        writing.seen.write(write.clone());
        let done = match done {
            Done::Library(flushed) if writing.careless => {
                Done::Library(flushed).tell();
                Done::Nobody
            }
            done => done,
        };
        writing.queue.push((write, done));
        queued.notify_one();
    }

    async fn write_through(&self, write: Write) -> io::Result<()> {
        let (done, written) = oneshot::channel();
        self.write(write, Done::Waiting(done));
        written.await.map_err(io::Error::other)
    }

    /// Makes a state durable, so that the log may be shortened.
    pub(super) async fn keep(&self, kept: Arc<Kept>) -> io::Result<()> {
        self.write_through(Write::Keep(kept)).await
    }

    fn read<T>(&self, read: impl FnOnce(&Disk) -> T) -> T {
        read(&lock(&self.0.0).seen)
    }

    pub(super) fn quorums(&self) -> Vec<BTreeSet<NodeId>> {
        self.read(Disk::quorums)
    }

    pub(super) fn membership_at(&self, index: u64) -> Membership {
        self.read(|disk| disk.membership_at(index))
    }

    pub(super) fn stall(&self, stalls: bool) {
        lock(&self.0.0).stalls = stalls;
    }

    /// The process is killed: what was on its way got there, or not.
    pub(super) fn end(self) -> Disk {
        let mut writing = lock(&self.0.0);
        let flushing = std::mem::take(&mut writing.flushing);
        if writing.rng.random_bool(0.5) {
            for write in flushing {
                writing.durable.write(write);
            }
        }
        writing.durable.clone()
    }
}

impl Done {
    fn tell(self) {
        match self {
            Self::Nobody => {}
            Self::Library(flushed) => flushed.io_completed(Ok(())),
            // The library may have given up on it.
            Self::Waiting(done) => drop(done.send(())),
        }
    }
}

#[derive(Clone)]
pub(super) struct LogStore(pub(super) Writer);

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let entries = |disk: &Disk| {
            disk.log
                .range(range)
                .map(|(_, entry)| entry.clone())
                .collect()
        };
        Ok(self.0.read(entries))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.0.read(|disk| disk.vote))
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        Ok(self.0.read(|disk| {
            let last = disk.log.values().next_back().map(|entry| entry.log_id);
            LogState {
                last_purged_log_id: disk.purged,
                last_log_id: last.or(disk.purged),
            }
        }))
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.0.write_through(Write::Vote(*vote)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.0.write(Write::Committed(committed), Done::Nobody);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.0.read(|disk| disk.committed))
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().collect();
        self.0.write(Write::Append(entries), Done::Library(flushed));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |last| last.index + 1);
        self.0.write_through(Write::Truncate(from)).await
    }

    async fn purge(&mut self, through: LogId) -> io::Result<()> {
        self.0.write_through(Write::Purge(through)).await
    }
}
