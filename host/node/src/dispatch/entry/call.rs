//! Calls of one resource: its lock, its queue, and the wait for its instance.
//!
//! A call waits on its caller's task and is gone when that is. Once the guest has it, it comes to
//! its end whatever becomes of the caller, within the module's own limit: callers of little
//! patience cost a resource nothing.
//!
//! Calls of modules that are trusted to compute little begin on the thread that they came in on, and
//! the others on the threads for guests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use holdfast_model::{
    Lane,
    api::ResourceStatus,
    call::{self, Request, Response},
};
use holdfast_runtime::{
    Stop,
    guests::{Full, Run},
};
use tokio::{sync::OwnedMutexGuard, time::Instant};

use super::{Entry, Held, Host};
use crate::{
    metrics::kind,
    traces::{Scope, Span},
};

/// How a call went.
pub(in crate::dispatch) enum Called {
    Answered(Result<Response, call::Error>),
    /// The resource is not, or no longer, this node's: the request had no effect.
    NotHere,
}

type Cell = OwnedMutexGuard<Option<Held>>;

impl Entry {
    /// Answers a request: at once when the resource is idle, else after those before it.
    pub(in crate::dispatch) async fn call(
        self: &Arc<Self>,
        host: &Arc<Host>,
        queue_calls_max: u32,
        mut request: Request,
        deadline: Instant,
        scope: &Scope,
    ) -> Called {
        let came = scope.is_recorded().then(Instant::now);
        let cell = match self.admit(queue_calls_max, deadline).await {
            Ok(cell) => cell,
            Err(called) => return called,
        };
        let Some(Held { instance, life }) = &*cell else {
            return Called::NotHere;
        };
        let asked = request.timeout;
        request.timeout = deadline.saturating_duration_since(Instant::now());
        if request.timeout.is_zero() {
            return Called::Answered(Err(late()));
        }
        let mut span = self.span(scope, "invoke");
        if let (Some(recorded), Some(came)) = (span.recorded(), came) {
            recorded.set("holdfast.queue_seconds", came.elapsed().as_secs_f64());
        }
        let longest = Duration::from_millis(instance.limits().call_timeout_ms);
        let (lane, trusted) = (instance.lane(), instance.may_begin_here());
        if lane == Lane::Direct && trusted && request.timeout + LATENESS >= longest {
            // It cannot be dropped midway, and its caller waits for as long as it may take: it
            // needs no task.
            return self.answer(host, cell, &request, span).await;
        }
        let (tenant, life) = (Arc::clone(instance.tenant()), life.clone());
        let (entry, host) = (Arc::clone(self), Arc::clone(host));
        let call = async move { entry.answer(&host, cell, &request, span).await };
        if !trusted {
            return match tenant.call(lane, call) {
                Ok(run) => self.await_run(run, deadline, asked, &life).await,
                Err(Full(waiting)) => Called::Answered(Err(call::Error::QueueFull { waiting })),
            };
        }
        let call = match lane {
            Lane::Direct => tokio::spawn(async move { Some(call.await) }),
            Lane::Fiber => tokio::spawn(async move { tenant.call_here(call).await }),
        };
        match tokio::time::timeout_at(deadline, call).await {
            Ok(Ok(Some(called))) => called,
            Ok(Ok(None) | Err(_)) => Called::Answered(Err(call::Error::Interrupted)),
            Err(_) => Called::Answered(Err(call::Error::TimedOut(asked))),
        }
    }

    /// Waits for a call that may have to wait for a thread. What has not begun when its time is over, or
    /// when the resource is dropped, never does.
    async fn await_run(
        &self,
        mut run: Run<Called>,
        deadline: Instant,
        asked: Duration,
        life: &Stop,
    ) -> Called {
        let called = tokio::select! {
            biased;
            called = &mut run => Some(called),
            () = self.over(life) => {
                if run.withdraw() {
                    return Called::NotHere;
                }
                None
            }
            () = tokio::time::sleep_until(deadline) => None,
        };
        let called = match called {
            Some(called) => Ok(called),
            None => tokio::time::timeout_at(deadline, &mut run).await,
        };
        match called {
            Ok(Ok(called)) => called,
            Ok(Err(_)) => Called::Answered(Err(call::Error::Interrupted)),
            Err(_) if run.withdraw() => Called::Answered(Err(late())),
            Err(_) => Called::Answered(Err(call::Error::TimedOut(asked))),
        }
    }

    /// Has the guest answer.
    async fn answer(
        self: &Arc<Self>,
        host: &Arc<Host>,
        mut cell: Cell,
        request: &Request,
        mut span: Span,
    ) -> Called {
        let Some(Held { instance, life }) = &mut *cell else {
            return Called::NotHere;
        };
        instance.follow(span.scope().follow());
        let result = tokio::select! {
            biased;
            result = instance.invoke(request) => Some(result),
            () = self.over(life) => None,
        };
        let (dead, over) = (instance.is_dead(), life.is_set());
        match result {
            Some(result) if !(dead && over) => {
                if dead {
                    *cell = None;
                    self.died(host, result.as_ref().err());
                }
                let result = result.map_err(|error| error.into_call_error(&self.module));
                if let Err(error) = &result {
                    span.failed(kind(error), error);
                }
                Called::Answered(result)
            }
            _ => {
                self.empty(&mut cell);
                let error = call::Error::Interrupted;
                span.failed(kind(&error), &error);
                Called::Answered(Err(error))
            }
        }
    }

    /// Waits for the call's turn, and gives it the instance.
    async fn admit(
        self: &Arc<Self>,
        queue_calls_max: u32,
        deadline: Instant,
    ) -> Result<Cell, Called> {
        loop {
            let mut cell = match Arc::clone(&self.cell).try_lock_owned() {
                Ok(cell) => cell,
                Err(_) => {
                    let _queued = self.queue(queue_calls_max)?;
                    let turn = Arc::clone(&self.cell).lock_owned();
                    let turn = tokio::time::timeout_at(deadline, turn).await;
                    let turn = turn.map_err(|_| Called::Answered(Err(late())))?;
                    // What only queued does not hold up the move: it is for the next owner.
                    if self.mind.lock().leaving {
                        return Err(Called::NotHere);
                    }
                    turn
                }
            };
            match &*cell {
                Some(held) if !held.life.is_set() => return Ok(cell),
                Some(_) => self.empty(&mut cell),
                None => {}
            }
            drop(cell);
            self.await_instance(queue_calls_max, deadline).await?;
        }
    }

    /// Lets go of an instance of a former life.
    fn empty(&self, cell: &mut Cell) {
        self.mind.lock().emptied();
        **cell = None;
    }

    /// Waits for an instance, as long as one is likely to come before the deadline.
    pub(super) async fn await_instance(
        &self,
        queue_calls_max: u32,
        deadline: Instant,
    ) -> Result<(), Called> {
        // Listens before it looks, so that no start goes unseen.
        let changed = self.changed.notified();
        let (status, retry_at, error) = {
            let mind = self.mind.lock();
            if mind.runs.is_some() {
                return Ok(());
            }
            (mind.status, mind.retry_at, mind.last_error.clone())
        };
        let now = Instant::now();
        let unavailable = |what: &str, retry_after| {
            let why = error.as_ref();
            let why = why.map_or_else(String::new, |error| format!(": {}", error.message));
            let reason = format!("the resource is {what}{why}");
            Called::Answered(Err(call::Error::Unavailable {
                reason,
                retry_after,
            }))
        };
        match status {
            ResourceStatus::Held | ResourceStatus::Starting => {}
            ResourceStatus::Failed => {
                let pause = retry_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
                if pause > PATIENCE || now + pause >= deadline {
                    return Err(unavailable("waiting for its next start", pause));
                }
            }
            ResourceStatus::Quarantined => {
                let why = error.map_or_else(String::new, |error| error.message);
                return Err(Called::Answered(Err(call::Error::Quarantined { why })));
            }
            _ => return Err(Called::NotHere),
        }
        let _queued = self.queue(queue_calls_max)?;
        match tokio::time::timeout_at(deadline, changed).await {
            Ok(()) => Ok(()),
            Err(_) => Err(unavailable("being started", PATIENCE)),
        }
    }

    /// A place in the queue, if there is one.
    fn queue(&self, calls_max: u32) -> Result<Queued<'_>, Called> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let queued = Queued(&self.waiting);
        if waiting < calls_max {
            return Ok(queued);
        }
        Err(Called::Answered(Err(call::Error::QueueFull { waiting })))
    }
}

struct Queued<'a>(&'a AtomicU32);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The deadline passed before the handler saw the request.
fn late() -> call::Error {
    call::Error::Unavailable {
        reason: "the deadline passed while the request waited for the resource".to_owned(),
        retry_after: PATIENCE,
    }
}

/// A pause up to this long is waited out by callers.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long after its deadline a call may be answered, so that the usual one, whose caller names no
/// deadline and finds the resource idle, runs without a task of its own. A guest is interrupted no
/// more precisely than at the next tick.
const LATENESS: Duration = Duration::from_millis(20);
