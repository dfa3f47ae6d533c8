//! Turns components into machine code, once per node.
//!
//! Components are untrusted input: how many are compiled at once, and for how long anybody waits
//! for it, is bounded. Invariant: a digest is compiled once at a time and kept as long as a
//! module uses it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use holdfast_model::Digest;
use parking_lot::Mutex;
use tokio::{
    sync::{OnceCell, Semaphore},
    time::timeout,
};
use wasmtime::{Engine, component::Component};

use crate::inspect::LoadError;

mod cache;

pub(crate) use cache::Cache;

pub(crate) struct Compiler {
    engine: Engine,
    cache: Option<Arc<Cache>>,
    permits: Arc<Semaphore>,
    timeout: Duration,
    loaded: Mutex<HashMap<Digest, Weak<Compiled>>>,
}

/// A component in machine code, shared by all modules of its digest.
#[derive(Default)]
pub(crate) struct Compiled(OnceCell<Component>);

impl Compiled {
    pub(crate) fn component(&self) -> &Component {
        self.0
            .get()
            .expect("Compiler::component fills it before it gives it away")
    }
}

impl Compiler {
    pub(crate) fn new(
        engine: Engine,
        cache: Option<Cache>,
        parallelism: usize,
        timeout: Duration,
    ) -> Self {
        Self {
            engine,
            cache: cache.map(Arc::new),
            permits: Arc::new(Semaphore::new(parallelism.max(1))),
            timeout,
            loaded: Mutex::default(),
        }
    }

    /// The compiled form of these bytes: from memory, the cache, or compiled now.
    pub(crate) async fn component(
        &self,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<Arc<Compiled>, LoadError> {
        let compiled = self.slot(digest);
        compiled
            .0
            .get_or_try_init(|| self.compile(bytes, digest))
            .await?;
        Ok(compiled)
    }

    /// Removes the cached form of all digests but these, unless it is younger than `age`.
    pub(crate) async fn retain(&self, used: HashSet<Digest>, age: Duration) {
        if let Some(cache) = self.cache.clone() {
            let removed = tokio::task::spawn_blocking(move || cache.retain(&used, age)).await;
            if let Ok(Err(error)) = removed {
                tracing::warn!(%error, "compiled components that nobody uses stay in the cache");
            }
        }
    }

    fn slot(&self, digest: Digest) -> Arc<Compiled> {
        let mut loaded = self.loaded.lock();
        if let Some(compiled) = loaded.get(&digest).and_then(Weak::upgrade) {
            return compiled;
        }
        loaded.retain(|_, compiled| compiled.strong_count() > 0);
        let compiled = Arc::new(Compiled::default());
        loaded.insert(digest, Arc::downgrade(&compiled));
        compiled
    }

    async fn compile(&self, bytes: Bytes, digest: Digest) -> Result<Component, LoadError> {
        let permit = timeout(self.timeout, self.permits.clone().acquire_owned())
            .await
            .map_err(|_| LoadError::CompilerBusy(self.timeout))?
            .expect("the semaphore is never closed");
        let engine = self.engine.clone();
        let cache = self.cache.clone();
        let job = tokio::task::spawn_blocking(move || {
            // The permit goes with the job: a compilation cannot be cancelled, and one that
            // nobody waits for any more must still count.
            let _permit = permit;
            load_or_compile(&engine, cache.as_deref(), &bytes, &digest)
        });
        match timeout(self.timeout, job).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(LoadError::CompilerPanicked(panic.to_string())),
            Err(_) => Err(LoadError::CompileTimeout(self.timeout)),
        }
    }
}

fn load_or_compile(
    engine: &Engine,
    cache: Option<&Cache>,
    bytes: &[u8],
    digest: &Digest,
) -> Result<Component, LoadError> {
    let found = Digest::of(bytes);
    if found != *digest {
        return Err(LoadError::WrongDigest {
            expected: *digest,
            found,
        });
    }
    if let Some(component) = cache.and_then(|cache| cache.read(engine, digest)) {
        return Ok(component);
    }
    let component =
        Component::from_binary(engine, bytes).map_err(|error| LoadError::malformed(&error))?;
    if let Some(cache) = cache
        && let Err(error) = cache.write(digest, &component)
    {
        tracing::warn!(
            error = format!("{error:#}"),
            module.digest = %digest,
            "a compiled component could not be kept; it is compiled again at the next start"
        );
    }
    Ok(component)
}

#[cfg(test)]
mod tests;
