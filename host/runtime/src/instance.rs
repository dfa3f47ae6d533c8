//! One instance: the live component of one resource, and its calls.
//!
//! Invariant: calls never overlap (`&mut self`), and after a call that trapped, timed out or was
//! dropped midway the instance answers [`Failure::Dead`] only.

use std::{
    sync::Arc,
    time::{Duration, Instant as Moment, SystemTime, UNIX_EPOCH},
};

use holdfast_model::{
    Lane, Limits, ModuleName, ResourceId, Spec, Token,
    call::{self, Refusal},
};
use wasmtime::{
    Store,
    component::{self, ComponentNamedList, Lift, Lower, TypedFunc},
};

use crate::{
    bindings::{self, HandlerError, InvocationError, TerminateReason},
    budget::{Stop, on_tick, until_over},
    engine::WASM_STACK_BYTES,
    failure::{CONTENT_TYPE_BYTES_MAX, Failure, cut},
    follow::Follow,
    guests::Tenant,
    inspect::{Export, Found, LoadError},
    module::{self, Grounds},
    state::State,
};

/// The resource that an instance is for.
#[derive(Clone, Debug)]
pub struct ManagedResource {
    /// Its id within the module.
    pub id: ResourceId,
    /// What it is to do.
    pub spec: Spec,
    /// Its fencing token.
    pub token: Token,
    /// How often `handle` was tried in a row, this time included.
    pub attempt: u32,
}

/// The live component of one resource.
pub struct Instance {
    store: Store<State>,
    handle: bindings::Handle,
    terminate: bindings::Terminate,
    invoke: Option<bindings::Invoke>,
    dead: bool,
}

impl Instance {
    pub(crate) async fn start(
        module: &module::Inner,
        grounds: Arc<Grounds>,
        resource: ManagedResource,
        stop: Stop,
    ) -> Result<Self, Failure> {
        let started = Started::new(module, grounds, resource, stop).await?;
        Ok(started
            .bind(&module.found)
            .expect("signatures belong to the component, and were compared when it was loaded"))
    }

    /// Calls `handle`. It has `limits.handle_timeout_ms`.
    ///
    /// # Errors
    /// What the handler answered, or how it failed. After [`Failure::Retry`] and
    /// [`Failure::Fatal`] the instance is to be dropped too: `handle` is called once.
    pub async fn handle(&mut self) -> Result<(), Failure> {
        let time = Duration::from_millis(self.grounds().limits.handle_timeout_ms);
        let (name, resource) = self.resource_and_module();
        let result = self.call(time, self.handle, (lend(&name, &resource),));
        result.await?.map_err(handler_failure)
    }

    /// Calls `terminate`. It has `limits.terminate_timeout_ms`. Whatever comes back, the instance
    /// is to be dropped afterwards.
    ///
    /// # Errors
    /// What the handler answered, or how it failed.
    pub async fn terminate(&mut self, reason: TerminateReason) -> Result<(), Failure> {
        let time = Duration::from_millis(self.grounds().limits.terminate_timeout_ms);
        let (name, resource) = self.resource_and_module();
        let result = self.call(time, self.terminate, (lend(&name, &resource), reason));
        result.await?.map_err(handler_failure)
    }

    /// Calls `invoke`. It has `limits.call_timeout_ms`. That its caller may wait for less, for
    /// `request.timeout`, is told to the handler and no more: an impatient caller must not cost
    /// the resource its instance.
    ///
    /// In the direct lane the future is ready at its first poll.
    ///
    /// # Errors
    /// What the handler answered, or how it failed.
    pub async fn invoke(&mut self, request: &call::Request) -> Result<call::Response, Failure> {
        let invoke = self.invoke.ok_or(Failure::NotInvocable)?;
        let limits = &self.grounds().limits;
        let max = limits.body_bytes_max;
        let time = Duration::from_millis(limits.call_timeout_ms);
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let awaited = request.timeout.min(time);
        let deadline = since_epoch.unwrap_or_default().saturating_add(awaited);
        let request = bindings::Request {
            id: &request.id,
            created_at: request.created_at_ms,
            deadline: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            idempotency_key: request.idempotency_key.as_deref(),
            content_type: request.content_type.as_deref(),
            body: &request.body,
        };
        match self.call(time, invoke, (request,)).await? {
            Ok(response) if response.body.len() as u64 > max => Err(Failure::AnswerTooLarge {
                len: response.body.len() as u64,
                max,
            }),
            Ok(response) if !is_sendable(response.content_type.as_deref()) => {
                Err(Failure::BadContentType {
                    len: response.content_type.map_or(0, |text| text.len()),
                })
            }
            Ok(response) => Ok(call::Response {
                content_type: response.content_type,
                body: response.body.into(),
            }),
            Err(error) => Err(refusal(error)),
        }
    }

    /// Whether an earlier call left the instance unusable.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// The resource that it is for.
    #[must_use]
    pub fn resource(&self) -> &ManagedResource {
        &self.store.data().resource
    }

    /// From now on its calls end when this is set. A call that is waiting, which only the fiber
    /// lane can, ends by dropping its future.
    pub fn heed(&mut self, stop: Stop) {
        self.store.data_mut().budget.heed(stop);
    }

    /// Its calls are followed by this from now on, or by nobody.
    pub fn follow(&mut self, by: Option<Arc<dyn Follow>>) {
        self.store.data_mut().follow(by);
    }

    /// How its calls run.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.grounds().lane
    }

    /// Its module, as those see it who share out threads.
    #[must_use]
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.grounds().tenant
    }

    /// Whether its next call may begin on the thread that it came in on: the module is
    /// [trusted](Tenant::is_trusted) to compute little, and its call stack fits there.
    #[must_use]
    pub fn may_begin_here(&self) -> bool {
        let Grounds {
            tenant,
            limits,
            lane,
            ..
        } = self.grounds();
        let fits = *lane == Lane::Fiber || limits.stack_bytes_max <= WASM_STACK_BYTES as u64;
        fits && tenant.is_trusted()
    }

    /// The limits that it was made with.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.grounds().limits
    }

    fn grounds(&self) -> &Grounds {
        &self.store.data().grounds
    }

    /// Copies, since the store is lent to the call. Cheap: all of it is counted references.
    fn resource_and_module(&self) -> (ModuleName, ManagedResource) {
        (self.grounds().name.clone(), self.resource().clone())
    }

    async fn call<P, R>(
        &mut self,
        time: Duration,
        func: TypedFunc<P, (R,)>,
        params: P,
    ) -> Result<R, Failure>
    where
        P: ComponentNamedList + Lower + Send + Sync,
        (R,): ComponentNamedList + Lift + Send + Sync + 'static,
    {
        if self.dead {
            return Err(Failure::Dead);
        }
        if self.grounds().fence.is_shut() {
            return Err(Failure::Fenced);
        }
        // It stays so unless the call comes to its end: the future may be dropped.
        self.dead = true;
        begin_call(&mut self.store, time);
        let result = match self.store.data().grounds.lane {
            Lane::Direct => {
                let result = func.call(&mut self.store, params);
                self.store.data_mut().budget.end_call();
                result
            }
            Lane::Fiber => {
                let clock = self.store.data().budget.clock();
                let call = func.call_async(&mut self.store, params);
                match until_over(clock, call).await {
                    Some(result) => result,
                    None => return Err(Failure::interrupted(self.store.data(), time)),
                }
            }
        };
        if self.grounds().fence.is_shut() {
            return Err(Failure::Cut);
        }
        match result {
            Ok((value,)) => {
                self.dead = false;
                Ok(value)
            }
            Err(error) => Err(Failure::of(&error, self.store.data(), time)),
        }
    }
}

/// An instance whose exports have not been looked up.
pub(crate) struct Started {
    store: Store<State>,
    instance: component::Instance,
}

impl Started {
    pub(crate) async fn new(
        module: &module::Inner,
        grounds: Arc<Grounds>,
        resource: ManagedResource,
        stop: Stop,
    ) -> Result<Self, Failure> {
        let (lane, pre) = (grounds.lane, &module.pre);
        let time = Duration::from_millis(grounds.limits.handle_timeout_ms);
        let fiber = match lane {
            Lane::Direct => None,
            Lane::Fiber => Some(grounds.fibers.admit()?),
        };
        let mut store = Store::new(pre.engine(), State::new(grounds, resource, fiber, stop));
        store.limiter(|state| &mut state.memory);
        store.epoch_deadline_callback(on_tick);
        begin_call(&mut store, time);
        let result = match lane {
            Lane::Direct => {
                let result = pre.instantiate(&mut store);
                store.data_mut().budget.end_call();
                result
            }
            Lane::Fiber => {
                let clock = store.data().budget.clock();
                let instantiate = pre.instantiate_async(&mut store);
                match until_over(clock, instantiate).await {
                    Some(result) => result,
                    None => return Err(Failure::interrupted(store.data(), time)),
                }
            }
        };
        match result {
            Ok(instance) => Ok(Self { store, instance }),
            Err(error) => Err(Failure::of_start(&error, store.data(), time)),
        }
    }

    /// Looks the exports up and compares their signatures.
    pub(crate) fn bind(mut self, found: &Found) -> Result<Instance, LoadError> {
        let handle = self.typed(&found.handle)?;
        let terminate = self.typed(&found.terminate)?;
        let invoke = found.invoke.as_ref();
        let invoke = invoke.map(|export| self.typed(export)).transpose()?;
        Ok(Instance {
            store: self.store,
            handle,
            terminate,
            invoke,
            dead: false,
        })
    }

    fn typed<P, R>(&mut self, export: &Export) -> Result<TypedFunc<P, R>, LoadError>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        self.instance
            .get_typed_func(&mut self.store, export.index)
            .map_err(|_| export.wrong_signature())
    }
}

/// Gives the guest `time` from now on.
fn begin_call(store: &mut Store<State>, time: Duration) {
    let deadline = Moment::now() + time;
    let state = store.data_mut();
    state.budget.begin_call(deadline);
    state.memory.begin_call();
    if let Some(journal) = state.journal_so_far() {
        journal.begin_call();
    }
    store.set_epoch_deadline(1);
}

fn lend<'a>(
    module: &'a ModuleName,
    resource: &'a ManagedResource,
) -> bindings::ManagedResource<'a> {
    bindings::ManagedResource {
        module: module.as_str(),
        id: resource.id.as_str(),
        spec: resource.spec.as_str(),
        token: resource.token.0,
        attempt: resource.attempt,
    }
}

fn handler_failure(error: HandlerError) -> Failure {
    match error {
        HandlerError::Retry(message) => Failure::Retry(cut(message)),
        HandlerError::Fatal(message) => Failure::Fatal(cut(message)),
    }
}

fn refusal(error: InvocationError) -> Failure {
    let (kind, message) = match error {
        InvocationError::Invalid(message) => (Refusal::Invalid, message),
        InvocationError::NotFound(message) => (Refusal::NotFound, message),
        InvocationError::Conflict(message) => (Refusal::Conflict, message),
        InvocationError::Unavailable(message) => (Refusal::Unavailable, message),
        InvocationError::Failed(message) => (Refusal::Failed, message),
    };
    Failure::Refused {
        kind,
        message: cut(message),
    }
}

fn is_sendable(content_type: Option<&str>) -> bool {
    content_type.is_none_or(|text| {
        text.len() <= CONTENT_TYPE_BYTES_MAX && http::HeaderValue::from_str(text).is_ok()
    })
}
