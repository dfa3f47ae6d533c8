//! How long an owner may take to give a slot away, as the leader sees it.
//!
//! Every step of an owner towards its release has a time limit of its own. One that has outlasted
//! them all hangs, though it may renew its lease: it gets no more leases, and what it owns is free
//! when the present one is over.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use holdfast_model::Token;

use super::{Now, SlotKey};
use crate::state::{Module, Owner, SlotState, State};

/// The slots that their owners are to give away, and since when.
#[derive(Debug, Default)]
pub struct Overdue(BTreeMap<SlotKey, (Token, Now)>);

impl Overdue {
    /// Names the owners that have not given away in time what they were to. Begin with an empty one
    /// in each term: what another leader saw is not known, and errs on the side of patience.
    pub fn owners(&mut self, now: Now, state: &State) -> BTreeSet<Owner> {
        let Self(since) = self;
        let mut overdue = BTreeSet::new();
        let mut present = BTreeMap::new();
        for (name, module) in state.modules() {
            let limit = limit(module);
            for (slot, found) in module.slots.iter().filter(|(_, slot)| is_leaving(slot)) {
                let Some(owner) = found.owner else { continue };
                let key = (name.clone(), *slot);
                let began = match since.get(&key) {
                    Some((token, began)) if *token == found.token => *began,
                    _ => now,
                };
                if now.saturating_sub(began) >= limit {
                    overdue.insert(owner);
                }
                present.insert(key, (found.token, began));
            }
        }
        *since = present;
        overdue
    }
}

/// Whether a slot's owner is to give it away: to another node, or to nobody.
fn is_leaving(slot: &SlotState) -> bool {
    slot.next.is_some() || slot.resources.is_empty()
}

/// The longest time that an owner may need: what is in flight or starts comes to its end, and
/// `terminate` waits for its turn as long as it may run itself.
fn limit(module: &Module) -> Duration {
    let about = &module.about;
    let candidate = about.rollout.iter().map(|rollout| &rollout.version);
    let versions = candidate.chain([&about.version]);
    let needs = versions.map(|version| {
        let limits = &version.settings.limits;
        let in_flight = limits.call_timeout_ms.max(limits.handle_timeout_ms);
        in_flight.saturating_add(limits.terminate_timeout_ms.saturating_mul(2))
    });
    Duration::from_millis(needs.max().unwrap_or(0)) + SLACK
}

/// What a busy machine, a commit and an election may add.
const SLACK: Duration = Duration::from_secs(15);
