//! Work that is ready to run, shared fairly between tenants.
//!
//! Tenants take turns, whatever each of them has waiting. Within a tenant urgent work comes first, and the
//! rest in the order in which it came. Some work keeps its thread to the end, however often it is
//! preempted: it begins only while its tenant holds fewer threads than are free, so that each tenant
//! leaves some to the next.
//!
//! Pure: nothing here waits, reads a clock or knows what the work is.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// A tenant's number.
pub(super) type TenantId = u64;

/// Where a piece of work stands in its tenant's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Ticket {
    class: Class,
    number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Class {
    Urgent,
    Usual,
}

/// What a piece of work needs to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// A processor, until its next tick.
    Processor,
    /// Besides, a thread of its own that it keeps to its end.
    Thread,
    /// The same, whatever its tenant's share.
    ThreadAnyway,
}

/// The work of all tenants.
pub(super) struct Ready<W> {
    tenants: HashMap<TenantId, Lane<W>>,
    /// Those that have work, in the order of their turns.
    turns: VecDeque<TenantId>,
    next: u64,
    holding: usize,
    holding_max: usize,
}

struct Lane<W> {
    steps: BTreeMap<Ticket, W>,
    starts: BTreeMap<Ticket, (W, Need)>,
    /// Threads that its work keeps.
    holding: usize,
}

impl<W> Ready<W> {
    /// Nothing ready yet. At most `holding_max` pieces of work keep a thread at a time.
    pub(super) fn new(holding_max: usize) -> Self {
        Self {
            tenants: HashMap::new(),
            turns: VecDeque::new(),
            next: 0,
            holding: 0,
            holding_max,
        }
    }

    /// Whether nothing waits at all.
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// How much waits.
    pub(super) fn len(&self) -> usize {
        let lanes = self.tenants.values();
        lanes.map(|lane| lane.steps.len() + lane.starts.len()).sum()
    }

    pub(super) fn push(&mut self, tenant: TenantId, class: Class, need: Need, work: W) -> Ticket {
        let ticket = Ticket {
            class,
            number: self.next,
        };
        self.next += 1;
        let lane = self.tenants.entry(tenant).or_insert_with(Lane::new);
        if lane.is_empty() {
            self.turns.push_back(tenant);
        }
        match need {
            Need::Processor => {
                lane.steps.insert(ticket, work);
            }
            Need::Thread | Need::ThreadAnyway => {
                lane.starts.insert(ticket, (work, need));
            }
        }
        ticket
    }

    /// Takes a piece of work out of its queue.
    pub(super) fn remove(&mut self, tenant: TenantId, ticket: Ticket) -> Option<W> {
        let lane = self.tenants.get_mut(&tenant)?;
        let started = lane.starts.remove(&ticket).map(|(work, _)| work);
        let work = started.or_else(|| lane.steps.remove(&ticket))?;
        if lane.is_empty() {
            self.turns.retain(|other| *other != tenant);
            self.tidy(tenant);
        }
        Some(work)
    }

    /// The work whose turn it is. What needs a thread holds one from now on, until [`Self::let_go`].
    pub(super) fn pick(&mut self) -> Option<W> {
        let free = self.holding_max.saturating_sub(self.holding);
        for _ in 0..self.turns.len() {
            let tenant = self.turns.pop_front()?;
            let lane = self
                .tenants
                .get_mut(&tenant)
                .expect("whoever has a turn has work");
            let picked = lane.pick(free);
            if !lane.is_empty() {
                self.turns.push_back(tenant);
            }
            if let Some((work, holds)) = picked {
                self.holding += usize::from(holds);
                self.tidy(tenant);
                return Some(work);
            }
        }
        None
    }

    /// A piece of work of this tenant has let go of its thread.
    pub(super) fn let_go(&mut self, tenant: TenantId) {
        self.holding -= 1;
        if let Some(lane) = self.tenants.get_mut(&tenant) {
            lane.holding -= 1;
        }
        self.tidy(tenant);
    }

    fn tidy(&mut self, tenant: TenantId) {
        let idle = |lane: &Lane<W>| lane.is_empty() && lane.holding == 0;
        if self.tenants.get(&tenant).is_some_and(idle) {
            self.tenants.remove(&tenant);
        }
    }
}

impl<W> Lane<W> {
    fn new() -> Self {
        Self {
            steps: BTreeMap::new(),
            starts: BTreeMap::new(),
            holding: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.starts.is_empty()
    }

    /// The first that may go on while so many threads are free, and whether it holds one from now on.
    fn pick(&mut self, free: usize) -> Option<(W, bool)> {
        let step = self.steps.first_key_value().map(|(ticket, _)| *ticket);
        let start = self.starts.first_key_value();
        let start = start.and_then(|(ticket, (_, need))| {
            let fits = match need {
                Need::ThreadAnyway => free > 0,
                Need::Thread | Need::Processor => self.holding < free,
            };
            fits.then_some(*ticket)
        });
        if start.is_some_and(|start| step.is_none_or(|step| start < step)) {
            let (_, (work, _)) = self.starts.pop_first()?;
            self.holding += 1;
            return Some((work, true));
        }
        step?;
        let (_, work) = self.steps.pop_first()?;
        Some((work, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(ready: &mut Ready<u32>, count: usize) -> Vec<u32> {
        (0..count).map_while(|_| ready.pick()).collect()
    }

    #[test]
    fn tenants_take_turns_however_much_each_has() {
        let mut ready = Ready::new(10);
        for work in 0..100 {
            ready.push(1, Class::Usual, Need::Processor, work);
        }
        for work in [1_000, 1_001] {
            ready.push(2, Class::Usual, Need::Processor, work);
        }
        assert_eq!(picked(&mut ready, 6), [0, 1_000, 1, 1_001, 2, 3]);
        assert_eq!(ready.len(), 96);
    }

    #[test]
    fn urgent_work_comes_first_within_its_tenant_only() {
        let mut ready = Ready::new(10);
        ready.push(1, Class::Usual, Need::Processor, 10);
        ready.push(2, Class::Usual, Need::Processor, 20);
        ready.push(1, Class::Urgent, Need::Processor, 11);
        ready.push(1, Class::Urgent, Need::Processor, 12);
        assert_eq!(picked(&mut ready, 4), [11, 20, 12, 10]);
        assert!(ready.is_empty() && ready.tenants.is_empty());
    }

    #[test]
    fn each_tenant_leaves_threads_to_the_next() {
        let mut ready = Ready::new(8);
        let wanted = |ready: &mut Ready<u32>, tenant: u32| {
            for _ in 0..100 {
                ready.push(tenant.into(), Class::Usual, Need::Thread, tenant);
            }
            picked(ready, 100).len()
        };
        assert_eq!(wanted(&mut ready, 1), 4);
        assert_eq!(wanted(&mut ready, 2), 2);
        assert_eq!(wanted(&mut ready, 3), 1);
        // What ends an instance is not kept from it by those that loop in the same module.
        ready.push(1, Class::Urgent, Need::ThreadAnyway, 11);
        assert_eq!(ready.pick(), Some(11));
        assert_eq!(ready.pick(), None, "no thread is left");
        // What needs none goes on all the same.
        ready.push(1, Class::Usual, Need::Processor, 12);
        assert_eq!(ready.pick(), Some(12));
        ready.let_go(3);
        assert_eq!(ready.pick(), Some(3));
    }

    #[test]
    fn what_was_taken_out_has_no_turn() {
        let mut ready = Ready::new(8);
        let one = ready.push(1, Class::Usual, Need::Thread, 1);
        ready.push(2, Class::Usual, Need::Processor, 2);
        assert_eq!(ready.remove(1, one), Some(1));
        assert_eq!(ready.remove(1, one), None);
        assert_eq!(picked(&mut ready, 2), [2]);
        assert!(ready.is_empty() && ready.tenants.is_empty());
    }
}
