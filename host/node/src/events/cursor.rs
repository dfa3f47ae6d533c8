//! How far somebody has read.

use std::{collections::BTreeMap, fmt, str::FromStr};

use holdfast_model::{Incarnation, NodeId};

use crate::gather::Position;

/// How far somebody has read. Written, it is `LOG` and, for each node whose instances were read of,
/// `;NODE.INCARNATION.NUMBER`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The last event of the log.
    pub(super) log: u64,
    /// The last event of instances, of each node.
    pub(super) instances: BTreeMap<NodeId, Position>,
}

/// A text that is no cursor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no id of an event")]
pub struct InvalidCursor(String);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.log)?;
        for (node, position) in &self.instances {
            // Where nothing was read yet there is nothing to go on from.
            if *position != Position::NOW {
                let Position {
                    incarnation,
                    number,
                } = position;
                write!(f, ";{}.{}.{number}", node.0.simple(), incarnation.0)?;
            }
        }
        Ok(())
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        parse(text).ok_or_else(|| InvalidCursor(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Cursor> {
    let mut parts = text.split(';');
    let log = parts.next()?.parse().ok()?;
    let instances = parts.map(|part| {
        let mut fields = part.split('.');
        let node: NodeId = fields.next()?.parse().ok()?;
        let incarnation = Incarnation(fields.next()?.parse().ok()?);
        let number = fields.next()?.parse().ok()?;
        let position = Position {
            incarnation,
            number,
        };
        fields.next().is_none().then_some((node, position))
    });
    let instances = instances.collect::<Option<_>>()?;
    Some(Cursor { log, instances })
}
