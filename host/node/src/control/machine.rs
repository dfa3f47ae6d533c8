//! Applies the log to the state, in memory and on disk.
//!
//! Readers see [`State`] in memory. Its rows, with the position they stand for, go to the state file
//! in one transaction for many entries. That file may fall behind: entries are applied again from
//! the log after a crash, so a commit needs no fsync, except before a snapshot permits the log to be
//! purged, and now and then to keep a restart short.
//!
//! The database is touched only on blocking threads: a transaction is mostly computation, and the
//! workers that keep time for elections and leases must not wait for it.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::{Stream, StreamExt};
use holdfast_cluster::{
    codec::{decode, encode},
    copies::{COMMON_EVERY, Digests, Mark},
    state::{Changes, Event, Outcome, Position, State},
};
use holdfast_model::NodeId;
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine},
};
use parking_lot::{Mutex, RwLock};
use redb::{Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableError};
use tokio::{sync::watch, task::spawn_blocking};

use super::{
    file::{self, META, OpenError, io_error},
    happened::{self, Happened},
    seal::{seal, unseal},
    snapshot::{Copy, POSITION, ROWS, Staged, StateCopy},
    subscription::{Feed, Subscription},
    types::{LogId, SnapshotMeta, StoredMembership, Types, term},
};
use crate::clock::now_ms;

/// This node's copy of the state.
pub(crate) struct Replica {
    me: NodeId,
    file: PathBuf,
    db: RwLock<Arc<Database>>,
    state: RwLock<State>,
    applied: watch::Sender<u64>,
    feed: Feed,
    happened: Arc<Happened>,
    /// What this copy is compared with others by.
    digests: Mutex<Digests>,
    /// Bytes committed since the last fsync.
    unsynced: AtomicUsize,
}

/// The side of a replica that the consensus library drives.
#[derive(Clone)]
pub(crate) struct Machine(pub(crate) Arc<Replica>);

pub(crate) type AppliedPosition = (Option<LogId>, StoredMembership);

impl Replica {
    /// Opens the state of a node, or begins one.
    pub(crate) fn open(file: PathBuf, me: NodeId) -> Result<Self, OpenError> {
        let db = file::open(&file, me, CACHE_BYTES)?;
        let loaded = load(&db).map_err(|source| OpenError::Damaged {
            file: file.clone(),
            source,
        })?;
        let (state, (applied, _)) = loaded;
        let applied = applied.map_or(0, |id| id.index);
        let digests = digests(&state, applied);
        Ok(Self {
            me,
            file,
            db: RwLock::new(Arc::new(db)),
            state: RwLock::new(state),
            applied: watch::Sender::new(applied),
            feed: Feed::default(),
            happened: Arc::new(happened::new(applied)),
            digests: Mutex::new(digests),
            unsynced: AtomicUsize::new(0),
        })
    }

    /// Reads the state as it is now.
    pub(crate) fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        read(&self.state.read())
    }

    /// Index of the last entry that readers see and subscribers were told of.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Follows the changes, beginning with every row there is.
    pub(crate) fn subscribe(&self) -> Subscription {
        // Subscribed first: what changes between the two lines is told twice rather than never.
        let subscription = self.feed.subscribe();
        subscription.add(self.read(|state| state.keys().collect()));
        subscription
    }

    /// What the log has told lately.
    pub(crate) fn happened(&self) -> Arc<Happened> {
        self.happened.clone()
    }

    /// The digests of this copy at some positions.
    pub(crate) fn digests(&self) -> Vec<Mark> {
        self.digests.lock().marks()
    }

    /// Changes this copy alone, which must never happen.
    #[cfg(test)]
    pub(crate) fn alter(&self, command: holdfast_cluster::state::Command) {
        let mut changes = Changes::new();
        let mut state = self.state.write();
        let at = Position { index: 0, term: 0 };
        state.apply(at, command, &mut changes);
        let mut digests = self.digests.lock();
        for key in changes {
            digests.set(&key.to_bytes(), state.row(&key).as_deref());
        }
    }

    /// The last applied entry, as the file has it.
    pub(crate) fn position(&self) -> Result<AppliedPosition, redb::Error> {
        position(&self.db().begin_read()?)
    }

    /// Makes everything applied durable.
    pub(crate) fn sync(&self) -> Result<(), redb::Error> {
        self.unsynced.store(0, Ordering::Relaxed);
        self.db().begin_write()?.commit()?;
        Ok(())
    }

    pub(crate) fn db(&self) -> Arc<Database> {
        self.db.read().clone()
    }

    /// Applies entries in order.
    fn apply(&self, entries: Vec<EntryResponder<Types>>) -> Result<(), redb::Error> {
        let mut changes = Changes::new();
        let mut events: Vec<(u64, (u64, Event))> = Vec::new();
        let now = now_ms();
        let mut answers: Vec<(ApplyResponder<Types>, Outcome)> = Vec::new();
        let mut last = None;
        let mut membership = None;
        for (entry, responder) in entries {
            let id = entry.log_id;
            last = Some(id);
            let outcome = match entry.payload {
                EntryPayload::Blank => Outcome::Done,
                EntryPayload::Membership(config) => {
                    membership = Some(StoredMembership::new(Some(id), config));
                    Outcome::Done
                }
                EntryPayload::Normal(proposal) => {
                    let at = Position {
                        index: id.index,
                        term: term(&id),
                    };
                    let mut nth = 0;
                    let mut tell = |event| {
                        let number = happened::number(id.index, nth);
                        events.extend(number.map(|number| (number, (now, event))));
                        nth += 1;
                    };
                    // Locked for one entry at a time, so that readers get their turn.
                    let mut state = self.state.write();
                    state.apply_and_tell(at, proposal.0, &mut changes, &mut tell)
                }
            };
            answers.extend(responder.map(|responder| (responder, outcome)));
        }
        let Some(last) = last else { return Ok(()) };
        self.store(&changes, last, membership)?;
        self.feed.publish(changes);
        self.happened.extend(events, happened::last(last.index));
        self.applied.send_replace(last.index);
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        Ok(())
    }

    /// Writes the changed rows and the position in one transaction.
    fn store(
        &self,
        changes: &Changes,
        last: LogId,
        membership: Option<StoredMembership>,
    ) -> Result<(), redb::Error> {
        let mut bytes = 0;
        let mut transaction = self.db().begin_write()?;
        let mut digests = self.digests.lock();
        {
            let mut rows = transaction.open_table(ROWS)?;
            // Nobody else changes the state: the lock keeps no reader out.
            let state = self.state.read();
            for key in changes {
                let name = key.to_bytes();
                bytes += name.len();
                let row = state.row(key);
                digests.set(&name, row.as_deref());
                match row {
                    Some(value) => {
                        bytes += value.len();
                        rows.insert(name.as_slice(), seal(&name, &value).as_slice())?;
                    }
                    None => {
                        rows.remove(name.as_slice())?;
                    }
                }
            }
            let mut meta = transaction.open_table(META)?;
            let membership = match membership {
                Some(membership) => membership,
                None => stored_position(meta.get(POSITION)?.map(|v| v.value().to_vec()))?.1,
            };
            let position = seal_position(&(Some(last), membership));
            meta.insert(POSITION, position.as_slice())?;
        }
        digests.mark(last.index);
        drop(digests);
        if self.unsynced.fetch_add(bytes, Ordering::Relaxed) + bytes < UNSYNCED_BYTES_MAX {
            transaction.set_durability(Durability::None)?;
        } else {
            self.unsynced.store(0, Ordering::Relaxed);
        }
        transaction.commit()?;
        Ok(())
    }

    /// A snapshot that is durable here: the log may be purged up to it.
    fn snapshot(&self) -> Result<StateCopy, redb::Error> {
        let transaction = self.db().begin_read()?;
        let (last_log_id, last_membership) = position(&transaction)?;
        // After the transaction has begun, so that nothing in it is left out.
        self.sync()?;
        Ok(StateCopy {
            meta: SnapshotMeta {
                last_log_id,
                last_membership,
            },
            snapshot: Copy::Stored(Arc::new(transaction)),
        })
    }

    /// Replaces the whole state.
    fn install(
        &self,
        meta: &SnapshotMeta,
        copy: Copy,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let staged = match copy {
            Copy::Received(staged) => staged,
            Copy::Stored(transaction) => {
                let dir = self.file.parent().unwrap_or(&self.file);
                Staged::copy_of(&transaction, dir, self.me, CACHE_BYTES)?
            }
        };
        staged.complete(meta)?;
        let (state, _) = load(staged.db())?;
        *self.db.write() = staged.keep_as(&self.file)?;
        self.unsynced.store(0, Ordering::Relaxed);
        let applied = meta.last_log_id.map_or(0, |id| id.index);
        *self.digests.lock() = digests(&state, applied);
        let mut changes: Changes = state.keys().collect();
        let replaced = std::mem::replace(&mut *self.state.write(), state);
        changes.extend(replaced.keys());
        self.feed.publish(changes);
        // Nobody tells what became of the state on the way there.
        self.happened.skip(happened::last(applied));
        self.applied.send_replace(applied);
        Ok(())
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Copy;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<AppliedPosition> {
        let replica = self.0.clone();
        on_blocking_thread(move || replica.position().map_err(io_error)).await
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut entries = entries.ready_chunks(APPLIED_TOGETHER_MAX);
        while let Some(batch) = entries.next().await {
            let batch = batch.into_iter().collect::<io::Result<Vec<_>>>()?;
            let replica = self.0.clone();
            // All copies remember their digests at the same positions, so they end pieces there.
            let apply = move || {
                for piece in pieces(batch) {
                    replica.apply(piece).map_err(io_error)?;
                }
                Ok(())
            };
            on_blocking_thread(apply).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, copy: Copy) -> io::Result<()> {
        let (replica, meta) = (self.0.clone(), meta.clone());
        on_blocking_thread(move || replica.install(&meta, copy).map_err(io::Error::other)).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<StateCopy>> {
        let copy = self.build_snapshot().await?;
        Ok(copy.meta.last_log_id.is_some().then_some(copy))
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = Copy;

    async fn build_snapshot(&mut self) -> io::Result<StateCopy> {
        let replica = self.0.clone();
        on_blocking_thread(move || replica.snapshot().map_err(io_error)).await
    }
}

async fn on_blocking_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    // Fails when the work panicked, or never ran because the runtime is stopping.
    spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Entries cut behind each position that all copies remember.
fn pieces(batch: Vec<EntryResponder<Types>>) -> Vec<Vec<EntryResponder<Types>>> {
    let mut pieces = vec![Vec::new()];
    for entry in batch {
        let ends = entry.0.log_id.index.is_multiple_of(COMMON_EVERY);
        let piece = pieces.last_mut().expect("there is one from the beginning");
        piece.push(entry);
        if ends {
            pieces.push(Vec::new());
        }
    }
    pieces
}

/// The digests of a copy that was not changed yet.
pub(crate) fn digests(state: &State, applied: u64) -> Digests {
    let mut digests = Digests::default();
    for key in state.keys() {
        digests.set(&key.to_bytes(), state.row(&key).as_deref());
    }
    digests.mark(applied);
    digests
}

fn position(transaction: &ReadTransaction) -> Result<AppliedPosition, redb::Error> {
    let meta = transaction.open_table(META)?;
    stored_position(meta.get(POSITION)?.map(|value| value.value().to_vec()))
}

fn stored_position(bytes: Option<Vec<u8>>) -> Result<AppliedPosition, redb::Error> {
    let Some(bytes) = bytes else {
        return Ok(AppliedPosition::default());
    };
    let damaged = |what: String| redb::Error::Corrupted(format!("position of the state: {what}"));
    let position = unseal(POSITION.as_bytes(), &bytes).map_err(|e| damaged(e.to_string()))?;
    decode(position).map_err(|error| damaged(error.to_string()))
}

/// The last applied position and membership, as they are stored.
pub(crate) fn seal_position(position: &AppliedPosition) -> Vec<u8> {
    seal(POSITION.as_bytes(), &encode(position))
}

/// Reads a whole state file.
fn load(
    db: &Database,
) -> Result<(State, AppliedPosition), Box<dyn std::error::Error + Send + Sync>> {
    let transaction = db.begin_read()?;
    let position = position(&transaction)?;
    let rows = match transaction.open_table(ROWS) {
        Ok(rows) => rows,
        Err(TableError::TableDoesNotExist(_)) => return Ok((State::default(), position)),
        Err(error) => return Err(error.into()),
    };
    let mut failed = None;
    let read = |row: Result<_, redb::StorageError>| -> Result<_, Box<dyn std::error::Error + Send + Sync>> {
        let (key, value): (redb::AccessGuard<'_, &[u8]>, redb::AccessGuard<'_, &[u8]>) = row?;
        let (key, value) = (key.value(), value.value());
        let value = unseal(key, value).map_err(|altered| {
            let row = String::from_utf8_lossy(key);
            format!("row {row:?}: {altered}; see `holdfast rejoin --help`")
        })?;
        Ok((key.to_vec(), value.to_vec()))
    };
    let state = State::from_rows(rows.iter()?.map_while(|row| match read(row) {
        Ok(row) => Some(row),
        Err(error) => {
            failed = Some(error);
            None
        }
    }));
    match failed {
        Some(error) => Err(error),
        None => Ok((state?, position)),
    }
}

/// Keeps the rows that change often in memory; all of them are in [`State`] anyway.
pub(crate) const CACHE_BYTES: usize = 64 << 20;

/// Entries applied in one transaction: some milliseconds of work.
const APPLIED_TOGETHER_MAX: usize = 512;

/// Rows written between two fsyncs; without any the file would grow, and a restart take long.
const UNSYNCED_BYTES_MAX: usize = 32 << 20;
