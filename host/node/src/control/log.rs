//! The log and the vote of this node, on disk.
//!
//! One thread writes. It takes everything that was queued while it wrote before, commits that as
//! one transaction with one fsync, and only then reports it: the busier the node, the more each
//! fsync serves. Votes, truncations and purges go through the same queue, so that nothing overtakes
//! anything; entries are readable from memory while they wait.
//!
//! After a failed write nothing is written again: what an operating system does with pages whose
//! fsync failed cannot be known, so a second fsync that succeeds would prove nothing.

mod writer;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    path::Path,
    sync::Arc,
    thread::JoinHandle,
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use holdfast_model::NodeId;
use openraft::{
    OptionalSend, RaftLogReader,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::{Semaphore, oneshot};

use self::writer::{Append, Job, Queue};
use super::{
    file::{self, META, OpenError, io_error},
    recover::RemainsError,
    types::{Entry, LogId, Types, Vote, decode, encode},
};

/// The stored log. Clones share it; the last one to go closes the file.
#[derive(Clone)]
pub(crate) struct LogStore {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    db: Database,
    queue: Queue,
    memory: Mutex<Memory>,
}

/// What is known without reading the file.
#[derive(Default)]
struct Memory {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// Entries that are queued, but not known to be on disk.
    tail: BTreeMap<u64, Bytes>,
}

impl LogStore {
    /// Opens the log of a node, or begins one.
    pub(crate) fn open(path: &Path, me: NodeId) -> Result<Self, OpenError> {
        let db = file::open(path, me, CACHE_BYTES)?;
        let damaged = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Damaged {
            file: path.to_owned(),
            source,
        };
        let memory = Memory::load(&db).map_err(damaged)?;
        let shared = Arc::new(Shared {
            db,
            queue: Queue::default(),
            memory: Mutex::new(memory),
        });
        let writer = std::thread::Builder::new()
            .name("control-log".into())
            .spawn({
                let shared = shared.clone();
                move || writer::run(&shared)
            });
        let writer = writer.map_err(|source| OpenError::Directory {
            dir: path.parent().unwrap_or(path).to_owned(),
            source,
        })?;
        Ok(Self {
            handle: Arc::new(Handle {
                shared,
                writer: Some(writer),
            }),
        })
    }

    /// Makes the log of a node whose state begins with everything up to an entry.
    pub(crate) fn begin_after(
        path: &Path,
        me: NodeId,
        vote: Vote,
        last: LogId,
    ) -> Result<(), RemainsError> {
        let db = file::open(path, me, CACHE_BYTES)?;
        let write = || -> Result<(), redb::Error> {
            let transaction = db.begin_write()?;
            {
                transaction.open_table(LOG)?;
                let mut meta = transaction.open_table(META)?;
                meta.insert("vote", encode(&vote).as_slice())?;
                meta.insert("purged", encode(&last).as_slice())?;
                meta.insert("committed", encode(&last).as_slice())?;
            }
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|error| RemainsError::Write(error.into()))
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// The last entry that was purged: everything up to it must be in the state.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.shared().memory.lock().purged
    }

    async fn write(
        &self,
        job: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Job,
    ) -> io::Result<()> {
        let (sender, written) = oneshot::channel();
        self.shared().queue.push(job(sender));
        written
            .await
            .map_err(|_| io::Error::other("the log's writer has stopped"))?
    }

    /// Entries of a range in order, until their encoded size passes `bytes_max`; never none when
    /// there are some.
    fn entries(
        &self,
        from: Bound<u64>,
        to: Bound<u64>,
        bytes_max: usize,
    ) -> io::Result<Vec<Entry>> {
        // Memory first: what leaves it meanwhile is on disk by then.
        let tail: Vec<(u64, Bytes)> = {
            let memory = self.shared().memory.lock();
            let mut bytes = 0;
            let fits = |(_, entry): &(&u64, &Bytes)| {
                let fits = bytes < bytes_max;
                bytes += entry.len();
                fits
            };
            let range = memory.tail.range((from, to)).take_while(fits);
            range
                .map(|(index, entry)| (*index, entry.clone()))
                .collect()
        };
        let to = tail
            .first()
            .map_or(to, |(index, _)| Bound::Excluded(*index));
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let transaction = self.shared().db.begin_read().map_err(io_error)?;
        let log = transaction.open_table(LOG).map_err(io_error)?;
        if !is_empty(from, to) {
            for row in log.range::<u64>((from, to)).map_err(io_error)? {
                if bytes >= bytes_max {
                    return Ok(entries);
                }
                let (index, value) = row.map_err(io_error)?;
                bytes += value.value().len();
                entries.push(read_entry(index.value(), value.value())?);
            }
        }
        for (index, value) in tail {
            if bytes >= bytes_max {
                return Ok(entries);
            }
            bytes += value.len();
            entries.push(read_entry(index, &value)?);
        }
        Ok(entries)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.close();
        // Waits for the last commit at most, so that the file is free when this returns.
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Memory {
    fn load(db: &Database) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let transaction = db.begin_write()?;
        transaction.open_table(LOG)?;
        transaction.commit()?;
        let transaction = db.begin_read()?;
        let meta = transaction.open_table(META)?;
        let log = transaction.open_table(LOG)?;
        if let Some((index, value)) = log.last()? {
            read_entry(index.value(), value.value())?;
        }
        Ok(Self {
            vote: meta
                .get("vote")?
                .map(|value| decode(value.value()))
                .transpose()?,
            committed: meta
                .get("committed")?
                .map(|value| decode(value.value()))
                .transpose()?,
            purged: meta
                .get("purged")?
                .map(|value| decode(value.value()))
                .transpose()?,
            tail: BTreeMap::new(),
        })
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.entries(
            range.start_bound().cloned(),
            range.end_bound().cloned(),
            usize::MAX,
        )
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.entries(
            Bound::Included(start),
            Bound::Excluded(end),
            REPLICATED_BYTES_MAX,
        )
    }

    /// Reads piece by piece: a node far behind applies its log without holding all of it.
    async fn entries_stream<R>(
        &mut self,
        range: R,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = (range.start_bound().cloned(), range.end_bound().cloned());
        let pieces = stream::try_unfold((self.clone(), from), move |(store, from)| async move {
            if is_empty(from, to) {
                return Ok(None);
            }
            let entries = store.entries(from, to, APPLIED_BYTES_MAX)?;
            let Some(last) = entries.last() else {
                return Ok(None);
            };
            let next = Bound::Excluded(last.log_id.index);
            let piece = stream::iter(entries.into_iter().map(Ok));
            Ok::<_, io::Error>(Some((piece, (store, next))))
        });
        futures_util::TryStreamExt::try_flatten(pieces)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared().memory.lock().vote)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let (purged, tail) = {
            let memory = self.shared().memory.lock();
            let tail = memory
                .tail
                .last_key_value()
                .map(|(index, entry)| (*index, entry.clone()));
            (memory.purged, tail)
        };
        let last = match tail {
            Some((index, entry)) => Some(read_entry(index, &entry)?.log_id),
            None => {
                let transaction = self.shared().db.begin_read().map_err(io_error)?;
                let log = transaction.open_table(LOG).map_err(io_error)?;
                let last = log.last().map_err(io_error)?;
                let entry = last.map(|(index, value)| read_entry(index.value(), value.value()));
                entry.transpose()?.map(|entry| entry.log_id)
            }
        };
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: last.or(purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let bytes = encode(vote);
        self.write(|written| Job::Vote {
            vote: bytes,
            written,
        })
        .await?;
        self.shared().memory.lock().vote = Some(*vote);
        Ok(())
    }

    /// Written with the next commit, or soon when there is none: a node that restarts while it can
    /// reach nobody applies up to here.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else {
            return Ok(());
        };
        self.shared().memory.lock().committed = Some(committed);
        self.shared().queue.committed(encode(&committed));
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared().memory.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let encode = |entry: Entry| (entry.log_id.index, Bytes::from(encode(&entry)));
        let entries: Vec<(u64, Bytes)> = entries.into_iter().map(encode).collect();
        let bytes: usize = entries.iter().map(|(_, entry)| entry.len()).sum();
        let room = self.shared().queue.room(bytes).await;
        self.shared()
            .memory
            .lock()
            .tail
            .extend(entries.iter().cloned());
        self.shared().queue.push(Job::Append(Append {
            entries,
            flushed,
            _room: room,
        }));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |last| last.index + 1);
        self.write(|written| Job::Truncate { from, written }).await
    }

    async fn purge(&mut self, through: LogId) -> io::Result<()> {
        let purged = encode(&through);
        self.write(|written| Job::Purge {
            through: through.index,
            purged,
            written,
        })
        .await?;
        self.shared().memory.lock().purged = Some(through);
        Ok(())
    }
}

fn read_entry(index: u64, bytes: &[u8]) -> io::Result<Entry> {
    let damaged = |what: &str| {
        let text = format!("entry {index} of the stored log is damaged: {what}");
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let entry: Entry = decode(bytes).map_err(|error| damaged(&error.to_string()))?;
    if entry.log_id.index == index {
        Ok(entry)
    } else {
        Err(damaged("it has another index"))
    }
}

fn is_empty(from: Bound<u64>, to: Bound<u64>) -> bool {
    let from = match from {
        Bound::Included(from) => from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    match to {
        Bound::Included(to) => from > to,
        Bound::Excluded(to) => from >= to,
        Bound::Unbounded => false,
    }
}

/// Entries by index.
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

/// Keeps the part of the log that is replicated and applied in memory.
const CACHE_BYTES: usize = 64 << 20;

/// Encoded entries in one message. More would outlast the message's deadline on a slow link.
const REPLICATED_BYTES_MAX: usize = 256 << 10;

/// Encoded entries read at once to be applied: some milliseconds of reading at most.
const APPLIED_BYTES_MAX: usize = 1 << 20;
