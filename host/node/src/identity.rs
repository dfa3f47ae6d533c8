//! Who this node is: its data directory, its identity and boot, and the cluster's secret.
//!
//! Invariant: while a [`DataDir`] lives, no other process uses the same directory, and no two
//! runs on it ever carry the same incarnation: the counter is on disk before it is used.
//! What the directory holds besides (log, modules) belongs to other modules.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use holdfast_model::{ClusterId, Incarnation, NodeId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::warn;
use uuid::Uuid;

pub(crate) mod private;
mod replace;
mod run;
mod secret;
#[cfg(test)]
mod tests;

pub(crate) use private::is_open_to_others;
pub use private::set_umask;
pub use run::LastRun;
pub(crate) use secret::random;
pub use secret::{InvalidSecret, Key, Secret};

/// Identity of one boot of the kernel: processes that share it were never apart by a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub Uuid);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl BootId {
    /// The running kernel's, from `/proc/sys/kernel/random/boot_id`.
    ///
    /// # Errors
    /// The file cannot be read or holds no UUID.
    pub fn current() -> Result<Self, Error> {
        read(Path::new(BOOT_ID))?
            .map(Self)
            .ok_or_else(|| Error::Read {
                path: BOOT_ID.into(),
                source: io::ErrorKind::NotFound.into(),
            })
    }
}

/// A node's data directory, locked for as long as this value lives.
pub struct DataDir {
    path: PathBuf,
    node: NodeId,
    incarnation: Incarnation,
    boot_id: BootId,
    cluster: Mutex<Option<ClusterId>>,
    last_run: LastRun,
    /// Held for its lock: the kernel lets go of it when the process ends, however it ends.
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be created.
    #[error("create the data directory {}", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others may use what is in it, and that cannot be changed.
    #[error(
        "take the permissions of others away from the data directory {}: it must belong to the user of \
         the node",
        path.display()
    )]
    Tighten {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process holds its lock.
    #[error(
        "the data directory {} is used by another node: stop that node, or give this one its own \
         directory",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Its lock cannot be taken.
    #[error("lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file in it cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file in it cannot be written.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file in it does not hold what it should.
    #[error(
        "{} does not hold {expected}: move the whole directory away \
         and let the node join as a new one",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What belongs there.
        expected: &'static str,
    },
    /// A file that must be there is missing although the directory was used before.
    #[error(
        "{} is missing from a directory that was used before: move \
         the whole directory away and let the node join as a new one",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The directory belongs to another cluster.
    #[error(
        "the data directory {} belongs to cluster {remembered}, not to {offered}: use another \
         directory for that cluster",
        path.display()
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// The cluster it was used with.
        remembered: ClusterId,
        /// The cluster it was to be used with.
        offered: ClusterId,
    },
}

impl DataDir {
    /// Whether there is something in the directory that a node left, whole or not.
    #[must_use]
    pub fn is_used(path: &Path) -> bool {
        fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Creates the directory where it is missing (mode 0700), locks it, reads the node's identity or
    /// makes one, and begins a new incarnation.
    ///
    /// # Errors
    /// See [`Error`]. A directory that was used before and lost its identity is refused rather than
    /// given a new one: what else it holds was promised under the old.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::open_within(path, Duration::ZERO, || {})
    }

    /// Opens it as [`DataDir::open`] does; another process may have it for so long yet. A run that
    /// was killed holds the lock until its memory is freed, which takes a moment. `waiting` hears of
    /// that once.
    ///
    /// # Errors
    /// See [`DataDir::open`].
    pub fn open_within(
        path: impl Into<PathBuf>,
        patience: Duration,
        waiting: impl FnOnce(),
    ) -> Result<Self, Error> {
        let path = path.into();
        private::create_dir_all(&path).map_err(|source| Error::Create {
            path: path.clone(),
            source,
        })?;
        let lock = lock(&path, patience, waiting)?;
        let tightened = private::tighten(&path).map_err(|source| Error::Tighten {
            path: path.clone(),
            source,
        })?;
        if let Some((count, first)) = tightened {
            warn!(
                dir = %path.display(),
                first = %first.display(),
                count,
                "others could read or change the data directory; its permissions are the owner's alone now"
            );
        }
        replace::finish(&path).map_err(|source| Error::Write {
            path: path.clone(),
            source,
        })?;
        let cluster = read(&path.join(CLUSTER_ID))?.map(ClusterId);
        let counter = path.join(INCARNATION);
        let last: Option<u64> = read(&counter)?;
        let id_file = path.join(NODE_ID);
        let node = match read(&id_file)?.map(NodeId) {
            Some(_) if last.is_none() => return Err(Error::Missing { path: counter }),
            None if cluster.is_some() => return Err(Error::Missing { path: id_file }),
            Some(node) => node,
            None => {
                // The counter comes first: an identity without one would count as damaged.
                write(&path, INCARNATION, &last.unwrap_or(0))?;
                let node = NodeId::random();
                write(&path, NODE_ID, &node)?;
                node
            }
        };
        // On disk before it is used: no two runs carry the same.
        let incarnation = Incarnation(last.unwrap_or(0) + 1);
        write(&path, INCARNATION, &incarnation)?;
        let boot_id = BootId::current()?;
        let last_run = LastRun::read(&path, boot_id);
        Ok(Self {
            node,
            incarnation,
            boot_id,
            last_run,
            cluster: Mutex::new(cluster),
            path,
            _lock: lock,
        })
    }

    /// Whether a directory is a node's, or was.
    #[must_use]
    pub fn is_one(path: &Path) -> bool {
        path.join(NODE_ID).is_file()
    }

    /// Makes the directory another cluster's, whose files `make` puts into the folder that it is
    /// given: they take the place of those of the same names. Gives the folder of the former ones. A
    /// crash leaves either all of the old or all of the new.
    ///
    /// # Errors
    /// When a file cannot be written. The directory is as before then, or will be at its next use;
    /// after an error past the decision it is the other cluster's then.
    pub fn become_anothers<E: From<io::Error>>(
        self,
        cluster: ClusterId,
        at_ms: u64,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let all = |into: &Path| {
            make(into)?;
            let mut file = private::open_or_create(&into.join(CLUSTER_ID))?;
            Ok(writeln!(file, "{cluster}")?)
        };
        replace::replace(&self.path, all, at_ms)
    }

    /// Makes the directory another node's of the same cluster, whose files `make` puts into the folder
    /// that it is given: they take the place of those of the same names. Gives the other node, and the
    /// folder of the former files. A crash leaves either all of the old or all of the new.
    ///
    /// # Errors
    /// As [`DataDir::become_anothers`].
    pub fn become_another_node<E: From<io::Error>>(
        self,
        at_ms: u64,
        make: impl FnOnce(&Path, NodeId) -> Result<(), E>,
    ) -> Result<(NodeId, PathBuf), E> {
        let node = NodeId::random();
        let all = |into: &Path| -> Result<(), E> {
            make(into, node)?;
            replace(into, &into.join(INCARNATION), "0\n")?;
            Ok(replace(into, &into.join(NODE_ID), &format!("{node}\n"))?)
        };
        Ok((node, replace::replace(&self.path, all, at_ms)?))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node's identity.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// How the run before this one ended.
    #[must_use]
    pub fn last_run(&self) -> &LastRun {
        &self.last_run
    }

    /// Notes that a node runs on it from now on.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn run_begins(&self) -> Result<(), Error> {
        run::begin(&self.path, self.boot_id)
    }

    /// Notes how the node ends, for the next one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn run_ends(&self, how: &str) -> Result<(), Error> {
        run::end(&self.path, &how)
    }

    /// The incarnation in use.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The kernel's boot under which this process runs.
    #[must_use]
    pub fn boot_id(&self) -> BootId {
        self.boot_id
    }

    /// The cluster this directory belongs to, once known.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        *self.cluster.lock()
    }

    /// Binds the directory to a cluster for good. Doing it again with the same one changes nothing.
    ///
    /// # Errors
    /// [`Error::OtherCluster`] when it belongs to another, [`Error::Write`] when it is not durable.
    pub fn remember_cluster(&self, offered: ClusterId) -> Result<(), Error> {
        let mut cluster = self.cluster.lock();
        match *cluster {
            Some(remembered) if remembered == offered => Ok(()),
            Some(remembered) => Err(Error::OtherCluster {
                path: self.path.clone(),
                remembered,
                offered,
            }),
            None => {
                write(&self.path, CLUSTER_ID, &offered)?;
                *cluster = Some(offered);
                Ok(())
            }
        }
    }
}

impl fmt::Debug for DataDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataDir")
            .field("path", &self.path)
            .field("node", &self.node)
            .field("incarnation", &self.incarnation())
            .field("cluster", &self.cluster())
            .finish_non_exhaustive()
    }
}

fn lock(dir: &Path, patience: Duration, waiting: impl FnOnce()) -> Result<File, Error> {
    let path = dir.join(LOCK);
    let file = private::open_or_create(&path).map_err(|source| Error::Lock {
        path: path.clone(),
        source,
    })?;
    let deadline = Instant::now() + patience;
    let mut waiting = Some(waiting);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::InUse {
                    path: dir.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(Error::Lock { path, source }),
        }
        if let Some(waiting) = waiting.take() {
            waiting();
        }
        thread::sleep(LOCK_POLL);
    }
}

/// What a one-value file holds.
trait Stored: FromStr {
    const WHAT: &'static str;
}

impl Stored for Uuid {
    const WHAT: &'static str = "a UUID";
}

impl Stored for u64 {
    const WHAT: &'static str = "a whole number";
}

fn read<T: Stored>(path: &Path) -> Result<Option<T>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(Error::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .map(Some)
        .ok_or_else(|| Error::Corrupt {
            path: path.to_owned(),
            expected: T::WHAT,
        })
}

fn write(dir: &Path, name: &str, value: &impl fmt::Display) -> Result<(), Error> {
    let path = dir.join(name);
    replace(dir, &path, &format!("{value}\n")).map_err(|source| Error::Write { path, source })
}

/// Replaces a file so that a crash leaves either the old or the new content, and the new one only
/// once it is durable.
fn replace(dir: &Path, path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = private::open(&draft, OpenOptions::new().create(true).truncate(true))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(dir)?.sync_all()
}

const LOCK_POLL: Duration = Duration::from_millis(50);

const LOCK: &str = "lock";
const NODE_ID: &str = "node-id";
const INCARNATION: &str = "incarnation";
const CLUSTER_ID: &str = "cluster-id";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
