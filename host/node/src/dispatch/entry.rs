//! One resource on its owner: its instance, its queue, and what drives it where it should be.
//!
//! What should be (`Want`) is set from outside; a driver, running only while there is something to
//! do, brings about what is. The instance sits behind the resource's own lock: whoever holds it
//! runs the one call of the moment, so that a call costs no task and no channel.
//!
//! Invariants: `Mind::runs` says what is in the cell, and both change together, by whoever holds
//! the cell; the cell is taken before the mind. Only the driver fills the cell. An instance of a
//! former life is never called again, no hook included.
//!
//! Absent: ownership. That this node may run the resource was decided before `Want` says so.

mod call;
mod drive;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use holdfast_cluster::state::Version;
use holdfast_model::{
    ModuleName, ResourceId, Spec, Token,
    api::{FailureKind, LastError, ResourceStatus},
};
use holdfast_runtime::{Failure, Instance, Stop, TerminateReason};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tracing::warn;

pub(in crate::dispatch) use self::call::Called;
use super::{backoff, turns::Turns};
use crate::{
    clock::now_ms,
    events::Teller,
    modules::Modules,
    start_faults::StartFaults,
    traces::{Kind as Side, Scope, Span, Traces},
};

/// What the entries of a node share.
pub(super) struct Host {
    pub(super) modules: Modules,
    /// Who is told what becomes of instances.
    pub(super) teller: Teller,
    /// What follows calls, and begins to where nobody has asked for something.
    pub(super) traces: Traces,
    /// What could not be started for reasons of the node's.
    pub(super) start_faults: StartFaults,
    /// Entries that have ended, for the engine.
    pub(super) ended: mpsc::Sender<(ModuleName, ResourceId)>,
}

/// A resource that this node runs, starts or ends.
pub(super) struct Entry {
    module: ModuleName,
    id: ResourceId,
    turns: Arc<Turns>,
    cell: Arc<Cell>,
    waiting: AtomicU32,
    mind: Mutex<Mind>,
    changed: Notify,
}

type Cell = tokio::sync::Mutex<Option<Held>>;

/// An instance, and the life in which its start began.
struct Held {
    instance: Instance,
    life: Stop,
}

/// What a resource is to be run with.
#[derive(Clone)]
pub(super) struct Run {
    pub(super) token: Token,
    pub(super) revision: u64,
    pub(super) spec: Spec,
    /// The version that serves.
    pub(super) version: Arc<Version>,
}

/// What an instance was made for. A newer token too makes it another: in between, the resource may
/// have been another node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    token: Token,
    revision: u64,
    number: u64,
}

#[derive(Clone)]
enum Want {
    Run {
        run: Run,
        /// A version that is tried instead of the one that serves.
        trial: Option<Arc<Version>>,
    },
    End(TerminateReason),
    /// End at once, without any hook.
    Drop,
}

struct Mind {
    want: Want,
    /// Set, and followed by another, when the resource is dropped: what began before is over.
    life: Stop,
    /// What the instance in the cell was made for.
    runs: Option<Kind>,
    /// How long it may take to terminate.
    patience: Duration,
    /// It is about to be taken out of the cell, for another node or for good.
    leaving: bool,
    status: ResourceStatus,
    driving: bool,
    /// Failures in a row of what is wanted now.
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
    pub(super) fn new(module: ModuleName, id: ResourceId, turns: Arc<Turns>) -> Arc<Self> {
        let mind = Mind {
            want: Want::End(TerminateReason::Removed),
            life: Stop::default(),
            runs: None,
            patience: Duration::ZERO,
            leaving: false,
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
            turns,
            cell: Arc::default(),
            waiting: AtomicU32::new(0),
            mind: Mutex::new(mind),
            changed: Notify::new(),
        })
    }

    pub(super) fn id(&self) -> &ResourceId {
        &self.id
    }

    /// The resource is to run so. Ends the trial of another version, unless nothing else changed.
    pub(super) fn run(self: &Arc<Self>, host: &Arc<Host>, run: Run) {
        let mut mind = self.mind.lock();
        if let Want::Run { run: known, .. } = &mind.want
            && known.kind(&known.version) == run.kind(&run.version)
        {
            return;
        }
        self.want(host, &mut mind, Want::Run { run, trial: None });
    }

    /// The resource is to end, with its `terminate` hook. One that is to end without it does so.
    pub(super) fn end(self: &Arc<Self>, host: &Arc<Host>, reason: TerminateReason) {
        let mut mind = self.mind.lock();
        if matches!(mind.want, Want::Drop) {
            return;
        }
        mind.status = match reason {
            TerminateReason::Moved => ResourceStatus::Moving,
            _ => ResourceStatus::Stopping,
        };
        self.want(host, &mut mind, Want::End(reason));
    }

    /// The resource is to end at once, without any hook. Calls that wait are turned away, and what
    /// the guest does is given up in the middle, at the next epoch tick if it computes.
    /// It runs here again only under a newer token, hence as another instance.
    pub(super) fn drop_now(self: &Arc<Self>, host: &Arc<Host>) {
        let mut mind = self.mind.lock();
        std::mem::take(&mut mind.life).set();
        mind.status = ResourceStatus::Stopping;
        self.want(host, &mut mind, Want::Drop);
    }

    /// The resource is to run with this version instead of the one that serves. False when it is
    /// not to run here, or runs with that one or a later one already.
    pub(super) fn begin_trial(
        self: &Arc<Self>,
        host: &Arc<Host>,
        candidate: &Arc<Version>,
    ) -> bool {
        let mut mind = self.mind.lock();
        let run = match &mind.want {
            Want::Run { run, trial }
                if trial.as_ref().unwrap_or(&run.version).number < candidate.number =>
            {
                run.clone()
            }
            _ => return false,
        };
        let trial = Some(Arc::clone(candidate));
        self.want(host, &mut mind, Want::Run { run, trial });
        true
    }

    /// The resource is to run with the version that serves, if it is on trial with this one.
    pub(super) fn end_trial(self: &Arc<Self>, host: &Arc<Host>, number: u64) {
        let mut mind = self.mind.lock();
        let run = match &mind.want {
            Want::Run {
                run,
                trial: Some(trial),
            } if trial.number == number => run.clone(),
            _ => return,
        };
        self.want(host, &mut mind, Want::Run { run, trial: None });
    }

    /// Whether nothing runs, and nothing is to.
    pub(super) fn has_ended(&self) -> bool {
        let mind = self.mind.lock();
        mind.runs.is_none() && !mind.driving && mind.want.kind().is_none()
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

    /// Waits until the resource is held or quarantined with this revision of its spec; none once it
    /// is to be run with a later one, or not at all.
    pub(super) async fn settled(&self, revision: u64) -> Option<ResourceStatus> {
        self.until(|| {
            let mind = self.mind.lock();
            let Some(wanted) = mind.want.kind().filter(|kind| kind.revision <= revision) else {
                return Some(None);
            };
            let settled = match mind.status {
                ResourceStatus::Held => mind.runs.is_some_and(|kind| kind.revision == revision),
                ResourceStatus::Quarantined => wanted.revision == revision,
                _ => false,
            };
            settled.then_some(Some(mind.status))
        })
        .await
    }

    /// Waits for the outcome of the first attempt to run this version; none when it is not to be
    /// run any more.
    pub(super) async fn tried(&self, number: u64) -> Option<Result<(), String>> {
        self.until(|| {
            let mind = self.mind.lock();
            let Some(wanted) = mind.want.kind().filter(|kind| kind.number == number) else {
                return Some(None);
            };
            if mind.runs == Some(wanted) {
                return Some(Some(Ok(())));
            }
            (mind.failures > 0).then(|| {
                let error = mind.last_error.as_ref().map(|error| error.message.clone());
                Some(Err(error.unwrap_or_default()))
            })
        })
        .await
    }

    /// A piece of work of the guest, as it is recorded.
    fn span(&self, scope: &Scope, name: &'static str) -> Span {
        self.named(scope.child(Side::Internal, name))
    }

    fn named(&self, mut span: Span) -> Span {
        if let Some(recorded) = span.recorded() {
            recorded.set("holdfast.module", self.module.to_string());
            recorded.set("holdfast.resource", self.id.to_string());
        }
        span
    }

    /// Waits until `look` finds something; it looks after every change.
    async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        loop {
            // Listens before it looks, so that no change goes unseen.
            let changed = self.changed.notified();
            if let Some(found) = look() {
                return found;
            }
            changed.await;
        }
    }

    /// Waits until the resource is dropped.
    async fn over(&self, life: &Stop) {
        self.until(|| life.is_set().then_some(())).await;
    }

    /// Sets what should be, and has it brought about. What differs from before starts afresh.
    fn want(self: &Arc<Self>, host: &Arc<Host>, mind: &mut Mind, want: Want) {
        let before = mind.want.kind();
        mind.want = want;
        let wanted = mind.want.kind();
        if let (Some(wanted), before) = (wanted, before)
            && before.is_none_or(|before| !before.is_same_handler(wanted))
        {
            // What another version or spec failed with is no news of this one.
            mind.last_error = None;
        }
        if wanted.is_some() && wanted != before {
            (mind.failures, mind.retry_at) = (0, None);
            if mind.runs.is_none() {
                mind.status = ResourceStatus::Starting;
            }
        }
        self.wake(host, mind);
    }

    /// The instance ended by itself, during a call. The caller holds the cell.
    fn died(self: &Arc<Self>, host: &Arc<Host>, failure: Option<&Failure>) {
        let mut mind = self.mind.lock();
        if let Some(failure) = failure {
            warn!(module = %self.module, resource.id = %self.id, error = %failure, "the instance died");
            let error = failure.to_string();
            host.teller.failed(&self.module, &self.id, &error, false);
            let runs = mind.runs;
            mind.note(runs, last_error(failure));
        }
        if mind
            .held_since
            .is_some_and(|(since, _)| since.elapsed() > backoff::FORGIVEN_AFTER)
        {
            mind.failures = 0;
        }
        mind.restarts += 1;
        if let Some(kind) = mind.emptied() {
            mind.failed(kind, false);
        }
        self.wake(host, &mut mind);
    }
}

impl Run {
    /// What an instance of this version is made for.
    fn kind(&self, version: &Version) -> Kind {
        Kind {
            token: self.token,
            revision: self.revision,
            number: version.number,
        }
    }
}

impl Want {
    /// What is to run, if anything is.
    fn kind(&self) -> Option<Kind> {
        match self {
            Self::Run { run, trial } => Some(run.kind(trial.as_ref().unwrap_or(&run.version))),
            Self::End(_) | Self::Drop => None,
        }
    }
}

impl Kind {
    /// Whether the same version with the same spec is behind it, under whatever token.
    fn is_same_handler(self, other: Self) -> bool {
        (self.number, self.revision) == (other.number, other.revision)
    }
}

impl Mind {
    /// An instance of this kind failed so. Of one that is replaced meanwhile there is no more to say.
    fn note(&mut self, kind: Option<Kind>, error: LastError) {
        let wanted = self.want.kind();
        let replaced = |kind: Kind| wanted.is_some_and(|wanted| !kind.is_same_handler(wanted));
        if !kind.is_some_and(replaced) {
            self.last_error = Some(error);
        }
    }

    /// The cell was emptied; says what was in it.
    fn emptied(&mut self) -> Option<Kind> {
        self.held_since = None;
        self.leaving = false;
        if self.want.kind().is_some() {
            self.status = ResourceStatus::Starting;
        }
        self.runs.take()
    }

    /// An instance of this kind failed. That counts for nothing if another is wanted meanwhile.
    fn failed(&mut self, kind: Kind, fatal: bool) {
        if self.want.kind() != Some(kind) {
            return;
        }
        self.failures += 1;
        if fatal {
            self.status = ResourceStatus::Quarantined;
            self.retry_at = None;
        } else {
            self.status = ResourceStatus::Failed;
            self.retry_at = Some(Instant::now() + backoff::pause(self.failures));
        }
    }
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
        Failure::NotInvocable
        | Failure::Dead
        | Failure::Fenced
        | Failure::Cut
        | Failure::TooManyFibers { .. }
        | Failure::NodeOutOfMemory { .. }
        | Failure::System(_) => FailureKind::Instance,
    };
    LastError {
        message: failure.to_string(),
        at_ms: now_ms(),
        kind,
    }
}
