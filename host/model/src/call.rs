//! Calls of a resource: request, answer, and the ways in which one ends without an answer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A request to a resource, as the handler gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Identifier, given by the caller or made by the node that accepted it.
    pub id: String,
    /// When it was accepted: milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// How long the caller still waits, counted from the moment this value was made.
    pub timeout: Duration,
    /// The caller's idempotency key.
    pub idempotency_key: Option<String>,
    /// Media type of the body.
    pub content_type: Option<String>,
    /// The body.
    pub body: Bytes,
}

/// A handler's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Media type of the body.
    pub content_type: Option<String>,
    /// The body.
    pub body: Bytes,
}

/// A call that ended without an answer. The kinds map one to one to problem types of the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Error {
    /// There is no such module (404).
    #[error("there is no module {0}")]
    UnknownModule(String),
    /// There is no such resource (404).
    #[error("there is no resource {0}")]
    UnknownResource(String),
    /// The module exports no `invocation` interface (501).
    #[error("module {0} has no `invocation` interface: its resources cannot be invoked")]
    NotInvocable(String),
    /// The handler refused the request.
    #[error("{message}")]
    Refused {
        /// What kind of refusal.
        kind: Refusal,
        /// The handler's words.
        message: String,
    },
    /// The handler trapped (500). The instance is started anew.
    #[error("the handler trapped in `{function}`: {message}")]
    Trapped {
        /// The innermost function with a name, or `unknown`.
        function: Arc<str>,
        /// What the trap or the panic said.
        message: Arc<str>,
    },
    /// No answer within the deadline (504).
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// Too many calls wait for the resource, or for a thread of its module (429).
    #[error("{waiting} calls wait already")]
    QueueFull {
        /// How many wait.
        waiting: u32,
    },
    /// The body is too large (413).
    #[error("a body has at most {max} bytes here")]
    TooLarge {
        /// The limit in bytes.
        max: u64,
    },
    /// The resource is held by nobody now, or its owner cannot be reached; the request had no
    /// effect (503 with Retry-After).
    #[error("{reason}")]
    Unavailable {
        /// What is the matter.
        reason: String,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// The owner was lost while it worked on the request, which may have had its effect (503 with
    /// Retry-After). It may be repeated with an idempotency key.
    #[error("the owner was lost during the call; it may have had its effect")]
    Interrupted,
    /// The handler has refused the resource for good; the request had no effect (503). Only a change
    /// helps, of its spec or of its module.
    #[error("the resource is quarantined until its spec or its module changes: {why}")]
    Quarantined {
        /// The handler's words.
        why: String,
    },
}

/// The kinds of `invocation.error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// 400
    Invalid,
    /// 404
    NotFound,
    /// 409
    Conflict,
    /// 503
    Unavailable,
    /// 500
    Failed,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Invalid,
        Self::NotFound,
        Self::Conflict,
        Self::Unavailable,
        Self::Failed,
    ];
}
