//! Until when the instances of this node may act.
//!
//! A node has two fences. Behind one are the modules that stop without a majority: it shuts by the
//! clock when the lease is over. Behind the other are those that go on: it shuts when their node is
//! told to.
//!
//! The clock goes on while the machine is suspended (`CLOCK_BOOTTIME`), so that a guest that wakes
//! up too late is stopped before it does anything, by its own thread: nothing has to run first.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use holdfast_model::OnLostQuorum;
use rustix::time::{ClockId, clock_gettime};

/// The fences of a node. Clones are the same ones.
#[derive(Clone, Debug)]
pub struct Fences {
    stop: Fence,
    go_on: Fence,
}

impl Fences {
    /// Such that let everything pass until told otherwise.
    #[must_use]
    pub fn open() -> Self {
        Self {
            stop: Fence::open(),
            go_on: Fence::open(),
        }
    }

    /// Such that let nothing pass until told otherwise.
    #[must_use]
    pub fn shut() -> Self {
        Self {
            stop: Fence::shut(),
            go_on: Fence::shut(),
        }
    }

    /// The one that a module is behind.
    #[must_use]
    pub fn of(&self, module: OnLostQuorum) -> &Fence {
        match module {
            OnLostQuorum::Stop => &self.stop,
            OnLostQuorum::Continue => &self.go_on,
        }
    }

    /// The node has a lease that ends then, by the time since the machine was started.
    pub fn pass_until(&self, until: Duration) {
        self.stop.pass_until(until);
        self.go_on.pass_until(Duration::MAX);
    }

    /// The lease has ended, and no majority is heard: only what goes on without one passes, if
    /// anything did.
    pub fn lapse(&self) {
        self.stop.pass_until(Duration::ZERO);
    }

    /// Nothing passes any more.
    pub fn end(&self) {
        self.stop.pass_until(Duration::ZERO);
        self.go_on.pass_until(Duration::ZERO);
    }
}

/// A moment after which no instance may be called, answer or send anything. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Fence(Arc<AtomicU64>);

impl Fence {
    /// One that lets everything pass until told otherwise.
    #[must_use]
    pub fn open() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }

    /// One that lets nothing pass until told otherwise.
    #[must_use]
    pub fn shut() -> Self {
        Self(Arc::new(AtomicU64::new(0)))
    }

    /// Lets everything pass until then, by the time since the machine was started.
    pub fn pass_until(&self, until: Duration) {
        self.0.store(nanos(until), Ordering::Release);
    }

    /// Whether nothing may pass any more.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanos = u64::try_from(now.tv_nsec).unwrap_or_default();
        seconds * 1_000_000_000 + nanos >= self.0.load(Ordering::Acquire)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
