//! Where a thread sleeps until it is given something to do.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::{ready::Ticket, run::Task};
use crate::{budget::Stop, fence::Fence};

thread_local! {
    /// Whether the guest on this thread of the pool has a processor.
    pub(super) static HOLDS: Cell<bool> = const { Cell::new(false) };
    static IS_GUEST: Cell<bool> = const { Cell::new(false) };
    static SEAT: RefCell<Option<Arc<Seat>>> = const { RefCell::new(None) };
}

/// Whether this is a thread for guests.
pub(crate) fn is_guest_thread() -> bool {
    IS_GUEST.get()
}

/// When a guest's time is over.
#[derive(Clone)]
pub(crate) struct Clock {
    pub(crate) deadline: Instant,
    pub(crate) stop: Stop,
    pub(crate) fence: Fence,
}

impl Clock {
    pub(crate) fn is_over(&self) -> bool {
        self.is_cut() || Instant::now() >= self.deadline
    }

    /// Whether it is over for another reason than that it has passed.
    pub(crate) fn is_cut(&self) -> bool {
        self.stop.is_set() || self.fence.is_shut()
    }
}

/// What a thread is given.
pub(super) enum Given {
    Step(Arc<Task>),
    /// A processor, to go on with.
    Go,
    /// Nothing: its time is over.
    Over,
}

/// A thread's place to sleep.
#[derive(Default)]
pub(super) struct Seat {
    given: Mutex<Option<Given>>,
    changed: Condvar,
    guest: Mutex<Option<(Clock, Option<Ticket>)>>,
}

impl Seat {
    /// This thread's.
    pub(super) fn of_thread() -> Arc<Self> {
        SEAT.with_borrow_mut(|seat| Arc::clone(seat.get_or_insert_default()))
    }

    /// This thread's, which is one of the pool from now on.
    pub(super) fn of_pool() -> Arc<Self> {
        IS_GUEST.set(true);
        Self::of_thread()
    }

    /// A guest is about to sleep here.
    pub(super) fn sit_down(&self, clock: Clock) {
        *self.guest.lock() = Some((clock, None));
    }

    /// Where the guest stands in the queue.
    pub(super) fn note(&self, ticket: Ticket) {
        if let Some((_, noted)) = &mut *self.guest.lock() {
            *noted = Some(ticket);
        }
    }

    pub(super) fn ticket(&self) -> Ticket {
        let guest = self.guest.lock();
        let ticket = guest.as_ref().and_then(|(_, ticket)| *ticket);
        ticket.expect("who waits for a processor has noted its ticket")
    }

    pub(super) fn is_over(&self) -> bool {
        let guest = self.guest.lock();
        guest.as_ref().is_some_and(|(clock, _)| clock.is_over())
    }

    pub(super) fn give(&self, given: Given) {
        *self.given.lock() = Some(given);
        self.changed.notify_one();
    }

    /// Sleeps until something is given.
    pub(super) fn wait(&self) -> Given {
        let mut given = self.given.lock();
        loop {
            if let Some(given) = given.take() {
                return given;
            }
            self.changed.wait(&mut given);
        }
    }

    /// Sleeps until there is a task, for so long at most.
    pub(super) fn wait_for_work(&self, time: Duration) -> Option<Arc<Task>> {
        let until = Instant::now() + time;
        let mut given = self.given.lock();
        loop {
            match given.take() {
                Some(Given::Step(task)) => return Some(task),
                // Only who sleeps in the middle of a call is given these.
                Some(Given::Go | Given::Over) | None => {}
            }
            if self.changed.wait_until(&mut given, until).timed_out() && given.is_none() {
                return None;
            }
        }
    }
}
