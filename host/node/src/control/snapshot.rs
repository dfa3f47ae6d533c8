//! Copies of the state on their way to a node that is too far behind.
//!
//! The sender reads a snapshot transaction of its state file piece by piece, the receiver writes
//! the pieces into a file beside its own. Nothing of it counts until the last piece is in and the
//! file takes the place of the old one in a single rename; a transfer that breaks off leaves
//! nothing.

use std::{
    fs,
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use holdfast_model::NodeId;
use openraft::type_config::alias::SnapshotOf;
use parking_lot::Mutex;
use redb::{Database, Durability, ReadTransaction, TableDefinition};
use tokio::{task::spawn_blocking, time::Instant};
use uuid::Uuid;

use super::{
    file::{self, META},
    machine::seal_position,
    types::{SnapshotMeta, Types},
};

/// A copy of the state at one log position.
pub(crate) enum Copy {
    /// As this node has it.
    Stored(Arc<ReadTransaction>),
    /// As another node sent it.
    Received(Staged),
}

pub(crate) type StateCopy = SnapshotOf<Types, Copy>;

/// A row: its key and its value, with its checksum.
pub(crate) type Row = (Bytes, Bytes);

/// Rows of a snapshot after a key, up to about `bytes_max`; none when there are no more.
pub(crate) fn rows_after(
    copy: &ReadTransaction,
    after: Option<&[u8]>,
    bytes_max: usize,
) -> Result<Vec<Row>, redb::Error> {
    let table = copy.open_table(ROWS)?;
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for row in table.range::<&[u8]>((from, Bound::Unbounded))? {
        let (key, value) = row?;
        let (key, value) = (key.value(), value.value());
        bytes += key.len() + value.len();
        rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        if bytes >= bytes_max {
            break;
        }
    }
    Ok(rows)
}

/// A state file in the making. Unless it is kept, dropping it deletes the file.
pub(crate) struct Staged {
    db: Option<Arc<Database>>,
    file: PathBuf,
}

impl Staged {
    /// Begins an empty file.
    pub(crate) fn begin(dir: &Path, me: NodeId, cache_bytes: usize) -> Result<Self, StageError> {
        let file = dir.join(format!("{PREFIX}{}.redb", Uuid::new_v4().simple()));
        let db = file::open(&file, me, cache_bytes).map_err(StageError::Open)?;
        let staged = Self {
            db: Some(Arc::new(db)),
            file,
        };
        staged.add(&[])?;
        Ok(staged)
    }

    /// Copies a snapshot.
    pub(crate) fn copy_of(
        copy: &ReadTransaction,
        dir: &Path,
        me: NodeId,
        cache_bytes: usize,
    ) -> Result<Self, StageError> {
        let staged = Self::begin(dir, me, cache_bytes)?;
        let mut after: Option<Bytes> = None;
        loop {
            let rows = rows_after(copy, after.as_deref(), PIECE_BYTES)?;
            let Some((last, _)) = rows.last() else {
                return Ok(staged);
            };
            after = Some(last.clone());
            staged.add(&rows)?;
        }
    }

    /// Adds rows, not yet durably.
    pub(crate) fn add(&self, rows: &[Row]) -> Result<(), StageError> {
        let mut transaction = self.db().begin_write().map_err(redb::Error::from)?;
        transaction
            .set_durability(Durability::None)
            .map_err(redb::Error::from)?;
        {
            let mut table = transaction.open_table(ROWS).map_err(redb::Error::from)?;
            for (key, value) in rows {
                table
                    .insert(key.as_ref(), value.as_ref())
                    .map_err(redb::Error::from)?;
            }
        }
        transaction.commit().map_err(redb::Error::from)?;
        Ok(())
    }

    /// Says what the rows amount to, and makes the file durable.
    pub(crate) fn complete(&self, meta: &SnapshotMeta) -> Result<(), StageError> {
        let transaction = self.db().begin_write().map_err(redb::Error::from)?;
        {
            let mut table = transaction.open_table(META).map_err(redb::Error::from)?;
            let position = seal_position(&(meta.last_log_id, meta.last_membership.clone()));
            table
                .insert(POSITION, position.as_slice())
                .map_err(redb::Error::from)?;
        }
        transaction.commit().map_err(redb::Error::from)?;
        Ok(())
    }

    /// Puts the file in the place of another, and hands it over.
    pub(crate) fn keep_as(mut self, file: &Path) -> Result<Arc<Database>, StageError> {
        fs::rename(&self.file, file).map_err(StageError::Rename)?;
        let db = self
            .db
            .take()
            .expect("only this takes it, and consumes the value");
        file::sync_directory(file.parent().unwrap_or(file)).map_err(StageError::Rename)?;
        Ok(db)
    }

    /// The file's contents.
    pub(crate) fn db(&self) -> &Arc<Database> {
        self.db
            .as_ref()
            .expect("only keep_as takes it, and consumes the value")
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.db.take().is_some() {
            // What cannot be deleted now is deleted at the next start.
            let _ = fs::remove_file(&self.file);
        }
    }
}

/// Deletes what a process that died has left of its transfers.
pub(crate) fn sweep(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The transfer that arrives at this node, one at most: a new one ends the one before.
#[derive(Default)]
pub(crate) struct Incoming {
    transfer: Mutex<Option<Transfer>>,
}

/// What has arrived of a snapshot.
pub(crate) struct Transfer {
    id: Uuid,
    pub(crate) meta: SnapshotMeta,
    pub(crate) staged: Staged,
    pieces: u64,
    touched: Instant,
}

impl Incoming {
    /// Begins a transfer.
    pub(crate) fn begin(&self, id: Uuid, meta: SnapshotMeta, staged: Staged) {
        let transfer = Transfer {
            id,
            meta,
            staged,
            pieces: 0,
            touched: Instant::now(),
        };
        let ended = self.transfer.lock().replace(transfer);
        dispose(ended);
    }

    /// Takes the transfer to work on it, if the next piece is this one. What is not put back is
    /// over, so an error ends it.
    pub(crate) fn take(&self, id: Uuid, piece: u64) -> Option<Transfer> {
        let mut transfer = self.transfer.lock();
        match &*transfer {
            Some(current) if current.id == id && current.pieces == piece => transfer.take(),
            _ => None,
        }
    }

    /// Puts back a transfer that has got its next piece, unless another began meanwhile.
    pub(crate) fn put_back(&self, mut transfer: Transfer) {
        transfer.pieces += 1;
        transfer.touched = Instant::now();
        let mut current = self.transfer.lock();
        if current.is_none() {
            *current = Some(transfer);
        } else {
            drop(current);
            dispose(Some(transfer));
        }
    }

    /// Ends the transfer when nothing has arrived for [`IDLE_MAX`].
    pub(crate) fn expire(&self) {
        let mut transfer = self.transfer.lock();
        if transfer
            .as_ref()
            .is_some_and(|transfer| transfer.touched.elapsed() > IDLE_MAX)
        {
            let ended = transfer.take();
            drop(transfer);
            dispose(ended);
        }
    }
}

/// Drops a transfer on a thread that may wait: it closes a database, and deletes its file.
fn dispose(transfer: Option<Transfer>) {
    if let Some(transfer) = transfer {
        drop(spawn_blocking(move || drop(transfer)));
    }
}

/// Why a received snapshot could not be stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    #[error("make a file for the snapshot")]
    Open(#[source] file::OpenError),
    #[error("write the snapshot's file")]
    Write(#[from] redb::Error),
    #[error("put the snapshot's file in its place")]
    Rename(#[source] std::io::Error),
}

/// The state's rows.
pub(crate) const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");

/// Name of the last applied position and membership in a state file.
pub(crate) const POSITION: &str = "position";

/// Rows that are sent in one message.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// Names of files in the making begin so.
const PREFIX: &str = "control-incoming-";

/// A transfer that stands still for so long has broken off.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(60);
