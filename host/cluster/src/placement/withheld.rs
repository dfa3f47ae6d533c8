//! Why a node is given nothing, as the leader sees it.
//!
//! The other side of [`State::plan`]: whom that passes over, this names. Pure, and of no effect on what
//! is planned.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use holdfast_model::{NodeId, Weight};
use serde::{Deserialize, Serialize};

use super::stability::Wait;
use crate::state::{Owner, Standing, State};

/// Why a node is given nothing that others can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Withheld {
    /// An operator drains it, or it stops.
    Draining,
    /// Another run is about to take its place.
    Restarting,
    /// The leader has no connection to it, or membership there does not see it.
    Disconnected,
    /// It has not been there for long enough.
    Stabilizing(Wait),
    /// It has said that it would not run at once what it is given.
    Unready,
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Draining => f.write_str("draining"),
            Self::Restarting => f.write_str("restarting"),
            Self::Disconnected => f.write_str("the leader has no contact with it"),
            Self::Stabilizing(Wait { left, losses }) => {
                let seconds = left.as_secs_f64().ceil();
                write!(f, "stable in {seconds} s")?;
                match losses {
                    0 => Ok(()),
                    1 => f.write_str(", as it was lost lately"),
                    n => write!(f, ", as it was lost {n} times lately"),
                }
            }
            Self::Unready => f.write_str("not ready yet"),
        }
    }
}

impl State {
    /// The runs that are given nothing, of those that may own slots. `live` says which nodes can be
    /// reached, `waits` which of them have not been there for long enough, `unready` who is not ready.
    /// Where nobody is better off, those two are given all the same.
    #[must_use]
    pub fn withheld(
        &self,
        live: &BTreeSet<NodeId>,
        waits: &BTreeMap<NodeId, Wait>,
        unready: &BTreeSet<NodeId>,
    ) -> BTreeMap<Owner, Withheld> {
        let is_better = |id: &NodeId| !waits.contains_key(id) && !unready.contains(id);
        let any_better = self.nodes().iter().any(|(id, node)| {
            let takes = node.standing == Standing::Active && node.weight > Weight::WITNESS;
            takes && live.contains(id) && is_better(id)
        });
        let why = |id: &NodeId, standing| match standing {
            Standing::Down | Standing::Removed => None,
            Standing::Draining => Some(Withheld::Draining),
            Standing::Restarting => Some(Withheld::Restarting),
            Standing::Active if !live.contains(id) => Some(Withheld::Disconnected),
            Standing::Active if !any_better => None,
            Standing::Active => match waits.get(id) {
                Some(wait) => Some(Withheld::Stabilizing(*wait)),
                None => unready.contains(id).then_some(Withheld::Unready),
            },
        };
        let nodes = self.nodes().iter();
        let withheld = nodes.filter_map(|(id, node)| {
            let run = Owner {
                node: *id,
                incarnation: node.incarnation,
            };
            Some((run, why(id, node.standing)?))
        });
        withheld.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_wait_is_told_in_whole_seconds_with_its_cause() {
        let wait = |ms, losses| {
            let left = Duration::from_millis(ms);
            Withheld::Stabilizing(Wait { left, losses }).to_string()
        };
        assert_eq!(wait(39_100, 0), "stable in 40 s");
        assert_eq!(wait(1_000, 1), "stable in 1 s, as it was lost lately");
        assert_eq!(
            wait(120_000, 9),
            "stable in 120 s, as it was lost 9 times lately"
        );
    }
}
