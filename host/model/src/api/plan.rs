//! What would move if nodes came, went or had other weights.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    ModuleName, NodeId, Weight, Zone,
    schema::{schema, text},
};

/// What to imagine. What is absent stays as it is; where nothing is
/// imagined, the answer is what moves by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PlanRequest {
    /// Nodes that join.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub join: Vec<JoiningNode>,
    /// Nodes that leave: drained, stopped or dead.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub leave: BTreeSet<NodeId>,
    /// Nodes with another weight.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<NodeId, Weight>,
}

impl PlanRequest {
    /// How many nodes may join at once: more than anybody starts, and few enough to be computed in
    /// a moment.
    pub const JOIN_MAX: usize = 100;
}

/// A node that does not exist yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JoiningNode {
    /// Its share of the load; 100 unless given.
    pub weight: Weight,
    /// Its failure domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
}

/// What would move. *Now* counts what is on its way where it goes; *then* is when
/// nothing moves any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClusterPlan {
    /// What there is in all modules.
    pub total: PlanCount,
    /// What would move from one node to another.
    pub moves: PlanCount,
    /// How much of its fair share, by weight, the fullest node has now: 1 where all is even. Null
    /// where there is nothing, or nobody to hold it.
    #[schema(required)]
    pub max_mean_now: Option<f64>,
    /// The same, then.
    #[schema(required)]
    pub max_mean_then: Option<f64>,
    /// The nodes; those that join stand last.
    pub nodes: Vec<PlannedNode>,
    /// The modules, each of which is even by itself.
    pub modules: Vec<PlannedModule>,
}

/// Resources, and the slots that they are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanCount {
    /// How many resources.
    pub resources: u64,
    /// How many slots.
    pub slots: u64,
}

impl PlanCount {
    /// Counts one more slot, and what is in it.
    pub fn add_slot(&mut self, resources: u64) {
        self.resources += resources;
        self.slots += 1;
    }

    /// Counts these too.
    pub fn add(&mut self, more: Self) {
        self.resources += more.resources;
        self.slots += more.slots;
    }
}

/// A node in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedNode {
    /// The node.
    pub node: PlanNode,
    /// What becomes of it.
    pub role: PlanRole,
    /// Its failure domain.
    #[schema(required)]
    pub zone: Option<Zone>,
    /// Its weight now; null where it joins.
    #[schema(required)]
    pub weight_now: Option<Weight>,
    /// Its weight then.
    pub weight_then: Weight,
    /// What it owns now.
    pub now: PlanCount,
    /// What it owns then.
    pub then: PlanCount,
}

/// What becomes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PlanRole {
    /// It is there now and then.
    Stays,
    /// It does not exist yet.
    Joins,
    /// It leaves, or drains already.
    Leaves,
}

impl fmt::Display for PlanRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stays => "stays",
            Self::Joins => "joins",
            Self::Leaves => "leaves",
        })
    }
}

/// A module in a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlannedModule {
    /// The module.
    pub module: ModuleName,
    /// What there is of it.
    pub total: PlanCount,
    /// What of it would move from one node to another.
    pub moves: PlanCount,
    /// How much of its fair share of the module the fullest node has now.
    #[schema(required)]
    pub max_mean_now: Option<f64>,
    /// The same, then.
    #[schema(required)]
    pub max_mean_then: Option<f64>,
    /// From where to where.
    pub from_to: Vec<PlannedMove>,
}

/// What of a module would go from one node to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedMove {
    /// Who has it now; null where nobody has, which is no move.
    #[schema(required)]
    pub from: Option<PlanNode>,
    /// Who has it then.
    pub to: PlanNode,
    /// How much.
    #[serde(flatten)]
    pub count: PlanCount,
}

/// A node in a plan: its id, or `new-1` and so on for those that join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PlanNode {
    /// One that exists.
    Known(NodeId),
    /// One that joins, by its number from 1.
    New(u32),
}

schema!(
    PlanNode,
    text("A node in a plan: its id, or `new-1` and so on for those that join.")
        .examples(["076e5cf8-463d-4add-81a9-cdc537df0e55", "new-1"])
);

impl fmt::Display for PlanNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(node) => node.fmt(f),
            Self::New(number) => write!(f, "{NEW}{number}"),
        }
    }
}

/// A text that names no node of a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is neither a node id nor like new-1")]
pub struct InvalidPlanNode {
    /// The text.
    pub given: String,
}

impl FromStr for PlanNode {
    type Err = InvalidPlanNode;
    fn from_str(text: &str) -> Result<Self, InvalidPlanNode> {
        let parsed = match text.strip_prefix(NEW) {
            Some(number) => number.parse().ok().map(Self::New),
            None => text.parse().ok().map(Self::Known),
        };
        parsed.ok_or_else(|| InvalidPlanNode {
            given: text.chars().take(80).collect(),
        })
    }
}

impl TryFrom<String> for PlanNode {
    type Error = InvalidPlanNode;
    fn try_from(text: String) -> Result<Self, InvalidPlanNode> {
        text.parse()
    }
}

impl From<PlanNode> for String {
    fn from(node: PlanNode) -> Self {
        node.to_string()
    }
}

const NEW: &str = "new-";
