//! One resource on its owner: its instance, its queue, and what drives it where it should be.
//!
//! What should be (`Want`) is set from outside; a driver, running only while there is something to
//! do, brings about what is. The instance sits behind the resource's own lock: whoever holds it
//! runs the one call of the moment, so that a call costs no task and no channel. Only the driver
//! and a call that finds its instance dead empty the lock.
//!
//! Absent: ownership. That this node may run the resource was decided before `Want` says so.

mod call;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use holdfast_cluster::state::Version;
use holdfast_model::{
    ModuleName, ResourceId, Spec, Token,
    api::{FailureKind, LastError, ResourceStatus},
};
use holdfast_runtime::{Failure, Instance, ManagedResource, TerminateReason};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::Instant,
};
use tracing::{Instrument, debug, info_span, warn};

pub(in crate::dispatch) use self::call::Called;
use super::backoff;
use crate::{clock::now_ms, modules::Modules};

/// What the entries of a node share.
pub(super) struct Host {
    pub(super) modules: Modules,
    /// Entries that have ended, for the engine.
    pub(super) ended: mpsc::Sender<(ModuleName, ResourceId)>,
}

/// A resource that this node runs, starts or ends.
pub(super) struct Entry {
    module: ModuleName,
    id: ResourceId,
    /// Bounds how many instances of the module start or stop at once.
    starts: Arc<Semaphore>,
    cell: tokio::sync::Mutex<Option<Instance>>,
    waiting: AtomicU32,
    mind: Mutex<Mind>,
    changed: Notify,
}

/// What a resource is to be run with.
#[derive(Clone)]
pub(super) struct Run {
    pub(super) token: Token,
    pub(super) revision: u64,
    pub(super) spec: Spec,
    pub(super) version: Arc<Version>,
}

impl Run {
    fn kind(&self) -> Kind {
        Kind {
            token: self.token,
            revision: self.revision,
            number: self.version.number,
        }
    }
}

/// What an instance was made for. A newer token too makes it another: in between, the resource may
/// have been another node's.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind {
    token: Token,
    revision: u64,
    number: u64,
}

#[derive(Clone)]
enum Want {
    Run(Run),
    End(TerminateReason),
    /// End at once, without any hook.
    Drop,
}

struct Mind {
    want: Want,
    /// What the instance in the cell was made for.
    runs: Option<Kind>,
    status: ResourceStatus,
    driving: bool,
    /// Failures in a row.
    failures: u32,
    restarts: u32,
    retry_at: Option<Instant>,
    held_since: Option<(Instant, u64)>,
    last_error: Option<LastError>,
}

/// What an entry tells about itself.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Report {
    pub(crate) status: ResourceStatus,
    pub(crate) attempt: u32,
    pub(crate) restarts: u32,
    pub(crate) held_since_ms: Option<u64>,
    pub(crate) last_error: Option<LastError>,
    pub(crate) version: Option<u64>,
    pub(crate) in_flight: u32,
    pub(crate) waiting: u32,
}

impl Entry {
    pub(super) fn new(module: ModuleName, id: ResourceId, starts: Arc<Semaphore>) -> Arc<Self> {
        let mind = Mind {
            want: Want::End(TerminateReason::Removed),
            runs: None,
            status: ResourceStatus::Starting,
            driving: false,
            failures: 0,
            restarts: 0,
            retry_at: None,
            held_since: None,
            last_error: None,
        };
        Arc::new(Self {
            module,
            id,
            starts,
            cell: tokio::sync::Mutex::new(None),
            waiting: AtomicU32::new(0),
            mind: Mutex::new(mind),
            changed: Notify::new(),
        })
    }

    pub(super) fn id(&self) -> &ResourceId {
        &self.id
    }

    /// The resource is to run so.
    pub(super) fn run(self: &Arc<Self>, host: &Arc<Host>, run: Run) {
        let mut mind = self.mind.lock();
        let same = match &mind.want {
            Want::Run(known) => known.kind() == run.kind(),
            Want::End(_) | Want::Drop => false,
        };
        if !same {
            // Another spec or version deserves a fresh start.
            (mind.failures, mind.retry_at) = (0, None);
            if mind.runs.is_none() {
                mind.status = ResourceStatus::Starting;
            }
        }
        mind.want = Want::Run(run);
        self.wake(host, &mut mind);
    }

    /// The resource is to end, with its `terminate` hook.
    pub(super) fn end(self: &Arc<Self>, host: &Arc<Host>, reason: TerminateReason) {
        let mut mind = self.mind.lock();
        mind.want = Want::End(reason);
        mind.status = match reason {
            TerminateReason::Moved => ResourceStatus::Moving,
            _ => ResourceStatus::Stopping,
        };
        self.wake(host, &mut mind);
    }

    /// The resource is to end at once, without any hook.
    pub(super) fn drop_now(self: &Arc<Self>, host: &Arc<Host>) {
        let mut mind = self.mind.lock();
        mind.want = Want::Drop;
        mind.status = ResourceStatus::Stopping;
        self.wake(host, &mut mind);
    }

    /// Whether nothing runs, and nothing is to.
    pub(super) fn has_ended(&self) -> bool {
        let mind = self.mind.lock();
        mind.runs.is_none() && !mind.driving && !matches!(mind.want, Want::Run(_))
    }

    pub(super) fn report(&self) -> Report {
        let mind = self.mind.lock();
        Report {
            status: mind.status,
            attempt: mind.failures + 1,
            restarts: mind.restarts,
            held_since_ms: mind.held_since.map(|(_, at_ms)| at_ms),
            last_error: mind.last_error.clone(),
            version: mind.runs.map(|kind| kind.number),
            in_flight: u32::from(mind.runs.is_some() && self.cell.try_lock().is_err()),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }

    pub(super) fn status(&self) -> ResourceStatus {
        self.mind.lock().status
    }

    /// Waits until the resource is held, set aside, or ends; gives its status then.
    pub(super) async fn settled(&self) -> ResourceStatus {
        loop {
            let changed = self.changed.notified();
            let status = self.status();
            if !matches!(status, ResourceStatus::Starting | ResourceStatus::Failed) {
                return status;
            }
            changed.await;
        }
    }

    /// The resource is to run with one version instead of another, if it is to run here, and with
    /// that other one, at all: only the engine says whether it is. False when it is not.
    pub(super) fn switch(
        self: &Arc<Self>,
        host: &Arc<Host>,
        from: &Version,
        to: &Arc<Version>,
    ) -> bool {
        let mut mind = self.mind.lock();
        let run = match &mut mind.want {
            Want::Run(run) if run.version.number == from.number => run,
            _ => return false,
        };
        run.version = Arc::clone(to);
        (mind.failures, mind.retry_at) = (0, None);
        if mind.runs.is_none() {
            mind.status = ResourceStatus::Starting;
        }
        self.wake(host, &mut mind);
        true
    }

    /// Waits for the outcome of the first attempt to run this version; none when it is not to be
    /// run any more.
    pub(super) async fn tried(&self, number: u64) -> Option<Result<(), String>> {
        loop {
            let changed = self.changed.notified();
            {
                let mind = self.mind.lock();
                let wanted = match &mind.want {
                    Want::Run(run) => run.version.number == number,
                    Want::End(_) | Want::Drop => false,
                };
                if !wanted {
                    return None;
                }
                if mind.runs.is_some_and(|kind| kind.number == number) {
                    return Some(Ok(()));
                }
                if mind.failures > 0 {
                    let error = mind.last_error.as_ref().map(|error| error.message.clone());
                    return Some(Err(error.unwrap_or_default()));
                }
            }
            changed.await;
        }
    }

    /// The instance ended by itself, during a call.
    fn died(self: &Arc<Self>, host: &Arc<Host>, failure: Option<&Failure>) {
        let mut mind = self.mind.lock();
        if let Some(failure) = failure {
            warn!(module = %self.module, resource.id = %self.id, error = %failure, "the instance died");
            mind.last_error = Some(last_error(failure));
        }
        if mind
            .held_since
            .is_some_and(|(since, _)| since.elapsed() > backoff::FORGIVEN_AFTER)
        {
            mind.failures = 0;
        }
        mind.runs = None;
        mind.held_since = None;
        mind.restarts += 1;
        self.failed(&mut mind, false);
        self.wake(host, &mut mind);
    }

    fn failed(&self, mind: &mut Mind, fatal: bool) {
        mind.failures += 1;
        if !matches!(mind.want, Want::Run(_)) {
            return;
        }
        if fatal {
            mind.status = ResourceStatus::Quarantined;
            mind.retry_at = None;
        } else {
            mind.status = ResourceStatus::Failed;
            mind.retry_at = Some(Instant::now() + backoff::pause(mind.failures));
        }
    }

    /// Tells those who wait, and sees that a driver runs.
    fn wake(self: &Arc<Self>, host: &Arc<Host>, mind: &mut Mind) {
        self.changed.notify_waiters();
        if !mind.driving {
            mind.driving = true;
            let span = info_span!("resource", module = %self.module, resource.id = %self.id);
            // The driver ends by itself once what is equals what should be.
            tokio::spawn(Arc::clone(self).drive(Arc::clone(host)).instrument(span));
        }
    }

    async fn drive(self: Arc<Self>, host: Arc<Host>) {
        loop {
            // Listens before it looks, so that no change of the want goes unseen.
            let changed = self.changed.notified();
            match self.next_step() {
                None => break,
                Some(Step::Start(run)) => self.start(&host, run).await,
                Some(Step::Stop(reason)) => self.stop(reason).await,
                Some(Step::Wait(until)) => {
                    let _ = tokio::time::timeout_at(until, changed).await;
                }
            }
        }
        let ended = !matches!(self.mind.lock().want, Want::Run(_));
        if ended {
            // The engine is gone only when the node stops, and then nobody counts any more.
            let _ = host
                .ended
                .send((self.module.clone(), self.id.clone()))
                .await;
        }
    }

    /// What to do next; none when nothing is left, and then this driver is none any more.
    fn next_step(&self) -> Option<Step> {
        let mut mind = self.mind.lock();
        let step = match (&mind.want, mind.runs) {
            (Want::Drop, Some(_)) => Some(Step::Stop(None)),
            (Want::End(reason), Some(_)) => Some(Step::Stop(Some(*reason))),
            (Want::End(_) | Want::Drop, None) => None,
            (Want::Run(run), Some(kind)) => {
                (run.kind() != kind).then_some(Step::Stop(Some(TerminateReason::Upgraded)))
            }
            (Want::Run(_), None) if mind.status == ResourceStatus::Quarantined => None,
            (Want::Run(run), None) => match mind.retry_at {
                Some(at) if at > Instant::now() => Some(Step::Wait(at)),
                _ => Some(Step::Start(run.clone())),
            },
        };
        mind.driving = step.is_some();
        step
    }

    async fn start(self: &Arc<Self>, host: &Arc<Host>, run: Run) {
        let permit = self.starts.acquire().await;
        let attempt = {
            let mut mind = self.mind.lock();
            mind.status = ResourceStatus::Starting;
            mind.failures + 1
        };
        let started = self.instantiate(host, &run, attempt).await;
        drop(permit);
        match started {
            Ok(instance) => {
                let mut cell = self.cell.lock().await;
                let mut mind = self.mind.lock();
                mind.runs = Some(run.kind());
                mind.held_since = Some((Instant::now(), now_ms()));
                mind.retry_at = None;
                if matches!(mind.want, Want::Run(_)) {
                    mind.status = ResourceStatus::Held;
                }
                *cell = Some(instance);
                debug!(token = %run.token, "held");
            }
            Err((error, fatal)) => {
                warn!(
                    attempt,
                    fatal,
                    error = error.message,
                    "the resource could not be started"
                );
                let mut mind = self.mind.lock();
                mind.last_error = Some(error);
                // Meant for what is wanted no more: the next step starts afresh.
                let current = match &mind.want {
                    Want::Run(want) => want.kind() == run.kind(),
                    Want::End(_) | Want::Drop => true,
                };
                if current {
                    self.failed(&mut mind, fatal);
                }
            }
        }
        self.changed.notify_waiters();
    }

    async fn instantiate(
        &self,
        host: &Host,
        run: &Run,
        attempt: u32,
    ) -> Result<Instance, (LastError, bool)> {
        let module = host
            .modules
            .get(&self.module, &run.version)
            .await
            .map_err(|error| {
                let message = crate::modules::chain(&error);
                (
                    LastError {
                        message,
                        at_ms: now_ms(),
                        kind: FailureKind::Instance,
                    },
                    false,
                )
            })?;
        let resource = ManagedResource {
            id: self.id.clone(),
            spec: run.spec.clone(),
            token: run.token,
            attempt,
        };
        let failed =
            |failure: Failure| (last_error(&failure), matches!(failure, Failure::Fatal(_)));
        let mut instance = module.instantiate(resource).await.map_err(failed)?;
        instance.handle().await.map_err(failed)?;
        Ok(instance)
    }

    async fn stop(&self, reason: Option<TerminateReason>) {
        // Behind every call that was admitted before.
        let mut cell = self.cell.lock().await;
        let instance = cell.take();
        drop(cell);
        if let (Some(mut instance), Some(reason)) = (instance, reason) {
            let _permit = self.starts.acquire().await;
            if let Err(failure) = instance.terminate(reason).await {
                warn!(?reason, error = %failure, "terminate failed");
                self.mind.lock().last_error = Some(last_error(&failure));
            }
        }
        let mut mind = self.mind.lock();
        mind.runs = None;
        mind.held_since = None;
        if matches!(mind.want, Want::Run(_)) {
            mind.status = ResourceStatus::Starting;
        }
        drop(mind);
        self.changed.notify_waiters();
    }
}

enum Step {
    Start(Run),
    Stop(Option<TerminateReason>),
    Wait(Instant),
}

fn last_error(failure: &Failure) -> LastError {
    let kind = match failure {
        Failure::Retry(_)
        | Failure::Refused { .. }
        | Failure::AnswerTooLarge { .. }
        | Failure::BadContentType { .. } => FailureKind::Retry,
        Failure::Fatal(_) => FailureKind::Fatal,
        Failure::Trapped { .. } | Failure::OutOfMemory { .. } => FailureKind::Trap,
        Failure::TimedOut(_) => FailureKind::Timeout,
        Failure::NotInvocable | Failure::Dead | Failure::TooManyFibers { .. } => {
            FailureKind::Instance
        }
    };
    LastError {
        message: failure.to_string(),
        at_ms: now_ms(),
        kind,
    }
}
