//! A guest that goes on computing on a thread that serves connections.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed, mpsc},
    time::Duration,
};

use tokio::runtime::{Handle, RuntimeFlavor};

use super::{Clock, Tenant};

/// A worker's thread that a guest has to itself until this is dropped. Another has taken over the
/// worker's tasks.
pub(crate) struct Caught {
    tenant: Arc<Tenant>,
    /// Whether it has a processor.
    holds: bool,
}

impl Caught {
    /// Has another thread take over this worker's tasks. None when there is none to be had now, or the
    /// thread is no worker's.
    pub(crate) fn replace_worker(tenant: &Arc<Tenant>) -> Option<Self> {
        if !hand_off_worker() {
            return None;
        }
        tenant.guests.0.caught.fetch_add(1, Relaxed);
        Some(Self {
            tenant: Arc::clone(tenant),
            holds: false,
        })
    }

    /// Gives way to others, until it is its turn or its time is over.
    pub(crate) fn give_way(&mut self, clock: Clock) {
        let Self { tenant, holds } = self;
        tenant.give_way(clock, holds);
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        let guests = &self.tenant.guests.0;
        guests.caught.fetch_sub(1, Relaxed);
        if self.holds {
            let mut state = guests.state.lock();
            state.running -= 1;
            guests.dispatch(&mut state);
        }
    }
}

/// Gives the tasks of this tokio worker to another thread, for as long as the current poll lasts. Says
/// whether somebody has taken them.
///
/// `block_in_place` offers the worker's core to a thread of the blocking pool and takes it back
/// at its end if nobody has come for it. So it has to last until somebody has: the pool starts
/// its jobs in order, hence a job sent after the offer runs when the offer has been picked up.
fn hand_off_worker() -> bool {
    let Ok(runtime) = Handle::try_current() else {
        return false;
    };
    if runtime.runtime_flavor() != RuntimeFlavor::MultiThread {
        return false;
    }
    tokio::task::block_in_place(|| {
        let (started, picked_up) = mpsc::sync_channel(1);
        runtime.spawn_blocking(move || started.send(()));
        // A full pool must not hold the guest for ever; then the worker stays with this thread.
        let taken = picked_up.recv_timeout(HAND_OFF_WAIT_MAX).is_ok();
        if taken {
            // Between picking up the job and taking the core lie a few instructions.
            std::thread::sleep(HAND_OFF_GRACE);
        }
        taken
    })
}

const HAND_OFF_WAIT_MAX: Duration = Duration::from_millis(50);
const HAND_OFF_GRACE: Duration = Duration::from_millis(1);
