//! Proofs of death, kept until they have had their effect.
//!
//! A proof says that one incarnation of a node has ended. Whoever sees it keeps it here and gives
//! it to each new leader until the applied state shows that it is settled, because a leader that
//! dies takes what it was told with it.
//!
//! Suspicion is no evidence: silence, a timeout or an unreachable network never gets in here.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use holdfast_model::{Incarnation, NodeId};
use serde::{Deserialize, Serialize};

use crate::state::{Decision, State};

/// An incarnation that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Death {
    /// The node.
    pub node: NodeId,
    /// The incarnation that ended.
    pub incarnation: Incarnation,
}

/// The deaths that this node knows of and the state does not.
#[derive(Debug, Default)]
pub struct Evidence {
    deaths: BTreeSet<Death>,
    /// Incarnations that ended because a later one of their node runs. Not told to anybody: the
    /// later one joins and keeps the slots. Unless it dies before that.
    replaced: BTreeMap<NodeId, BTreeSet<Incarnation>>,
}

impl Evidence {
    /// Takes a proof, its own or a peer's. What the incarnation had replaced has ended with it.
    pub fn add(&mut self, death: Death) {
        let replaced = self.replaced.remove(&death.node).unwrap_or_default();
        let (ended, later) = replaced
            .into_iter()
            .partition::<BTreeSet<_>, _>(|incarnation| *incarnation < death.incarnation);
        if !later.is_empty() {
            self.replaced.insert(death.node, later);
        }
        let node = death.node;
        let ended = ended
            .into_iter()
            .map(|incarnation| Death { node, incarnation });
        self.deaths.extend(ended.chain([death]));
    }

    /// Takes the proof that an incarnation ended before a later one of its node began.
    pub fn replaced(&mut self, death: Death) {
        let replaced = self.replaced.entry(death.node).or_default();
        replaced.insert(death.incarnation);
    }

    /// Forgets what the state has settled, and returns what it has not.
    pub fn pending(&mut self, state: &State) -> Vec<Death> {
        let matters = |node: &NodeId, incarnation: &Incarnation| match state.nodes().get(node) {
            Some(known) => known.standing.may_own() && known.incarnation <= *incarnation,
            // This copy of the state may lag behind its join.
            None => true,
        };
        self.deaths
            .retain(|death| matters(&death.node, &death.incarnation));
        self.replaced.retain(|node, incarnations| {
            incarnations.retain(|incarnation| matters(node, incarnation));
            !incarnations.is_empty()
        });
        self.deaths.iter().copied().collect()
    }
}

impl Death {
    /// The decision that frees the dead incarnation's slots, if it is the node's present one.
    #[must_use]
    pub fn decision(self, state: &State) -> Option<Decision> {
        let node = state.nodes().get(&self.node)?;
        let present = node.incarnation == self.incarnation && node.standing.may_own();
        present.then_some(Decision::Vacate {
            node: self.node,
            incarnation: self.incarnation,
        })
    }
}
