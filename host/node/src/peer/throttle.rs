//! Lets through one report in a while, so that what others send cannot flood the log.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Limits one kind of report to one per [`Throttle::PERIOD`].
#[derive(Default)]
pub(crate) struct Throttle(Mutex<State>);

#[derive(Default)]
struct State {
    last: Option<Instant>,
    suppressed: u64,
}

impl Throttle {
    pub(crate) const PERIOD: Duration = Duration::from_secs(5);

    /// Whether to report now, and if so how many were held back since the last report.
    pub(crate) fn pass(&self) -> Option<u64> {
        let mut state = self.0.lock();
        let now = Instant::now();
        if state
            .last
            .is_some_and(|last| now.duration_since(last) < Self::PERIOD)
        {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}
