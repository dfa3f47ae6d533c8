//! Which versions are wanted on this node, and what has become of each.
//!
//! Invariant: a version that is wanted is ready, or the one [`Load`] that was made for it goes on. So
//! what is wanted gets ready whatever else comes and goes meanwhile: what is wanted again and again
//! keeps its place, and one that was given up and is wanted anew gets a new place with a load of its
//! own. Looking something up never makes a place.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
};

use holdfast_cluster::state::Version;
use holdfast_model::{Digest, ModuleName};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What is wanted of each module. `T` is a version that is ready, `E` why it is not.
pub(super) struct Shelf<T, E>(Mutex<BTreeMap<ModuleName, Places<T, E>>>);

/// The places of one module's versions.
type Places<T, E> = Vec<Arc<Place<T, E>>>;

/// A version's place: two that have the same component and settings share it.
struct Place<T, E> {
    version: Arc<Version>,
    progress: watch::Sender<Progress<T, E>>,
    unwanted: CancellationToken,
}

/// What has become of a version that is wanted.
#[derive(Clone, Debug)]
pub(super) enum Progress<T, E> {
    /// It is loaded for the first time.
    Loading,
    /// It is loaded again after a pause; this is why it could not be.
    Failed(E),
    /// It is loaded.
    Ready(T),
}

/// Loads a version until it is ready or not wanted any more. Whoever gets one must run it.
#[must_use = "a version that is wanted gets ready by its load alone"]
pub(super) struct Load<T, E>(Arc<Place<T, E>>);

impl<T: Clone, E: Clone> Shelf<T, E> {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Wants exactly these versions of a module from now on. Gives the loads of those that were not
    /// wanted before.
    pub(super) fn want(&self, name: &ModuleName, versions: &[Arc<Version>]) -> Vec<Load<T, E>> {
        let mut shelf = self.0.lock();
        let places = shelf.entry(name.clone()).or_default();
        places.retain(|place| {
            let wanted = versions.iter().any(|version| place.is_of(version));
            if !wanted {
                place.unwanted.cancel();
            }
            wanted
        });
        let mut loads = Vec::new();
        for version in versions {
            if places.iter().any(|place| place.is_of(version)) {
                continue;
            }
            let place = Arc::new(Place {
                version: Arc::clone(version),
                progress: watch::Sender::new(Progress::Loading),
                unwanted: CancellationToken::new(),
            });
            places.push(Arc::clone(&place));
            loads.push(Load(place));
        }
        if places.is_empty() {
            shelf.remove(name);
        }
        loads
    }

    /// What has become of a version; none when it is not wanted.
    pub(super) fn progress(&self, name: &ModuleName, version: &Version) -> Option<Progress<T, E>> {
        let place = self.place(name, version)?;
        let progress = place.progress.borrow().clone();
        Some(progress)
    }

    /// Waits until the first attempt to load a version has come to an end; none when it is not wanted,
    /// or not any more.
    pub(super) async fn get(&self, name: &ModuleName, version: &Version) -> Option<Result<T, E>> {
        let place = self.place(name, version)?;
        let mut progress = place.progress.subscribe();
        let tried = progress.wait_for(|progress| !matches!(progress, Progress::Loading));
        let tried = place.unwanted.run_until_cancelled(tried).await?;
        match &*tried.ok()? {
            Progress::Loading => None,
            Progress::Failed(error) => Some(Err(error.clone())),
            Progress::Ready(ready) => Some(Ok(ready.clone())),
        }
    }

    /// The components of all that is wanted.
    pub(super) fn digests(&self) -> BTreeSet<Digest> {
        let shelf = self.0.lock();
        let places = shelf.values().flatten();
        places.map(|place| place.version.digest).collect()
    }

    fn place(&self, name: &ModuleName, version: &Version) -> Option<Arc<Place<T, E>>> {
        let shelf = self.0.lock();
        let mut places = shelf.get(name)?.iter();
        places.find(|place| place.is_of(version)).cloned()
    }
}

impl<T, E> Load<T, E> {
    /// What is to be loaded.
    pub(super) fn version(&self) -> Arc<Version> {
        Arc::clone(&self.0.version)
    }

    /// Tries again and again, with a pause after so many failures in a row. Whether it is ready; else it
    /// is not wanted any more.
    pub(super) async fn run<F, P>(
        self,
        mut attempt: impl FnMut() -> F,
        mut pause: impl FnMut(u32) -> P,
    ) -> bool
    where
        F: Future<Output = Result<T, E>>,
        P: Future<Output = ()>,
    {
        let Self(place) = self;
        let tries = async {
            let mut failures = 0;
            loop {
                match attempt().await {
                    Ok(ready) => return place.progress.send_replace(Progress::Ready(ready)),
                    Err(error) => place.progress.send_replace(Progress::Failed(error)),
                };
                failures += 1;
                pause(failures).await;
            }
        };
        let done = place.unwanted.run_until_cancelled(tries).await;
        done.is_some()
    }
}

impl<T, E> Place<T, E> {
    fn is_of(&self, version: &Version) -> bool {
        self.version.digest == version.digest && self.version.settings == version.settings
    }
}

#[cfg(test)]
mod tests;
