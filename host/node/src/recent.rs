//! The newest of what happens one after the other: kept for those who read later, and waited for.
//!
//! Invariant: writing never waits, and no more is kept than was agreed. A reader that comes too late
//! is told so.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

/// The newest items. Each has a number, greater than those before it.
pub struct Recent<T> {
    ring: Mutex<Ring<T>>,
    newest: watch::Sender<u64>,
}

struct Ring<T> {
    items: VecDeque<(u64, T)>,
    max: usize,
    /// Items up to this number are not here any more, or never were.
    forgotten: u64,
    /// The greatest number up to which everything is here that is to be.
    newest: u64,
}

/// What was read.
#[derive(Debug)]
pub struct Batch<T> {
    /// In their order.
    pub items: Vec<(u64, T)>,
    /// Where to read on.
    pub after: u64,
    /// Some items before these were forgotten unread.
    pub missed: bool,
}

impl<T: Clone> Recent<T> {
    /// Nothing yet; what comes has numbers greater than `forgotten`. At most `max` items are kept.
    pub fn new(forgotten: u64, max: usize) -> Self {
        let ring = Ring {
            items: VecDeque::new(),
            max,
            forgotten,
            newest: forgotten,
        };
        Self {
            ring: Mutex::new(ring),
            newest: watch::Sender::new(forgotten),
        }
    }

    /// Adds an item under the next number.
    pub fn push(&self, item: T) {
        let mut ring = self.ring.lock();
        let number = ring.newest + 1;
        ring.push(number, item);
        self.tell(&mut ring, number);
    }

    /// Adds items under numbers that are greater than all before, and says that there is nothing
    /// else up to `newest`.
    pub fn extend(&self, items: impl IntoIterator<Item = (u64, T)>, newest: u64) {
        let mut ring = self.ring.lock();
        for (number, item) in items {
            ring.push(number, item);
        }
        self.tell(&mut ring, newest);
    }

    /// What there was up to this number is not known here.
    pub fn skip(&self, to: u64) {
        let mut ring = self.ring.lock();
        if to > ring.newest {
            ring.items.clear();
            ring.forgotten = to;
            self.tell(&mut ring, to);
        }
    }

    /// The greatest number of what is not known here any more.
    pub fn forgotten(&self) -> u64 {
        self.ring.lock().forgotten
    }

    /// The greatest number so far.
    pub fn newest(&self) -> u64 {
        self.ring.lock().newest
    }

    /// Items of which `wanted` makes something, after the one of this number: the oldest `limit` of
    /// them, as soon as there is any. Waits no longer than `wait`.
    pub async fn after<U>(
        &self,
        number: u64,
        limit: usize,
        wait: Duration,
        wanted: impl Fn(&T) -> Option<U>,
    ) -> Batch<U> {
        let deadline = Instant::now() + wait;
        let mut newest = self.newest.subscribe();
        let mut after = number;
        let mut missed = false;
        loop {
            newest.borrow_and_update();
            let batch = self.ring.lock().after(after, limit, &wanted);
            after = batch.after;
            missed |= batch.missed;
            if !batch.items.is_empty() || missed {
                return Batch { missed, ..batch };
            }
            let changed = tokio::time::timeout_at(deadline, newest.changed());
            // The sender is self's, so it is there.
            if changed.await.is_err() {
                return Batch { missed, ..batch };
            }
            // What happens in a moment goes along with it.
            tokio::time::sleep_until(deadline.min(Instant::now() + GATHER)).await;
        }
    }

    /// Under the lock, so that nobody is told of an earlier number later.
    fn tell(&self, ring: &mut Ring<T>, newest: u64) {
        ring.newest = ring.newest.max(newest);
        self.newest.send_replace(ring.newest);
    }
}

impl<T> Ring<T> {
    fn push(&mut self, number: u64, item: T) {
        if self.items.len() == self.max
            && let Some((forgotten, _)) = self.items.pop_front()
        {
            self.forgotten = forgotten;
        }
        self.items.push_back((number, item));
    }

    fn after<U>(&self, number: u64, limit: usize, wanted: impl Fn(&T) -> Option<U>) -> Batch<U> {
        let from = self.items.partition_point(|(known, _)| *known <= number);
        let mut items = Vec::new();
        let mut after = self.newest.max(number);
        for (number, item) in self.items.range(from..) {
            if let Some(item) = wanted(item) {
                if items.len() == limit {
                    break;
                }
                items.push((*number, item));
            }
            after = *number;
        }
        if items.len() < limit {
            after = after.max(self.newest);
        }
        Batch {
            items,
            after,
            missed: number < self.forgotten,
        }
    }
}

/// How long items are gathered before they go to whoever waits for them.
const GATHER: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    async fn read(recent: &Recent<u64>, after: u64, limit: usize) -> (Vec<u64>, u64, bool) {
        let odd = |item: &u64| (item % 2 == 1).then_some(*item);
        let batch = recent.after(after, limit, Duration::ZERO, odd).await;
        let items = batch.items.into_iter().map(|(number, item)| {
            assert_eq!(number, item);
            item
        });
        (items.collect(), batch.after, batch.missed)
    }

    #[tokio::test]
    async fn reading_on_misses_nothing_and_repeats_nothing() {
        let recent = Recent::new(0, 100);
        for item in 1..=9 {
            recent.push(item);
        }
        assert_eq!(read(&recent, 0, 3).await, (vec![1, 3, 5], 6, false));
        assert_eq!(read(&recent, 6, 3).await, (vec![7, 9], 9, false));
        assert_eq!(read(&recent, 9, 3).await, (vec![], 9, false));
        recent.extend([(20, 20), (21, 21)], 30);
        assert_eq!(read(&recent, 9, 3).await, (vec![21], 30, false));
    }

    #[tokio::test]
    async fn who_comes_too_late_is_told_so_once() {
        let recent = Recent::new(0, 4);
        for item in 1..=9 {
            recent.push(item);
        }
        assert_eq!(read(&recent, 5, 9).await, (vec![7, 9], 9, false));
        assert_eq!(read(&recent, 4, 9).await, (vec![7, 9], 9, true));
        recent.skip(15);
        assert_eq!(read(&recent, 9, 9).await, (vec![], 15, true));
        assert_eq!(read(&recent, 15, 9).await, (vec![], 15, false));
        recent.skip(3);
        assert_eq!(recent.newest(), 15);
        let late = Recent::<u64>::new(7, 4);
        assert_eq!(read(&late, 0, 9).await, (vec![], 7, true));
    }

    #[tokio::test]
    async fn who_waits_hears_of_what_is_wanted_and_of_nothing_else() {
        let recent = Arc::new(Recent::new(0, 100));
        let waits = tokio::spawn({
            let recent = recent.clone();
            async move {
                let odd = |item: &u64| (item % 2 == 1).then_some(*item);
                recent.after(0, 9, Duration::from_secs(60), odd).await
            }
        });
        recent.push(0);
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        recent.push(1);
        let batch = waits.await.unwrap();
        assert_eq!(batch.items, [(2, 1)]);
    }
}
