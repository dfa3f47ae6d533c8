//! The time of one call, and what happens at each epoch tick while the guest computes.
//!
//! Invariant: a guest that computes past its deadline is interrupted at the next tick, and a
//! worker thread of tokio is not held by one call for more than a few ticks: in the fiber lane the
//! call yields, in the direct lane another thread takes over the worker's tasks.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use holdfast_model::Lane;
use rustix::time::{ClockId, clock_gettime};
use wasmtime::{StoreContextMut, UpdateDeadline};

use crate::{
    fence::Fence,
    guests::{Caught, Clock, Tenant, give_way, is_guest_thread},
    state::State,
};

/// Ends the calls of the instances that heed it, each at its next epoch tick. For good: it cannot be
/// taken back. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Ends them.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether they are to end.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The time of the call that runs now.
pub(crate) struct Budget {
    lane: Lane,
    ticks: u32,
    /// What its thread had computed in all at the first tick, in the direct lane.
    computed: Duration,
    clock: Clock,
    /// The worker's thread that the call has to itself.
    caught: Option<Caught>,
}

impl Budget {
    pub(crate) fn new(lane: Lane, fence: Fence, stop: Stop) -> Self {
        Self {
            lane,
            ticks: 0,
            computed: Duration::ZERO,
            clock: Clock {
                deadline: Instant::now(),
                stop,
                fence,
            },
            caught: None,
        }
    }

    pub(crate) fn heed(&mut self, stop: Stop) {
        self.clock.stop = stop;
    }

    /// Begins a call that ends at `deadline` at the latest.
    pub(crate) fn begin_call(&mut self, deadline: Instant) {
        self.clock.deadline = deadline;
        self.ticks = 0;
    }

    /// Whether the call is over for another reason than that its time is.
    pub(crate) fn is_cut(&self) -> bool {
        self.clock.is_cut()
    }

    /// The call has ended, in the direct lane.
    pub(crate) fn end_call(&mut self) {
        self.caught = None;
    }

    /// When the call's time is over.
    pub(crate) fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Whether the guest has computed since its first tick, or this is its first. One whose thread was
    /// given no processor has not: on a busy machine that is no fault of its own.
    fn has_computed(&mut self) -> bool {
        let computed = computed_by_thread();
        match self.ticks {
            0 => self.computed = computed,
            1 => return computed.saturating_sub(self.computed) >= COMPUTED_MIN,
            _ => {}
        }
        true
    }

    /// Gives way to other guests, in the direct lane.
    fn give_way(&mut self, tenant: &Arc<Tenant>) {
        if is_guest_thread() {
            return give_way(tenant, self.clock.clone());
        }
        // Where the worker cannot be replaced now that is tried again.
        if self.caught.is_none() && self.ticks.is_multiple_of(TICKS_BEFORE_HAND_OFF) {
            self.caught = Caught::replace_worker(tenant);
        }
        if let Some(caught) = &mut self.caught {
            caught.give_way(self.clock.clone());
        }
    }
}

/// Called by wasmtime when a guest is still computing at an epoch tick.
pub(crate) fn on_tick(mut store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    let State {
        budget, grounds, ..
    } = store.data_mut();
    if budget.clock.is_over() {
        return Ok(UpdateDeadline::Interrupt);
    }
    if budget.lane == Lane::Direct && !budget.has_computed() {
        return Ok(UpdateDeadline::Continue(1));
    }
    budget.ticks = budget.ticks.saturating_add(1);
    if budget.ticks == TICKS_BEFORE_HAND_OFF {
        grounds.tenant.overran(!is_guest_thread());
    }
    match budget.lane {
        Lane::Fiber if is_guest_thread() => Ok(UpdateDeadline::YieldCustom(
            1,
            Box::pin(GiveWay { given: false }),
        )),
        // Tokio's own: a plain wake-up would keep its timers and sockets waiting for 61 polls.
        Lane::Fiber => Ok(UpdateDeadline::YieldCustom(
            1,
            Box::pin(tokio::task::yield_now()),
        )),
        Lane::Direct => {
            budget.give_way(&grounds.tenant);
            // It may have slept for long.
            if budget.clock.is_over() {
                return Ok(UpdateDeadline::Interrupt);
            }
            Ok(UpdateDeadline::Continue(1))
        }
    }
}

/// Lets others have the thread once.
struct GiveWay {
    given: bool,
}

impl Future for GiveWay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.given {
            return Poll::Ready(());
        }
        self.given = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Polls a call in the fiber lane while its time is not over: a fiber that has waited for a thread must
/// not go on past that, not even to its next tick.
pub(crate) async fn until_over<T>(clock: Clock, call: impl Future<Output = T>) -> Option<T> {
    let timed = tokio::time::timeout_at(clock.deadline.into(), call);
    let mut timed = std::pin::pin!(timed);
    std::future::poll_fn(|context| {
        if clock.is_over() {
            return Poll::Ready(None);
        }
        timed.as_mut().poll(context).map(Result::ok)
    })
    .await
}

/// How much processor time this thread has used.
fn computed_by_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanos)
}

/// Half a tick.
const COMPUTED_MIN: Duration = Duration::from_millis(5);

/// Short calls end before; two ticks cost other tasks 20 ms at most.
const TICKS_BEFORE_HAND_OFF: u32 = 2;
