//! Which threads go first where there are more of them than processors.
//!
//! A node that does not renew its lease in time loses everything that it runs, so the threads that keep
//! the lease, replicate and gossip go before all others of the machine, where the system permits that
//! (`CAP_SYS_NICE`, or `LimitNICE=` of systemd). They sleep nearly always. Where it does not they are as
//! any others.
//!
//! Absent: real-time classes. A mistake in a thread of one would take the machine along.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, getpid, getpriority_process, setpriority_process};
use tracing::{debug, info};

/// Lets the calling thread, which keeps the lease, replicates or gossips, go before others, as far as
/// that is permitted.
pub(crate) fn urgent() {
    let Some(thread) = this_thread() else { return };
    // A node that somebody runs at another priority keeps the distance. The first thread keeps the
    // priority that the process was given; any other may have got its own from the one that made it.
    let usual = getpriority_process(Some(getpid())).unwrap_or(0);
    let wanted = (usual + URGENT_NICE).max(NICE_MIN);
    match setpriority_process(Some(thread), wanted) {
        Ok(()) => debug!(nice = wanted, "this thread goes before others"),
        Err(error) => {
            static TOLD: AtomicBool = AtomicBool::new(false);
            if !TOLD.swap(true, Ordering::Relaxed) {
                info!(
                    %error,
                    "the threads that renew leases may not go before others: on a machine with more to \
                     do than it can, permit that (CAP_SYS_NICE, or LimitNICE=-10 of systemd)"
                );
            }
        }
    }
}

/// The kernel's number of the calling thread, which it takes wherever it takes a process's for the
/// priority.
fn this_thread() -> Option<Pid> {
    let link = std::fs::read_link("/proc/thread-self").ok()?;
    let number = link.file_name()?.to_str()?.parse().ok()?;
    Pid::from_raw(number)
}

/// Before all that is not urgent by itself; the kernel's own threads that must not wait are at -20.
const URGENT_NICE: i32 = -10;

const NICE_MIN: i32 = -20;

#[cfg(test)]
mod tests {
    use super::*;

    /// On a thread of its own, and the others keep theirs.
    #[test]
    fn a_threads_priority_is_its_own() {
        let usual = getpriority_process(Some(getpid())).unwrap();
        let here = getpriority_process(this_thread()).unwrap();
        let thread = std::thread::spawn(|| {
            urgent();
            getpriority_process(this_thread()).unwrap()
        });
        let urgent = thread.join().unwrap();
        let raised = (usual + URGENT_NICE).max(NICE_MIN);
        // As it was, where raising is not permitted.
        assert!(urgent == raised || urgent == here, "{urgent}");
        let now = getpriority_process(this_thread()).unwrap();
        assert_eq!(now, here, "threads that are there keep theirs");
    }
}
