//! Tells two processes apart that run under one node id and incarnation: a data directory was copied.
//!
//! Each process has a random number of its own. The first one that was heard is the node; what another
//! one says, or is said of it, changes nothing. Both would otherwise take each other's place without
//! end.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use holdfast_model::NodeId;

use super::wire::Identity;

/// The processes that are the nodes. Clones are the same thing.
#[derive(Clone, Default)]
pub(super) struct Processes(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    first: BTreeMap<NodeId, Identity>,
    twin: Option<Identity>,
}

impl Processes {
    /// Takes an identity that is up for the node that it names, unless another process is that node;
    /// then gives that one's.
    pub(super) fn first(&self, identity: &Identity) -> Option<Identity> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = known.first.entry(identity.member().node);
        let first = *first
            .and_modify(|first| {
                if first.precedes(identity) {
                    *first = *identity;
                }
            })
            .or_insert(*identity);
        let twin = first.is_twin_of(identity);
        if twin {
            known.twin = Some(*identity);
        }
        twin.then_some(first)
    }

    /// The process that is the node of this identity, if that is another one.
    pub(super) fn other(&self, identity: &Identity) -> Option<Identity> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = known.first.get(&identity.member().node).copied();
        first.filter(|first| first.is_twin_of(identity))
    }

    /// The node is down: the next process that shows up is it.
    pub(super) fn forget(&self, node: NodeId) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.first.remove(&node);
    }

    /// The twin that was met last, once.
    pub(super) fn take_twin(&self) -> Option<Identity> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.twin.take()
    }
}
