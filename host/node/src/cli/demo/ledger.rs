//! Who holds what, judged by the handlers' own reports and nothing else.
//!
//! Pure: reports come in as they arrived, time and process with them. A resource is held by an owner
//! from its report of `handle` until its report of `terminate`, or until its process was killed. An
//! owner is told from another by its process and its token: a second `handle` under the same token
//! in the same process is the same owner that starts anew.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Instant,
};

use holdfast_model::{ResourceId, Token};
use serde::{Deserialize, Serialize};

/// What a handler reports.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Report {
    pub(super) event: Event,
    pub(super) id: ResourceId,
    pub(super) token: Token,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Event {
    /// The resource is about to be held: the last thing that `handle` does.
    Handle,
    /// It is no longer held: the first thing that `terminate` does.
    Terminate,
}

/// All that was reported, summed up.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The processes that may report.
    living: BTreeSet<Pid>,
    holders: HashMap<ResourceId, Vec<Holding>>,
    /// Reports so far.
    events: u64,
    last_event: Option<Instant>,
    /// When a resource was handled while another owner held it.
    overlaps: u64,
}

/// The number of a process.
pub(super) type Pid = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    process: Pid,
    token: Token,
}

#[derive(Clone, Copy, Debug)]
struct Holding {
    owner: Owner,
    /// Number of the report that began it.
    event: u64,
}

/// How many resources are held by how many owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Tally {
    pub(super) held_once: u64,
    pub(super) held_twice: u64,
    pub(super) not_held: u64,
    /// How often so far a resource was handled while another owner held it.
    pub(super) overlaps: u64,
}

impl Tally {
    /// Whether every resource is held exactly once, and no two owners ever held one at a time.
    pub(super) fn is_exact(&self) -> bool {
        self.held_twice == 0 && self.not_held == 0 && self.overlaps == 0
    }
}

impl Ledger {
    /// A process was started: its reports count.
    pub(super) fn started(&mut self, process: Pid) {
        self.living.insert(process);
    }

    /// A process was killed: it holds nothing any more, and nothing that it said before, but comes
    /// only now, counts. Returns what it held.
    pub(super) fn killed(&mut self, process: Pid) -> HashSet<ResourceId> {
        self.living.remove(&process);
        let mut lost = HashSet::new();
        for (id, holders) in &mut self.holders {
            let before = holders.len();
            holders.retain(|holding| holding.owner.process != process);
            if holders.len() < before {
                lost.insert(id.clone());
            }
        }
        lost
    }

    /// The processes that may report.
    pub(super) fn living(&self) -> Vec<Pid> {
        self.living.iter().copied().collect()
    }

    /// Enters a report of a process; false when it is none of those that live.
    pub(super) fn record(&mut self, report: Report, process: Pid, at: Instant) -> bool {
        if !self.living.contains(&process) {
            return false;
        }
        self.events += 1;
        self.last_event = Some(at);
        let owner = Owner {
            process,
            token: report.token,
        };
        let holding = Holding {
            owner,
            event: self.events,
        };
        let holders = self.holders.entry(report.id).or_default();
        // Either way this owner's earlier holding has ended.
        holders.retain(|other| other.owner != owner);
        if report.event == Event::Handle {
            if !holders.is_empty() {
                self.overlaps += 1;
            }
            holders.push(holding);
        }
        true
    }

    /// The process that holds a resource; none when there is none, or several.
    pub(super) fn holder(&self, id: &ResourceId) -> Option<Pid> {
        match self.holders.get(id)?.as_slice() {
            [holding] => Some(holding.owner.process),
            _ => None,
        }
    }

    /// How many resources a process holds.
    pub(super) fn held_by(&self, process: Pid) -> u64 {
        let holds = |h: &Holding| h.owner.process == process;
        let held = self.holders.values().filter(|h| h.iter().any(holds));
        held.count() as u64
    }

    /// How many of `total` resources are held now.
    pub(super) fn tally(&self, total: u64) -> Tally {
        let count = |wanted: fn(usize) -> bool| {
            self.holders.values().filter(|h| wanted(h.len())).count() as u64
        };
        let (held_once, held_twice) = (count(|n| n == 1), count(|n| n > 1));
        Tally {
            held_once,
            held_twice,
            not_held: total.saturating_sub(held_once + held_twice),
            overlaps: self.overlaps,
        }
    }

    /// How many reports there were: a point in the order of events.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// When the last report came.
    pub(super) fn last_event(&self) -> Option<Instant> {
        self.last_event
    }

    /// The resources that are held by an owner who began after `events` reports.
    pub(super) fn begun_after(&self, events: u64) -> HashSet<ResourceId> {
        let begun = |holders: &Vec<Holding>| holders.iter().any(|h| h.event > events);
        let of = self.holders.iter().filter(|(_, holders)| begun(holders));
        of.map(|(id, _)| id.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
