//! Turns: how many instances may start at once on a node, and how many stop.
//!
//! After a failover or a restart thousands are to start. Turns spare what their `handle`s talk to,
//! and leave processor time to calls. A start takes one of its module's turns, and one that the
//! whole node shares. Each module has a few of its own besides, so that no number of modules whose
//! `handle` hangs keeps another from starting; and starts are apart from stops, so that hanging
//! starts keep no instance from ending.
//!
//! Starts that queue go on in step: those that began together end together, and the next begin
//! together. So whoever had to wait for a turn uses it a random moment later, short in relation to
//! what starts of this module take: third parties see a flow instead of bursts, and where starts
//! are cheap it costs nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

/// The turns of a node, which all modules share.
#[derive(Clone)]
pub(super) struct NodeTurns(Arc<Semaphore>);

/// The turns of one module on a node.
pub(super) struct Turns {
    starts: Semaphore,
    own: Semaphore,
    node: NodeTurns,
    stops: Semaphore,
    /// What starts take lately: a moving average, in microseconds.
    usual_us: AtomicU64,
}

/// A turn to start an instance, until it is dropped.
pub(super) struct Start<'a> {
    turns: &'a Turns,
    began: Instant,
    _of_module: SemaphorePermit<'a>,
    _of_node: SemaphorePermit<'a>,
}

impl NodeTurns {
    pub(super) fn new(starts_max: u32) -> Self {
        let starts_max = usize::try_from(starts_max).unwrap_or(usize::MAX);
        Self(Arc::new(Semaphore::new(
            starts_max.min(Semaphore::MAX_PERMITS),
        )))
    }
}

impl Turns {
    pub(super) fn new(node: NodeTurns) -> Arc<Self> {
        Arc::new(Self {
            starts: Semaphore::new(MODULE_MAX),
            own: Semaphore::new(MODULE_OWN),
            node,
            stops: Semaphore::new(MODULE_MAX),
            usual_us: AtomicU64::new(0),
        })
    }

    /// Waits for a turn to start. May be given up at any time.
    pub(super) async fn start(&self) -> Start<'_> {
        let queued = [&self.starts, &self.node.0].map(Semaphore::available_permits);
        let queued = queued.contains(&0);
        let of_module = acquire(&self.starts).await;
        // In this order, so that the node's are left to others.
        let of_node = tokio::select! {
            biased;
            own = acquire(&self.own) => own,
            shared = acquire(&self.node.0) => shared,
        };
        if queued {
            let usual = Duration::from_micros(self.usual_us.load(Ordering::Relaxed));
            let apart = apart(usual, rand::random());
            if apart >= TIMER {
                tokio::time::sleep(apart).await;
            }
        }
        Start {
            turns: self,
            began: Instant::now(),
            _of_module: of_module,
            _of_node: of_node,
        }
    }

    /// Waits for a turn to stop, for `patience` at most: hooks that hang must not add up. Whoever
    /// has none by then goes ahead without.
    pub(super) async fn stop(&self, patience: Duration) -> Option<SemaphorePermit<'_>> {
        tokio::time::timeout(patience, acquire(&self.stops))
            .await
            .ok()
    }
}

impl Drop for Start<'_> {
    fn drop(&mut self) {
        let took = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let usual = &self.turns.usual_us;
        // Two at once may lose one of both, which an average can bear.
        let before = usual.load(Ordering::Relaxed);
        let now = before - before / WEIGHT + took / WEIGHT;
        usual.store(now, Ordering::Relaxed);
    }
}

async fn acquire(turns: &Semaphore) -> SemaphorePermit<'_> {
    turns.acquire().await.expect("turns are never closed")
}

/// How much later than its turn a start begins, for a random number below 1: up to a quarter of what
/// starts usually take.
fn apart(usual: Duration, random: f64) -> Duration {
    (usual / 4).min(APART_MAX).mul_f64(random)
}

/// How many instances of one module start at once on a node, and how many stop. Too few: handlers
/// that wait for others (HTTP) start one after the other. Too many: what they wait for is hit by
/// all.
const MODULE_MAX: usize = 64;

/// How many starts of a module need no turn of the node.
const MODULE_OWN: usize = 4;

/// The longest that a start is put off, however long starts take.
const APART_MAX: Duration = Duration::from_millis(100);

/// One in how many parts the last start counts in the average.
const WEIGHT: u64 = 8;

/// What timers count in: less cannot be waited for.
const TIMER: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::task::unconstrained;

    use super::*;

    fn at_once<'a>(turns: &'a Turns, wanted: usize) -> Vec<Start<'a>> {
        // Else the runtime makes a task wait that has taken a hundred.
        let start = |_| unconstrained(turns.start()).now_or_never();
        (0..wanted).map_while(start).collect()
    }

    #[tokio::test]
    async fn the_modules_of_a_node_share_its_turns() {
        let node = NodeTurns::new(100);
        let modules = [(); 3].map(|()| Turns::new(node.clone()));
        let held = modules.each_ref().map(|turns| at_once(turns, 1_000));
        let counts = held.each_ref().map(Vec::len);
        // 64 of the first, four of which are its own; then 40 of the node's are left.
        assert_eq!(counts, [64, 44, 4]);
    }

    #[tokio::test]
    async fn modules_that_hang_keep_no_other_from_starting() {
        let node = NodeTurns::new(64);
        let hanging = [(); 20].map(|()| Turns::new(node.clone()));
        let _held = hanging.each_ref().map(|turns| at_once(turns, 1_000));
        let other = Turns::new(node);
        for _ in 0..100 {
            assert_eq!(at_once(&other, 1_000).len(), MODULE_OWN);
        }
    }

    #[tokio::test]
    async fn a_turn_given_up_while_it_was_waited_for_is_nobodys() {
        let node = NodeTurns::new(1);
        let (a, b) = (Turns::new(node.clone()), Turns::new(node));
        let held = at_once(&a, 1_000);
        assert_eq!(held.len(), MODULE_OWN + 1);
        assert_eq!(at_once(&b, 1_000).len(), MODULE_OWN);
        assert!(a.start().now_or_never().is_none());
        drop(held);
        assert_eq!(at_once(&b, 1_000).len(), MODULE_OWN + 1);
        assert_eq!(at_once(&a, 1_000).len(), MODULE_OWN + 1);
    }

    #[tokio::test]
    async fn starts_that_queued_begin_apart_and_others_at_once() {
        let turns = Turns::new(NodeTurns::new(1_000));
        let first = at_once(&turns, 1_000);
        assert_eq!(first.len(), MODULE_MAX, "without any pause");
        let began = Instant::now();
        let next = (0..MODULE_MAX).map(|_| async {
            let start = turns.start().await;
            (start.began - began).as_millis()
        });
        let next = futures_util::future::join_all(next);
        let make_room = async {
            drop(first);
            turns.usual_us.store(1_000_000, Ordering::Relaxed);
        };
        let (pauses, ()) = tokio::join!(next, make_room);
        let pauses: std::collections::BTreeSet<_> = pauses.into_iter().collect();
        assert!(pauses.len() > 10, "{pauses:?}");
    }

    #[test]
    fn a_start_is_put_off_by_a_part_of_what_starts_take() {
        let ms = Duration::from_millis;
        assert_eq!(apart(ms(200), 0.5), ms(25));
        assert!(apart(ms(200), 0.0).is_zero());
        assert!(apart(Duration::ZERO, 0.9).is_zero());
        assert_eq!(apart(ms(60_000), 0.5), APART_MAX / 2);
        // Where starts are cheap they queue for nothing else.
        assert!(apart(ms(3), 1.0) < TIMER);
    }
}
