//! Runs the resources that this node owns, and brings every call to where its resource is.
//!
//! A call looks up its resource among the node's own entries, else the owner of its slot, and runs
//! here or is forwarded once. A call that finds its resource on the move waits for a change of its
//! slot, or for some time; one that may have reached an owner is repeated only with an idempotency key.
//!
//! Invariants: nothing between a request and its handler waits for the control plane while the
//! resource is where the tables say; a resource is called unknown only after a read of the state
//! that is current (a read index); no call outlives its deadline.

mod backoff;
mod engine;
mod entry;
mod forward;
mod rollout;
mod status;
mod table;
mod turns;
mod waiters;

use std::{borrow::Cow, sync::Arc, time::Duration};

use holdfast_cluster::state::Owner;
use holdfast_model::{
    ModuleName, NodeId, ResourceId, Settings,
    call::{self, Request, Response},
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{
    engine::Engine,
    entry::{Called, Host},
    rollout::Others,
    table::{Table, Tables},
    turns::NodeTurns,
    waiters::{LookAgain, Waiters},
};
pub(crate) use self::{
    entry::Report,
    forward::{CALL, answer_call},
    rollout::CompiledYet,
    status::{AwaitHeld, Counts, CountsOf, Reports},
};
use crate::{
    control::Control,
    events::Teller,
    metrics::Metrics,
    modules::Modules,
    peer::Peers,
    placement::{Lease, Placement},
    start_faults::StartFaults,
    traces::{Scope, Traces},
};

/// Calls and the state of resources, on any node. Cheap to clone.
#[derive(Clone)]
pub struct Dispatch(Arc<Inner>);

struct Inner {
    me: Owner,
    shared: Arc<Shared>,
    control: Control,
    peers: Peers,
    traces: Traces,
    lease: watch::Receiver<Lease>,
    given_up: CancellationToken,
    placement: Placement,
}

/// What the engine writes and calls read.
struct Shared {
    tables: Tables,
    host: Arc<Host>,
    /// Counts the engine's passes over changes of the state.
    view: watch::Sender<u64>,
    waiters: Waiters,
}

/// What a dispatch needs of its node.
pub struct Parts {
    /// This run of the node.
    pub me: Owner,
    /// The state.
    pub control: Control,
    /// Who calls are forwarded to.
    pub peers: Peers,
    /// Components.
    pub modules: Modules,
    /// Who is told what becomes of instances.
    pub teller: Teller,
    /// Who counts.
    pub metrics: Metrics,
    /// What follows calls.
    pub traces: Traces,
    /// What could not be started for reasons of the node's.
    pub start_faults: StartFaults,
    /// The node's lease.
    pub lease: watch::Receiver<Lease>,
    /// About how many instances start at once at most.
    pub starts_max: u32,
    /// Who else answers.
    pub placement: Placement,
}

/// The task behind a [`Dispatch`].
pub struct Running {
    engine: Engine,
    ended: mpsc::Receiver<(ModuleName, ResourceId)>,
}

impl Running {
    /// Follows the state until stopped; then ends every resource of this node. Gives how many could
    /// not be ended in time: they still run.
    pub async fn run(self, stop: CancellationToken) -> usize {
        self.engine.run(self.ended, stop).await
    }
}

/// An answer, and the node that gave it.
#[derive(Debug)]
pub struct Answer {
    /// The handler's answer.
    pub response: Response,
    /// Where the handler ran.
    pub node: NodeId,
}

/// Where a call may go.
enum Attempt {
    Answered(NodeId, Result<Response, call::Error>),
    /// It had no effect; the view is about to change, or has.
    Elsewhere(&'static str),
    /// Its owner was lost meanwhile. It may have had its effect, and may be repeated all the same:
    /// it has an idempotency key.
    Lost,
}

impl Dispatch {
    /// Makes the dispatch of a node, and the task that must run for it.
    #[must_use]
    pub fn new(parts: Parts) -> (Self, Running) {
        let Parts {
            me,
            control,
            peers,
            modules,
            teller,
            metrics,
            traces,
            start_faults,
            lease,
            starts_max,
            placement,
        } = parts;
        let (ended, receiver) = mpsc::channel(ENDED_CAPACITY);
        let host = Host {
            modules,
            teller,
            traces: traces.clone(),
            start_faults,
            ended,
        };
        let shared = Arc::new(Shared {
            tables: Tables::new(NodeTurns::new(starts_max), metrics),
            host: Arc::new(host),
            view: watch::Sender::new(0),
            waiters: Waiters::default(),
        });
        let others = Others {
            peers: peers.clone(),
            placement: placement.clone(),
        };
        let engine = Engine::new(
            me,
            Arc::clone(&shared),
            control.clone(),
            lease.clone(),
            others,
        );
        let dispatch = Self(Arc::new(Inner {
            me,
            shared,
            control,
            peers,
            traces,
            lease,
            given_up: CancellationToken::new(),
            placement,
        }));
        (
            dispatch,
            Running {
                engine,
                ended: receiver,
            },
        )
    }

    /// The settings of a module's serving version, if the module exists here.
    #[must_use]
    pub fn settings(&self, module: &str) -> Option<Arc<Settings>> {
        let table = self.0.shared.tables.get(module)?;
        Some(Arc::clone(&table.serving.load().settings))
    }

    /// Calls a resource, wherever it is. The scope is what the call belongs to.
    ///
    /// # Errors
    /// [`call::Error`] says for each kind whether the request may have had an effect.
    pub async fn invoke(
        &self,
        module: &ModuleName,
        id: &ResourceId,
        request: Request,
        scope: &Scope,
    ) -> Result<Answer, call::Error> {
        let began = Instant::now();
        let mut lost = false;
        let brought = tokio::select! {
            biased;
            brought = self.bring(module, id, request, scope, &mut lost) => brought,
            () = self.over() => Err(call::Error::Interrupted),
        };
        let result = match brought {
            // True of the last attempt only.
            Err(call::Error::Unavailable { .. } | call::Error::QueueFull { .. }) if lost => {
                Err(call::Error::Interrupted)
            }
            result => result,
        };
        // What is asked of modules that do not exist is for everybody to choose, and not counted.
        if let Some(table) = self.0.shared.tables.get(module.as_str()) {
            table
                .calls
                .count(result.as_ref().map(drop), began.elapsed());
        }
        result
    }

    /// Waits until this run of the node may not run anything any more: it is about to end, and what
    /// becomes of the calls that it has is for the next one to ask.
    pub(crate) async fn over(&self) {
        let mut lease = self.0.lease.clone();
        tokio::select! {
            Ok(_) = lease.wait_for(|lease| *lease == Lease::Over) => {}
            () = self.0.given_up.cancelled() => {}
        }
    }

    /// Says that this run may not run anything any more, whatever its lease says.
    pub(crate) fn give_up(&self) {
        self.0.given_up.cancel();
    }

    /// Brings a call to its resource, again and again while it may be; notes whether an owner was
    /// lost that may have worked on it.
    async fn bring(
        &self,
        module: &ModuleName,
        id: &ResourceId,
        request: Request,
        scope: &Scope,
        lost: &mut bool,
    ) -> Result<Answer, call::Error> {
        let deadline = Instant::now() + request.timeout;
        let mut known = false;
        let mut place = None;
        let mut look_again = LookAgain::new();
        loop {
            let table = self.0.shared.tables.get(module.as_str());
            // Before the attempt, so that no change during it is missed.
            let seen = table.as_ref().map(|table| table.changes(id.slot()));
            let attempt = match &table {
                Some(table) => self.attempt(table, id, &request, deadline, scope).await,
                None => Attempt::Elsewhere("its module is not known here yet"),
            };
            let why = match attempt {
                Attempt::Answered(node, result) => {
                    return result.map(|response| Answer { response, node });
                }
                Attempt::Elsewhere(why) => why,
                Attempt::Lost => {
                    *lost = true;
                    "its owner was lost during the call"
                }
            };
            if !known {
                self.exists(module, id, deadline).await?;
                known = true;
            }
            // Without a majority nobody takes it over.
            if let Some(quorum) = self.0.placement.lost_quorum() {
                return Err(unavailable(format!("{why}, and {quorum}")));
            }
            if deadline <= Instant::now() {
                return Err(unavailable(why));
            }
            if place.is_none() {
                let entered = self.0.shared.waiters.enter(request.body.len());
                place = Some(entered.map_err(|full| unavailable(format!("{why}, and {full}")))?);
            }
            // Looks again by itself as well: what matters may have changed on another node only.
            let until = deadline.min(Instant::now() + look_again.next());
            let changed = async {
                match table.as_ref().zip(seen) {
                    Some((table, seen)) => table.await_change(id.slot(), seen).await,
                    None => self.await_view().await,
                }
            };
            if tokio::time::timeout_at(until, changed).await.is_ok() {
                look_again.reset();
            }
        }
    }

    /// Waits for the next change of the view: its module may be known then.
    async fn await_view(&self) {
        let mut view = self.0.shared.view.subscribe();
        // It is held by `self`.
        let _ = view.changed().await;
    }

    async fn attempt(
        &self,
        table: &Table,
        id: &ResourceId,
        request: &Request,
        deadline: Instant,
        scope: &Scope,
    ) -> Attempt {
        if let Some(called) = self
            .call_here(table, id, Cow::Borrowed(request), deadline, scope)
            .await
        {
            return match called {
                Called::Answered(result) => Attempt::Answered(self.0.me.node, result),
                Called::NotHere => Attempt::Elsewhere("the resource is on the move"),
            };
        }
        match self.0.shared.tables.route(table, id.slot()) {
            Some(owner) if owner != self.0.me.node => {
                let peers = &self.0.peers;
                forward::call(peers, owner, &table.name, id, request, deadline, scope).await
            }
            Some(_) => Attempt::Elsewhere("the resource is about to start"),
            None => Attempt::Elsewhere("no node owns the resource now"),
        }
    }

    /// Calls a resource on this node; none when it is not here.
    async fn call_here(
        &self,
        table: &Table,
        id: &ResourceId,
        request: Cow<'_, Request>,
        deadline: Instant,
        scope: &Scope,
    ) -> Option<Called> {
        let entry = table.entries.pin().get(id).cloned()?;
        let serving = table.serving.load();
        if serving.invocable == Some(false) {
            let error = call::Error::NotInvocable(table.name.to_string());
            return Some(Called::Answered(Err(error)));
        }
        let queue_calls_max = serving.settings.limits.queue_calls_max;
        drop(serving);
        let host = &self.0.shared.host;
        let request = request.into_owned();
        let called = entry.call(host, queue_calls_max, request, deadline, scope);
        Some(called.await)
    }

    /// Makes sure that a resource exists, in a state that is current.
    async fn exists(
        &self,
        module: &ModuleName,
        id: &ResourceId,
        deadline: Instant,
    ) -> Result<(), call::Error> {
        let look = || {
            self.0.control.read(|state| {
                let Some(found) = state.modules().get(module) else {
                    return Err(call::Error::UnknownModule(module.to_string()));
                };
                if found.resources.contains_key(id) {
                    return Ok(());
                }
                Err(call::Error::UnknownResource(format!("{module}/{id}")))
            })
        };
        if look().is_ok() {
            return Ok(());
        }
        // This node may lag behind an allocation that was acknowledged elsewhere.
        if let Some(quorum) = self.0.placement.lost_quorum() {
            let why =
                format!("it is not known here, and whether it exists cannot be said: {quorum}");
            return Err(unavailable(why));
        }
        let limit = deadline.min(Instant::now() + READ_INDEX);
        match self.0.control.read_index(limit.into_std()).await {
            Ok(()) => look(),
            Err(_) => Err(unavailable(
                "the cluster has no leader to ask whether it exists",
            )),
        }
    }
}

fn unavailable(why: impl Into<String>) -> call::Error {
    call::Error::Unavailable {
        reason: why.into(),
        retry_after: RETRY_AFTER,
    }
}

/// How many ends of resources may wait for the engine; drivers wait when it is full.
const ENDED_CAPACITY: usize = 1024;

/// How long a read index may take before its asker is told to try again.
const READ_INDEX: Duration = Duration::from_secs(5);

/// What callers are told when nobody holds the resource now.
const RETRY_AFTER: Duration = Duration::from_secs(1);
