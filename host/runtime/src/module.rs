//! A component that is ready to run under a module's settings.

use std::{collections::BTreeMap, fmt, sync::Arc};

use holdfast_model::{Digest, Lane, Limits, ModuleName, Spec, Token, module::HttpGrant};
use wasmtime::component::InstancePre;

use crate::{
    budget::Stop,
    capability::http,
    compile::Compiled,
    failure::Failure,
    fence::Fence,
    fibers::Fibers,
    guests::Tenant,
    inspect::{Found, LoadError},
    instance::{Instance, ManagedResource, Started},
    journal::{GuestLog, GuestLogSink},
    memory::NodeMemory,
    state::State,
};

/// A component that is ready to run under a module's settings. Cheap to clone.
#[derive(Clone)]
pub struct Module(Arc<Inner>);

pub(crate) struct Inner {
    grounds: Arc<Grounds>,
    digest: Digest,
    pub(crate) pre: InstancePre<State>,
    pub(crate) found: Found,
    /// Kept so that other modules of the same digest share the machine code.
    _compiled: Arc<Compiled>,
}

/// What all instances of a module have in common.
pub(crate) struct Grounds {
    pub(crate) name: ModuleName,
    pub(crate) lane: Lane,
    pub(crate) limits: Limits,
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) grants: Arc<[HttpGrant]>,
    pub(crate) sink: Arc<dyn GuestLogSink>,
    pub(crate) http: Arc<http::Client>,
    pub(crate) http_share: Arc<http::Share>,
    pub(crate) fibers: Arc<Fibers>,
    pub(crate) fence: Fence,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) memory: Arc<NodeMemory>,
}

/// The optional interfaces that a module exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exports {
    /// `invocation`: its resources can be invoked.
    pub invocation: bool,
}

impl Module {
    pub(crate) fn new(
        grounds: Grounds,
        digest: Digest,
        compiled: Arc<Compiled>,
        pre: InstancePre<State>,
        found: Found,
    ) -> Self {
        Self(Arc::new(Inner {
            grounds: Arc::new(grounds),
            digest,
            pre,
            found,
            _compiled: compiled,
        }))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &ModuleName {
        &self.0.grounds.name
    }

    /// The lane of its calls.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.0.grounds.lane
    }

    /// The module, as those see it who share out threads.
    #[must_use]
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.0.grounds.tenant
    }

    /// The optional interfaces that it exports.
    #[must_use]
    pub fn exports(&self) -> Exports {
        Exports {
            invocation: self.0.found.invoke.is_some(),
        }
    }

    /// The names of what it imports, granted or not.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.0.found.imports
    }

    /// Digest of its component.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Makes the instance of a resource. The handler is not called yet.
    ///
    /// # Errors
    /// When the component's start functions trap, run out of memory or take longer than
    /// `limits.handle_timeout_ms`; in the fiber lane also when the node has no room for another.
    pub async fn instantiate(&self, resource: ManagedResource) -> Result<Instance, Failure> {
        self.instantiate_until(resource, Stop::default()).await
    }

    /// The same, for an instance that ends when `stop` is set; as if it [heeded](Instance::heed) it.
    ///
    /// # Errors
    /// The same, and when it was stopped.
    pub async fn instantiate_until(
        &self,
        resource: ManagedResource,
        stop: Stop,
    ) -> Result<Instance, Failure> {
        let grounds = self.0.grounds.clone();
        Instance::start(&self.0, grounds, resource, stop).await
    }

    /// Starts an instance once, to see that it fits its limits and signatures.
    pub(crate) async fn try_out(&self) -> Result<(), LoadError> {
        let grounds = Arc::new(Grounds {
            name: self.0.grounds.name.clone(),
            lane: self.0.grounds.lane,
            limits: self.0.grounds.limits.clone(),
            config: self.0.grounds.config.clone(),
            // A trial must have no effect outside.
            grants: Arc::default(),
            sink: Arc::new(Discard),
            http: self.0.grounds.http.clone(),
            http_share: self.0.grounds.http_share.clone(),
            fibers: self.0.grounds.fibers.clone(),
            // It is nobody's resource.
            fence: Fence::open(),
            tenant: self.0.grounds.tenant.clone(),
            memory: self.0.grounds.memory.clone(),
        });
        let resource = ManagedResource {
            id: "trial".parse().expect("a valid id"),
            spec: Spec::default(),
            token: Token(0),
            attempt: 1,
        };
        match Started::new(&self.0, grounds, resource, Stop::default()).await {
            Ok(started) => started.bind(&self.0.found).map(drop),
            Err(Failure::OutOfMemory { limit, asked, .. }) => Err(LoadError::MemoryAboveLimit {
                needed: asked,
                limit,
            }),
            Err(failure) => Err(LoadError::Start(failure)),
        }
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module")
            .field("name", self.name())
            .field("digest", &self.digest())
            .field("lane", &self.lane())
            .finish_non_exhaustive()
    }
}

struct Discard;

impl GuestLogSink for Discard {
    fn log(&self, _: &GuestLog<'_>) {}
}
