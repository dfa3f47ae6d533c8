//! Modules: deploying, describing, removing.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{Digest, Lane, ModuleName, NodeId, Settings};

/// Query of `PUT /v1/modules/{module}`. The body is the component.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct DeployQuery {
    /// What to wait for before answering.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub wait: Option<DeployWait>,
    /// How long all of it may take once the component has arrived, in milliseconds: to check, compile and
    /// spread it, and what is waited for. Five minutes unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What a deployment can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeployWait {
    /// The new version serves, or has failed.
    Serving,
}

/// Query of `DELETE /v1/modules/{module}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct RemoveModuleQuery {
    /// Deallocates the module's resources too. Without it, a module that has any is kept (409).
    pub force: bool,
    /// What to wait for before answering.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub wait: Option<RemoveModuleWait>,
    /// How long to wait, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What a removal can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RemoveModuleWait {
    /// The last instance has ended and the module is gone: its name is free.
    Gone,
}

/// Query of `GET /v1/modules/{module}/component`. Without either, the version that serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct ComponentQuery {
    /// The number of the version: the one that serves, or the one that is being tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The digest of the component, which must be that of one of these two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// The modules of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModuleList {
    /// All modules, by name.
    pub modules: Vec<ModuleInfo>,
}

/// A module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModuleInfo {
    /// Its name.
    pub module: ModuleName,
    /// The version that serves.
    pub version: VersionInfo,
    /// The version that is about to replace it.
    #[schema(required)]
    pub rollout: Option<RolloutInfo>,
    /// The last version that was given up, until a later one serves.
    #[schema(required)]
    pub failed: Option<FailedVersion>,
    /// It is being removed: it takes no allocations, and vanishes with its last resource.
    pub removing: bool,
    /// How many resources it has.
    pub resources: u64,
    /// How many slots they fall into.
    pub slots: u64,
    /// How many resources each node owns; nodes without any are left out.
    pub nodes: Vec<ModuleNode>,
    /// Answers of a deployment only: whether it made a new version. False when this very component
    /// and these settings serve, or roll out, already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub new: Option<bool>,
    /// Answers of a deployment only: the number of the version with this very component and these
    /// settings. Where another deployment came in between, that is not the one that serves or rolls out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub deployed: Option<u64>,
}

/// A version of a module: a component and the settings it runs with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionInfo {
    /// Counts the module's deployments from 1.
    pub number: u64,
    /// Digest of the component.
    pub digest: Digest,
    /// Size of the component, in bytes.
    pub size_bytes: u64,
    /// When it was deployed.
    pub deployed_at_ms: u64,
    /// Its settings.
    pub settings: Settings,
    /// How its calls run; null until the answering node has compiled the component.
    #[schema(required)]
    pub lane: Option<Lane>,
    /// The interfaces it exports, by name; empty until compiled here.
    pub exports: Vec<String>,
    /// The interfaces it imports, by name; empty until compiled here.
    pub imports: Vec<String>,
}

/// A version on probation: each node that has some of its resources tries it on a few of them first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutInfo {
    /// The new version.
    pub version: VersionInfo,
    /// Nodes on which no resource could be held by it.
    pub failed_on: Vec<FailedOn>,
}

/// A node on which a version held no resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailedOn {
    /// The node.
    pub node: NodeId,
    /// What the handler said.
    pub error: String,
}

/// A version that was given up: it could hold no resource on any node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailedVersion {
    /// The version.
    pub version: VersionInfo,
    /// What the handler said, on one node.
    pub error: String,
}

/// A node's share of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModuleNode {
    /// The node.
    pub node: NodeId,
    /// How many of the module's resources it owns.
    pub resources: u64,
    /// Present where it does not run the version that serves: why it keeps the former one. In answers
    /// that are about one module only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub behind: Option<String>,
}
