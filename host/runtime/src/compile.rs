//! Turns components into machine code, once per node.
//!
//! Components are untrusted input: what a compilation may take of memory and time is bounded, by a process of
//! its own where there is a program for it, and so is how many there are at once and for how long anybody
//! waits. Invariant: a digest is compiled once at a time, whoever stops waiting for it, and kept as
//! long as a module uses it.

use std::{
    collections::{HashMap, HashSet},
    io::Write as _,
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
mod process;

pub(crate) use cache::Cache;
pub use process::{CompilerProcess, compile_stdin};

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Compiler(Arc<Inner>);

struct Inner {
    cache: Option<Arc<Cache>>,
    process: Option<CompilerProcess>,
    permits: Arc<Semaphore>,
    limits: Limits,
    loaded: Mutex<HashMap<Key, Weak<Compiled>>>,
    /// What modules need, though it may not be loaded.
    used: Mutex<HashSet<Digest>>,
}

/// What one compilation may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) parallelism: usize,
    pub(crate) timeout: Duration,
    pub(crate) memory_bytes_max: u64,
}

/// A component for one kind of engine.
type Key = (Digest, usize);

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
        cache: Option<Cache>,
        process: Option<CompilerProcess>,
        limits: Limits,
    ) -> Self {
        Self(Arc::new(Inner {
            cache: cache.map(Arc::new),
            process,
            permits: Arc::new(Semaphore::new(limits.parallelism.max(1))),
            limits,
            loaded: Mutex::default(),
            used: Mutex::default(),
        }))
    }

    /// The compiled form of these bytes: from memory, the cache, or compiled now. `kind` tells engines
    /// apart, all of which take the same code.
    pub(crate) async fn component(
        &self,
        engine: &Engine,
        kind: usize,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<Arc<Compiled>, LoadError> {
        let compiled = self.slot((digest, kind));
        if compiled.0.initialized() {
            return Ok(compiled);
        }
        // A task of its own: whoever asks next finds the work of one who has stopped waiting.
        let (compiler, engine, filled) = (self.clone(), engine.clone(), Arc::clone(&compiled));
        let filling = tokio::spawn(async move {
            let compile = || compiler.0.compile(&engine, bytes, digest);
            filled.0.get_or_try_init(compile).await.map(drop)
        });
        match filling.await {
            Ok(filled) => filled.map(|()| compiled),
            Err(failed) => Err(LoadError::CompilerPanicked(failed.to_string())),
        }
    }

    /// Removes the cached form of all digests but these, unless it is younger than `age`.
    pub(crate) async fn retain(&self, used: HashSet<Digest>, age: Duration) {
        *self.0.used.lock() = used.clone();
        if let Some(cache) = self.0.cache.clone() {
            let removed = tokio::task::spawn_blocking(move || cache.retain(&used, age)).await;
            if let Ok(Err(error)) = removed {
                tracing::warn!(%error, "compiled components that nobody uses stay in the cache");
            }
        }
    }

    /// Removes the cached form of a component that was refused, if nobody uses it.
    pub(crate) async fn discard(&self, digest: Digest) {
        let in_use = self.0.in_use();
        if let Some(cache) = self.0.cache.clone()
            && !in_use.contains(&digest)
        {
            // A panic is reported by its hook.
            let _ = tokio::task::spawn_blocking(move || cache.remove(&digest)).await;
        }
    }

    fn slot(&self, key: Key) -> Arc<Compiled> {
        let mut loaded = self.0.loaded.lock();
        if let Some(compiled) = loaded.get(&key).and_then(Weak::upgrade) {
            return compiled;
        }
        loaded.retain(|_, compiled| compiled.strong_count() > 0);
        let compiled = Arc::new(Compiled::default());
        loaded.insert(key, Arc::downgrade(&compiled));
        compiled
    }
}

impl Inner {
    async fn compile(
        self: &Arc<Self>,
        engine: &Engine,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<Component, LoadError> {
        let time = self.limits.timeout;
        let permit = timeout(time, self.permits.clone().acquire_owned())
            .await
            .map_err(|_| LoadError::CompilerBusy(time))?
            .expect("the semaphore is never closed");
        let (inner, component) = (Arc::clone(self), bytes.clone());
        let cached = blocking(engine, move |engine| {
            check(&component, &digest)?;
            let cache = inner.cache.as_ref();
            Ok(cache.and_then(|cache| cache.read(engine, &digest)))
        });
        if let Some(component) = cached.await? {
            return Ok(component);
        }
        let compiled = match (&self.cache, &self.process) {
            (Some(cache), Some(process)) => {
                let limit = self.limits.memory_bytes_max;
                let compiled = in_process(engine, cache, process, bytes, digest, limit);
                let compiled = timeout(time, compiled).await;
                compiled.map_err(|_| LoadError::CompileTimeout(time))??
            }
            (cache, _) => {
                let (engine, cache) = (engine.clone(), cache.clone());
                let job = tokio::task::spawn_blocking(move || {
                    // The permit goes with the job: a compilation here cannot be cancelled, and one
                    // that nobody waits for any more must still count.
                    let _permit = permit;
                    compile_here(&engine, cache.as_deref(), &bytes, &digest)
                });
                match timeout(time, job).await {
                    Ok(Ok(result)) => result?,
                    Ok(Err(panic)) => return Err(LoadError::CompilerPanicked(panic.to_string())),
                    Err(_) => return Err(LoadError::CompileTimeout(time)),
                }
            }
        };
        if let Some(cache) = self.cache.clone() {
            let mut in_use = self.in_use();
            in_use.insert(digest);
            let shrunk = blocking(engine, move |_| Ok(cache.shrink(&in_use)));
            if let Err(error) = shrunk.await? {
                tracing::warn!(%error, "the cache of compiled components could not be made smaller");
            }
        }
        Ok(compiled)
    }

    /// What must stay in the cache.
    fn in_use(&self) -> HashSet<Digest> {
        let mut in_use = self.used.lock().clone();
        let loaded = self.loaded.lock();
        let live = loaded.iter().filter(|(_, compiled)| {
            let compiled = compiled.upgrade();
            compiled.is_some_and(|compiled| compiled.0.initialized())
        });
        in_use.extend(live.map(|((digest, _), _)| *digest));
        in_use
    }
}

/// Compiles in a process of its own.
async fn in_process(
    engine: &Engine,
    cache: &Arc<Cache>,
    process: &CompilerProcess,
    bytes: Bytes,
    digest: Digest,
    memory_bytes_max: u64,
) -> Result<Component, LoadError> {
    let not_kept = |error: std::io::Error| LoadError::NotKept(error.to_string());
    let draft = cache.draft(&digest).map_err(not_kept)?;
    let output = draft.file.try_clone().map_err(not_kept)?;
    process::compile(process, bytes, output, memory_bytes_max).await?;
    let cache = Arc::clone(cache);
    blocking(engine, move |engine| {
        cache.keep(engine, &digest, draft).map_err(not_kept)
    })
    .await
}

/// Compiles in this process.
fn compile_here(
    engine: &Engine,
    cache: Option<&Cache>,
    bytes: &[u8],
    digest: &Digest,
) -> Result<Component, LoadError> {
    let component =
        Component::from_binary(engine, bytes).map_err(|error| LoadError::malformed(&error))?;
    let Some(cache) = cache else {
        return Ok(component);
    };
    let kept = component.serialize().map(|code| {
        let mut draft = cache.draft(digest)?;
        draft.file.write_all(&code)?;
        drop(code);
        cache.keep(engine, digest, draft)
    });
    match kept {
        // What is mapped from the file takes less memory.
        Ok(Ok(mapped)) => return Ok(mapped),
        Ok(Err(error)) => not_kept(digest, &error),
        Err(error) => not_kept(digest, &format_args!("{error:#}")),
    }
    Ok(component)
}

fn not_kept(digest: &Digest, error: &dyn std::fmt::Display) {
    tracing::warn!(
        %error,
        module.digest = %digest,
        "a compiled component could not be kept; it is compiled again at the next start"
    );
}

fn check(bytes: &[u8], digest: &Digest) -> Result<(), LoadError> {
    let found = Digest::of(bytes);
    if found == *digest {
        return Ok(());
    }
    Err(LoadError::WrongDigest {
        expected: *digest,
        found,
    })
}

async fn blocking<T: Send + 'static>(
    engine: &Engine,
    work: impl FnOnce(&Engine) -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    let engine = engine.clone();
    match tokio::task::spawn_blocking(move || work(&engine)).await {
        Ok(done) => done,
        Err(failed) => Err(LoadError::CompilerPanicked(failed.to_string())),
    }
}

#[cfg(test)]
mod tests;
