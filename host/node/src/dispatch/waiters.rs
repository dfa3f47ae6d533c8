//! Calls that wait for their resource to be held somewhere: how many there may be, and how soon each
//! looks again by itself.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

/// The places for calls that wait on this node.
pub(super) struct Waiters {
    calls: AtomicUsize,
    body_bytes: AtomicUsize,
    calls_max: usize,
    body_bytes_max: usize,
}

/// A place, given back when dropped.
pub(super) struct Waiting<'a> {
    waiters: &'a Waiters,
    body_bytes: usize,
}

/// No place is left.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("{0} calls wait on this node already, as many as may")]
    Calls(usize),
    #[error("the calls that wait on this node have {0} bytes of bodies, as many as they may")]
    Bytes(usize),
}

impl Waiters {
    pub(super) fn new(calls_max: usize, body_bytes_max: usize) -> Self {
        Self {
            calls: AtomicUsize::new(0),
            body_bytes: AtomicUsize::new(0),
            calls_max,
            body_bytes_max,
        }
    }

    /// A place for a call. A body that is larger than all may be has to wait alone.
    pub(super) fn enter(&self, body_bytes: usize) -> Result<Waiting<'_>, Full> {
        let calls = self.calls.fetch_add(1, Relaxed);
        let bytes = self.body_bytes.fetch_add(body_bytes, Relaxed);
        let waiting = Waiting {
            waiters: self,
            body_bytes,
        };
        if calls >= self.calls_max {
            return Err(Full::Calls(self.calls_max));
        }
        if bytes > 0 && bytes.saturating_add(body_bytes) > self.body_bytes_max {
            return Err(Full::Bytes(self.body_bytes_max));
        }
        Ok(waiting)
    }
}

impl Default for Waiters {
    fn default() -> Self {
        Self::new(CALLS_MAX, BODY_BYTES_MAX)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waiters.calls.fetch_sub(1, Relaxed);
        self.waiters.body_bytes.fetch_sub(self.body_bytes, Relaxed);
    }
}

/// How long a call waits before it looks again by itself.
pub(super) struct LookAgain(Duration);

impl LookAgain {
    pub(super) fn new() -> Self {
        Self(LOOK_AGAIN_MIN)
    }

    /// The next pause: twice the one before, spread over half of it, so that calls which began to
    /// wait together do not come back together.
    pub(super) fn next(&mut self) -> Duration {
        let longest = self.0;
        self.0 = (self.0 * 2).min(LOOK_AGAIN_MAX);
        longest.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }

    /// Something has changed: begins with short pauses again.
    pub(super) fn reset(&mut self) {
        self.0 = LOOK_AGAIN_MIN;
    }
}

/// Calls that may wait on a node. More are told so: they would all be sent at once when it goes on.
const CALLS_MAX: usize = 16_384;

/// Bytes of bodies that may wait with them.
const BODY_BYTES_MAX: usize = 256 << 20;

const LOOK_AGAIN_MIN: Duration = Duration::from_millis(20);

/// Longer: a call notices late what only another node knows.
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_calls_and_bytes_wait_and_each_gives_its_place_back() {
        let waiters = Waiters::new(2, 100);
        let first = waiters.enter(60);
        assert!(first.is_ok());
        assert_eq!(waiters.enter(41).err(), Some(Full::Bytes(100)));
        let second = waiters.enter(40);
        assert!(second.is_ok());
        assert_eq!(waiters.enter(0).err(), Some(Full::Calls(2)));
        drop((first, second));
        assert!(waiters.enter(1_000).is_ok(), "alone it may be larger");
        assert!(waiters.enter(60).is_ok());
    }

    #[test]
    fn a_call_that_waits_looks_again_ever_more_rarely() {
        let mut look = LookAgain::new();
        let pauses: Vec<Duration> = (0..10).map(|_| look.next()).collect();
        assert!(pauses[0] <= LOOK_AGAIN_MIN && pauses[0] >= LOOK_AGAIN_MIN / 2);
        assert!(pauses[9] >= LOOK_AGAIN_MAX / 2);
        // In ten seconds some twenty times, and not five hundred.
        let all: Duration = pauses.iter().sum();
        assert!(all > Duration::from_secs(1), "{all:?}");
        look.reset();
        assert!(look.next() <= LOOK_AGAIN_MIN);
    }
}
