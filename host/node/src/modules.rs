//! The components on this node: their bytes on disk, and what the runtime made of them.
//!
//! A component is a file named by its digest, written whole or not at all, and checked against its
//! name when read. Its time of change says when it was last asked for: a deployment that is not in
//! the state yet has asked for its component a moment ago, whoever made the file, and when. Loading
//! one is done once per version, however many ask. Where bytes come from that are not here is the
//! [`Fetch`] given at the start: this module knows no peers.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_cluster::state::Version;
use holdfast_model::{Digest, ModuleName, Settings};
use holdfast_runtime::{LoadError, Module, Runtime};
use parking_lot::{Mutex, RwLock};
use tokio::sync::OnceCell;

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
    loaded: Mutex<HashMap<ModuleName, Vec<Loaded>>>,
    /// Written while old files are removed: what somebody was told is here must not go. Only
    /// threads that may block take it.
    files: RwLock<()>,
}

struct Loaded {
    digest: Digest,
    settings: Arc<Settings>,
    module: Arc<OnceCell<Module>>,
}

impl Modules {
    /// Opens the folder, which is made when it does not exist.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path, runtime: Runtime, fetch: Arc<dyn Fetch>) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(|source| file("create", dir, source))?;
        let loaded = Mutex::default();
        Ok(Self(Arc::new(Inner {
            dir: dir.to_owned(),
            runtime,
            fetch,
            loaded,
            files: RwLock::default(),
        })))
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

    /// Inspects and compiles a component that is not deployed yet.
    ///
    /// # Errors
    /// When the runtime refuses it.
    pub async fn check(
        &self,
        name: &ModuleName,
        component: Bytes,
        settings: &Arc<Settings>,
    ) -> Result<Module, LoadError> {
        let digest = Digest::of(&component);
        let module = self
            .0
            .runtime
            .load(component, digest, name, settings)
            .await?;
        // Ready when the deployment is acknowledged; a lost race has loaded the same.
        let _ = self.cell(name, digest, settings).set(module.clone());
        Ok(module)
    }

    /// A deployed version, ready to instantiate: compiled before, or now.
    ///
    /// # Errors
    /// When its bytes are to be had nowhere, or the runtime refuses them.
    pub async fn get(&self, name: &ModuleName, version: &Version) -> Result<Module, Error> {
        let cell = self.cell(name, version.digest, &version.settings);
        let module = cell.get_or_try_init(|| self.load(name, version)).await?;
        Ok(module.clone())
    }

    /// The same, if it is ready now.
    #[must_use]
    pub fn ready(&self, name: &ModuleName, version: &Version) -> Option<Module> {
        self.cell(name, version.digest, &version.settings)
            .get()
            .cloned()
    }

    /// Forgets all modules and files but those of these versions, compiled ones too. Files that
    /// were asked for within the last hour stay.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn retain(&self, used: Vec<(ModuleName, Arc<Version>)>) -> Result<(), Error> {
        self.0.loaded.lock().retain(|name, versions| {
            versions.retain(|loaded| {
                let is_used = |(module, version): &(ModuleName, Arc<Version>)| {
                    module == name
                        && version.digest == loaded.digest
                        && version.settings == loaded.settings
                };
                used.iter().any(is_used)
            });
            !versions.is_empty()
        });
        let digests: HashSet<Digest> = used.iter().map(|(_, version)| version.digest).collect();
        self.0.runtime.retain(digests.clone(), YOUNG).await;
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let names: HashSet<String> = digests.into_iter().map(file_name).collect();
            let _files = inner.files.write();
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

    fn cell(
        &self,
        name: &ModuleName,
        digest: Digest,
        settings: &Arc<Settings>,
    ) -> Arc<OnceCell<Module>> {
        let mut loaded = self.0.loaded.lock();
        let versions = loaded.entry(name.clone()).or_default();
        let known = versions
            .iter()
            .find(|loaded| loaded.digest == digest && loaded.settings == *settings);
        if let Some(known) = known {
            return Arc::clone(&known.module);
        }
        let module = Arc::default();
        versions.push(Loaded {
            digest,
            settings: Arc::clone(settings),
            module: Arc::clone(&module),
        });
        module
    }

    async fn load(&self, name: &ModuleName, version: &Version) -> Result<Module, Error> {
        let digest = version.digest;
        let bytes = match self.bytes(digest).await? {
            Some(bytes) => bytes,
            None => {
                let fetched = self.0.fetch.fetch(digest).await;
                let bytes = fetched.map_err(|reason| Error::Fetch { digest, reason })?;
                if Digest::of(&bytes) != digest {
                    let reason = "the bytes that came have another digest".to_owned();
                    return Err(Error::Fetch { digest, reason });
                }
                self.keep(bytes.clone()).await?;
                bytes
            }
        };
        let loaded = self
            .0
            .runtime
            .load(bytes, digest, name, &version.settings)
            .await;
        loaded.map_err(|source| Error::Load { digest, source })
    }
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
    let mut file = match std::fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    if Digest::of(&bytes) != digest {
        return Ok(None);
    }
    file.set_modified(SystemTime::now())?;
    Ok(Some(bytes.into()))
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

const EXTENSION: &str = ".wasm";
/// Longer than any deployment takes.
const YOUNG: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
