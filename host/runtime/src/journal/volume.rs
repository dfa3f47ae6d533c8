//! What all handlers of a node may write to the log together.
//!
//! The limit of each instance is no limit where there are many. Beyond the common one lines are left
//! out, and each instance tells how many of its own. A part is kept for those that write little:
//! they are heard beside those that write much.

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;

use super::{GuestLog, GuestLogSink};

/// A sink that takes so much a second.
pub(crate) struct Metered {
    sink: Arc<dyn GuestLogSink>,
    left: Mutex<Left>,
}

struct Left {
    bytes: f64,
    since: Instant,
}

impl Metered {
    pub(crate) fn new(sink: Arc<dyn GuestLogSink>) -> Self {
        let left = Left {
            bytes: BURST_BYTES,
            since: Instant::now(),
        };
        Self {
            sink,
            left: Mutex::new(left),
        }
    }
}

impl GuestLogSink for Metered {
    fn log(&self, entry: &GuestLog<'_>) {
        self.sink.log(entry);
    }

    fn has_room(&self, bytes: usize, writes_much: bool) -> bool {
        self.left.lock().take(bytes, writes_much, Instant::now())
    }
}

impl Left {
    fn take(&mut self, bytes: usize, writes_much: bool, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        self.since = now;
        self.bytes = (self.bytes + passed.as_secs_f64() * BYTES_PER_SECOND).min(BURST_BYTES);
        let bytes = (bytes + ENTRY_BYTES) as f64;
        let kept = if writes_much { KEPT_BYTES } else { 0.0 };
        let has_room = self.bytes - kept >= bytes;
        if has_room {
            self.bytes -= bytes;
        }
        has_room
    }
}

/// What a node logs for its handlers at once, and a second on average: less than a slow disk takes,
/// and what a person could not read in a year each day.
const BURST_BYTES: f64 = (4_u32 << 20) as f64;
const BYTES_PER_SECOND: f64 = (1_u32 << 20) as f64;

/// Of the burst, what is kept for instances that write little.
const KEPT_BYTES: f64 = BURST_BYTES / 4.0;

/// What comes with each message: time, module, resource.
const ENTRY_BYTES: usize = 100;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn all_together_write_so_much_and_the_quiet_are_heard_beside_the_loud() {
        let start = Instant::now();
        let mut left = Left {
            bytes: BURST_BYTES,
            since: start,
        };
        const LINE: usize = 8 << 10;
        let cost = (LINE + ENTRY_BYTES) as f64;
        let loud = |left: &mut Left, at| (0..100_000).filter(|_| left.take(LINE, true, at)).count();
        let at_once = ((BURST_BYTES - KEPT_BYTES) / cost) as usize;
        assert_eq!(loud(&mut left, start), at_once);
        assert!(left.take(LINE, false, start), "a quiet one is heard");
        let second = start + Duration::from_secs(1);
        let in_a_second = (BYTES_PER_SECOND / cost) as usize;
        assert!((in_a_second - 2..=in_a_second).contains(&loud(&mut left, second)));
        let day = start + Duration::from_secs(86_400);
        assert_eq!(loud(&mut left, day), at_once);
    }
}
