//! The time of one call, and what happens at each epoch tick while the guest computes.
//!
//! Invariant: a guest that computes past its deadline is interrupted at the next tick, and a
//! worker thread of tokio is not held by one call for more than a few ticks: in the fiber lane the
//! call yields, in the direct lane another thread takes over the worker's tasks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use holdfast_model::Lane;
use tokio::runtime::{Handle, RuntimeFlavor};
use wasmtime::{StoreContextMut, UpdateDeadline};

use crate::{fence::Fence, state::State};

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
    deadline: Instant,
    ticks: u32,
    stop: Stop,
    fence: Fence,
}

impl Budget {
    pub(crate) fn new(lane: Lane, fence: Fence) -> Self {
        Self {
            lane,
            deadline: Instant::now(),
            ticks: 0,
            stop: Stop::default(),
            fence,
        }
    }

    pub(crate) fn heed(&mut self, stop: Stop) {
        self.stop = stop;
    }

    /// Begins a call that ends at `deadline` at the latest.
    pub(crate) fn begin_call(&mut self, deadline: Instant) {
        self.deadline = deadline;
        self.ticks = 0;
    }

    /// Whether the call is over for another reason than that its time is.
    pub(crate) fn is_cut(&self) -> bool {
        self.stop.is_set() || self.fence.is_shut()
    }

    fn tick(&mut self) -> Tick {
        if self.is_cut() || Instant::now() >= self.deadline {
            return Tick::Over;
        }
        self.ticks = self.ticks.saturating_add(1);
        match self.lane {
            Lane::Fiber => Tick::Yield,
            Lane::Direct if self.ticks == TICKS_BEFORE_HAND_OFF => Tick::HandOff,
            Lane::Direct => Tick::Continue,
        }
    }
}

enum Tick {
    Over,
    Yield,
    HandOff,
    Continue,
}

/// Called by wasmtime when a guest is still computing at an epoch tick.
pub(crate) fn on_tick(mut store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    match store.data_mut().budget.tick() {
        Tick::Over => Ok(UpdateDeadline::Interrupt),
        // Tokio's own: a plain wake-up would keep its timers and sockets waiting for 61 polls.
        Tick::Yield => Ok(UpdateDeadline::YieldCustom(
            1,
            Box::pin(tokio::task::yield_now()),
        )),
        Tick::Continue => Ok(UpdateDeadline::Continue(1)),
        Tick::HandOff => {
            hand_off_worker();
            Ok(UpdateDeadline::Continue(1))
        }
    }
}

/// Gives the tasks of this tokio worker to another thread, for as long as the current poll lasts.
///
/// `block_in_place` offers the worker's core to a thread of the blocking pool and takes it back
/// at its end if nobody has come for it. So it has to last until somebody has: the pool starts
/// its jobs in order, hence a job sent after the offer runs when the offer has been picked up.
fn hand_off_worker() {
    let Ok(runtime) = Handle::try_current() else {
        return;
    };
    if runtime.runtime_flavor() != RuntimeFlavor::MultiThread {
        return;
    }
    tokio::task::block_in_place(|| {
        let (started, picked_up) = mpsc::sync_channel(1);
        runtime.spawn_blocking(move || started.send(()));
        // A full pool must not hold the guest for ever; then the worker stays with this thread.
        if picked_up.recv_timeout(HAND_OFF_WAIT_MAX).is_ok() {
            // Between picking up the job and taking the core lie a few instructions.
            std::thread::sleep(HAND_OFF_GRACE);
        }
    });
}

/// Short calls end before; two ticks cost other tasks 20 ms at most.
const TICKS_BEFORE_HAND_OFF: u32 = 2;
const HAND_OFF_WAIT_MAX: Duration = Duration::from_millis(50);
const HAND_OFF_GRACE: Duration = Duration::from_millis(1);
