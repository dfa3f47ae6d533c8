//! Which nodes have been there for long enough to be given what others run.
//!
//! To move a resource to a node that is gone a moment later costs two gaps and helps nobody. So a
//! node gets nothing from others before it has been there without a break for a while, and for
//! twice as long after each time that it was lost lately: one that comes and goes attracts less
//! and less. One that said before that its next run is about to take its place was not lost.
//! [`plan`](super::plan) says what that does not hold up.
//!
//! Every node keeps its own record, so that whoever comes to lead knows what it has seen itself.
//! Absent: what it means to be there. Nothing depends on this but when something moves.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use holdfast_model::{Incarnation, NodeId};
use serde::{Deserialize, Serialize};

use crate::{
    handover::Now,
    state::{ClusterSettings, Owner},
};

/// What one node has seen of the presence of all.
#[derive(Debug, Default)]
pub struct Stability {
    nodes: BTreeMap<NodeId, Presence>,
}

/// What keeps a node from being stable that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// For how much longer it must be there.
    pub left: Duration,
    /// How often it was lost lately.
    pub losses: u32,
}

#[derive(Debug)]
struct Presence {
    incarnation: Incarnation,
    /// Since when it has been there without a break.
    since: Now,
    /// Since when it has been away, if it is.
    away: Option<Now>,
    /// How often it was lost lately.
    losses: u32,
    /// Another run of it was about to take its place when it was seen last.
    restarting: bool,
}

impl Stability {
    /// These runs are there now, and no others; of these nodes other runs are about to take the
    /// place. What happened since the last look was not seen: a node that was there then and is
    /// there now has not been away.
    pub fn see(
        &mut self,
        now: Now,
        live: impl IntoIterator<Item = Owner>,
        restarting: &BTreeSet<NodeId>,
    ) {
        let live: BTreeMap<NodeId, Incarnation> = live
            .into_iter()
            .map(|run| (run.node, run.incarnation))
            .collect();
        for (node, presence) in &mut self.nodes {
            if !live.contains_key(node) {
                presence.away.get_or_insert(now);
            }
        }
        for (node, incarnation) in live {
            let fresh = Presence {
                incarnation,
                since: now,
                away: None,
                losses: 0,
                restarting: false,
            };
            let presence = self.nodes.entry(node).or_insert(fresh);
            presence.is_there(now, incarnation);
            presence.restarting = restarting.contains(&node);
        }
        self.nodes
            .retain(|_, presence| presence.away_for(now) < FORGIVEN_AFTER);
    }

    /// The nodes that are there and may be given what others run. One that was not lost lately is
    /// stable once it has been there for `after`; zero makes every node stable at once.
    #[must_use]
    pub fn stable(&self, now: Now, after: Duration) -> BTreeSet<NodeId> {
        let present = self
            .nodes
            .iter()
            .filter(|(_, presence)| presence.away.is_none());
        present
            .filter(|(_, presence)| presence.wait(now, after).is_none())
            .map(|(node, _)| *node)
            .collect()
    }

    /// The nodes that are there and not stable yet, with what they wait for.
    #[must_use]
    pub fn waits(&self, now: Now, after: Duration) -> BTreeMap<NodeId, Wait> {
        let present = self
            .nodes
            .iter()
            .filter(|(_, presence)| presence.away.is_none());
        present
            .filter_map(|(node, presence)| Some((*node, presence.wait(now, after)?)))
            .collect()
    }
}

/// How long a node waits that was lost so often lately.
fn wait(after: Duration, losses: u32) -> Duration {
    let doubled = after.saturating_mul(1 << losses.min(16));
    doubled.min(WAIT_MAX.max(after))
}

impl Presence {
    fn is_there(&mut self, now: Now, incarnation: Incarnation) {
        let lost = incarnation != self.incarnation || self.away_for(now) > BLIP_MAX;
        if lost {
            let stayed = self.away.unwrap_or(now).saturating_sub(self.since);
            if stayed >= FORGIVEN_AFTER {
                self.losses = 0;
            }
            self.since = now;
            if !(self.restarting && incarnation != self.incarnation) {
                self.losses = self.losses.saturating_add(1);
            }
        }
        (self.incarnation, self.away) = (incarnation, None);
    }

    /// What keeps it from being stable, if anything does while it is there.
    fn wait(&self, now: Now, after: Duration) -> Option<Wait> {
        let present = now.saturating_sub(self.since);
        let left = wait(after, self.losses).saturating_sub(present);
        let losses = self.losses;
        (left > Duration::ZERO).then_some(Wait { left, losses })
    }

    fn away_for(&self, now: Now) -> Duration {
        self.away
            .map_or(Duration::ZERO, |away| now.saturating_sub(away))
    }
}

/// An absence up to this long is none, if the process is the same: a connection broke, and was made
/// again.
const BLIP_MAX: Duration = Duration::from_secs(1);

/// The longest that a node waits, however often it was lost.
const WAIT_MAX: Duration = ClusterSettings::STABLE_AFTER_MAX;

/// What a node was before it stayed, or was away, for this long does not count any more.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);
