//! The two clocks of a node.

use std::{
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, DynamicClockId, clock_gettime, clock_gettime_dynamic};

/// Milliseconds since the Unix epoch, for people and handlers. Nothing is decided by it.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time since the machine was started, times of suspension included: what leases count on.
#[must_use]
pub fn boot_time() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Whether this system has the clock of [`boot_time`].
///
/// # Errors
/// What the system says instead of the time.
pub fn has_boot_time() -> io::Result<()> {
    clock_gettime_dynamic(DynamicClockId::Boottime)?;
    Ok(())
}
