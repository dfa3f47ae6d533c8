//! Resources: allocating, describing, listing, deallocating.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Owner;
use crate::{
    ModuleName, NodeId, ResourceId, Slot, Spec, Token,
    schema::{Within, one_of, schema, text},
};

/// Query of `PUT /v1/modules/{module}/resources/{id}`. The body is the spec, a JSON object; an
/// empty body is `{}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct AllocateQuery {
    /// What to wait for before answering.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub wait: Option<AllocateWait>,
    /// How long to wait, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What an allocation can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AllocateWait {
    /// The resource is held with the spec that was given.
    Held,
}

/// Query of `DELETE /v1/modules/{module}/resources/{id}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct DeallocateQuery {
    /// What to wait for before answering.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub wait: Option<DeallocateWait>,
    /// How long to wait, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What a deallocation can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeallocateWait {
    /// `terminate` has returned and the instance is gone.
    Gone,
}

/// Query of `GET /v1/modules/{module}/resources`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct ResourcesQuery {
    /// How many at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<Within<1, { Self::LIMIT_MAX }, { Self::LIMIT_DEFAULT }>>, inline)]
    pub limit: Option<u32>,
    /// Where to go on: `next_cursor` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(min_length = 1)]
    pub cursor: Option<String>,
    /// Only what this node owns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Only what has this status, or one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub status: Option<ResourceStatuses>,
}

impl ResourcesQuery {
    /// Resources on a page when the caller does not say.
    pub const LIMIT_DEFAULT: u32 = 100;
    /// Most resources on a page.
    pub const LIMIT_MAX: u32 = 1_000;
}

/// A page of resources, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResourceList {
    /// The resources. A page may have fewer than asked for, even none, before the last.
    pub resources: Vec<ResourceInfo>,
    /// Where the next page begins; null on the last.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// A resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResourceInfo {
    /// Its module.
    pub module: ModuleName,
    /// Its id within the module.
    pub id: ResourceId,
    /// The slot that it falls into.
    pub slot: Slot,
    /// What it is to do.
    pub spec: Spec,
    /// When it was allocated first.
    pub allocated_at_ms: u64,
    /// Who owns its slot; null when nobody does now.
    #[schema(required)]
    pub owner: Option<Owner>,
    /// Fencing token of its slot.
    pub token: Token,
    /// How it is. What its owner says, where that can be asked.
    pub status: ResourceStatus,
    /// How often `handle` was tried in a row, this time included.
    pub attempt: u32,
    /// How often its instance was made anew here after a failure.
    pub restarts: u32,
    /// Since when it is held; null when it is not.
    #[schema(required)]
    pub held_since_ms: Option<u64>,
    /// The last failure of its present instance or of an attempt to start it.
    #[schema(required)]
    pub last_error: Option<LastError>,
    /// Number of the module's version that its instance runs; null without an instance.
    #[schema(required)]
    pub version: Option<u64>,
    /// Calls that run now: 0 or 1.
    pub in_flight: u32,
    /// Calls that wait.
    pub waiting: u32,
}

macro_rules! statuses {
    ($($(#[doc = $doc:literal])* $status:ident = $name:literal;)*) => {
        /// How a resource is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum ResourceStatus {
            $($(#[doc = $doc])* $status,)*
        }

        impl ResourceStatus {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$status),*];

            /// Its name in the API.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$status => $name,)*
                }
            }
        }

        schema!(ResourceStatus, {
            let about = concat!("How a resource is:\n" $(, "\n- `", $name, "`:" $(, $doc)*)*);
            one_of(about, ResourceStatus::ALL.iter().map(|status| status.as_str()))
        });
    };
}

statuses! {
    /// `handle` returned ok and the instance lives.
    Held = "held";
    /// It has an owner, which has not called `handle` yet or waits for it to return.
    Starting = "starting";
    /// `handle` failed; it is tried again after a pause.
    Failed = "failed";
    /// It failed for good: nothing is tried until it is changed, or the module deployed anew.
    Quarantined = "quarantined";
    /// Its owner lets go of it so that another node can take it.
    Moving = "moving";
    /// Its instance ends and none follows: it was deallocated, or its node stops.
    Stopping = "stopping";
    /// No node owns its slot now.
    Unowned = "unowned";
    /// Its owner does not answer.
    Unreachable = "unreachable";
}

/// Statuses of resources; as text, with commas between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceStatuses(BTreeSet<ResourceStatus>);

schema!(ResourceStatuses, {
    let names: Vec<&str> = ResourceStatus::ALL.iter().map(|one| one.as_str()).collect();
    let one = format!("({})", names.join("|"));
    text("Statuses of resources, with commas between them.")
        .pattern(Some(format!("^{one}(,{one})*$")))
        .examples(["failed", "failed,quarantined"])
});

impl ResourceStatuses {
    /// All but one.
    #[must_use]
    pub fn all_but(status: ResourceStatus) -> Self {
        let all = ResourceStatus::ALL.iter().copied();
        Self(all.filter(|one| *one != status).collect())
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn contains(&self, status: ResourceStatus) -> bool {
        self.0.contains(&status)
    }
}

impl FromStr for ResourceStatuses {
    type Err = InvalidStatus;
    fn from_str(text: &str) -> Result<Self, InvalidStatus> {
        text.split(',')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl TryFrom<String> for ResourceStatuses {
    type Error = InvalidStatus;
    fn try_from(text: String) -> Result<Self, InvalidStatus> {
        text.parse()
    }
}

impl From<ResourceStatuses> for String {
    fn from(statuses: ResourceStatuses) -> Self {
        statuses.to_string()
    }
}

impl fmt::Display for ResourceStatuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(|one| one.as_str()).collect();
        f.pad(&names.join(","))
    }
}

/// A text that is no status of a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no status; it is one of held, starting, failed, quarantined, moving, stopping, \
     unowned, unreachable"
)]
pub struct InvalidStatus(pub String);

impl FromStr for ResourceStatus {
    type Err = InvalidStatus;
    fn from_str(text: &str) -> Result<Self, InvalidStatus> {
        let known = Self::ALL.iter().find(|status| status.as_str() == text);
        known
            .copied()
            .ok_or_else(|| InvalidStatus(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for ResourceStatus {
    type Error = InvalidStatus;
    fn try_from(text: String) -> Result<Self, InvalidStatus> {
        text.parse()
    }
}

impl From<ResourceStatus> for String {
    fn from(status: ResourceStatus) -> Self {
        status.as_str().to_owned()
    }
}

impl fmt::Display for ResourceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A failure of a resource's handler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastError {
    /// What it said.
    pub message: String,
    /// When.
    pub at_ms: u64,
    /// What kind of failure.
    pub kind: FailureKind,
}

/// How a handler can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// It answered `retry`.
    Retry,
    /// It answered `fatal`.
    Fatal,
    /// It trapped or panicked.
    Trap,
    /// It did not return in time.
    Timeout,
    /// No instance could be made: the component is missing here, or the node is out of room.
    Instance,
}
