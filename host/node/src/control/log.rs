//! The log and the vote of this node, on disk.
//!
//! One thread writes. It takes everything that was queued while it wrote before, commits that as
//! one transaction with one fsync, and only then reports it: the busier the node, the more each
//! fsync serves. Votes, truncations and purges go through the same queue, so that nothing overtakes
//! anything. The newest entries stay in memory, those that wait for the disk among them: what is
//! replicated and applied is read from there. Only a node that is far behind has the file read.
//!
//! **Invariant:** the file is read on blocking threads alone. The workers that keep time for elections and
//! leases wait for no disk, however slow.
//!
//! After a failed write nothing is written again: what an operating system does with pages whose
//! fsync failed cannot be known, so a second fsync that succeeds would prove nothing.

mod recent;
mod sizes;
pub(super) mod stored;
mod writer;

use std::{
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
use redb::{Database, ReadableDatabase, ReadableTable};
use tokio::{
    sync::{Notify, Semaphore, oneshot},
    task::spawn_blocking,
};

use self::{
    recent::Recent,
    sizes::Sizes,
    stored::{
        COMMITTED, Encoded, LOG, PURGED, VOTE, decode_all, follows, read_entry, read_value, sealed,
        stored_entry,
    },
    writer::{Append, Job, Queue},
};
use super::{
    file::{self, META, OpenError, io_error},
    recover::RemainsError,
    types::{Entry, LogId, Types, Vote},
};
use crate::priority;

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
    /// Entries were written.
    grown: Notify,
}

/// What is known without reading the file.
#[derive(Default)]
struct Memory {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// The last entry, queued or on disk.
    last: Option<LogId>,
    recent: Recent,
    sizes: Sizes,
}

impl LogStore {
    /// Opens the log of a node, or begins one.
    pub(crate) fn open(path: &Path, me: NodeId) -> Result<Self, OpenError> {
        let db = file::open(path, me, CACHE_BYTES)?;
        Self::of(db, path)
    }

    /// The log in an open database.
    pub(crate) fn of(db: Database, path: &Path) -> Result<Self, OpenError> {
        let damaged = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Damaged {
            file: path.to_owned(),
            source,
        };
        let memory = Memory::load(&db).map_err(damaged)?;
        let shared = Arc::new(Shared {
            db,
            queue: Queue::default(),
            memory: Mutex::new(memory),
            grown: Notify::new(),
        });
        let writer = std::thread::Builder::new()
            .name("control-log".into())
            .spawn({
                let shared = shared.clone();
                move || {
                    // Nothing is acknowledged before it has written.
                    priority::urgent();
                    writer::run(&shared);
                }
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
                meta.insert(VOTE, sealed(VOTE, &vote).as_slice())?;
                meta.insert(PURGED, sealed(PURGED, &last).as_slice())?;
                meta.insert(COMMITTED, sealed(COMMITTED, &last).as_slice())?;
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
    async fn entries(
        &self,
        from: Bound<u64>,
        to: Bound<u64>,
        bytes_max: usize,
    ) -> io::Result<Vec<Entry>> {
        // Memory first: what leaves it meanwhile is on disk by then.
        let (recent, first) = {
            let memory = self.shared().memory.lock();
            let recent = memory.recent.range(from, to, bytes_max);
            (recent, memory.recent.first())
        };
        // What is before the first one in memory is in the file alone.
        let old = match first {
            Some(first) => cut(to, first),
            None => to,
        };
        let bytes: usize = recent.iter().map(|(_, entry)| entry.len()).sum();
        if is_empty(from, old) && bytes <= DECODED_INLINE_MAX {
            return decode_all(Vec::new(), recent, bytes_max);
        }
        let shared = self.handle.shared.clone();
        let read = spawn_blocking(move || {
            let stored = match is_empty(from, old) {
                true => Vec::new(),
                false => shared.read(from, old, bytes_max)?,
            };
            decode_all(stored, recent, bytes_max)
        });
        // Fails when the reading panicked, or never ran because the runtime is stopping.
        read.await.map_err(io::Error::other)?
    }

    /// How many bytes the entries after one take.
    pub(crate) fn bytes_after(&self, index: u64) -> u64 {
        self.shared().memory.lock().sizes.after(index)
    }

    /// The last of the oldest entries without which the log takes at most `kept` bytes; none when it
    /// takes no more.
    pub(crate) fn excess(&self, kept: u64) -> Option<u64> {
        self.shared().memory.lock().sizes.excess(kept)
    }

    /// Waits until entries were written since the last time.
    pub(crate) async fn grown(&self) {
        self.shared().grown.notified().await;
    }
}

impl Shared {
    /// Encoded entries of the file.
    fn read(&self, from: Bound<u64>, to: Bound<u64>, bytes_max: usize) -> io::Result<Encoded> {
        let transaction = self.db.begin_read().map_err(io_error)?;
        let log = transaction.open_table(LOG).map_err(io_error)?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for row in log.range::<u64>((from, to)).map_err(io_error)? {
            if bytes >= bytes_max {
                break;
            }
            let (index, value) = row.map_err(io_error)?;
            bytes += value.value().len();
            entries.push((index.value(), Bytes::copy_from_slice(value.value())));
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
        let purged: Option<LogId> = read_value(&meta, PURGED)?;
        // All of it is looked at: what is missing or altered is found now, and not when a majority counts
        // on it.
        let mut sizes = Sizes::default();
        let mut last = purged;
        for row in log.iter()? {
            let (index, value) = row?;
            let entry = read_entry(index.value(), value.value())?;
            follows(last, entry.log_id.index)?;
            last = Some(entry.log_id);
            sizes.append(index.value(), value.value().len());
        }
        Ok(Self {
            vote: read_value(&meta, VOTE)?,
            committed: read_value(&meta, COMMITTED)?,
            purged,
            last,
            recent: Recent::default(),
            sizes,
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
        .await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.entries(
            Bound::Included(start),
            Bound::Excluded(end),
            REPLICATED_BYTES_MAX,
        )
        .await
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
            let entries = store.entries(from, to, APPLIED_BYTES_MAX).await?;
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
        let memory = self.shared().memory.lock();
        Ok(LogState {
            last_purged_log_id: memory.purged,
            last_log_id: memory.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let bytes = sealed(VOTE, vote);
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
        self.shared().queue.committed(sealed(COMMITTED, &committed));
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
        let before = self.shared().memory.lock().last;
        let mut last = before;
        let mut encoded: Encoded = Vec::new();
        for entry in entries {
            // A hole would be found at the next start, when it cannot be filled any more.
            if last.is_some() {
                follows(last, entry.log_id.index)?;
            }
            last = Some(entry.log_id);
            encoded.push((entry.log_id.index, stored_entry(&entry).into()));
        }
        let entries = encoded;
        let bytes: usize = entries.iter().map(|(_, entry)| entry.len()).sum();
        let room = self.shared().queue.room(bytes).await;
        {
            let mut memory = self.shared().memory.lock();
            for (index, entry) in &entries {
                memory.sizes.append(*index, entry.len());
                memory.recent.append(*index, entry.clone());
            }
            memory.last = last;
        }
        self.shared().queue.push(Job::Append(Append {
            entries,
            flushed,
            _room: room,
        }));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |last| last.index + 1);
        self.write(|written| Job::Truncate { from, written })
            .await?;
        let mut memory = self.shared().memory.lock();
        memory.recent.truncate(from);
        memory.sizes.truncate(from);
        // What is to stay may be more than there is.
        memory.last = last.min(memory.last).max(memory.purged);
        Ok(())
    }

    async fn purge(&mut self, through: LogId) -> io::Result<()> {
        let purged = sealed(PURGED, &through);
        self.write(|written| Job::Purge {
            through: through.index,
            purged,
            written,
        })
        .await?;
        let mut memory = self.shared().memory.lock();
        memory.recent.purge(through.index);
        memory.sizes.purge(through.index);
        memory.purged = Some(through);
        memory.last = memory.last.max(Some(through));
        Ok(())
    }
}

/// The end of a range that ends before an index at the latest.
fn cut(to: Bound<u64>, before: u64) -> Bound<u64> {
    match to {
        Bound::Included(to) if to < before => Bound::Included(to),
        Bound::Excluded(to) if to < before => Bound::Excluded(to),
        _ => Bound::Excluded(before),
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

/// Pages of the file in memory: what a node far behind is sent. The newest entries are in memory anyway.
const CACHE_BYTES: usize = 32 << 20;

/// Encoded entries in one message. More would outlast the message's deadline on a slow link.
const REPLICATED_BYTES_MAX: usize = 256 << 10;

/// Encoded entries read at once to be applied: some milliseconds of reading at most.
const APPLIED_BYTES_MAX: usize = 1 << 20;

/// Encoded entries that are decoded where they are asked for, in a fraction of a millisecond.
const DECODED_INLINE_MAX: usize = 64 << 10;
