//! The cluster, its nodes and its slots.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{NodeCondition, ResourceStatus};
use crate::{
    ClusterId, ClusterName, Epoch, Incarnation, Labels, ModuleName, NodeId, Slot, Token, Weight,
    Zone,
};

/// Who owns a slot: one run of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct Owner {
    /// The node.
    pub node: NodeId,
    /// Its incarnation.
    pub incarnation: Incarnation,
}

/// The cluster at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterInfo {
    /// Made at random when the cluster was founded.
    pub id: ClusterId,
    /// Given by the operator.
    pub name: ClusterName,
    /// Version of the view.
    pub epoch: Epoch,
    /// The leader; null while there is none.
    #[schema(required)]
    pub leader: Option<NodeId>,
    /// Raft term.
    pub term: u64,
    /// The nodes whose majority decides.
    pub voters: Vec<NodeId>,
    /// How many voters can be lost from now on without losing the majority.
    pub losses_survived: u32,
    /// The time, in milliseconds, from the last sign of life of a node without proof of its death to
    /// new owners of its resources. An election is counted in, for the case that it led. The start of
    /// the resources, and elections that have to be repeated, come on top.
    pub failover_ms_max: u64,
    /// How many nodes are how.
    pub nodes: NodeCounts,
    /// How many modules there are.
    pub modules: u64,
    /// How many resources are how.
    pub resources: ResourceCounts,
    /// The answering node could not make sure for some seconds that this is the newest state.
    pub stale: bool,
    /// Present while the answering node hears no majority of the voters: nothing can be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub no_majority: Option<NoMajority>,
}

/// That a node hears no majority of the voters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NoMajority {
    /// Since when; at the earliest since the node was started.
    pub since_ms: u64,
    /// The voters that the node does not reach.
    pub missing: Vec<NodeId>,
}

/// Nodes by status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeCounts {
    /// All of them.
    pub total: u64,
    /// Members that may own resources.
    pub active: u64,
    /// Members that give theirs away.
    pub draining: u64,
    /// Members whose process is about to be back.
    pub restarting: u64,
    /// Known to be dead.
    pub down: u64,
    /// Not known to be dead, but without an answer.
    pub unreachable: u64,
}

impl NodeCounts {
    /// Counts one more node.
    pub fn add(&mut self, status: NodeStatus) {
        self.total += 1;
        *match status {
            NodeStatus::Active => &mut self.active,
            NodeStatus::Draining => &mut self.draining,
            NodeStatus::Restarting => &mut self.restarting,
            NodeStatus::Down => &mut self.down,
            NodeStatus::Unreachable => &mut self.unreachable,
        } += 1;
    }
}

/// Resources by status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ResourceCounts {
    /// All of them.
    #[schema(required)]
    pub total: u64,
    /// Those that are `held`.
    #[schema(required)]
    pub held: u64,
    /// Those that are `starting`.
    #[schema(required)]
    pub starting: u64,
    /// Those that are `failed`.
    #[schema(required)]
    pub failed: u64,
    /// Those that are `quarantined`.
    #[schema(required)]
    pub quarantined: u64,
    /// Those that are `moving`.
    #[schema(required)]
    pub moving: u64,
    /// Those that are `stopping`.
    #[schema(required)]
    pub stopping: u64,
    /// Those that are `unowned`.
    #[schema(required)]
    pub unowned: u64,
    /// Those that are `unreachable`.
    #[schema(required)]
    pub unreachable: u64,
}

impl ResourceCounts {
    /// Counts `more` resources of one status.
    pub fn add(&mut self, status: ResourceStatus, more: u64) {
        self.total += more;
        *match status {
            ResourceStatus::Held => &mut self.held,
            ResourceStatus::Starting => &mut self.starting,
            ResourceStatus::Failed => &mut self.failed,
            ResourceStatus::Quarantined => &mut self.quarantined,
            ResourceStatus::Moving => &mut self.moving,
            ResourceStatus::Stopping => &mut self.stopping,
            ResourceStatus::Unowned => &mut self.unowned,
            ResourceStatus::Unreachable => &mut self.unreachable,
        } += more;
    }
}

/// The nodes of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeList {
    /// All nodes, dead ones included until they are removed.
    pub nodes: Vec<NodeInfo>,
    /// Present while the answering node hears no majority of the voters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub no_majority: Option<NoMajority>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeInfo {
    /// Its identity.
    pub node: NodeId,
    /// The incarnation that joined last.
    pub incarnation: Incarnation,
    /// How it is.
    pub status: NodeStatus,
    /// Where peers reach it.
    #[schema(value_type = String, examples("127.0.0.1:7301"))]
    pub addr: SocketAddr,
    /// Where its HTTP API is.
    #[schema(value_type = String, examples("127.0.0.1:7300"))]
    pub http: SocketAddr,
    /// Its share of the load, as it was started or as it was set since; 0 holds nothing.
    pub weight: Weight,
    /// Its failure domain.
    #[schema(required)]
    pub zone: Option<Zone>,
    /// What it was started with as labels.
    #[serde(default)]
    #[schema(required)]
    pub labels: Labels,
    /// Version of its software.
    pub version: String,
    /// Whether it is a voter.
    pub voter: bool,
    /// Whether it is the leader.
    pub leader: bool,
    /// Whether it is the node that answers.
    pub this: bool,
    /// How many resources it owns.
    pub resources: u64,
    /// How many it holds, as it says itself; null when it cannot be asked.
    #[schema(required)]
    pub held: Option<u64>,
    /// When its incarnation joined.
    pub joined_at_ms: u64,
    /// Why it is given nothing, or is not well, as it says itself; of one that cannot be asked, as the
    /// leader says. Empty when all is well.
    #[serde(default)]
    #[schema(required)]
    pub conditions: Vec<NodeCondition>,
}

/// How a node is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum NodeStatus {
    /// A member that may own resources.
    Active,
    /// A member that gives its resources away and gets no new ones.
    Draining,
    /// A member whose process is being replaced by another run; its resources are kept for that for
    /// some seconds.
    Restarting,
    /// Its incarnation is dead.
    Down,
    /// It does not answer, and is not known to be dead.
    Unreachable,
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Restarting => "restarting",
            Self::Down => "down",
            Self::Unreachable => "unreachable",
        })
    }
}

/// Query of `POST /v1/cluster/nodes/{node}/drain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct DrainQuery {
    /// Ends the drain instead: the node may own resources again. It excludes `deadline_ms`.
    pub cancel: bool,
    /// How long what runs on the node may take to end, in milliseconds from now; the same once more counts from the first time. What has not ended
    /// by then is dropped without its `terminate`, as soon as another node takes it. Without it,
    /// what ends has the time that the limits of its module give it. What was said last counts. It excludes
    /// `cancel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// What to wait for before answering.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub wait: Option<DrainWait>,
    /// How long to wait, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Query of `POST /v1/cluster/nodes/{node}/restart`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct RestartQuery {
    /// The version that the next run must have at least, like `1.2.0`. A node whose program is an
    /// older one refuses, and goes on as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_version: Option<String>,
}

/// What a drain can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DrainWait {
    /// The node owns nothing more.
    Empty,
}

/// Query of `DELETE /v1/cluster/nodes/{node}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct RemoveNodeQuery {
    /// The caller has made sure that the node's process is dead and stays so. What it owns starts
    /// elsewhere when its lease is over.
    pub confirm_dead: bool,
}

/// A change of a node. What is absent stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeNode {
    /// Its share of the load. It stays until it is changed again, or the node is started with
    /// another weight than before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<Weight>,
}

/// The settings of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterSettings {
    /// How many voters it wants once it has the nodes: 1, 3, 5 or 7. Default 3. More survive more
    /// losses, and each change waits for more disks.
    pub voters: u8,
    /// How long a lease lasts, in milliseconds. Default 3,000. Too low: a slow disk or a busy machine
    /// costs running resources. Too high: resources of a node that falls silent wait that long.
    pub lease_ttl_ms: u64,
    /// How far a node and the leader stay away from the end of a lease, each on its side, in
    /// milliseconds. Default 500.
    pub lease_guard_ms: u64,
    /// How long a voter must be silent before another node votes in its place, in milliseconds.
    /// Default 30,000. Too low: each restart changes the voters twice. Too high: for that long another
    /// loss may end the majority.
    pub replace_voters_after_ms: u64,
    /// Whether a node whose address refuses connections is replaced at once. Default true. Off where
    /// something between the nodes refuses connections in their place.
    pub fast_failover: bool,
    /// How long a node must have been there before it is given what others run, in milliseconds;
    /// twice as long for each time that it was lost lately, up to 2 min. Default 1,000, at most 120,000; 0: at once.
    /// Too low: resources move to nodes that do not stay. Too high: a node that joins is of no use
    /// for that long.
    pub stable_after_ms: u64,
}

/// A change of some of the settings of the cluster. What is absent stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeClusterSettings {
    /// How many voters it wants: 1, 3, 5 or 7.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voters: Option<u8>,
    /// How long a lease lasts. Longer leases hold at once. Shorter ones are granted at
    /// once, but a silent node is replaced by the former ones until the last of those is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ttl_ms: Option<u64>,
    /// How far a node and the leader stay away from the end of a lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_guard_ms: Option<u64>,
    /// How long a voter must be silent before another node votes in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_voters_after_ms: Option<u64>,
    /// Whether a node whose address refuses connections is replaced at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fast_failover: Option<bool>,
    /// How long a node must have been there before it is given what others run: two minutes at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable_after_ms: Option<u64>,
}

/// Query of `GET /v1/cluster/slots`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct SlotsQuery {
    /// The module.
    pub module: ModuleName,
}

/// The slots of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SlotList {
    /// The module.
    pub module: ModuleName,
    /// Its slots that exist, by number.
    pub slots: Vec<SlotInfo>,
}

/// A slot of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SlotInfo {
    /// Its number.
    pub slot: Slot,
    /// How many resources are in it.
    pub resources: u64,
    /// The node that the ring gives it to, before bounds on load.
    #[schema(required)]
    pub preferred: Option<NodeId>,
    /// Who owns it; null when nobody does now.
    #[schema(required)]
    pub owner: Option<Owner>,
    /// Who gets it once its owner has released it.
    #[schema(required)]
    pub next: Option<NodeId>,
    /// Its fencing token.
    pub token: Token,
}

/// What a node started with `--format json` says on its standard output, one a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum NodeEvent {
    /// It answers at these addresses.
    Listening(Listening),
}

/// Where a node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// Its identity.
    pub node: NodeId,
    /// This run.
    pub incarnation: Incarnation,
    /// Its HTTP API.
    pub http: SocketAddr,
    /// Its address for peers.
    pub cluster: SocketAddr,
    /// Its process.
    pub pid: u32,
}
