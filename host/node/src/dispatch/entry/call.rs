//! Calls of one resource: its lock, its queue, and the wait for its instance.

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
use tokio::{sync::oneshot, time::Instant};

use super::{Entry, Host};

/// How a call went.
pub(in crate::dispatch) enum Called {
    Answered(Result<Response, call::Error>),
    /// The resource is not, or no longer, this node's: the request had no effect.
    NotHere,
}

impl Entry {
    /// Answers a request: at once when the resource is idle, else after those before it.
    pub(in crate::dispatch) async fn call(
        self: &Arc<Self>,
        host: &Arc<Host>,
        lane: Lane,
        queue_calls_max: u32,
        request: Request,
        deadline: Instant,
    ) -> Called {
        if lane == Lane::Direct {
            return self
                .call_here(host, queue_calls_max, request, deadline, || true)
                .await;
        }
        // A caller that goes away must not end the instance with its half-done call, so the call
        // is a task of its own.
        let (answer, answered) = oneshot::channel();
        let (entry, host) = (Arc::clone(self), Arc::clone(host));
        tokio::spawn(async move {
            let wanted = || !answer.is_closed();
            let called = entry
                .call_here(&host, queue_calls_max, request, deadline, wanted)
                .await;
            // Nobody listens any more: the effect stands, the answer is for nobody.
            let _ = answer.send(called);
        });
        answered
            .await
            .unwrap_or(Called::Answered(Err(call::Error::Interrupted)))
    }

    async fn call_here(
        self: &Arc<Self>,
        host: &Arc<Host>,
        queue_calls_max: u32,
        mut request: Request,
        deadline: Instant,
        wanted: impl Fn() -> bool,
    ) -> Called {
        loop {
            let mut cell = match self.cell.try_lock() {
                Ok(cell) => cell,
                Err(_) => {
                    let Some(_queued) = self.queue(queue_calls_max) else {
                        let waiting = self.waiting.load(Ordering::Relaxed);
                        return Called::Answered(Err(call::Error::QueueFull { waiting }));
                    };
                    match tokio::time::timeout_at(deadline, self.cell.lock()).await {
                        Ok(cell) => cell,
                        Err(_) => return Called::Answered(Err(late())),
                    }
                }
            };
            if let Some(instance) = cell.as_mut() {
                request.timeout = deadline.saturating_duration_since(Instant::now());
                if request.timeout.is_zero() || !wanted() {
                    return Called::Answered(Err(late()));
                }
                let result = instance.invoke(&request).await;
                if instance.is_dead() {
                    *cell = None;
                    drop(cell);
                    self.died(host, result.as_ref().err());
                }
                return Called::Answered(result.map_err(|e| e.into_call_error(&self.module)));
            }
            drop(cell);
            if let Err(called) = self.await_instance(queue_calls_max, deadline).await {
                return called;
            }
        }
    }

    /// Waits for an instance, as long as one is likely to come before the deadline.
    async fn await_instance(&self, queue_calls_max: u32, deadline: Instant) -> Result<(), Called> {
        let changed = self.changed.notified();
        let (status, retry_at, error) = {
            let mind = self.mind.lock();
            (mind.status, mind.retry_at, mind.last_error.clone())
        };
        let now = Instant::now();
        let unavailable = |what: &str, retry_after| {
            let why = error.map_or_else(String::new, |error| format!(": {}", error.message));
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
                return Err(unavailable(
                    "set aside until it is changed",
                    QUARANTINE_RETRY,
                ));
            }
            _ => return Err(Called::NotHere),
        }
        let Some(_queued) = self.queue(queue_calls_max) else {
            let waiting = self.waiting.load(Ordering::Relaxed);
            return Err(Called::Answered(Err(call::Error::QueueFull { waiting })));
        };
        match tokio::time::timeout_at(deadline, changed).await {
            Ok(()) => Ok(()),
            Err(_) => Err(unavailable("being started", PATIENCE)),
        }
    }

    /// A place in the queue, if there is one.
    fn queue(&self, calls_max: u32) -> Option<Queued<'_>> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let queued = Queued(&self.waiting);
        (before < calls_max).then_some(queued)
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

/// What callers of a resource that was set aside are told.
const QUARANTINE_RETRY: Duration = Duration::from_secs(60);
