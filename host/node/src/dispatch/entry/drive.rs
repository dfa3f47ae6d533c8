//! The driver of a resource: starts, ends and replaces its instance until what is equals what
//! should be.

use std::{fmt, sync::Arc, time::Duration};

use holdfast_model::api::{FailureKind, LastError, ResourceStatus};
use holdfast_runtime::{Failure, Instance, ManagedResource, Stop, TerminateReason};
use tokio::{sync::SemaphorePermit, time::Instant};
use tracing::{Instrument, debug, info_span, warn};

use super::{Entry, Held, Host, Kind, Mind, Run, Want, last_error};
use crate::{clock::now_ms, modules, traces::Span};

enum Step {
    Start(Start),
    /// With the hook, if there is a reason to tell it.
    Stop(Option<TerminateReason>),
    Wait(Instant),
}

/// An instance to be made, decided upon in this life. The run's version is the one to use.
struct Start {
    run: Run,
    kind: Kind,
    life: Stop,
}

/// A start that failed.
struct Failed {
    error: LastError,
    /// It is not to be tried again.
    fatal: bool,
    /// Another node might not fail so.
    of_the_node: bool,
}

impl Failed {
    fn by(failure: Failure) -> Self {
        Self {
            error: last_error(&failure),
            fatal: matches!(failure, Failure::Fatal(_)),
            of_the_node: failure.is_of_the_node(),
        }
    }

    fn by_host(message: String) -> Self {
        Self {
            error: instance_error(message),
            fatal: false,
            of_the_node: false,
        }
    }
}

impl Entry {
    /// Tells those who wait, and sees that a driver runs.
    pub(super) fn wake(self: &Arc<Self>, host: &Arc<Host>, mind: &mut Mind) {
        self.changed.notify_waiters();
        if !mind.driving {
            mind.driving = true;
            let span = info_span!("resource", module = %self.module, resource.id = %self.id);
            // The driver ends by itself once what is equals what should be.
            tokio::spawn(Arc::clone(self).drive(Arc::clone(host)).instrument(span));
        }
    }

    async fn drive(self: Arc<Self>, host: Arc<Host>) {
        let _replaced = ReplacedAfterPanic(&self, &host);
        loop {
            // Listens before it looks, so that no change of the want goes unseen.
            let changed = self.changed.notified();
            match self.next_step() {
                None => break,
                Some(Step::Start(start)) => self.start(&host, start).await,
                Some(Step::Stop(None)) => self.stop(&host, None).await,
                Some(Step::Stop(Some(_))) => {
                    // Calls go on until its turn comes. Much may change in a long queue.
                    let _turn = self.turn_to_stop().await;
                    match self.next_step() {
                        Some(Step::Stop(reason)) => self.stop(&host, reason).await,
                        Some(Step::Start(_) | Step::Wait(_)) => {}
                        None => break,
                    }
                }
                Some(Step::Wait(until)) => {
                    let _ = tokio::time::timeout_at(until, changed).await;
                }
            }
        }
        let ended = self.mind.lock().want.kind().is_none();
        if ended {
            host.start_faults.forget(&self.module, &self.id);
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
        let wanted = mind.want.kind();
        let step = match (&mind.want, mind.runs) {
            (Want::Drop, Some(_)) => Some(Step::Stop(None)),
            (Want::End(reason), Some(_)) => Some(Step::Stop(Some(*reason))),
            (Want::End(_) | Want::Drop, None) => None,
            (Want::Run { .. }, Some(kind)) => {
                (wanted != Some(kind)).then_some(Step::Stop(Some(TerminateReason::Upgraded)))
            }
            (Want::Run { .. }, None) if mind.status == ResourceStatus::Quarantined => None,
            (Want::Run { run, trial }, None) => match mind.retry_at {
                Some(at) if at > Instant::now() => Some(Step::Wait(at)),
                _ => {
                    let version = trial.as_ref().unwrap_or(&run.version);
                    let (kind, version) = (run.kind(version), Arc::clone(version));
                    let run = Run {
                        version,
                        ..run.clone()
                    };
                    let life = mind.life.clone();
                    Some(Step::Start(Start { run, kind, life }))
                }
            },
        };
        mind.driving = step.is_some();
        step
    }

    async fn start(self: &Arc<Self>, host: &Arc<Host>, start: Start) {
        let Start { run, kind, life } = start;
        let unwanted = || {
            let wanted = self.mind.lock().want.kind() == Some(kind) && !life.is_set();
            (!wanted).then_some(())
        };
        // Much may change in a long queue.
        let turn = tokio::select! {
            biased;
            () = self.until(unwanted) => return,
            turn = self.turns.start() => turn,
        };
        if unwanted().is_some() {
            return;
        }
        let attempt = {
            let mut mind = self.mind.lock();
            mind.status = ResourceStatus::Starting;
            mind.failures + 1
        };
        let mut span = self.named(host.traces.begin("start"));
        let Some(started) = self.instantiate(host, &run, attempt, &life, &span).await else {
            return;
        };
        if let Some(recorded) = span.recorded() {
            recorded.set("holdfast.attempt", i64::from(attempt));
        }
        match &started {
            Err(failed) if failed.of_the_node => {
                let why = &failed.error.message;
                host.start_faults.failed(&self.module, &self.id, why);
            }
            _ => host.start_faults.forget(&self.module, &self.id),
        }
        if let Err(Failed { error, .. }) = &started {
            span.failed(lowercase(&error.kind), &error.message);
        }
        drop((turn, span));
        if life.is_set() {
            return;
        }
        match started {
            Ok(instance) => {
                let mut cell = self.cell.lock().await;
                let mut mind = self.mind.lock();
                if life.is_set() {
                    return;
                }
                mind.runs = Some(kind);
                mind.patience = Duration::from_millis(instance.limits().terminate_timeout_ms);
                mind.held_since = Some((Instant::now(), now_ms()));
                mind.retry_at = None;
                if mind.want.kind().is_some() {
                    mind.status = ResourceStatus::Held;
                }
                *cell = Some(Held { instance, life });
                debug!(token = %run.token, "held");
                let Kind { number, token, .. } = kind;
                host.teller.started(&self.module, &self.id, number, token);
            }
            Err(Failed { error, fatal, .. }) => {
                warn!(
                    attempt,
                    fatal,
                    error = error.message,
                    "the resource could not be started"
                );
                let teller = &host.teller;
                teller.failed(&self.module, &self.id, &error.message, fatal);
                let mut mind = self.mind.lock();
                mind.note(Some(kind), error);
                mind.failed(kind, fatal);
            }
        }
        self.changed.notify_waiters();
    }

    /// Makes the instance, on the threads for guests. None when it is dropped meanwhile, and then
    /// nothing of it is left.
    async fn instantiate(
        self: &Arc<Self>,
        host: &Host,
        run: &Run,
        attempt: u32,
        life: &Stop,
        span: &Span,
    ) -> Option<Result<Instance, Failed>> {
        let module = tokio::select! {
            biased;
            () = self.over(life) => return None,
            module = host.modules.get(&self.module, &run.version) => module,
        };
        let module = match module {
            Ok(module) => module,
            Err(error) => return Some(Err(Failed::by_host(modules::chain(&error)))),
        };
        let resource = ManagedResource {
            id: self.id.clone(),
            spec: run.spec.clone(),
            token: run.token,
            attempt,
        };
        let (entry, scope) = (Arc::clone(self), span.scope().clone());
        let (tenant, lane, stop) = (Arc::clone(module.tenant()), module.lane(), life.clone());
        let start = async move {
            let made = module.instantiate_until(resource, stop).await;
            let mut instance = made.map_err(Failed::by)?;
            let mut span = entry.span(&scope, "handle");
            instance.follow(span.scope().follow());
            let handled = instance.handle().await.map_err(Failed::by);
            if let Err(Failed { error, .. }) = &handled {
                span.failed(lowercase(&error.kind), &error.message);
            }
            handled.map(|()| instance)
        };
        let mut start = tenant.start(lane, start.in_current_span());
        tokio::select! {
            biased;
            started = &mut start => return Some(started.unwrap_or_else(|lost| {
                Err(Failed::by_host(lost.to_string()))
            })),
            () = self.over(life) => {}
        }
        // Only once nothing of it runs any more may it start elsewhere.
        start.cancel().await;
        None
    }

    /// Waits for a turn to stop, though no longer than the hook may take itself.
    async fn turn_to_stop(&self) -> Option<SemaphorePermit<'_>> {
        let (life, patience) = {
            let mind = self.mind.lock();
            (mind.life.clone(), mind.patience)
        };
        tokio::select! {
            biased;
            () = self.over(&life) => None,
            turn = self.turns.stop(patience) => turn,
        }
    }

    async fn stop(self: &Arc<Self>, host: &Arc<Host>, reason: Option<TerminateReason>) {
        self.mind.lock().leaving = matches!(reason, None | Some(TerminateReason::Moved));
        let held = {
            // Behind the call that runs; those that queue before it let it pass if this is a move.
            let mut cell = self.cell.lock().await;
            self.mind.lock().emptied();
            cell.take()
        };
        if let (Some(Held { instance, life }), Some(reason)) = (held, reason) {
            let patience = Duration::from_millis(instance.limits().terminate_timeout_ms);
            let (tenant, lane) = (Arc::clone(instance.tenant()), instance.lane());
            let (entry, host) = (Arc::clone(self), Arc::clone(host));
            let hook = async move {
                entry.terminate(&host, instance, reason).await;
                // Here, for it may have much memory to give back.
                host.teller.stopped(&entry.module, &entry.id, reason);
            };
            let mut hook = tenant.stop(lane, hook.in_current_span());
            let ended = tokio::select! {
                biased;
                () = self.over(&life) => None,
                ended = hook.begun_within(patience.min(THREAD_PATIENCE)) => Some(ended),
            };
            match ended {
                None => hook.cancel().await,
                Some(Ok(None)) => warn!(?reason, "terminate not called: no thread was free"),
                Some(_) => {}
            }
        }
        self.changed.notify_waiters();
    }

    async fn terminate(&self, host: &Host, mut instance: Instance, reason: TerminateReason) {
        let mut span = self.named(host.traces.begin("terminate"));
        if let Some(recorded) = span.recorded() {
            recorded.set("holdfast.reason", lowercase(&reason));
        }
        instance.follow(span.scope().follow());
        if let Err(failure) = instance.terminate(reason).await {
            match &failure {
                // It holds for all of them, and the lease has its own line.
                Failure::Fenced => debug!(?reason, "terminate not called: the lease is over"),
                failure => warn!(?reason, error = %failure, "terminate failed"),
            }
            let error = last_error(&failure);
            span.failed(lowercase(&error.kind), &error.message);
        }
    }
}

/// Sees to it that a resource whose driver panicked is driven on, after a pause.
struct ReplacedAfterPanic<'a>(&'a Arc<Entry>, &'a Arc<Host>);

impl Drop for ReplacedAfterPanic<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let Self(entry, host) = self;
        let mut mind = entry.mind.lock();
        mind.driving = false;
        mind.last_error = Some(instance_error("the host failed; see its log".to_owned()));
        if let (None, Some(kind)) = (mind.runs, mind.want.kind()) {
            mind.failed(kind, false);
        }
        entry.wake(host, &mut mind);
    }
}

/// How long a hook waits for a thread, though other guests keep them all. The leader allows for it.
const THREAD_PATIENCE: Duration = Duration::from_secs(5);

/// The name of a variant, as traces have it.
fn lowercase(variant: &impl fmt::Debug) -> String {
    format!("{variant:?}").to_lowercase()
}

fn instance_error(message: String) -> LastError {
    LastError {
        message,
        at_ms: now_ms(),
        kind: FailureKind::Instance,
    }
}
