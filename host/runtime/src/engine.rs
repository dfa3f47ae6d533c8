//! The runtime of one node: engine, compiler, linkers and the epoch clock.

use std::{collections::HashSet, io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use holdfast_model::{Digest, Lane, ModuleName, Settings};
use wasmtime::{Config, Engine, WasmBacktraceDetails, component::Linker};

use crate::{
    capability::{self, http},
    compile::{Cache, Compiler},
    fence::Fences,
    fibers::Fibers,
    inspect::{self, LoadError},
    journal::{GuestLogSink, Metered, TracingSink},
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
    /// Until when instances may act. Default: always.
    pub fences: Fences,
    /// Takes what guests say.
    pub log: Arc<dyn GuestLogSink>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_dir: None,
            component_bytes_max: 32 << 20,
            compile_parallelism: 2,
            compile_timeout: Duration::from_secs(120),
            epoch_tick: Duration::from_millis(10),
            fibers_max: None,
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
    direct: Linker<State>,
    fiber: Linker<State>,
    http: Arc<http::Client>,
    fibers: Arc<Fibers>,
}

impl Runtime {
    /// Sets up a runtime.
    ///
    /// # Errors
    /// When the engine, the cache folder or the epoch thread cannot be had.
    pub fn new(options: Options) -> Result<Self, NewError> {
        let failed = |error: wasmtime::Error| NewError::Engine(format!("{error:#}"));
        let engine = Engine::new(&config()).map_err(failed)?;
        let direct = capability::linker(&engine, Lane::Direct).map_err(failed)?;
        let fiber = capability::linker(&engine, Lane::Fiber).map_err(failed)?;
        let cache = match options.cache_dir.clone() {
            Some(path) => match Cache::open(path.clone(), &engine) {
                Ok(cache) => Some(cache),
                Err(source) => return Err(NewError::Cache { path, source }),
            },
            None => None,
        };
        count_epochs(&engine, options.epoch_tick).map_err(NewError::Thread)?;
        let log = Arc::new(Metered::new(options.log));
        let options = Options { log, ..options };
        let compiler = Compiler::new(
            engine,
            cache,
            options.compile_parallelism,
            options.compile_timeout,
        );
        Ok(Self(Arc::new(Inner {
            fibers: Arc::new(Fibers::new(options.fibers_max)),
            http: Arc::new(http::Client::new()),
            options,
            compiler,
            direct,
            fiber,
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
        let Inner { options, .. } = &*self.0;
        inspect::envelope(&component, options.component_bytes_max)?;
        let compiled = self.0.compiler.component(component, digest).await?;
        let component = compiled.component();
        let found = inspect::component(component)?;
        let lane = found.lane(settings);
        let linker = match lane {
            Lane::Direct => &self.0.direct,
            Lane::Fiber => &self.0.fiber,
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
        };
        let module = Module::new(grounds, digest, compiled, pre, found);
        module.try_out().await?;
        Ok(module)
    }

    /// Removes the compiled form of all components but these from the cache, unless it is younger
    /// than `age`: such a one may belong to a deployment under way. Modules that are loaded keep
    /// running.
    pub async fn retain(&self, used: HashSet<Digest>, age: Duration) {
        self.0.compiler.retain(used, age).await;
    }
}

/// Measured for many resident instances: see `benches/calls.rs`.
fn config() -> Config {
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
    config.max_wasm_stack(WASM_STACK_BYTES);
    config.async_stack_size(FIBER_STACK_BYTES);
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

/// Increments the epoch until the engine is gone, on a thread of its own: guests may occupy all
/// others.
fn count_epochs(engine: &Engine, tick: Duration) -> io::Result<()> {
    let engine = engine.weak();
    std::thread::Builder::new()
        .name("epoch".to_owned())
        .spawn(move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(tick);
            }
        })?;
    Ok(())
}

/// Call stack of a guest. In the direct lane it lies on the thread's own stack of 2 MiB.
const WASM_STACK_BYTES: usize = 256 << 10;
/// The same with room for host functions. Only what is touched takes memory.
const FIBER_STACK_BYTES: usize = 512 << 10;
