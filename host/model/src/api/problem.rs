//! Problem details (RFC 9457): how every error of the API looks.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{ToSchema, openapi::schema::SchemaFormat};

use crate::schema::{schema, text};

/// An error, as the API tells it (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// What kind of problem, for programs: `urn:holdfast:problem:` and the kind.
    #[serde(rename = "type", default)]
    #[schema(required)]
    pub kind: ProblemKind,
    /// What kind of problem, for people; the same for every problem of a kind.
    #[serde(default)]
    #[schema(required)]
    pub title: String,
    /// The HTTP status.
    #[serde(default)]
    #[schema(required, minimum = 400, maximum = 599)]
    pub status: u16,
    /// What happened this time, and what to do about it.
    #[serde(default)]
    #[schema(required)]
    pub detail: String,
    /// Further members, by kind.
    #[serde(flatten)]
    pub extensions: Map<String, Value>,
}

impl Problem {
    /// A problem with the title and status of its kind.
    #[must_use]
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            title: kind.title().to_owned(),
            status: kind.status(),
            detail: detail.into(),
            extensions: Map::new(),
        }
    }

    /// The same with another status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// The same with one more member.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.extensions.insert(member.to_owned(), value.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.title.as_str(), self.detail.as_str()) {
            ("", "") => write!(f, "status {}", self.status),
            (only, "") | ("", only) => f.write_str(only),
            // Some details are a whole sentence that begins with the title.
            (title, detail) if begins_with(detail, title) => f.write_str(detail),
            (title, detail) => write!(f, "{title}: {detail}"),
        }
    }
}

impl std::error::Error for Problem {}

fn begins_with(detail: &str, title: &str) -> bool {
    let begin = detail.get(..title.len());
    begin.is_some_and(|begin| begin.eq_ignore_ascii_case(title))
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $kind:ident = $name:literal, $status:literal, $title:literal;)*) => {
        /// The kinds of problem. Programs tell problems apart by it, not by status or text.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum ProblemKind {
            $($(#[doc = $doc])* $kind,)*
            /// A kind that this version does not know (`about:blank`): look at the status.
            #[default]
            Other,
        }

        impl ProblemKind {
            /// All kinds but [`ProblemKind::Other`].
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The kind's name: the end of its URN.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                    Self::Other => "other",
                }
            }

            /// The status that problems of this kind have unless they say otherwise.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self {
                    $(Self::$kind => $status,)*
                    Self::Other => 500,
                }
            }

            /// When there is such a problem, in a sentence.
            #[must_use]
            pub fn about(self) -> &'static str {
                match self {
                    $(Self::$kind => concat!($($doc),*).trim_ascii(),)*
                    Self::Other => "A kind that this version does not know.",
                }
            }

            /// The title of problems of this kind.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self {
                    $(Self::$kind => $title,)*
                    Self::Other => "Unknown problem",
                }
            }
        }
    };
}

kinds! {
    /// The request cannot be understood: path, query, header or body.
    InvalidRequest = "invalid-request", 400, "Invalid request";
    /// The node wants a bearer token, or another one: `error` is `invalid_token` then.
    Unauthorized = "unauthorized", 401, "Unauthorized";
    /// The node has no API token, and the request comes from a web page or under a foreign name.
    Forbidden = "forbidden", 403, "Forbidden";
    /// There is no such route, or no such version of a module.
    NotFound = "not-found", 404, "Not found";
    /// There is no such module; `module` has the name.
    UnknownModule = "unknown-module", 404, "Unknown module";
    /// There is no such resource; `module` and `resource` have the names.
    UnknownResource = "unknown-resource", 404, "Unknown resource";
    /// There is no such node.
    UnknownNode = "unknown-node", 404, "Unknown node";
    /// Its head or its body came too slowly. What had come of it had no effect.
    RequestTimeout = "request-timeout", 408, "Request too slow";
    /// It does not fit the present state, which the detail names.
    Conflict = "conflict", 409, "Conflict";
    /// It was done, and a later change has undone it or taken its place before what was waited for came
    /// about; the detail says which.
    Superseded = "superseded", 409, "Superseded";
    /// Body, component, spec, settings, target or head are longer than allowed.
    TooLarge = "too-large", 413, "Too large";
    /// Too many calls wait for the resource or, of its module, for a thread.
    QueueFull = "queue-full", 429, "Too many calls wait";
    /// There is no room for the request on the node, which did not begin with it; with status 429, what is
    /// used up is the share of its module.
    Overloaded = "overloaded", 503, "Overloaded";
    /// The module has no `invocation` interface.
    NotInvocable = "not-invocable", 501, "Not invocable";
    /// The handler answered with an error of its own; the status says which kind.
    HandlerRefused = "handler-refused", 500, "Refused by the handler";
    /// The handler has refused the resource for good: it stays allocated, and is quarantined until its
    /// spec, its module or its owner changes.
    Quarantined = "quarantined", 503, "Quarantined";
    /// The handler trapped; `function` names where. The instance is started anew.
    Trap = "trap", 500, "The handler trapped";
    /// It took longer than the caller wanted to wait.
    Timeout = "timeout", 504, "Timed out";
    /// It cannot be done now and had no effect; trying again later may help.
    Unavailable = "unavailable", 503, "Unavailable";
    /// The owner was lost or let go of the resource during the call, or the node that was asked starts anew; the call
    /// may have had its effect.
    Interrupted = "interrupted", 503, "Interrupted";
    /// No leader answered in time; of a change, the detail says whether it was done.
    NoLeader = "no-leader", 503, "No leader";
    /// The component cannot be run here; `reasons` lists all of what is wrong.
    RejectedComponent = "rejected-component", 422, "Component rejected";
    /// The node failed; its log says more.
    Internal = "internal", 500, "Internal error";
}

schema!(ProblemKind, {
    let kinds = ProblemKind::ALL.iter();
    let kinds = kinds.map(|kind| format!("\n- `{}`: {}", kind.urn(), kind.about()));
    let description = format!(
        "What kind of problem, for programs: they tell problems apart by it, not by status or text. \
         Later versions may have more kinds; what to do about one that is unknown, its status tells.\n{}",
        kinds.collect::<String>()
    );
    text(&description).format(Some(SchemaFormat::Custom("uri".to_owned())))
});

impl ProblemKind {
    const PREFIX: &str = "urn:holdfast:problem:";

    /// The kind as a URI: the `type` member.
    #[must_use]
    pub fn urn(self) -> String {
        match self {
            Self::Other => "about:blank".to_owned(),
            kind => format!("{}{}", Self::PREFIX, kind.name()),
        }
    }
}

/// A URI that is no kind of problem known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a kind of problem known to this version")]
pub struct UnknownKind;

impl FromStr for ProblemKind {
    type Err = UnknownKind;
    fn from_str(urn: &str) -> Result<Self, UnknownKind> {
        let name = urn.strip_prefix(Self::PREFIX).ok_or(UnknownKind)?;
        let known = Self::ALL.iter().find(|kind| kind.name() == name);
        known.copied().ok_or(UnknownKind)
    }
}

impl From<String> for ProblemKind {
    fn from(urn: String) -> Self {
        urn.parse().unwrap_or_default()
    }
}

impl From<ProblemKind> for String {
    fn from(kind: ProblemKind) -> Self {
        kind.urn()
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
