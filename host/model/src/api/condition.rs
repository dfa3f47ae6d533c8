//! Conditions of a node: why it is given nothing, or is not well.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A condition of a node, for as long as it lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeCondition {
    /// Its kind. A node has at most one condition of each.
    pub kind: ConditionKind,
    /// What it is about, in a few words; it may change while the condition lasts.
    #[schema(examples("compiling m6"))]
    pub text: String,
    /// When it began, by the clock of the node that tells it.
    pub since_ms: u64,
    /// Whether the node is given nothing while it lasts, or nothing that can run elsewhere.
    pub gets_nothing: bool,
    /// Whether somebody should look after it. Otherwise it passes by itself, or an operator wanted it.
    pub fault: bool,
}

impl NodeCondition {
    /// A condition that began then.
    #[must_use]
    pub fn new(kind: ConditionKind, text: String, since_ms: u64) -> Self {
        Self {
            kind,
            text,
            since_ms,
            gets_nothing: kind.gets_nothing(),
            fault: kind.is_fault(),
        }
    }
}

impl fmt::Display for NodeCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fault {
            true => write!(f, "{}: {}", self.kind, self.text),
            false => write!(f, "waiting: {}", self.text),
        }
    }
}

macro_rules! kinds {
    (@idle) => { true };
    (@works) => { false };
    (@fault) => { true };
    (@phase) => { false };
    ($($(#[$doc:meta])* $name:ident $text:tt, $effect:ident, $cause:ident;)*) => {
        /// The kinds of conditions of a node; `docs/OPERATING.md` says what to do about each.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
        )]
        pub enum ConditionKind {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl ConditionKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As it is written.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// Whether a node with it is given nothing, or nothing that can run elsewhere.
            #[must_use]
            pub fn gets_nothing(self) -> bool {
                match self {
                    $(Self::$name => kinds!(@$effect),)*
                }
            }

            /// Whether somebody should look after it.
            #[must_use]
            pub fn is_fault(self) -> bool {
                match self {
                    $(Self::$name => kinds!(@$cause),)*
                }
            }
        }
    };
}

// The first word after the name: an `idle` node is given nothing, another one `works`. The second: a
// `fault` needs somebody, a `phase` passes.
kinds! {
    /// It waits for its first lease.
    Lease "lease", idle, phase;
    /// It compiles modules that it does not have yet.
    Compiling "compiling", idle, phase;
    /// It has not been there for long enough.
    Stabilizing "stabilizing", idle, phase;
    /// An operator drains it, or it stops.
    Draining "draining", idle, phase;
    /// Another run is about to take its place.
    Restarting "restarting", idle, phase;
    /// The leader has no connection to it, or gossip at the leader does not see it.
    Disconnected "disconnected", idle, fault;
    /// It has no contact with a majority of the voters.
    NoQuorum "no-quorum", idle, fault;
    /// Its disk does not take or give what it must: full, read-only or broken.
    Storage "storage", idle, fault;
    /// The system gives it too little: memory, file descriptors, mappings, threads.
    Exhausted "exhausted", idle, fault;
    /// It could not start all that it has of a module, and is given no more of that one.
    Full "full", works, fault;
    /// A runtime of it does not answer.
    Stalled "stalled", idle, fault;
    /// Another process runs under its identity.
    DuplicateNode "duplicate-node", idle, fault;
    /// It cannot run a version of a module, for reasons of that module.
    Unusable "module-unusable", works, fault;
    /// Gossip does not get through, though connections do.
    Gossip "gossip", works, fault;
    /// Its copy of the state differs from that of others.
    WrongCopy "wrong-copy", works, fault;
    /// It is about to run out of file descriptors.
    Descriptors "descriptors", works, fault;
    /// Some nodes cannot connect to it, or it cannot connect to them.
    Unreached "unreached", works, fault;
}

impl fmt::Display for ConditionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
