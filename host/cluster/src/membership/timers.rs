//! The timers that foca asked for, by the time they are due.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    time::Duration,
};

use super::wire::Identity;

/// Timers in the order they are due; those due together in the order they were set.
///
/// Never cancelled: foca ignores those it no longer needs. There are a few per probe, each gone
/// after some seconds, and one for each member that is down.
#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
    set: u64,
}

impl Timers {
    pub(super) fn push(&mut self, at: Duration, timer: foca::Timer<Identity>) {
        self.set += 1;
        self.heap.push(Reverse(Entry {
            at,
            number: self.set,
            timer,
        }));
    }

    pub(super) fn pop_due(&mut self, now: Duration) -> Option<foca::Timer<Identity>> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry.timer)
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }
}

struct Entry {
    at: Duration,
    number: u64,
    timer: foca::Timer<Identity>,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
