//! Says when a file of a handler's folder has changed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::ModifyKind};
use tokio::sync::mpsc;

/// A folder that is watched. Unwatched when dropped.
pub(super) struct Watch {
    root: PathBuf,
    watcher: RecommendedWatcher,
    /// Folders in it that are watched with all that is below them.
    below: BTreeSet<PathBuf>,
    changes: mpsc::Receiver<()>,
}

impl Watch {
    /// Watches a folder from now on, with all that is below it but what is hidden or made by a build.
    pub(super) fn begin(dir: &Path) -> anyhow::Result<Self> {
        let watching = || format!("watch {}", dir.display());
        let root = dir.canonicalize().with_context(watching)?;
        // One is enough: whoever is told looks at everything.
        let (tell, changes) = mpsc::channel(1);
        let told_of = root.clone();
        let heard = move |event: notify::Result<notify::Event>| {
            // An error is a lost event, which may have mattered.
            if event.map_or(true, |event| is_change(&told_of, &event)) {
                let _ = tell.try_send(());
            }
        };
        let mut watcher = notify::recommended_watcher(heard).with_context(watching)?;
        // Its own files, and folders that are made in it: what a build makes is in one of those, and
        // is not to be watched file by file.
        watcher
            .watch(&root, RecursiveMode::NonRecursive)
            .with_context(watching)?;
        let mut watch = Self {
            root,
            watcher,
            below: BTreeSet::new(),
            changes,
        };
        watch.watch_folders().with_context(watching)?;
        Ok(watch)
    }

    /// Waits until something has changed, and then for a moment in which nothing does: editors and
    /// version control write several files. Cancel-safe.
    pub(super) async fn changed(&mut self) -> anyhow::Result<()> {
        let gone = "nobody watches the folder any more";
        self.changes.recv().await.context(gone)?;
        while let Ok(change) = tokio::time::timeout(CALM, self.changes.recv()).await {
            change.context(gone)?;
        }
        self.watch_folders()
            .with_context(|| format!("watch {}", self.root.display()))
    }

    /// Watches the folders in it that it does not watch yet.
    fn watch_folders(&mut self) -> anyhow::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            if !path.is_dir() || !matters(&self.root, &path) || self.below.contains(&path) {
                continue;
            }
            match self.watcher.watch(&path, RecursiveMode::Recursive) {
                Ok(()) => {
                    self.below.insert(path);
                }
                // It is gone already.
                Err(_) if !path.exists() => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.below.retain(|path| path.exists());
        Ok(())
    }
}

fn is_change(root: &Path, event: &notify::Event) -> bool {
    let changes = match event.kind {
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)) => false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    };
    changes && event.paths.iter().any(|path| matters(root, path))
}

/// Whether a file could be one that a component is made of.
fn matters(root: &Path, path: &Path) -> bool {
    let Ok(inside) = path.strip_prefix(root) else {
        return false;
    };
    let mut names = inside.iter().map(|name| name.to_string_lossy());
    let is_hidden = |name: &str| name.starts_with(['.', '#']) || name.ends_with('~');
    if names.clone().any(|name| is_hidden(&name)) {
        return false;
    }
    // What cargo writes, and the file by which Vim finds out whether it can write.
    let first = names.next();
    let last = names.next_back();
    !matches!(first.as_deref(), None | Some("target" | "Cargo.lock"))
        && last.or(first).as_deref() != Some("4913")
}

/// How long nothing must change until a change counts as complete.
const CALM: Duration = Duration::from_millis(150);

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn what_a_component_is_made_of_matters() {
        let root = Path::new("/h");
        for path in [
            "/h/src/lib.rs",
            "/h/Cargo.toml",
            "/h/holdfast.toml",
            "/h/data/a.json",
        ] {
            assert!(matters(root, Path::new(path)), "{path}");
        }
        for path in [
            "/h",
            "/h/target/wasm32-wasip2/release/x.wasm",
            "/h/Cargo.lock",
            "/h/.git/index",
            "/h/.holdfast/wit/world.wit",
            "/h/src/.lib.rs.swp",
            "/h/src/lib.rs~",
            "/h/src/#lib.rs#",
            "/h/src/4913",
            "/elsewhere/lib.rs",
        ] {
            assert!(!matters(root, Path::new(path)), "{path}");
        }
    }

    #[tokio::test]
    async fn changes_are_heard_in_folders_that_were_made_later_too() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        fs::create_dir_all(dir.path().join("src/deep"))?;
        fs::create_dir(dir.path().join("target"))?;
        let mut watch = Watch::begin(dir.path()).unwrap();
        fs::write(dir.path().join("target/x"), "")?;
        fs::read_dir(dir.path().join("src"))?.count();
        fs::write(dir.path().join("src/deep/a.rs"), "")?;
        watch.changed().await.unwrap();
        fs::create_dir(dir.path().join("more"))?;
        watch.changed().await.unwrap();
        fs::write(dir.path().join("more/b.rs"), "")?;
        watch.changed().await.unwrap();
        fs::write(dir.path().join("target/y"), "")?;
        let none = tokio::time::timeout(CALM * 4, watch.changed());
        none.await.unwrap_err();
        Ok(())
    }
}
