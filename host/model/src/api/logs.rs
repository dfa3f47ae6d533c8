//! What handlers say.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{ModuleName, NodeId, ResourceId, schema::Within};

/// Query of `GET /v1/logs`. The answer is newline-delimited JSON, a [`LogLine`] each. Lines may be
/// empty: they show that the connection stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct LogsQuery {
    /// Only what handlers of this module say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<ModuleName>,
    /// Only what this resource says; needs a module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceId>,
    /// Only what was said on this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Only what is at least so important.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<LogLevel>,
    /// How many entries of the past at most, the newest ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<Within<0, { Self::LIMIT_MAX }, { Self::LIMIT_DEFAULT }>>, inline)]
    pub limit: Option<u32>,
    /// Go on with what is said from now on, until the client leaves.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
    /// Go on after the lines before this `cursor`, through any node, in the place of the newest ones;
    /// needs `follow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl LogsQuery {
    /// Entries of the past when the caller does not say.
    pub const LIMIT_DEFAULT: u32 = 100;
    /// Most entries of the past.
    pub const LIMIT_MAX: u32 = 10_000;
}

/// A line of the answer of `GET /v1/logs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum LogLine {
    /// Something that a handler said.
    Entry(LogEntry),
    /// A node whose entries are missing here.
    Missing(LogsMissing),
    /// Where whoever follows goes on after the lines before this one.
    Cursor(LogsCursor),
}

/// Something that a handler said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogEntry {
    /// When, by the clock of the node.
    pub at_ms: u64,
    /// On which node.
    pub node: NodeId,
    /// Handler of which module.
    pub module: ModuleName,
    /// For which resource.
    pub resource: ResourceId,
    /// How important the handler finds it.
    pub level: LogLevel,
    /// How it was said.
    pub source: LogSource,
    /// `context` of `wasi:logging`; empty for stdout and stderr.
    pub context: Box<str>,
    /// The text, without a line feed at its end.
    pub message: Box<str>,
}

/// Entries of a node are not in the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogsMissing {
    /// The node.
    pub node: NodeId,
    /// Why.
    pub missing: String,
}

/// Where whoever follows can go on, through any node, with nothing twice and nothing left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogsCursor {
    /// For `after`. It means nothing to anybody but this route.
    pub cursor: String,
}

/// What the own log of a node has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeLog {
    /// A level, or `target=level` with commas between them. Until the process ends: the next one
    /// begins with what it is started with.
    pub filter: String,
}

/// How important something is, the least important first; the levels of `wasi:logging`.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Values of variables and the flow of control.
    #[default]
    Trace,
    /// Of interest to someone who debugs the handler.
    Debug,
    /// Of interest to someone who watches the handler; also what stdout says.
    Info,
    /// A hazardous situation; also what stderr says.
    Warn,
    /// A serious error.
    Error,
    /// A fatal error.
    Critical,
}

impl LogLevel {
    const ALL: [(Self, &str); 6] = [
        (Self::Trace, "trace"),
        (Self::Debug, "debug"),
        (Self::Info, "info"),
        (Self::Warn, "warn"),
        (Self::Error, "error"),
        (Self::Critical, "critical"),
    ];
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = Self::ALL[*self as usize];
        f.pad(name)
    }
}

/// A text that is no level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no level: write trace, debug, info, warn, error or critical")]
pub struct InvalidLogLevel(String);

impl FromStr for LogLevel {
    type Err = InvalidLogLevel;

    fn from_str(text: &str) -> Result<Self, InvalidLogLevel> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        let (level, _) = found.ok_or_else(|| InvalidLogLevel(text.to_owned()))?;
        Ok(*level)
    }
}

/// How a handler said something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// A line on standard output.
    Stdout,
    /// A line on standard error.
    Stderr,
    /// A message of `wasi:logging`.
    Logging,
}
