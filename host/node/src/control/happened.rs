//! What the log has told lately, each event under a number that is the same on every node.

use holdfast_cluster::state::Event;

use crate::recent::Recent;

/// The newest events, with the time at which this node heard of each: milliseconds since the Unix
/// epoch.
pub type Happened = Recent<(u64, Event)>;

pub(super) fn new(applied: u64) -> Happened {
    Happened::new(last(applied), KEPT_MAX)
}

/// The number of the `nth` event, from 0, of an entry of the log. Some of an entry that makes more
/// than a million are left out.
pub(super) fn number(index: u64, nth: u64) -> Option<u64> {
    (nth < PER_ENTRY).then_some(index * PER_ENTRY + nth)
}

/// The number of the last event that an entry may have.
pub(super) fn last(index: u64) -> u64 {
    index * PER_ENTRY + (PER_ENTRY - 1)
}

/// As many as all slots of all modules of a large cluster, moved at once.
const PER_ENTRY: u64 = 1 << 20;

/// Some ten MiB.
const KEPT_MAX: usize = 1 << 16;
