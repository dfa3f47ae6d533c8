//! The components on this node: their bytes on disk, and what the runtime made of them.
//!
//! A component is a file named by its digest, written whole or not at all, and checked against its
//! name when read. Its time of change says when it was last asked for: a deployment that is not in
//! the state yet has asked for its component a moment ago, whoever made the file, and when. Where bytes
//! come from that are not here is the [`Fetch`] given at the start: this module knows no peers.
//!
//! What is [wanted](Modules::want) is loaded once per version, however many ask, and again and again
//! until that succeeds (`shelf`). What is compiled for a deployment is compiled to its end, whoever
//! waits for it, and joined by whoever asks for the same (`drafts`).

mod drafts;
mod fault;
mod shelf;

use std::{
    collections::HashSet,
    io::{self, Read as _, Seek as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_cluster::state::Version;
use holdfast_model::{Digest, ModuleName, Settings};
use holdfast_runtime::{LoadError, Module, Runtime, guests::Guests};
use parking_lot::RwLock;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tracing::warn;

pub use self::fault::{Cause, NodeFault};
use self::{
    drafts::Drafts,
    shelf::{Progress, Shelf},
};
use crate::identity::private;

/// Gets a component's bytes from elsewhere; the text says why that failed.
pub trait Fetch: Send + Sync + 'static {
    /// Fetches the component of this digest.
    fn fetch(&self, digest: Digest) -> BoxFuture<'static, Result<Bytes, String>>;
}

/// Why a component cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read or written.
    #[error("{verb} {}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Nobody who was asked has it.
    #[error("fetch component {digest}: {reason}")]
    Fetch {
        /// The component.
        digest: Digest,
        /// What those who were asked said.
        reason: String,
    },
    /// The runtime refuses it.
    #[error("load component {digest}")]
    Load {
        /// The component.
        digest: Digest,
        /// Why.
        #[source]
        source: LoadError,
    },
}

/// An error and its causes in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

/// The components of a node.
#[derive(Clone)]
pub struct Modules(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    runtime: Runtime,
    fetch: Arc<dyn Fetch>,
    shelf: Shelf<Module, Arc<Error>>,
    drafts: Drafts,
    /// For how many components are in memory at once to be loaded.
    loads: Semaphore,
    /// Written while old files are removed: what somebody was told is here must not go. Only
    /// threads that may block take it.
    files: RwLock<()>,
}

/// Loads a version until it is ready or not wanted any more.
#[must_use = "a version that is wanted gets ready by its load alone"]
pub struct Load {
    modules: Modules,
    name: ModuleName,
    load: shelf::Load<Module, Arc<Error>>,
}

/// What has become of a version that this node wants.
#[derive(Clone, Debug)]
pub enum Readiness {
    /// It is on its way.
    Loading,
    /// It could not be loaded, for this reason, and is tried again.
    Failed(Arc<Error>),
    /// It can be started.
    Ready,
}

impl Modules {
    /// Opens the folder, which is made when it does not exist.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path, runtime: Runtime, fetch: Arc<dyn Fetch>) -> Result<Self, Error> {
        private::create_dir_all(dir).map_err(|source| file("create", dir, source))?;
        Ok(Self(Arc::new(Inner {
            dir: dir.to_owned(),
            runtime,
            fetch,
            shelf: Shelf::new(),
            drafts: Drafts::default(),
            loads: Semaphore::new(LOADS_MAX),
            files: RwLock::default(),
        })))
    }

    /// Memory that all guests have, and may have, in bytes.
    #[must_use]
    pub fn guest_memory(&self) -> (u64, u64) {
        self.0.runtime.guest_memory()
    }

    /// The threads for guests.
    #[must_use]
    pub fn guests(&self) -> &Guests {
        self.0.runtime.guests()
    }

    /// Keeps a component, durably: it is on disk, whole, when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn keep(&self, component: Bytes) -> Result<Digest, Error> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let _files = inner.files.read();
            let digest = Digest::of(&component);
            let path = inner.path(digest);
            // A file that cannot be read is as bad as a damaged one: it is replaced.
            if let Ok(Some(_)) = read_whole(&path, digest) {
                return Ok(digest);
            }
            write_whole(&path, &component).map_err(|source| file("write", &path, source))?;
            Ok(digest)
        })
        .await
    }

    /// A component's bytes, if they are on this node and whole. They stay for a while, even if no
    /// module needs them.
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub async fn bytes(&self, digest: Digest) -> Result<Option<Bytes>, Error> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let _files = inner.files.read();
            let path = inner.path(digest);
            read_whole(&path, digest).map_err(|source| file("read", &path, source))
        })
        .await
    }

    /// A component as a file, to be read piece by piece: from this node, or fetched first. The file
    /// stays readable even if its name is removed meanwhile.
    ///
    /// # Errors
    /// When nobody who can be asked has it, or it cannot be read or kept here.
    pub async fn component(&self, digest: Digest) -> Result<(std::fs::File, u64), Error> {
        if let Some(found) = self.kept(digest).await? {
            return Ok(found);
        }
        self.obtain(digest).await?;
        self.kept(digest).await?.ok_or_else(|| {
            let reason = "it was kept here, and is gone again".to_owned();
            Error::Fetch { digest, reason }
        })
    }

    async fn kept(&self, digest: Digest) -> Result<Option<(std::fs::File, u64)>, Error> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let _files = inner.files.read();
            let path = inner.path(digest);
            open_whole(&path, digest).map_err(|source| file("read", &path, source))
        })
        .await
    }

    /// Inspects and compiles a component that is not deployed yet. That goes on to its end even if
    /// nobody waits for it any more, and whoever checks the same again joins it.
    ///
    /// # Errors
    /// When the runtime refuses it.
    pub async fn check(
        &self,
        name: &ModuleName,
        component: Bytes,
        settings: &Arc<Settings>,
    ) -> Result<Module, Arc<LoadError>> {
        let digest = Digest::of(&component);
        let make = || {
            let (runtime, name) = (self.0.runtime.clone(), name.clone());
            let settings = Arc::clone(settings);
            async move { runtime.load(component, digest, &name, &settings).await }
        };
        self.0.drafts.join(name, digest, settings, make).await
    }

    /// Wants exactly these versions of a module from now on. What was not wanted before gets ready by
    /// the loads that this gives, each of which must be run.
    pub fn want(&self, name: &ModuleName, versions: &[Arc<Version>]) -> Vec<Load> {
        let loads = self.0.shelf.want(name, versions).into_iter();
        let load = |load| Load {
            modules: self.clone(),
            name: name.clone(),
            load,
        };
        loads.map(load).collect()
    }

    /// A version, ready to instantiate: compiled before, or now.
    ///
    /// # Errors
    /// When its bytes are to be had nowhere, or the runtime refuses them.
    pub async fn get(&self, name: &ModuleName, version: &Version) -> Result<Module, Arc<Error>> {
        match self.0.shelf.get(name, version).await {
            Some(got) => got,
            // Of no use to anybody else: it is about to be given up, or was.
            None => self.load(name, version).await.map_err(Arc::new),
        }
    }

    /// The same, if it is ready now.
    #[must_use]
    pub fn ready(&self, name: &ModuleName, version: &Version) -> Option<Module> {
        match self.0.shelf.progress(name, version) {
            Some(Progress::Ready(module)) => Some(module),
            // It may be in the state for a moment only.
            _ => (self.0.drafts).ready(name, version.digest, &version.settings),
        }
    }

    /// What has become of a version; one that is not wanted yet is about to be.
    #[must_use]
    pub fn readiness(&self, name: &ModuleName, version: &Version) -> Readiness {
        match self.0.shelf.progress(name, version) {
            None | Some(Progress::Loading) => Readiness::Loading,
            Some(Progress::Failed(error)) => Readiness::Failed(error),
            Some(Progress::Ready(_)) => Readiness::Ready,
        }
    }

    /// Removes all files, compiled ones too, but those of what is wanted and of what `used` names. Files
    /// that were asked for within the last hour stay. Who is asked for `used` says what counts at that
    /// moment: a list made before may lack what has come since.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn retain(
        &self,
        used: impl Fn() -> HashSet<Digest> + Send + 'static,
    ) -> Result<(), Error> {
        let inner = Arc::clone(&self.0);
        let used = move || {
            let mut digests = used();
            digests.extend(inner.shelf.digests());
            digests
        };
        self.0.runtime.retain(used(), YOUNG).await;
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let _files = inner.files.write();
            let names: HashSet<String> = used().into_iter().map(file_name).collect();
            let dir = &inner.dir;
            let entries = std::fs::read_dir(dir).map_err(|source| file("list", dir, source))?;
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                // Young files may belong to a deployment that is not in the state yet.
                let age = entry.metadata().and_then(|found| found.modified());
                let old = age.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > YOUNG));
                if name.ends_with(EXTENSION) && old && !names.contains(&name) {
                    std::fs::remove_file(entry.path())
                        .map_err(|source| file("remove", &entry.path(), source))?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn load(&self, name: &ModuleName, version: &Version) -> Result<Module, Error> {
        let digest = version.digest;
        let settings = &version.settings;
        if let Some(module) = self.0.drafts.get(name, digest, settings).await {
            return Ok(module);
        }
        let _permit = self.0.loads.acquire().await;
        let bytes = match self.bytes(digest).await? {
            Some(bytes) => bytes,
            None => self.obtain(digest).await?,
        };
        let loaded = self.0.runtime.load(bytes, digest, name, settings).await;
        loaded.map_err(|source| Error::Load { digest, source })
    }

    /// Fetches a component that is not on this node, and keeps it.
    async fn obtain(&self, digest: Digest) -> Result<Bytes, Error> {
        let fetched = self.0.fetch.fetch(digest).await;
        let bytes = fetched.map_err(|reason| Error::Fetch { digest, reason })?;
        if Digest::of(&bytes) != digest {
            let reason = "the bytes that came have another digest".to_owned();
            return Err(Error::Fetch { digest, reason });
        }
        self.keep(bytes.clone()).await?;
        Ok(bytes)
    }
}

impl Load {
    /// What is loaded.
    #[must_use]
    pub fn version(&self) -> Arc<Version> {
        self.load.version()
    }

    /// Tries again and again, with growing pauses. Whether it is ready; else it is not wanted any more.
    pub async fn run(self) -> bool {
        let Self {
            modules,
            name,
            load,
        } = self;
        let version = load.version();
        let attempt = || async {
            let loaded = modules.load(&name, &version).await;
            loaded.map_err(|error| {
                let (number, error_text) = (version.number, chain(&error));
                warn!(module = %name, number, error = error_text, "a version cannot be loaded yet");
                Arc::new(error)
            })
        };
        let again = |failures| tokio::time::sleep(pause(failures));
        let ready = load.run(attempt, again).await;
        if ready {
            let (drafts, settings) = (&modules.0.drafts, &version.settings);
            drafts.forget(&name, version.digest, settings);
        }
        ready
    }
}

/// The pause after so many failures in a row: 500 ms, doubled each time up to 15 s, and up to a half
/// less at random.
fn pause(failures: u32) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled
        .min(LONGEST)
        .mul_f64(1.0 - rand::random::<f64>() / 2.0)
}

impl Inner {
    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(file_name(digest))
    }
}

/// Whether a folder of components has one, whole.
pub(crate) fn is_kept(folder: &Path, digest: Digest) -> bool {
    matches!(
        read_whole(&folder.join(file_name(digest)), digest),
        Ok(Some(_))
    )
}

fn file_name(digest: Digest) -> String {
    format!("{}{EXTENSION}", digest.hex())
}

fn file(verb: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File {
        verb,
        path: path.to_owned(),
        source,
    }
}

/// The file's bytes if they are those of the digest, and then it is young again. A damaged file is
/// as good as none: it is fetched and written again.
fn read_whole(path: &Path, digest: Digest) -> io::Result<Option<Bytes>> {
    let Some((mut file, len)) = open_whole(path, digest)? else {
        return Ok(None);
    };
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes.into()))
}

/// The file at its beginning, and its length, under the same condition. What is written under its name
/// later is another file.
fn open_whole(path: &Path, digest: Digest) -> io::Result<Option<(std::fs::File, u64)>> {
    let mut file = match std::fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut hasher = Sha256::new();
    let len = io::copy(&mut file, &mut hasher)?;
    if digest != Digest(hasher.finalize().into()) {
        return Ok(None);
    }
    file.rewind()?;
    file.set_modified(SystemTime::now())?;
    Ok(Some((file, len)))
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut draft = tempfile::NamedTempFile::new_in(dir)?;
    io::Write::write_all(&mut draft, bytes)?;
    draft.as_file().sync_all()?;
    draft.persist(path)?;
    std::fs::File::open(dir)?.sync_all()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);

/// How many components are in memory at once to be loaded. More: a node with many modules starts with
/// all of their bytes. Fewer: one that is fetched from afar holds up the others.
const LOADS_MAX: usize = 8;

const EXTENSION: &str = ".wasm";
/// Longer than any deployment takes.
const YOUNG: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
