//! How far somebody has read.

use std::{fmt, str::FromStr};

use crate::gather::Positions;

/// How far somebody has read. Written, it is `LOG` and, for each node, `;` and how far its instances
/// were read of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The last event of the log.
    pub(super) log: u64,
    /// The last event of instances, of each node.
    pub(super) instances: Positions,
}

/// A text that is no cursor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no id of an event")]
pub struct InvalidCursor(String);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.instances.0.is_empty() {
            true => write!(f, "{}", self.log),
            false => write!(f, "{};{}", self.log, self.instances),
        }
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let parse = || {
            let (log, instances) = match text.split_once(';') {
                Some((_, "")) => return None,
                Some((log, instances)) => (log, instances.parse().ok()?),
                None => (text, Positions::default()),
            };
            let log = log.parse().ok()?;
            Some(Self { log, instances })
        };
        parse().ok_or_else(|| InvalidCursor(text.to_owned()))
    }
}
