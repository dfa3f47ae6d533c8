//! What a command has changed, in the words of those who watch the cluster.

use holdfast_model::{Digest, Incarnation, ModuleName, NodeId, ResourceId, Slot, Token};
use serde::{Deserialize, Serialize};

use super::Owner;

/// Something that has happened to the state. Equal on every copy, as all of it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A run of a node is part of the cluster.
    NodeUp {
        /// The node.
        node: NodeId,
        /// Its run.
        incarnation: Incarnation,
    },
    /// A run of a node is dead, and what it owned is free.
    NodeDown {
        /// The node.
        node: NodeId,
        /// Its run.
        incarnation: Incarnation,
    },
    /// What a node owns moves away from it.
    NodeDraining {
        /// The node.
        node: NodeId,
    },
    /// A node drains no longer.
    NodeActive {
        /// The node.
        node: NodeId,
    },
    /// Another run is about to take the place of this one.
    NodeRestarting {
        /// The node.
        node: NodeId,
        /// Its run that ends.
        incarnation: Incarnation,
    },
    /// An operator has removed a node for good.
    NodeRemoved {
        /// The node.
        node: NodeId,
    },
    /// There is a new version of a module. It serves at once where there are no resources to try
    /// it on.
    ModuleDeployed {
        /// The module.
        module: ModuleName,
        /// The version.
        version: u64,
        /// Its component.
        digest: Digest,
    },
    /// A version serves.
    ModuleServing {
        /// The module.
        module: ModuleName,
        /// The version.
        version: u64,
    },
    /// A version could hold no resource and was given up.
    ModuleFailed {
        /// The module.
        module: ModuleName,
        /// The version.
        version: u64,
        /// What `handle` said, on one node.
        error: String,
    },
    /// A module is on its way out.
    ModuleRemoving {
        /// The module.
        module: ModuleName,
    },
    /// A module is gone with its last instance.
    ModuleRemoved {
        /// The module.
        module: ModuleName,
    },
    /// A resource is new.
    ResourceAllocated {
        /// Its module.
        module: ModuleName,
        /// Its id.
        id: ResourceId,
    },
    /// A resource has another spec.
    ResourceChanged {
        /// Its module.
        module: ModuleName,
        /// Its id.
        id: ResourceId,
    },
    /// A resource is no more.
    ResourceDeallocated {
        /// Its module.
        module: ModuleName,
        /// Its id.
        id: ResourceId,
    },
    /// A slot with resources has another owner, or none, or the same one under a new token.
    Moved {
        /// The module.
        module: ModuleName,
        /// The slot.
        slot: Slot,
        /// How many resources are in it.
        resources: u32,
        /// Who owned it.
        from: Option<Owner>,
        /// Who owns it.
        to: Option<Owner>,
        /// The new token.
        token: Token,
    },
}
