//! The batch route: many allocations and deallocations, one JSON text a line each way.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Problem;
use crate::{ResourceId, Spec};

/// One line of the body of `POST /v1/modules/{module}/resources:batch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum BatchRequest {
    /// Allocates a resource, or changes its spec.
    Allocate {
        /// Its id.
        id: ResourceId,
        /// What it is to do; `{}` when absent.
        #[serde(default)]
        spec: Spec,
    },
    /// Deallocates a resource.
    Deallocate {
        /// Its id.
        id: ResourceId,
    },
}

// By hand: what is derived for a form with a tag keeps the members as values first, and rounds numbers.
impl<'de> Deserialize<'de> for BatchRequest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Line {
            op: Op,
            id: ResourceId,
            spec: Option<Spec>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        enum Op {
            Allocate,
            Deallocate,
        }
        let Line { op, id, spec } = Line::deserialize(deserializer)?;
        match (op, spec) {
            (Op::Allocate, spec) => Ok(Self::Allocate {
                id,
                spec: spec.unwrap_or_default(),
            }),
            (Op::Deallocate, None) => Ok(Self::Deallocate { id }),
            (Op::Deallocate, Some(_)) => {
                let detail = "a deallocation has no `spec`";
                Err(serde::de::Error::custom(detail))
            }
        }
    }
}

/// One line of the answer: what became of the line of the same number. Lines are answered in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchAnswer {
    /// Number of the line in the body, from 1. Empty lines are counted and not answered.
    pub line: u64,
    /// The resource, as far as the line could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub id: Option<ResourceId>,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: BatchOutcome,
}

/// What became of a line: `"result": …` or `"problem": {…}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BatchOutcome {
    /// It is done, and will not be lost.
    Result(BatchResult),
    /// It is not done, except where the problem's kind is `no-leader` or `timeout`: then its detail
    /// says whether it may be.
    Problem(Problem),
}

/// What was done.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum BatchResult {
    /// The resource is new.
    Created,
    /// Its spec was changed.
    Changed,
    /// It existed with this spec.
    Unchanged,
    /// It was deallocated.
    Deallocated,
    /// There was nothing to deallocate.
    Absent,
}
