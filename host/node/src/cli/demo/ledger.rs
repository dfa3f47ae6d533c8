//! Who holds what, judged by the handlers' own reports and nothing else.
//!
//! Pure: reports come in as they arrived, time with them. A resource is held by an owner from its
//! report of `handle` until its report of `terminate`, or until its process was killed. An owner is
//! told from another by its token: a second `handle` under the same token is the same owner that
//! starts anew.

use std::{
    collections::{HashMap, HashSet},
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
    holders: HashMap<ResourceId, Vec<Holding>>,
    /// Reports so far.
    events: u64,
    last_event: Option<Instant>,
    /// When a resource was handled while another owner held it.
    overlaps: u64,
}

#[derive(Clone, Copy, Debug)]
struct Holding {
    token: Token,
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
    /// Enters a report.
    pub(super) fn record(&mut self, report: Report, at: Instant) {
        self.events += 1;
        self.last_event = Some(at);
        let holding = Holding {
            token: report.token,
            event: self.events,
        };
        let holders = self.holders.entry(report.id).or_default();
        // Either way this owner's earlier holding has ended.
        holders.retain(|other| other.token != report.token);
        if report.event == Event::Handle {
            if !holders.is_empty() {
                self.overlaps += 1;
            }
            holders.push(holding);
        }
    }

    /// The process that held these was killed: they are held no longer.
    pub(super) fn killed<'a>(&mut self, ids: impl IntoIterator<Item = &'a ResourceId>) {
        for id in ids {
            self.holders.remove(id);
        }
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
mod tests {
    use super::*;

    /// Enters `+a1`: a is handled under token 1; `-a1`: it is terminated.
    fn ledger(reports: &[&str]) -> Ledger {
        let mut ledger = Ledger::default();
        add(&mut ledger, reports);
        ledger
    }

    fn add(ledger: &mut Ledger, reports: &[&str]) {
        for text in reports {
            let event = if text.starts_with('+') {
                Event::Handle
            } else {
                Event::Terminate
            };
            let report = Report {
                event,
                id: text[1..2].parse().unwrap(),
                token: Token(text[2..].parse().unwrap()),
            };
            ledger.record(report, Instant::now());
        }
    }

    fn tally(held_once: u64, held_twice: u64, not_held: u64, overlaps: u64) -> Tally {
        Tally {
            held_once,
            held_twice,
            not_held,
            overlaps,
        }
    }

    #[test]
    fn a_resource_that_moves_in_order_is_held_once() {
        let ledger = ledger(&["+a1", "+b1", "-a1", "+a2"]);
        assert_eq!(ledger.tally(2), tally(2, 0, 0, 0));
        assert!(ledger.tally(2).is_exact());
    }

    #[test]
    fn an_overlap_is_seen_and_never_forgotten() {
        let mut ledger = ledger(&["+a1", "+a2"]);
        assert_eq!(ledger.tally(1), tally(0, 1, 0, 1));
        add(&mut ledger, &["-a1"]);
        assert_eq!(ledger.tally(1), tally(1, 0, 0, 1));
        assert!(!ledger.tally(1).is_exact());
    }

    #[test]
    fn an_owner_of_the_past_that_comes_back_is_an_overlap() {
        let ledger = ledger(&["+a1", "-a1", "+a2", "+a1"]);
        assert_eq!(ledger.tally(1), tally(0, 1, 0, 1));
    }

    #[test]
    fn a_loss_is_seen() {
        let mut ledger = ledger(&["+a1", "+b1", "+c1"]);
        add(&mut ledger, &["-a1"]);
        ledger.killed([&"b".parse().unwrap()]);
        assert_eq!(ledger.tally(4), tally(1, 0, 3, 0));
        assert!(!ledger.tally(4).is_exact());
    }

    #[test]
    fn what_a_killed_process_held_may_be_handled_elsewhere() {
        let mut ledger = ledger(&["+a1", "+b1"]);
        ledger.killed([&"a".parse().unwrap()]);
        let mark = ledger.events();
        add(&mut ledger, &["+a2"]);
        assert_eq!(ledger.tally(2), tally(2, 0, 0, 0));
        assert_eq!(
            ledger.begun_after(mark),
            HashSet::from(["a".parse().unwrap()])
        );
    }

    #[test]
    fn what_was_not_killed_may_not() {
        let mut ledger = ledger(&["+a1", "+b1"]);
        ledger.killed([&"a".parse().unwrap()]);
        add(&mut ledger, &["+b2"]);
        assert_eq!(ledger.tally(2), tally(0, 1, 1, 1));
    }

    #[test]
    fn an_owner_may_start_anew_under_its_token() {
        let ledger = ledger(&["+a1", "+a1"]);
        assert_eq!(ledger.tally(1), tally(1, 0, 0, 0));
    }

    #[test]
    fn a_late_report_of_an_earlier_owner_ends_nothing() {
        let ledger = ledger(&["+a1", "-a1", "+a2", "-a1"]);
        assert_eq!(ledger.tally(1), tally(1, 0, 0, 0));
    }
}
