//! A module, as those see it who share out threads: its turn, and whether its calls may begin on the
//! thread that they came in on.
//!
//! Most calls are over within microseconds, and a hand-over to another thread would cost several times as
//! much. So a call begins where it is, as long as its module is trusted: it computes no longer than a
//! tick or two. A module that has not shown that yet, or was found out, is not. Trust comes of calls
//! that were quick, and costs twice as many of them each time that it was misplaced.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, Instant},
};

use holdfast_model::Lane;
use parking_lot::Mutex;

use super::{
    Guests, OVERRAN,
    ready::{Class, Need, TenantId},
    run::Run,
};

/// A module among those that share the threads for guests.
pub struct Tenant {
    pub(super) id: TenantId,
    pub(super) guests: Guests,
    /// Calls that have to be quick before the next may begin anywhere.
    doubts: AtomicU32,
    misplaced: Mutex<Misplaced>,
    /// Calls that wait for a thread.
    pub(super) waiting: AtomicUsize,
}

/// How often trust was misplaced lately.
struct Misplaced {
    level: u32,
    last: Instant,
}

/// As many calls of a module wait for a thread as may; the number says how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full(pub u32);

impl Tenant {
    pub(super) fn new(id: TenantId, guests: Guests) -> Self {
        Self {
            id,
            guests,
            doubts: AtomicU32::new(QUICK_CALLS),
            misplaced: Mutex::new(Misplaced {
                level: 0,
                last: Instant::now(),
            }),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Whether a call may begin on the thread that it came in on.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.doubts.load(Relaxed) == 0 && self.guests.has_workers_to_spare()
    }

    /// Has a call run on the threads for guests.
    ///
    /// # Errors
    /// When too many calls of the module wait already.
    pub fn call<T: Send + 'static>(
        self: &Arc<Self>,
        lane: Lane,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<Run<T>, Full> {
        let waiting = self.waiting.load(Relaxed);
        if waiting >= CALLS_WAITING_MAX {
            return Err(Full(u32::try_from(waiting).unwrap_or(u32::MAX)));
        }
        let need = need(lane, Need::Thread);
        Ok(Run::queue(self, Class::Usual, need, true, Box::pin(call)))
    }

    /// Has an instance started on the threads for guests. How many there are at once is for others to
    /// bound.
    pub fn start<T: Send + 'static>(
        self: &Arc<Self>,
        lane: Lane,
        start: impl Future<Output = T> + Send + 'static,
    ) -> Run<T> {
        let need = need(lane, Need::Thread);
        Run::queue(self, Class::Usual, need, false, Box::pin(start))
    }

    /// Has an instance ended on the threads for guests, before all else that its module wants of them.
    pub fn stop<T: Send + 'static>(
        self: &Arc<Self>,
        lane: Lane,
        stop: impl Future<Output = T> + Send + 'static,
    ) -> Run<T> {
        let need = need(lane, Need::ThreadAnyway);
        Run::queue(self, Class::Urgent, need, false, Box::pin(stop))
    }

    /// Runs a call in the fiber lane on this task, as long as it computes little; then it goes on on
    /// the threads for guests. None when it panicked there.
    pub async fn call_here<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let mut call: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(call);
        let here = std::future::poll_fn(|context| {
            OVERRAN.set(false);
            match call.as_mut().poll(context) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending if OVERRAN.take() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        if let Some(answer) = here.await {
            return Some(answer);
        }
        let there = Run::queue(self, Class::Usual, Need::Processor, false, call);
        there.begun_already().await.ok()
    }

    /// A call of the module was over within a tick or two.
    pub(super) fn was_quick(&self) {
        // Lost updates would only cost a call more.
        let doubts = self.doubts.load(Relaxed);
        self.doubts.store(doubts.saturating_sub(1), Relaxed);
    }

    /// A guest of the module goes on computing, perhaps on a thread that was lent to it.
    pub(crate) fn overran(&self, lent: bool) {
        OVERRAN.set(true);
        let mut misplaced = self.misplaced.lock();
        if lent {
            let quiet = misplaced.last.elapsed().as_secs() / FORGIVEN.as_secs();
            let quiet = u32::try_from(quiet).unwrap_or(u32::MAX);
            let level = misplaced.level.saturating_sub(quiet) + 1;
            *misplaced = Misplaced {
                level: level.min(LEVEL_MAX),
                last: Instant::now(),
            };
        }
        self.doubts.store(QUICK_CALLS << misplaced.level, Relaxed);
    }

    pub(super) fn waits(&self) {
        self.waiting.fetch_add(1, Relaxed);
    }

    pub(super) fn waits_no_more(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }
}

/// A fiber gives its thread back whenever it waits or is preempted.
fn need(lane: Lane, direct: Need) -> Need {
    match lane {
        Lane::Direct => direct,
        Lane::Fiber => Need::Processor,
    }
}

/// After so many quick calls a module is trusted.
const QUICK_CALLS: u32 = 8;

/// How often the number doubles: up to 8,192 quick calls for one that is not.
const LEVEL_MAX: u32 = 10;

/// After so long without any it halves.
const FORGIVEN: Duration = Duration::from_secs(60);

/// How many calls of a module may wait for a thread. Each holds its body and its resource. Too few:
/// bursts of calls that compute are refused. Too many: memory for calls that will be late.
const CALLS_WAITING_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> Arc<Tenant> {
        Guests::new(super::super::Options::default()).tenant(&"m".parse().unwrap())
    }

    fn quick_until_trusted(tenant: &Tenant) -> u32 {
        let mut calls = 0;
        while !tenant.is_trusted() {
            tenant.was_quick();
            calls += 1;
        }
        calls
    }

    #[test]
    fn trust_comes_of_quick_calls_and_costs_more_each_time_that_it_was_misplaced() {
        let tenant = tenant();
        assert_eq!(quick_until_trusted(&tenant), 8);
        let costs: Vec<u32> = (0..4)
            .map(|_| {
                tenant.overran(true);
                quick_until_trusted(&tenant)
            })
            .collect();
        assert_eq!(costs, [16, 32, 64, 128]);
        // Where computing is expected it costs trust, but not ever more.
        tenant.overran(false);
        assert_eq!(quick_until_trusted(&tenant), 128);
        for _ in 0..100 {
            tenant.overran(true);
        }
        assert_eq!(quick_until_trusted(&tenant), 8 << 10);
    }
}
