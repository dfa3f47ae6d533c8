//! Proofs of death, kept until they have had their effect.
//!
//! A proof says that one incarnation of a node has ended. Whoever sees it keeps it here and gives
//! it to each new leader until the applied state shows that it is settled, because a leader that
//! dies takes what it was told with it.
//!
//! Suspicion is no evidence: silence, a timeout or an unreachable network never gets in here.

use std::collections::BTreeMap;

use holdfast_model::{Incarnation, NodeId};
use serde::{Deserialize, Serialize};

use crate::state::{Decision, Node, Standing, State};

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
    deaths: BTreeMap<NodeId, Incarnation>,
}

impl Evidence {
    /// Takes a proof, its own or a peer's. Later incarnations cover earlier ones.
    pub fn add(&mut self, death: Death) {
        let known = self.deaths.entry(death.node).or_insert(death.incarnation);
        *known = (*known).max(death.incarnation);
    }

    /// Forgets what the state has settled, and returns what it has not.
    pub fn pending(&mut self, state: &State) -> Vec<Death> {
        self.deaths.retain(|node, incarnation| {
            let owned = |node: &Node| node.incarnation == *incarnation && is_alive(node);
            // A newer incarnation than the joined one died before it joined: nothing to free,
            // but it must not be lost if its join is still in the log's future.
            let ahead = |node: &Node| node.incarnation < *incarnation && is_alive(node);
            state
                .nodes()
                .get(node)
                .is_some_and(|node| owned(node) || ahead(node))
        });
        let deaths = self.deaths.iter();
        deaths
            .map(|(node, incarnation)| Death {
                node: *node,
                incarnation: *incarnation,
            })
            .collect()
    }
}

impl Death {
    /// The decision that frees the dead incarnation's slots, if it is the node's present one.
    #[must_use]
    pub fn decision(self, state: &State) -> Option<Decision> {
        let node = state.nodes().get(&self.node)?;
        let present = node.incarnation == self.incarnation && is_alive(node);
        present.then_some(Decision::Vacate {
            node: self.node,
            incarnation: self.incarnation,
        })
    }
}

fn is_alive(node: &Node) -> bool {
    matches!(node.standing, Standing::Active | Standing::Draining)
}
