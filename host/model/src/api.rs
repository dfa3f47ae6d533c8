//! What the HTTP API says: the type of every request, answer and problem.
//!
//! Requests refuse fields that they do not know, by name; answers pass over them, so that an old
//! client reads a new node. Sizes are in bytes, durations in milliseconds (`_ms`) and points in
//! time in milliseconds since the Unix epoch (`_at_ms`). Paths, methods and the choice of a
//! status are not here: they belong to the node.

mod batch;
mod cluster;
mod condition;
mod event;
mod logs;
mod module;
mod plan;
mod problem;
mod resource;

pub use batch::{BatchAnswer, BatchOutcome, BatchRequest, BatchResult};
pub use cluster::{
    ChangeClusterSettings, ChangeNode, ClusterInfo, ClusterSettings, DrainQuery, DrainWait,
    Listening, NoMajority, NodeCounts, NodeEvent, NodeInfo, NodeList, NodeStatus, Owner,
    RemoveNodeQuery, ResourceCounts, RestartQuery, SlotInfo, SlotList, SlotsQuery,
};
pub use condition::{ConditionKind, NodeCondition};
pub use event::{Event, EventType, EventsQuery, Happening, InvalidEventType, StopReason};
pub use logs::{
    InvalidLogLevel, LogEntry, LogLevel, LogLine, LogSource, LogsCursor, LogsMissing, LogsQuery,
    NodeLog,
};
pub use module::{
    ComponentQuery, DeployQuery, DeployWait, FailedOn, FailedVersion, ModuleInfo, ModuleList,
    ModuleNode, RemoveModuleQuery, RolloutInfo, VersionInfo,
};
pub use plan::{
    ClusterPlan, InvalidPlanNode, JoiningNode, PlanCount, PlanNode, PlanRequest, PlanRole,
    PlannedModule, PlannedMove, PlannedNode,
};
pub use problem::{Problem, ProblemKind};
pub use resource::{
    AllocateQuery, AllocateWait, DeallocateQuery, DeallocateWait, FailureKind, LastError,
    ResourceInfo, ResourceList, ResourceStatus, ResourceStatuses, ResourcesQuery,
};

/// Media type of components.
pub const WASM: &str = "application/wasm";

/// Media type of newline-delimited JSON, as the batch route takes and gives it.
pub const NDJSON: &str = "application/x-ndjson";

/// Media type of server-sent events.
pub const EVENT_STREAM: &str = "text/event-stream";

/// Media type of problems (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Request header of a deployment: the module's settings as JSON, in ASCII (other characters as
/// `\u` escapes). Absent: the present settings stay; a new module gets the defaults.
pub const SETTINGS_HEADER: &str = "holdfast-settings";

/// Length of the longest [`SETTINGS_HEADER`], in bytes.
pub const SETTINGS_BYTES_MAX: usize = 32 << 10;

/// Response header of a component: the number of the module's version that it is.
pub const VERSION_HEADER: &str = "holdfast-version";

/// Request header of a call: how long the caller waits, in milliseconds.
pub const TIMEOUT_HEADER: &str = "holdfast-timeout-ms";

/// Response header of everything that is answered from a state that may be out of date, because the
/// node could not make sure for some seconds that it has all that was acknowledged: for how long, in
/// milliseconds. Absent: it is current, but for a moment.
pub const STALE_HEADER: &str = "holdfast-stale-ms";

/// Response header of a call: the node on which the handler ran.
pub const NODE_HEADER: &str = "holdfast-node";

/// Request and response header of a call: its identifier, made by the node when absent.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// Request header of a call that may be repeated: equal keys mean the same call.
pub const IDEMPOTENCY_KEY_HEADER: &str = "idempotency-key";

#[cfg(test)]
mod tests;
