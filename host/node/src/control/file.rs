//! The two database files of a node, and whether they may be used.
//!
//! `control-log.redb` holds vote and log, `control-state.redb` the state that the log produced. They
//! are two files because a database has one writer at a time: a group commit of the log must not
//! wait for a long application of entries.
//!
//! Each file names its format and its node, so that neither another version's file nor another
//! node's is ever taken for one's own.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use holdfast_model::NodeId;
use redb::{Database, DatabaseError, ReadableDatabase, TableDefinition, backends::FileBackend};
use uuid::Uuid;

use crate::identity::private;

/// Facts about the file and singular values, by name.
pub(crate) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Why the control state of a node could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be used.
    #[error("use the data directory {}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// Another process has the file.
    #[error("{} is in use by another process: is this node running already?", file.display())]
    InUse {
        /// The file.
        file: PathBuf,
    },
    /// The file was written by another version.
    #[error(
        "{} has format {found}, this version reads format {FORMAT}: run the version that wrote it, \
         or move the data directory away and let the node join anew under a new identity",
        file.display()
    )]
    OtherFormat {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The file belongs to another node.
    #[error(
        "{} belongs to node {found}, not to {me}: give each node a data directory of its own, and \
         do not copy one",
        file.display()
    )]
    OtherNode {
        /// The file.
        file: PathBuf,
        /// The node that wrote it.
        found: NodeId,
        /// This node.
        me: NodeId,
    },
    /// The file cannot be read.
    #[error(
        "{} is damaged: if the other nodes have a majority of the voters, let this one join anew under a \
         new identity with `holdfast rejoin`; do not restore an older copy, it would forget votes and \
         acknowledged writes",
        file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The settings contradict each other.
    #[error("the timing of elections is impossible")]
    Timing(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The stored log and state do not fit together, or stopped being readable.
    #[error("start from the stored log and state in {}", dir.display())]
    Start {
        /// The directory.
        dir: PathBuf,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Opens a node's database file, or makes it.
pub(crate) fn open(file: &Path, me: NodeId, cache_bytes: usize) -> Result<Database, OpenError> {
    let damaged = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Damaged {
        file: file.to_owned(),
        source,
    };
    let fresh = !file.exists();
    let made = private::open_or_create(file).map_err(redb::StorageError::Io);
    let opened = made.map_err(DatabaseError::Storage).and_then(|made| {
        Database::builder()
            .set_cache_size(cache_bytes)
            .create_with_backend(FileBackend::new(made)?)
    });
    let db = opened.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse {
            file: file.to_owned(),
        },
        DatabaseError::Storage(redb::StorageError::Io(source))
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            let dir = file.parent().unwrap_or(file).to_owned();
            OpenError::Directory { dir, source }
        }
        error => damaged(error.into()),
    })?;
    if fresh {
        write_label(&db, me).map_err(|error| damaged(error.into()))?;
        return Ok(db);
    }
    match read_label(&db).map_err(|error| damaged(error.into()))? {
        // The process died between the file's creation and its first commit: nothing was in it.
        (None, None) => write_label(&db, me).map_err(|error| damaged(error.into()))?,
        (Some(found), _) if found != FORMAT => {
            return Err(OpenError::OtherFormat {
                file: file.to_owned(),
                found,
            });
        }
        (Some(_), Some(found)) if found == me => {}
        (Some(_), Some(found)) => {
            return Err(OpenError::OtherNode {
                file: file.to_owned(),
                found,
                me,
            });
        }
        (None, Some(_)) | (Some(_), None) => {
            return Err(damaged("it does not say what it is".into()));
        }
    }
    Ok(db)
}

/// Makes a rename or a new file in a directory survive a loss of power.
pub(crate) fn sync_directory(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

fn write_label(db: &Database, me: NodeId) -> Result<(), redb::Error> {
    let transaction = db.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", FORMAT.to_le_bytes().as_slice())?;
        meta.insert("node", me.0.as_bytes().as_slice())?;
    }
    transaction.commit()?;
    Ok(())
}

fn read_label(db: &Database) -> Result<(Option<u32>, Option<NodeId>), redb::Error> {
    let transaction = db.begin_read()?;
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok((None, None)),
        Err(error) => return Err(error.into()),
    };
    let format = meta
        .get("format")?
        .and_then(|v| Some(u32::from_le_bytes(v.value().try_into().ok()?)));
    let node = meta
        .get("node")?
        .and_then(|v| Some(NodeId(Uuid::from_slice(v.value()).ok()?)));
    Ok((format, node))
}

/// Any error of the database, as the consensus library takes them.
pub(crate) fn io_error(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(source) => source,
        error => io::Error::other(error),
    }
}

/// Version of both files' contents: grows with every change that older code cannot read.
const FORMAT: u32 = 4;
