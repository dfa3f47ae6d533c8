//! How far somebody has read, as text that goes through any node.

use std::{collections::BTreeMap, fmt, str::FromStr};

use holdfast_model::{Incarnation, NodeId};

use super::Position;

/// How far somebody has read, of each node. Written, it is `NODE.INCARNATION.NUMBER` of each, with `;`
/// between them; or `NODE.-` of one that has not said yet where it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Positions(pub(crate) BTreeMap<NodeId, Position>);

/// A text that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} says of no node how far it was read")]
pub(crate) struct InvalidPositions(String);

impl Positions {
    /// The nodes of which it is not known how far they were read: what happened there since is missed.
    pub(crate) fn unknown(&self) -> impl Iterator<Item = NodeId> {
        let unknown = self.0.iter().filter(|(_, at)| **at == Position::NOW);
        unknown.map(|(node, _)| *node)
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (node, position)) in self.0.iter().enumerate() {
            let between = if at > 0 { ";" } else { "" };
            write!(f, "{between}{}.", node.0.simple())?;
            match *position {
                Position::NOW => f.write_str("-")?,
                Position {
                    incarnation,
                    number,
                } => write!(f, "{}.{number}", incarnation.0)?,
            }
        }
        Ok(())
    }
}

impl FromStr for Positions {
    type Err = InvalidPositions;

    fn from_str(text: &str) -> Result<Self, InvalidPositions> {
        let parts = text.split(';').filter(|_| !text.is_empty());
        let parsed = parts.map(|part| {
            let mut fields = part.split('.');
            let node: NodeId = fields.next()?.parse().ok()?;
            let position = match fields.next()? {
                "-" => Position::NOW,
                incarnation => Position {
                    incarnation: Incarnation(incarnation.parse().ok()?),
                    number: fields.next()?.parse().ok()?,
                },
            };
            fields.next().is_none().then_some((node, position))
        });
        let parsed = parsed.collect::<Option<_>>();
        parsed
            .map(Self)
            .ok_or_else(|| InvalidPositions(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_they_are_written() {
        let node = |first: &str| {
            let id = format!("{first}000000-0000-4000-8000-000000000000");
            id.parse::<NodeId>().unwrap()
        };
        let at = Position {
            incarnation: Incarnation(9),
            number: 1_234,
        };
        let positions = Positions(BTreeMap::from([
            (node("1a"), Position::NOW),
            (node("2b"), at),
        ]));
        let text = positions.to_string();
        assert_eq!(
            text,
            "1a000000000040008000000000000000.-;2b000000000040008000000000000000.9.1234"
        );
        assert_eq!(text.parse(), Ok(positions.clone()));
        assert_eq!(positions.unknown().collect::<Vec<_>>(), [node("1a")]);
        assert_eq!("".parse(), Ok(Positions::default()));
        for text in [
            "x",
            ";",
            "2b000000000040008000000000000000.9",
            "2b.1.1",
            "2b000000000040008000000000000000.-.1",
        ] {
            let refused: Result<Positions, _> = text.parse();
            assert!(refused.is_err(), "{text}");
        }
    }
}
