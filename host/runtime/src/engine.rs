//! The runtime of one node: engine, compiler, linkers and the epoch clock.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use holdfast_model::{Digest, Lane, ModuleName, Settings};
use parking_lot::Mutex;
use wasmtime::{Config, Engine, WasmBacktraceDetails, component::Linker};

use crate::{
    capability::{self, http},
    compile::{Cache, Compiled, Compiler, CompilerProcess, Limits},
    failure::Failure,
    fence::Fences,
    fibers::Fibers,
    guests::{self, Guests},
    inspect::{self, LoadError},
    journal::{GuestLogSink, Metered, TracingSink},
    linear::Memories,
    memory::NodeMemory,
    module::{Grounds, Module},
    state::State,
};

/// How the runtime of a node is set up.
#[derive(Clone)]
pub struct Options {
    /// Folder for compiled components, made when absent. Without one, every start of the node
    /// compiles all modules again, for tens of milliseconds to seconds each. What it holds is
    /// executed: a folder that others may write to is refused.
    pub cache_dir: Option<PathBuf>,
    /// Size of the largest component in bytes. Default 32 MiB. Too low: modules made with
    /// interpreted languages (12 to 18 MB) are refused. Too high: one deploy can take minutes.
    pub component_bytes_max: u64,
    /// Size of that folder in bytes. Default 1 GiB. Too low: components that are not in use are compiled
    /// again when they are wanted again. Too high: it takes disk space that something else needs. What is
    /// in use stays, whatever its size.
    pub cache_bytes_max: u64,
    /// A program that compiles, in a process of its own: what it takes is bounded, and goes back to the
    /// system. Without one, or without `cache_dir`, components are compiled in this process, where a
    /// hostile one can take any amount of memory.
    pub compiler: Option<CompilerProcess>,
    /// Memory that one such process may have in RAM. Default 2 GiB. Too low: large components are refused.
    /// Too high: a hostile one pushes everything else out.
    pub compile_memory_bytes_max: u64,
    /// Memory that all guests may have together, in bytes. Default: three quarters of what this process may
    /// have, by the machine or its control group. Past it memory is refused to guests as at their own limit, and
    /// starts fail and are tried again. Too low: they fail though there is room. Too high: the kernel
    /// ends the process.
    pub guest_memory_bytes_max: Option<u64>,
    /// Components that are compiled at the same time. Default 2. Each of them uses all cores.
    pub compile_parallelism: usize,
    /// Time for the compilation of one component, and for waiting for its turn. Default 2 min.
    pub compile_timeout: Duration,
    /// How often running guests are looked at. Default 10 ms. Too low: it costs all guests time.
    /// Too high: runaway guests are stopped late, and their threads' other tasks wait.
    pub epoch_tick: Duration,
    /// Instances in the fiber lane at the same time. Default: what `vm.max_map_count` has room for,
    /// some 19,000 with the usual 65,530. Too low: resources wait though there is room. Too high:
    /// the process runs out of memory mappings, and may die.
    pub fibers_max: Option<u64>,
    /// The threads for guests.
    pub guests: guests::Options,
    /// Until when instances may act. Default: always.
    pub fences: Fences,
    /// Takes what guests say.
    pub log: Arc<dyn GuestLogSink>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_dir: None,
            cache_bytes_max: 1 << 30,
            compiler: None,
            compile_memory_bytes_max: 2 << 30,
            guest_memory_bytes_max: None,
            component_bytes_max: 32 << 20,
            compile_parallelism: 2,
            compile_timeout: Duration::from_secs(120),
            epoch_tick: Duration::from_millis(10),
            fibers_max: None,
            guests: guests::Options::default(),
            fences: Fences::open(),
            log: Arc::new(TracingSink),
        }
    }
}

/// Why a runtime could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    /// This machine cannot run the engine.
    #[error("set up the WebAssembly engine: {0}")]
    Engine(String),
    /// The folder for compiled components cannot be used.
    #[error("use {path} for compiled components")]
    Cache {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The thread that counts epochs could not be started.
    #[error("start the epoch thread")]
    Thread(#[source] io::Error),
}

/// Loads modules. Cheap to clone. Everything is to be used within a tokio runtime with time and
/// network enabled.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    options: Options,
    compiler: Compiler,
    /// By the call stack that guests have.
    kinds: Mutex<HashMap<usize, Arc<EngineKind>>>,
    http: Arc<http::Client>,
    fibers: Arc<Fibers>,
    guests: Guests,
    memory: Arc<NodeMemory>,
}

/// An engine, and what is linked for it. All take the same code.
struct EngineKind {
    engine: Engine,
    direct: Linker<State>,
    fiber: Linker<State>,
}

impl EngineKind {
    fn new(stack_bytes: usize) -> wasmtime::Result<Self> {
        let engine = Engine::new(&config(stack_bytes))?;
        Ok(Self {
            direct: capability::linker(&engine, Lane::Direct)?,
            fiber: capability::linker(&engine, Lane::Fiber)?,
            engine,
        })
    }
}

impl Runtime {
    /// Sets up a runtime.
    ///
    /// # Errors
    /// When the engine, the cache folder or the epoch thread cannot be had.
    pub fn new(options: Options) -> Result<Self, NewError> {
        let failed = |error: wasmtime::Error| NewError::Engine(format!("{error:#}"));
        let kind = EngineKind::new(WASM_STACK_BYTES).map_err(failed)?;
        let cache = match options.cache_dir.clone() {
            Some(path) => match Cache::open(path.clone(), &kind.engine, options.cache_bytes_max) {
                Ok(cache) => Some(cache),
                Err(source) => return Err(NewError::Cache { path, source }),
            },
            None => None,
        };
        let guests = Guests::new(options.guests.clone());
        count_epochs(&kind.engine, options.epoch_tick, guests.clone()).map_err(NewError::Thread)?;
        let limits = Limits {
            parallelism: options.compile_parallelism,
            timeout: options.compile_timeout,
            memory_bytes_max: options.compile_memory_bytes_max,
        };
        let compiler = Compiler::new(cache, options.compiler.clone(), limits);
        let memory = NodeMemory::new(options.guest_memory_bytes_max);
        let log = Arc::new(Metered::new(options.log));
        let options = Options { log, ..options };
        Ok(Self(Arc::new(Inner {
            fibers: Arc::new(Fibers::new(options.fibers_max)),
            http: Arc::new(http::Client::new()),
            guests,
            options,
            compiler,
            kinds: Mutex::new(HashMap::from([(WASM_STACK_BYTES, Arc::new(kind))])),
            memory: Arc::new(memory),
        })))
    }

    /// Makes a component ready to run under these settings: inspects, compiles (or takes it from
    /// the cache), links, and starts it once without calling the handler.
    ///
    /// Loads of the same digest share one compilation. Dropping the future is safe; a compilation
    /// that has begun then goes on by itself and keeps its place among those at the same time.
    ///
    /// # Errors
    /// Says what is wrong with the component, as a person who made it needs to know.
    pub async fn load(
        &self,
        component: Bytes,
        digest: Digest,
        module: &ModuleName,
        settings: &Settings,
    ) -> Result<Module, LoadError> {
        inspect::envelope(&component, self.0.options.component_bytes_max)?;
        let screened = component.clone();
        let screened = tokio::task::spawn_blocking(move || inspect::screen(&screened)).await;
        screened.unwrap_or_else(|failed| Err(LoadError::CompilerPanicked(failed.to_string())))?;
        let stack_bytes = stack_bytes(settings.limits.stack_bytes_max);
        let kind = self.kind(stack_bytes)?;
        let compiler = &self.0.compiler;
        let compiled = compiler
            .component(&kind.engine, stack_bytes, component, digest)
            .await?;
        let loaded = self.link(&kind, compiled, digest, module, settings).await;
        if loaded.is_err() {
            compiler.discard(digest).await;
        }
        loaded
    }

    async fn link(
        &self,
        kind: &EngineKind,
        compiled: Arc<Compiled>,
        digest: Digest,
        module: &ModuleName,
        settings: &Settings,
    ) -> Result<Module, LoadError> {
        let Inner { options, .. } = &*self.0;
        let component = compiled.component();
        let found = inspect::component(component)?;
        let lane = found.lane(settings);
        let linker = match lane {
            Lane::Direct => &kind.direct,
            Lane::Fiber => &kind.fiber,
        };
        let pre = linker.instantiate_pre(component).map_err(|error| {
            match capability::missing(linker, component) {
                missing if missing.is_empty() => LoadError::Link(format!("{error:#}")),
                missing => LoadError::UnknownImports(missing),
            }
        })?;
        let grounds = Grounds {
            name: module.clone(),
            lane,
            limits: settings.limits.clone(),
            config: settings.config.clone(),
            grants: settings.grants.http.clone().into(),
            sink: options.log.clone(),
            http: self.0.http.clone(),
            http_share: Arc::default(),
            fibers: self.0.fibers.clone(),
            fence: options.fences.of(settings.on_lost_quorum).clone(),
            tenant: self.0.guests.tenant(module),
            memory: self.0.memory.clone(),
        };
        let module = Module::new(grounds, digest, compiled, pre, found);
        let trial = module.clone();
        let tried = async move { trial.try_out().await };
        let tried = module.tenant().start(module.lane(), tried).await;
        tried.unwrap_or(Err(LoadError::Start(Failure::Dead)))?;
        Ok(module)
    }

    /// The engine whose guests have so much call stack.
    fn kind(&self, stack_bytes: usize) -> Result<Arc<EngineKind>, LoadError> {
        let mut kinds = self.0.kinds.lock();
        if let Some(kind) = kinds.get(&stack_bytes) {
            return Ok(Arc::clone(kind));
        }
        let kind = EngineKind::new(stack_bytes)
            .map_err(|error| LoadError::CompilerNotRun(format!("{error:#}")))?;
        let kind = Arc::new(kind);
        count_epochs(
            &kind.engine,
            self.0.options.epoch_tick,
            self.0.guests.clone(),
        )
        .map_err(|error| LoadError::CompilerNotRun(error.to_string()))?;
        kinds.insert(stack_bytes, Arc::clone(&kind));
        Ok(kind)
    }

    /// Memory that all guests have, and may have, in bytes.
    #[must_use]
    pub fn guest_memory(&self) -> (u64, u64) {
        self.0.memory.used_and_max()
    }

    /// The threads for guests.
    #[must_use]
    pub fn guests(&self) -> &Guests {
        &self.0.guests
    }

    /// Removes the compiled form of all components but these from the cache, unless it is younger
    /// than `age`: such a one may belong to a deployment under way. Modules that are loaded keep
    /// running.
    pub async fn retain(&self, used: HashSet<Digest>, age: Duration) {
        self.0.compiler.retain(used, age).await;
    }
}

/// Measured for many resident instances: see `benches/calls.rs`.
fn config(stack_bytes: usize) -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    // A synchronous call costs a third, and nothing here needs component-model concurrency.
    config.concurrency_support(false);
    // Handlers are 32-bit; then no size that a guest asks for can overflow ours.
    config.wasm_memory64(false);
    // No mapping of its own per instance: a process may have some 65,000 mappings.
    config.memory_reservation(0);
    config.memory_guard_size(0);
    config.memory_reservation_for_growth(0);
    config.guard_before_linear_memory(false);
    config.memory_init_cow(false);
    config.epoch_interruption(true);
    config.with_host_memory(Arc::new(Memories));
    config.max_wasm_stack(stack_bytes);
    config.async_stack_size(stack_bytes + HOST_STACK_BYTES);
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

/// Compiles a component for all engines here.
pub(crate) fn precompile(component: &[u8]) -> wasmtime::Result<Vec<u8>> {
    Engine::new(&config(WASM_STACK_BYTES))?.precompile_component(component)
}

/// Increments the epoch until the engine is gone, on a thread of its own: guests may occupy all
/// others.
fn count_epochs(engine: &Engine, tick: Duration, guests: Guests) -> io::Result<()> {
    let engine = engine.weak();
    std::thread::Builder::new()
        .name("epoch".to_owned())
        .spawn(move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                guests.sweep();
                std::thread::sleep(tick);
            }
        })?;
    Ok(())
}

/// The call stack of guests for a limit: the next power of two, so that there are few kinds of engines.
fn stack_bytes(limit: u64) -> usize {
    usize::try_from(limit.next_power_of_two()).unwrap_or(usize::MAX)
}

/// Call stack of a guest, unless its module says otherwise. In the direct lane it lies on the thread's
/// own stack; one that is larger is for threads that are made for that.
pub(crate) const WASM_STACK_BYTES: usize = 1 << 20;
/// What host functions may need below it. Only what is touched takes memory.
const HOST_STACK_BYTES: usize = 256 << 10;
