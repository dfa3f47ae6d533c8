//! Says when something that a handler's build reads has changed.
//!
//! What that is, cargo says: the dep-info of the last good build names every source, of path
//! dependencies too. Before the first one, and after one that failed, every source of the packages
//! counts, for what is missing may be about to come. Events only wake it: what counts is whether a file
//! has other content than the build has read. So neither a build directory, nor a log in the
//! folder, nor a build script that writes the same again can make it build for ever; and folders that
//! are replaced, as by a change of branch, cannot make it deaf.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{sync::mpsc, time::Instant};

use self::{inputs::Inputs, print::Print};

mod inputs;
mod print;

/// What a build reads, watched. Unwatched when dropped.
pub(super) struct Watch {
    inputs: Inputs,
    watcher: RecommendedWatcher,
    armed: BTreeSet<PathBuf>,
    changes: mpsc::Receiver<()>,
    /// What the last build has read.
    read: BTreeMap<PathBuf, Print>,
    /// How many builds in a row have ended with another content of a file than they began with.
    touched: BTreeMap<PathBuf, u32>,
}

impl Watch {
    /// Watches the package in a folder from now on.
    pub(super) fn begin(dir: &Path) -> anyhow::Result<Self> {
        let watching = || format!("watch {}", dir.display());
        let root = dir.canonicalize().with_context(watching)?;
        // One is enough: whoever is told looks at everything.
        let (tell, changes) = mpsc::channel(1);
        let heard = move |event: notify::Result<notify::Event>| {
            // An error is a lost event, which may have mattered.
            if event.map_or(true, |event| !matches!(event.kind, EventKind::Access(_))) {
                let _ = tell.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(heard).with_context(watching)?;
        let mut watch = Self {
            inputs: Inputs::of(root),
            watcher,
            armed: BTreeSet::new(),
            changes,
            read: BTreeMap::new(),
            touched: BTreeMap::new(),
        };
        watch.arm();
        Ok(watch)
    }

    /// A build begins. What changes from now on is not in it.
    pub(super) fn building(&mut self) {
        self.read = self.inputs.prints();
    }

    /// The build that began last has ended. `packages` are the manifests of the packages of this
    /// machine that it built, and `dep_info` what cargo says that it has read, if it succeeded.
    pub(super) fn built(&mut self, packages: &BTreeSet<PathBuf>, dep_info: Option<&Path>) {
        self.inputs.learn(packages, dep_info);
        let began = std::mem::take(&mut self.read);
        let mut touched = BTreeMap::new();
        for (path, now) in self.inputs.prints() {
            let before = match began.get(&path) {
                Some(before) if *before != now => before.clone(),
                // It was not known to be read, and is read as it is now, or as it was a moment ago.
                _ => {
                    self.read.insert(path, now);
                    continue;
                }
            };
            let times = self.touched.get(&path).map_or(1, |times| times + 1);
            // What changes in every build, the build makes; or somebody saves while it runs.
            let is_made = self.inputs.is_ours(&path) || times >= MADE_AFTER;
            self.read
                .insert(path.clone(), if is_made { now } else { before });
            touched.insert(path, times);
        }
        self.touched = touched;
        self.arm();
    }

    /// Waits until something has other content than the last build has read, and then for a moment in
    /// which nothing changes: editors and version control write several files. Cancel-safe.
    pub(super) async fn changed(&mut self) -> anyhow::Result<()> {
        let gone = "nobody watches the folder any more";
        loop {
            // Whether or not anything is heard: some file systems tell nobody.
            if let Ok(change) = tokio::time::timeout(POLL, self.changes.recv()).await {
                change.context(gone)?;
                // Something else in a folder may change all the time.
                let latest = Instant::now() + CALM_WAIT_MAX;
                while Instant::now() < latest
                    && let Ok(change) = tokio::time::timeout(CALM, self.changes.recv()).await
                {
                    change.context(gone)?;
                }
            }
            // First, so that what changes after the look is heard.
            self.arm();
            if self.differs() {
                return Ok(());
            }
        }
    }

    fn differs(&mut self) -> bool {
        let paths = self.inputs.paths();
        paths.iter().any(|path| match self.read.get_mut(path) {
            Some(read) => !read.is_still(path),
            None => Print::of(path).exists(),
        })
    }

    /// Watches the folders of all that counts, those that took the place of others too.
    fn arm(&mut self) {
        let folders = self.inputs.folders();
        for gone in self.armed.difference(&folders) {
            let _ = self.watcher.unwatch(gone);
        }
        for folder in &folders {
            // Again where it is watched already: it may be another one of the same name. One that
            // cannot be watched is looked at from time to time all the same.
            let _ = self.watcher.watch(folder, RecursiveMode::NonRecursive);
        }
        self.armed = folders;
    }
}

/// How long nothing must change until a change counts as complete.
const CALM: Duration = Duration::from_millis(150);
/// How long that is waited for.
const CALM_WAIT_MAX: Duration = Duration::from_secs(1);
/// How often it looks where nothing is heard.
const POLL: Duration = Duration::from_secs(2);
/// After so many builds in a row that ended with another content of a file, the build makes it.
const MADE_AFTER: u32 = 3;

#[cfg(test)]
mod tests;
