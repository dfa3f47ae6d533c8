//! What happens in the cluster.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{ConditionKind, Owner};
use crate::{Digest, Incarnation, ModuleName, NodeId, ResourceId, Slot, Token};

/// Query of `GET /v1/events`. The answer is a stream of server-sent events: `event` is the type, `data`
/// an [`Event`] as JSON, and `id` says where it stands, for `Last-Event-ID`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct EventsQuery {
    /// Only events of this type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub kind: Option<EventType>,
    /// Only of this module and its resources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<ModuleName>,
    /// Only of this resource; needs a module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceId>,
    /// Begin with all that is still known of the past.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replay: bool,
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// When, by the clock of the node where it happened; of what the log tells, when the node that
    /// answers heard of it.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

macro_rules! happenings {
    ($($(#[$doc:meta])* $name:ident $text:tt { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* })*) => {
        /// What has happened; `docs/EVENTS.md` is the catalogue.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        #[serde(tag = "type")]
        pub enum Happening {
            $($(#[$doc])* #[serde(rename = $text)] $name { $($(#[$field_doc])* $field: $ty,)* },)*
        }

        /// Its type.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        pub enum EventType {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl EventType {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As it is written.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }

        impl Happening {
            /// Its type.
            #[must_use]
            pub fn kind(&self) -> EventType {
                match self {
                    $(Self::$name { .. } => EventType::$name,)*
                }
            }
        }
    };
}

happenings! {
    /// A run of a node is part of the cluster.
    NodeUp "node-up" {
        /// The node.
        node: NodeId,
        /// Its run.
        incarnation: Incarnation,
    }
    /// A run of a node is dead, and what it owned is free.
    NodeDown "node-down" {
        /// The node.
        node: NodeId,
        /// Its run.
        incarnation: Incarnation,
    }
    /// What a node owns moves away from it.
    NodeDraining "node-draining" {
        /// The node.
        node: NodeId,
    }
    /// A node drains no longer.
    NodeActive "node-active" {
        /// The node.
        node: NodeId,
    }
    /// Another run of a node is about to take the place of this one.
    NodeRestarting "node-restarting" {
        /// The node.
        node: NodeId,
        /// Its run that ends.
        incarnation: Incarnation,
    }
    /// An operator has removed a node for good.
    NodeRemoved "node-removed" {
        /// The node.
        node: NodeId,
    }
    /// A condition of a node began: it is given nothing, or is not well.
    NodeConditionBegan "node-condition-began" {
        /// The node.
        node: NodeId,
        /// What kind of condition.
        kind: ConditionKind,
        /// What it is about.
        text: String,
    }
    /// A condition of a node is over.
    NodeConditionEnded "node-condition-ended" {
        /// The node.
        node: NodeId,
        /// What kind of condition.
        kind: ConditionKind,
    }
    /// There is a new version of a module.
    ModuleDeployed "module-deployed" {
        /// The module.
        module: ModuleName,
        /// The version.
        version: u64,
        /// Its component.
        digest: Digest,
    }
    /// A version is compiled on a node and can be started there.
    ModuleReady "module-ready" {
        /// The node.
        node: NodeId,
        /// The module.
        module: ModuleName,
        /// The version.
        version: u64,
    }
    /// A version serves: every instance is, or becomes, one of it.
    ModuleServing "module-serving" {
        /// The module.
        module: ModuleName,
        /// The version.
        version: u64,
    }
    /// A version could hold no resource and was given up.
    ModuleFailed "module-failed" {
        /// The module.
        module: ModuleName,
        /// The version.
        version: u64,
        /// What `handle` said, on one node.
        error: String,
    }
    /// A module is on its way out.
    ModuleRemoving "module-removing" {
        /// The module.
        module: ModuleName,
    }
    /// A module is gone with its last instance.
    ModuleRemoved "module-removed" {
        /// The module.
        module: ModuleName,
    }
    /// A resource is new.
    ResourceAllocated "resource-allocated" {
        /// Its module.
        module: ModuleName,
        /// Its id.
        resource: ResourceId,
    }
    /// A resource has another spec.
    ResourceChanged "resource-changed" {
        /// Its module.
        module: ModuleName,
        /// Its id.
        resource: ResourceId,
    }
    /// A resource is no more.
    ResourceDeallocated "resource-deallocated" {
        /// Its module.
        module: ModuleName,
        /// Its id.
        resource: ResourceId,
    }
    /// A slot, with all resources in it, has another owner; or none, or the same one under a new token.
    Moved "moved" {
        /// The module.
        module: ModuleName,
        /// The slot.
        slot: Slot,
        /// How many resources are in it.
        resources: u32,
        /// Who owned it.
        #[schema(required)]
        from: Option<Owner>,
        /// Who owns it.
        #[schema(required)]
        to: Option<Owner>,
        /// The new token.
        token: Token,
    }
    /// `handle` of an instance has returned: the resource is held.
    InstanceStarted "instance-started" {
        /// The node.
        node: NodeId,
        /// The module.
        module: ModuleName,
        /// The resource.
        resource: ResourceId,
        /// The module's version.
        version: u64,
        /// Its fencing token.
        token: Token,
    }
    /// An instance could not be started, or died.
    InstanceFailed "instance-failed" {
        /// The node.
        node: NodeId,
        /// The module.
        module: ModuleName,
        /// The resource.
        resource: ResourceId,
        /// What went wrong.
        error: String,
        /// Whether the resource is quarantined until its spec or module changes.
        quarantined: bool,
    }
    /// An instance was ended: `terminate` has returned, or its time was up.
    InstanceStopped "instance-stopped" {
        /// The node.
        node: NodeId,
        /// The module.
        module: ModuleName,
        /// The resource.
        resource: ResourceId,
        /// Why, as `terminate` was told.
        reason: StopReason,
    }
    /// Events were missed: they are no longer known, or never were where they are read.
    Missed "missed" {
        /// Events of instances on this node; null: of everything else.
        #[schema(required)]
        node: Option<NodeId>,
    }
}

/// Why an instance was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StopReason {
    /// Another node gets the resource.
    Moved,
    /// The resource was deallocated.
    Removed,
    /// Another version or spec takes its place.
    Upgraded,
    /// The node stops.
    Stopping,
    /// It was unhealthy.
    Unhealthy,
}

impl std::fmt::Display for EventType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that is no type of event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no type of event; docs/EVENTS.md lists them")]
pub struct InvalidEventType(String);

impl std::str::FromStr for EventType {
    type Err = InvalidEventType;

    fn from_str(text: &str) -> Result<Self, InvalidEventType> {
        let found = Self::ALL.iter().find(|kind| kind.as_str() == text);
        found
            .copied()
            .ok_or_else(|| InvalidEventType(text.to_owned()))
    }
}

impl Happening {
    /// The module that it is about, if it is about one.
    #[must_use]
    pub fn module(&self) -> Option<&ModuleName> {
        match self {
            Self::ModuleDeployed { module, .. }
            | Self::ModuleReady { module, .. }
            | Self::ModuleServing { module, .. }
            | Self::ModuleFailed { module, .. }
            | Self::ModuleRemoving { module }
            | Self::ModuleRemoved { module }
            | Self::ResourceAllocated { module, .. }
            | Self::ResourceChanged { module, .. }
            | Self::ResourceDeallocated { module, .. }
            | Self::Moved { module, .. }
            | Self::InstanceStarted { module, .. }
            | Self::InstanceFailed { module, .. }
            | Self::InstanceStopped { module, .. } => Some(module),
            Self::NodeUp { .. }
            | Self::NodeDown { .. }
            | Self::NodeDraining { .. }
            | Self::NodeActive { .. }
            | Self::NodeRestarting { .. }
            | Self::NodeRemoved { .. }
            | Self::NodeConditionBegan { .. }
            | Self::NodeConditionEnded { .. }
            | Self::Missed { .. } => None,
        }
    }

    /// Whether it is about this resource: by itself, or with all of its slot.
    #[must_use]
    pub fn is_about(&self, id: &ResourceId) -> bool {
        match self {
            Self::ResourceAllocated { resource, .. }
            | Self::ResourceChanged { resource, .. }
            | Self::ResourceDeallocated { resource, .. }
            | Self::InstanceStarted { resource, .. }
            | Self::InstanceFailed { resource, .. }
            | Self::InstanceStopped { resource, .. } => resource == id,
            Self::Moved { slot, .. } => *slot == id.slot(),
            _ => false,
        }
    }
}
