//! Why a node is given nothing, as the leader sees it.
//!
//! The other side of [`State::plan`]: whom that passes over, this names. Pure, and of no effect on what
//! is planned.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use holdfast_model::{ModuleName, NodeId, Slot, Weight};
use serde::{Deserialize, Serialize};

use super::{Load, Member, stability::Wait};
use crate::state::{Owner, Standing, State};

/// Who cannot run what others can, by module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unfit {
    /// Who has yet to get ready for a module: it is given nothing of it that runs elsewhere.
    pub pending: BTreeMap<ModuleName, BTreeSet<NodeId>>,
    /// Who cannot run a module: what it has of it moves to others, if any can.
    pub unable: BTreeMap<ModuleName, BTreeSet<NodeId>>,
    /// Who is full of a module, and which slots of it that one cannot start, though it runs others:
    /// those move, if the owner is pending for the module and another node is not. It is given no new
    /// ones either.
    pub stranded: BTreeMap<ModuleName, BTreeMap<NodeId, BTreeSet<Slot>>>,
}

impl Unfit {
    /// Whether a node has all of a module that it can run.
    pub(crate) fn is_full(&self, module: &ModuleName, node: NodeId) -> bool {
        let full = self.stranded.get(module);
        full.is_some_and(|nodes| nodes.contains_key(&node))
    }

    /// The slots of a module with what their owners cannot start marked.
    pub(crate) fn loads(&self, module: &ModuleName, mut all: Vec<Load>) -> Vec<Load> {
        if let Some(stranded) = self.stranded.get(module) {
            let of = |owner| stranded.get(owner);
            for load in &mut all {
                let slots = load.owner.as_ref().and_then(of);
                load.stranded = slots.is_some_and(|slots| slots.contains(&load.slot));
            }
        }
        all
    }

    /// The members as they are for one module.
    pub(crate) fn members<'a>(&self, module: &ModuleName, all: &'a [Member]) -> Cow<'a, [Member]> {
        if !self.pending.contains_key(module) && !self.unable.contains_key(module) {
            return all.into();
        }
        let is_in = |nodes: &BTreeMap<ModuleName, BTreeSet<NodeId>>, member: &Member| {
            nodes
                .get(module)
                .is_some_and(|nodes| nodes.contains(&member.id))
        };
        let any_able = all
            .iter()
            .any(|member| member.holds() && !is_in(&self.unable, member));
        let mut members = all.to_vec();
        for member in &mut members {
            member.stable &= !is_in(&self.pending, member);
            // Where nobody can, moves would help nobody.
            member.eligible &= !(any_able && is_in(&self.unable, member));
        }
        members.into()
    }
}

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
    use crate::placement::{Load, plan};

    /// Carries out the plan of a module that every node has 10 slots of, until nothing is left to do;
    /// gives how many each owns.
    fn settle(unfit: &Unfit, owned: [u32; 3]) -> Vec<u32> {
        let module: ModuleName = "m".parse().unwrap();
        let ids: Vec<NodeId> = (1..=3).map(|n| NodeId(uuid::Uuid::from_u128(n))).collect();
        let all: Vec<Member> = ids
            .iter()
            .map(|id| Member {
                id: *id,
                weight: Weight::MAX,
                zone: None,
                eligible: true,
                stable: true,
            })
            .collect();
        let owners = ids.iter().zip(owned);
        let owners = owners.flat_map(|(id, slots)| std::iter::repeat_n(*id, slots as usize));
        let mut loads: Vec<Load> = owners
            .enumerate()
            .map(|(slot, id)| Load {
                slot: holdfast_model::Slot(slot as u16),
                owner: Some(id),
                resources: 1,
                settled: true,
                stranded: false,
            })
            .collect();
        for _ in 0..100 {
            let seen = unfit.loads(&module, loads.clone());
            let moves = plan(&module, &unfit.members(&module, &all), &seen, 4);
            if moves.is_empty() {
                break;
            }
            for moved in moves {
                loads[usize::from(moved.slot.0)].owner = Some(moved.to);
            }
        }
        let count = |id| loads.iter().filter(|load| load.owner == Some(id)).count() as u32;
        ids.into_iter().map(count).collect()
    }

    fn nodes(numbers: &[u128]) -> BTreeMap<ModuleName, BTreeSet<NodeId>> {
        let nodes = numbers.iter().map(|n| NodeId(uuid::Uuid::from_u128(*n)));
        BTreeMap::from([("m".parse().unwrap(), nodes.collect())])
    }

    #[test]
    fn what_a_node_cannot_run_goes_to_those_who_can_and_comes_back_when_it_can() {
        let unable = Unfit {
            unable: nodes(&[1]),
            ..Unfit::default()
        };
        assert_eq!(settle(&unable, [10, 10, 10]), [0, 15, 15]);
        assert_eq!(settle(&Unfit::default(), [0, 15, 15]), [10, 10, 10]);
        // Nobody can: nothing moves to and fro.
        let nobody = Unfit {
            unable: nodes(&[1, 2, 3]),
            ..Unfit::default()
        };
        assert_eq!(settle(&nobody, [10, 10, 10]), [10, 10, 10]);
    }

    #[test]
    fn what_a_node_cannot_start_goes_to_those_who_can_and_the_rest_of_it_stays() {
        let stranded = |numbers: &[u128]| {
            let slots = numbers.iter().map(|n| {
                // It has the slots 0 to 9, or 10 to 19, or 20 to 29.
                let slots = (*n as u16 - 1) * 10..*n as u16 * 10 - 7;
                (NodeId(uuid::Uuid::from_u128(*n)), slots.map(Slot).collect())
            });
            Unfit {
                pending: nodes(numbers),
                stranded: BTreeMap::from([("m".parse().unwrap(), slots.collect())]),
                ..Unfit::default()
            }
        };
        // The others take them evenly, and it is given nothing in return.
        let owned = settle(&stranded(&[1]), [10, 10, 10]);
        assert_eq!(owned[0], 7);
        assert!(owned[1].abs_diff(owned[2]) <= 1, "{owned:?}");
        assert_eq!(settle(&stranded(&[1, 2]), [10, 10, 10]), [7, 7, 16]);
        // Nobody can: nothing moves to and fro.
        assert_eq!(settle(&stranded(&[1, 2, 3]), [10, 10, 10]), [10, 10, 10]);
    }

    #[test]
    fn a_node_that_is_getting_ready_keeps_what_it_has_and_gets_nothing() {
        let pending = Unfit {
            pending: nodes(&[1]),
            ..Unfit::default()
        };
        assert_eq!(settle(&pending, [4, 13, 13]), [4, 13, 13]);
        assert_eq!(settle(&pending, [4, 6, 20])[0], 4);
    }

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
