//! The thread that writes the log, and its queue.

use std::{
    io, mem,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use openraft::storage::IOFlushed;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    META, Semaphore, Shared, Types,
    stored::{COMMITTED, LOG, PURGED, VOTE},
};

/// One write.
pub(super) enum Job {
    /// Entries after the last one.
    Append(Append),
    /// A vote.
    Vote {
        vote: Vec<u8>,
        written: oneshot::Sender<io::Result<()>>,
    },
    /// Forgets entries from an index on.
    Truncate {
        from: u64,
        written: oneshot::Sender<io::Result<()>>,
    },
    /// Forgets entries up to an index.
    Purge {
        through: u64,
        purged: Vec<u8>,
        written: oneshot::Sender<io::Result<()>>,
    },
}

/// Entries after the last one.
pub(super) struct Append {
    pub(super) entries: Vec<(u64, Bytes)>,
    pub(super) flushed: IOFlushed<Types>,
    /// Given back once they are on disk.
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

/// What waits to be written.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Waiting {
    jobs: Vec<Job>,
    committed: Option<Vec<u8>>,
    closed: bool,
}

impl Default for Queue {
    fn default() -> Self {
        let room = Arc::new(Semaphore::new(ROOM_KIB));
        Self {
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            room,
        }
    }
}

impl Queue {
    /// Waits until so many bytes may be queued: a disk that falls behind slows down its writers.
    pub(super) async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = (bytes / 1024 + 1).min(ROOM_KIB);
        let kib = u32::try_from(kib).expect("ROOM_KIB fits 32 bits");
        // None only if the semaphore were closed, which nobody does.
        self.room.clone().acquire_many_owned(kib).await.ok()
    }

    pub(super) fn push(&self, job: Job) {
        self.waiting.lock().jobs.push(job);
        self.arrived.notify_one();
    }

    /// Notes the commit position, which may be written late.
    pub(super) fn committed(&self, committed: Vec<u8>) {
        let mut waiting = self.waiting.lock();
        if waiting.committed.replace(committed).is_none() {
            self.arrived.notify_one();
        }
    }

    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Waits for something to write; none when the queue is closed and empty.
    fn next(&self) -> Option<(Vec<Job>, Option<Vec<u8>>)> {
        let mut waiting = self.waiting.lock();
        loop {
            if !waiting.jobs.is_empty() {
                return Some((mem::take(&mut waiting.jobs), waiting.committed.take()));
            }
            match (waiting.committed.is_some(), waiting.closed) {
                (false, true) => return None,
                (false, false) => self.arrived.wait(&mut waiting),
                (true, closed) => {
                    // An fsync of its own for each position would double the work of a lone writer.
                    if closed
                        || self
                            .arrived
                            .wait_for(&mut waiting, COMMITTED_LATE)
                            .timed_out()
                    {
                        return Some((mem::take(&mut waiting.jobs), waiting.committed.take()));
                    }
                }
            }
        }
    }
}

/// Writes until the queue is closed.
pub(super) fn run(shared: &Shared) {
    let mut broken: Option<String> = None;
    while let Some((jobs, committed)) = shared.queue.next() {
        if broken.is_none() {
            // A panic must be reported as well: whoever waits for these writes would wait for ever.
            let write = || write(shared, &jobs, committed.as_deref());
            let error = match panic::catch_unwind(AssertUnwindSafe(write)) {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the database panicked".into()),
            };
            broken = error.map(|error| format!("write the control log: {error}"));
        }
        if broken.is_none() {
            let appended = jobs.iter().filter_map(|job| match job {
                Job::Append(append) => append.entries.last(),
                _ => None,
            });
            let mut memory = shared.memory.lock();
            for (index, _) in appended {
                memory.recent.stored(*index);
            }
            drop(memory);
            shared.grown.notify_one();
        }
        for job in jobs {
            let result = broken
                .clone()
                .map_or(Ok(()), |error| Err(io::Error::other(error)));
            match job {
                Job::Append(append) => append.flushed.io_completed(result),
                Job::Vote { written, .. }
                | Job::Truncate { written, .. }
                | Job::Purge { written, .. } => {
                    // Who asked may have been dropped with the whole node.
                    let _ = written.send(result);
                }
            }
        }
    }
}

/// One transaction, one fsync.
fn write(shared: &Shared, jobs: &[Job], committed: Option<&[u8]>) -> Result<(), redb::Error> {
    let transaction = shared.db.begin_write()?;
    {
        let mut log = transaction.open_table(LOG)?;
        let mut meta = transaction.open_table(META)?;
        for job in jobs {
            match job {
                Job::Append(append) => {
                    for (index, entry) in &append.entries {
                        log.insert(index, entry.as_ref())?;
                    }
                }
                Job::Vote { vote, .. } => {
                    meta.insert(VOTE, vote.as_slice())?;
                }
                Job::Truncate { from, .. } => log.retain_in(*from.., |_, _| false)?,
                Job::Purge {
                    through, purged, ..
                } => {
                    meta.insert(PURGED, purged.as_slice())?;
                    log.retain_in(..=*through, |_, _| false)?;
                }
            }
        }
        if let Some(committed) = committed {
            meta.insert(COMMITTED, committed)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Encoded entries that may wait for the disk, in KiB.
const ROOM_KIB: usize = 64 << 10;

/// How late the commit position may reach the disk when nothing else is written.
const COMMITTED_LATE: Duration = Duration::from_millis(50);
