//! What can be done to the state, and what came of it.

use std::sync::Arc;

use holdfast_model::{
    ClusterId, Digest, Incarnation, ModuleName, NodeId, ResourceId, Settings, Slot, Spec, Token,
    Weight,
};
use serde::{Deserialize, Serialize};

use super::{About, Cluster, Invalid, SettingsChange};

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Command {
    /// Founds the cluster; refused when it is founded.
    Found(Cluster),
    /// Changes the cluster's settings.
    Set(SettingsChange),
    /// A decision that only the leader of the stated term may make.
    Decide {
        /// The leader's term. An entry of any other term is refused.
        term: u64,
        /// The decision.
        decision: Decision,
    },
    /// The owner has ended these slots' instances and gives the slots away.
    Release {
        /// The owner.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// Slots, each with the token under which it was owned.
        slots: Vec<(ModuleName, Slot, Token)>,
    },
    /// Stops new slots from going to a node, and moves away what it has; or takes that back.
    Drain {
        /// The node.
        node: NodeId,
        /// Whether it drains.
        draining: bool,
        /// How long, in milliseconds from when the node hears of it, its instances may take to end
        /// before it drops them.
        deadline_ms: Option<u64>,
    },
    /// An operator gives a node another share of the load.
    Weigh {
        /// The node.
        node: NodeId,
        /// Its share.
        weight: Weight,
    },
    /// A node says that its process is about to be replaced by another run. What it has is kept for
    /// that one.
    Restart {
        /// The node.
        node: NodeId,
        /// Its incarnation that ends.
        incarnation: Incarnation,
    },
    /// An operator says that a node is gone for good. What it still owns is free when its lease is
    /// over.
    Remove {
        /// The node.
        node: NodeId,
        /// The incarnation that the operator looked at; refused when another has joined since.
        incarnation: Incarnation,
    },
    /// Deploys a component: a new module, or a new version of one.
    Deploy {
        /// The module.
        module: ModuleName,
        /// The component.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// Its settings.
        settings: Arc<Settings>,
        /// Now.
        at_ms: u64,
    },
    /// What a node found when it tried a rollout's version.
    Tried {
        /// The module.
        module: ModuleName,
        /// The version's number.
        number: u64,
        /// The node.
        node: NodeId,
        /// What `handle` said, when no resource could be held.
        error: Option<String>,
    },
    /// Removes a module.
    RemoveModule {
        /// The module.
        module: ModuleName,
        /// Deallocates its resources too; without it a module that has any is kept.
        resources_too: bool,
    },
    /// Allocates resources, or changes their specs.
    Allocate {
        /// The module.
        module: ModuleName,
        /// The resources.
        entries: Vec<(ResourceId, Spec)>,
        /// First owners for slots that do not exist yet, planned by the leader.
        placed: Vec<Placed>,
        /// Now.
        at_ms: u64,
    },
    /// Deallocates resources. Those that do not exist are passed over.
    Deallocate {
        /// The module.
        module: ModuleName,
        /// The resources.
        ids: Vec<ResourceId>,
    },
}

/// What a leader decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Decision {
    /// A node, or a new incarnation of one, is part of the cluster.
    Join {
        /// The node.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// What it says of itself.
        about: About,
        /// Now.
        at_ms: u64,
    },
    /// An incarnation is dead, or its lease is over; its slots are free.
    Vacate {
        /// The node.
        node: NodeId,
        /// The incarnation that is dead.
        incarnation: Incarnation,
    },
    /// The grants that outlasted a change of the settings are over.
    Outlasted {
        /// Position of the change in the log.
        since: u64,
    },
    /// Slots are to go elsewhere: at once if nobody owns them, else when the owner released them.
    Place {
        /// For each slot its token when the decision was made; another token refuses it.
        slots: Vec<(ModuleName, Placed, Token)>,
    },
}

/// A slot and the node that is to own it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placed {
    /// The slot.
    pub slot: Slot,
    /// Its owner to be.
    pub to: NodeId,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is done, or was already so.
    Done,
    /// What became of each released slot, in the command's order.
    Released(Vec<Released>),
    /// What became of each allocation, in the command's order.
    Allocated(Vec<Allocation>),
    /// For each id of a deallocation whether it existed, in the command's order.
    Deallocated(Vec<bool>),
    /// The deployed version's number, and whether it is a new one.
    Deployed {
        /// The version.
        number: u64,
        /// False when this very component and settings serve, or roll out, already.
        new: bool,
    },
    /// Nothing was changed.
    Refused(Refused),
}

/// What became of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Released {
    /// The slot has a new owner, or a new token.
    Given,
    /// The slot was empty and is gone.
    Gone,
    /// It was not the releaser's under that token.
    NotOwned,
}

/// What became of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Allocation {
    /// The resource is new.
    Created,
    /// Its spec was changed.
    Changed,
    /// It existed with this spec.
    Unchanged,
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// The cluster exists.
    #[error("the cluster is founded already, as {0}")]
    Founded(ClusterId),
    /// There is no cluster yet.
    #[error("the cluster is not founded yet")]
    Unfounded,
    /// The cluster cannot have such settings.
    #[error(transparent)]
    Invalid(Invalid),
    /// A decision of another leader.
    #[error("decided in term {decided}, but applied in term {applied}")]
    OtherTerm {
        /// The decision's.
        decided: u64,
        /// The entry's.
        applied: u64,
    },
    /// No such node.
    #[error("there is no node {0}")]
    UnknownNode(NodeId),
    /// The incarnation is not the node's present one.
    #[error("node {node} is at incarnation {present}, not {given}")]
    OtherIncarnation {
        /// The node.
        node: NodeId,
        /// Its present incarnation.
        present: Incarnation,
        /// The one named.
        given: Incarnation,
    },
    /// No such module.
    #[error("there is no module {0}")]
    UnknownModule(ModuleName),
    /// The module is on its way out.
    #[error("module {0} is being removed; try again when it is gone")]
    Removing(ModuleName),
    /// The module has resources.
    #[error(
        "module {module} has {resources} resources; deallocate them first, or remove it with force"
    )]
    HasResources {
        /// The module.
        module: ModuleName,
        /// How many.
        resources: u64,
    },
    /// No such rollout.
    #[error("version {number} of module {module} is not being rolled out")]
    NoRollout {
        /// The module.
        module: ModuleName,
        /// The version named.
        number: u64,
    },
    /// The node was removed, and must come back under a new identity.
    #[error("node {0} was removed from the cluster; it can come back with an empty data directory")]
    Removed(NodeId),
    /// The incarnation is dead, and stays so.
    #[error("incarnation {incarnation} of node {node} is dead; it must start anew")]
    Dead {
        /// The node.
        node: NodeId,
        /// Its dead incarnation.
        incarnation: Incarnation,
    },
}

impl Outcome {
    /// The outcome as a result.
    ///
    /// # Errors
    /// When the command was refused.
    pub fn accepted(self) -> Result<Self, Refused> {
        match self {
            Self::Refused(refused) => Err(refused),
            outcome => Ok(outcome),
        }
    }
}
