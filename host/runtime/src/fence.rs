//! Until when the instances of this node may act.
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

use rustix::time::{ClockId, clock_gettime};

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
