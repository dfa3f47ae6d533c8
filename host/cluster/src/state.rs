//! The replicated state: nodes, modules, resources, and the owner of every slot.
//!
//! Every node has a copy and applies the same [`Command`]s in the same order, so that all copies
//! are equal at equal log positions. [`State::apply`] is total: a command that does not fit
//! changes nothing and says so in its [`Outcome`].
//!
//! Invariants, at every log position:
//! - a slot has at most one owner, and an owner is one incarnation of a node;
//! - the epoch never falls, and a slot's token is the epoch of its last change of owner, so the
//!   tokens of a slot only grow, even when it vanishes and comes back;
//! - a slot with an owner changes it only by that owner's release, by proof that the incarnation
//!   is dead, by a later incarnation of its node, or when its lease is over;
//! - a slot that lost its last resource stays with its owner until that releases it, so what
//!   replaces it cannot overlap with what still terminates.
//!
//! Nothing here reads a clock: timestamps arrive in the commands and are for people only.

mod apply;
mod command;
mod event;
#[cfg(test)]
mod golden;
mod planning;
mod refound;
mod rows;
#[cfg(test)]
pub(crate) mod sample;
mod settings;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use holdfast_model::{
    ClusterId, ClusterName, Digest, Epoch, Incarnation, Labels, ModuleName, NodeId, OnLostQuorum,
    ResourceId, Settings, Slot, Spec, Token, Weight, Zone,
};
use serde::{Deserialize, Serialize};

pub use self::{
    apply::Position,
    command::{Allocation, Command, Decision, Outcome, Placed, Refused, Released},
    event::Event,
    rows::{Changes, CorruptRow, Key},
    settings::{ClusterSettings, Invalid, Outlasting, SettingsChange},
};

/// One copy of the replicated state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    cluster: Option<Cluster>,
    epoch: Epoch,
    nodes: BTreeMap<NodeId, Node>,
    modules: BTreeMap<ModuleName, Module>,
}

/// The cluster itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Made at random by the founder.
    pub id: ClusterId,
    /// Given by the operator.
    pub name: ClusterName,
    /// Milliseconds since the Unix epoch.
    pub founded_at_ms: u64,
    /// What operators set.
    pub settings: ClusterSettings,
    /// Grants under earlier settings that may still be in force.
    pub outlasting: Option<Outlasting>,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// The incarnation that joined last.
    pub incarnation: Incarnation,
    /// Whether it may own slots.
    pub standing: Standing,
    /// What it said of itself when it joined.
    pub about: About,
    /// Share of the load: what it said when it joined, or what an operator has set since.
    pub weight: Weight,
    /// When this incarnation joined: milliseconds since the Unix epoch.
    pub joined_at_ms: u64,
    /// While it drains: how long, in milliseconds from when it hears of that, its instances may take
    /// to end before it drops them. None: as long as their limits say.
    pub drain_deadline_ms: Option<u64>,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Where peers reach it: TCP frames and UDP gossip.
    pub addr: SocketAddr,
    /// Where its HTTP API is.
    pub http: SocketAddr,
    /// Share of the load that it was started with. What counts is [`Node::weight`].
    pub weight: Weight,
    /// Failure domain.
    pub zone: Option<Zone>,
    /// What operators say of it.
    pub labels: Labels,
    /// The kernel's boot id.
    pub boot_id: Arc<str>,
    /// Version of the software.
    pub version: Arc<str>,
}

/// Whether a node may own slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Standing {
    /// It may.
    Active,
    /// It keeps what it has until that has moved, and gets nothing new.
    Draining,
    /// Its process is about to be replaced by another run: what it has is kept for that one for
    /// some seconds, and it gets nothing new.
    Restarting,
    /// Its incarnation is proven dead, or its lease is over. A later one may join.
    Down,
    /// An operator removed it. It is kept so that it cannot come back under this identity.
    Removed,
}

impl Standing {
    /// Whether the incarnation may own slots, or keeps those that it has.
    #[must_use]
    pub fn may_own(self) -> bool {
        matches!(self, Self::Active | Self::Draining | Self::Restarting)
    }
}

/// One incarnation of a node, as owner of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// The node.
    pub node: NodeId,
    /// Its incarnation.
    pub incarnation: Incarnation,
}

/// Ownership of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// Who runs its resources; nobody until the next placement when none.
    pub owner: Option<Owner>,
    /// Who gets it once the owner has released it.
    pub next: Option<NodeId>,
    /// Epoch of the last change of `owner`.
    pub token: Token,
    /// The resources in it. Empty only while its owner still has to release it.
    pub resources: BTreeSet<ResourceId>,
}

/// A module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Versions, rollout and removal.
    pub about: ModuleAbout,
    /// Its resources.
    pub resources: BTreeMap<ResourceId, Resource>,
    /// Its slots that have resources, or did until a moment ago.
    pub slots: BTreeMap<Slot, SlotState>,
}

/// What is known of a module apart from its resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleAbout {
    /// The version that serves.
    pub version: Version,
    /// The version that is about to replace it.
    pub rollout: Option<Rollout>,
    /// The last version that failed everywhere, and why.
    pub failed: Option<FailedRollout>,
    /// How many versions were deployed: the number of the last one. No number is given twice, for
    /// nodes know a version by it.
    pub deployments: u64,
    /// It is being removed: no allocations, and it vanishes with its last slot.
    pub removing: bool,
}

/// A version of a module: its component and the settings it runs with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Counts the module's deployments from 1; none is used twice.
    pub number: u64,
    /// The component.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its settings.
    pub settings: Arc<Settings>,
    /// When it was deployed: milliseconds since the Unix epoch.
    pub deployed_at_ms: u64,
}

/// A version on probation: each node tries it on a few resources first. It serves as soon as one
/// of them is held by it, and is given up once every node that owns slots of the module failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// The new version.
    pub version: Version,
    /// Nodes on which no resource could be held by it, and what the last one said.
    pub failed_on: BTreeMap<NodeId, String>,
}

/// A version that could not hold a single resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailedRollout {
    /// The version that was given up.
    pub version: Version,
    /// What `handle` said, on one node.
    pub error: String,
}

/// A resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// What it is to do.
    pub spec: Spec,
    /// Grows with every change of `spec`: the log index of the change.
    pub revision: u64,
    /// When it was allocated first: milliseconds since the Unix epoch.
    pub allocated_at_ms: u64,
}

impl Module {
    /// The nodes that own slots with resources in them.
    #[must_use]
    pub fn owners(&self) -> BTreeSet<NodeId> {
        let slots = self.slots.values();
        slots
            .filter(|slot| !slot.resources.is_empty())
            .filter_map(|slot| Some(slot.owner?.node))
            .collect()
    }

    /// How many of its slots are on their way from one node to another. Those whose owner cannot be
    /// reached do not count: nobody knows when they end, and the others must not wait for that.
    fn moves_under_way(&self, live: &BTreeSet<NodeId>) -> usize {
        let moving = |state: &&SlotState| {
            let reachable = state.owner.is_some_and(|owner| live.contains(&owner.node));
            state.next.is_some() && reachable
        };
        self.slots.values().filter(moving).count()
    }
}

impl State {
    /// The cluster, once founded.
    #[must_use]
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// Version of the view.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// All nodes, dead and removed ones included.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// All modules.
    #[must_use]
    pub fn modules(&self) -> &BTreeMap<ModuleName, Module> {
        &self.modules
    }

    /// A slot, if it exists.
    #[must_use]
    pub fn slot(&self, module: &ModuleName, slot: Slot) -> Option<&SlotState> {
        self.modules.get(module)?.slots.get(&slot)
    }

    /// A resource, if it exists.
    #[must_use]
    pub fn resource(&self, module: &ModuleName, id: &ResourceId) -> Option<&Resource> {
        self.modules.get(module)?.resources.get(id)
    }

    /// The incarnation of a node that may own slots now, if any.
    #[must_use]
    pub fn active(&self, node: NodeId) -> Option<Owner> {
        let found = self.nodes.get(&node)?;
        let owner = Owner {
            node,
            incarnation: found.incarnation,
        };
        (found.standing == Standing::Active).then_some(owner)
    }

    /// Whether an incarnation may own slots, or keeps what it has until that has moved.
    #[must_use]
    pub fn is_member(&self, run: Owner) -> bool {
        self.nodes
            .get(&run.node)
            .is_some_and(|node| node.standing.may_own() && node.incarnation == run.incarnation)
    }

    /// Who owns slots, one after the other, in no order and each as often as it owns one.
    pub fn owners(&self) -> impl Iterator<Item = Owner> {
        let slots = self
            .modules
            .values()
            .flat_map(|module| module.slots.values());
        slots.filter_map(|slot| slot.owner)
    }

    /// Whether an incarnation owns anything that goes on when it can reach no majority.
    #[must_use]
    pub fn goes_on_without_quorum(&self, run: Owner) -> bool {
        self.modules.values().any(|module| {
            module.about.version.settings.on_lost_quorum == OnLostQuorum::Continue
                && module.slots.values().any(|slot| slot.owner == Some(run))
        })
    }
}
