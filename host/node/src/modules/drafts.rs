//! What is compiled for deployments that are not in the state yet.
//!
//! A compilation belongs to nobody: it goes on when its caller leaves, and whoever asks for the same
//! component with the same settings joins it. What has come of it is kept until the version is loaded,
//! or newer ones need its place.

use std::{future::Future, sync::Arc};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use holdfast_model::{Digest, ModuleName, Settings};
use holdfast_runtime::{LoadError, Module};
use parking_lot::Mutex;

/// The newest drafts, the oldest first.
#[derive(Default)]
pub(super) struct Drafts(Mutex<Vec<Draft>>);

struct Draft {
    name: ModuleName,
    digest: Digest,
    settings: Arc<Settings>,
    made: Made,
}

type Made = Shared<BoxFuture<'static, Result<Module, Arc<LoadError>>>>;

impl Drafts {
    /// Makes a draft, unless it is made or being made.
    pub(super) async fn join<F>(
        &self,
        name: &ModuleName,
        digest: Digest,
        settings: &Arc<Settings>,
        make: impl FnOnce() -> F,
    ) -> Result<Module, Arc<LoadError>>
    where
        F: Future<Output = Result<Module, LoadError>> + Send + 'static,
    {
        let made = {
            let mut drafts = self.0.lock();
            let known = drafts.iter().find(|d| d.is_of(name, digest, settings));
            match known {
                Some(known) => known.made.clone(),
                None => {
                    if drafts.len() >= DRAFTS_MAX {
                        // It goes on by itself, and whoever waits for it is answered.
                        drafts.remove(0);
                    }
                    let made = detached(make());
                    drafts.push(Draft {
                        name: name.clone(),
                        digest,
                        settings: Arc::clone(settings),
                        made: made.clone(),
                    });
                    made
                }
            }
        };
        let result = made.clone().await;
        if result.is_err() {
            // The next one tries again: what it lacked may be there by then.
            self.0.lock().retain(|draft| !draft.made.ptr_eq(&made));
        }
        result
    }

    /// The draft of a version that is wanted, once it is made; none when there is none, or it failed.
    pub(super) async fn get(
        &self,
        name: &ModuleName,
        digest: Digest,
        settings: &Arc<Settings>,
    ) -> Option<Module> {
        let made = self.find(name, digest, settings)?;
        let result = made.clone().await;
        if result.is_err() {
            self.0.lock().retain(|draft| !draft.made.ptr_eq(&made));
        }
        result.ok()
    }

    /// The same, if it is made now.
    pub(super) fn ready(
        &self,
        name: &ModuleName,
        digest: Digest,
        settings: &Arc<Settings>,
    ) -> Option<Module> {
        let made = self.find(name, digest, settings)?;
        made.peek()?.as_ref().ok().cloned()
    }

    /// Forgets a draft: what it was made for is kept elsewhere.
    pub(super) fn forget(&self, name: &ModuleName, digest: Digest, settings: &Arc<Settings>) {
        let mut drafts = self.0.lock();
        drafts.retain(|draft| !draft.is_of(name, digest, settings));
    }

    fn find(&self, name: &ModuleName, digest: Digest, settings: &Arc<Settings>) -> Option<Made> {
        let drafts = self.0.lock();
        let found = drafts.iter().find(|d| d.is_of(name, digest, settings))?;
        Some(found.made.clone())
    }
}

impl Draft {
    fn is_of(&self, name: &ModuleName, digest: Digest, settings: &Arc<Settings>) -> bool {
        self.name == *name && self.digest == digest && self.settings == *settings
    }
}

/// Has something made whether or not anybody waits for it.
fn detached<F>(make: F) -> Made
where
    F: Future<Output = Result<Module, LoadError>> + Send + 'static,
{
    let task = tokio::spawn(make);
    let made = async move {
        match task.await {
            Ok(made) => made.map_err(Arc::new),
            Err(failed) => Err(Arc::new(LoadError::CompilerPanicked(failed.to_string()))),
        }
    };
    made.boxed().shared()
}

/// How many drafts are kept. More: memory for machine code that nobody may come to use. Fewer: a
/// deployment that was slow to be acknowledged is compiled a second time.
const DRAFTS_MAX: usize = 16;
