//! What would move if nodes came, went or had other weights.
//!
//! Invariant: only [`plan`] says what moves. It is given other members here, all of them stable,
//! and no limit of moves: what a leader moves in many rounds, planning anew before each, ends as
//! evenly, and moves about as much.
//!
//! Absent: who answers whom. The nodes are those that the state has as members; one that fell
//! silent counts as there until the state knows better. So every node with the same state says the
//! same.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use holdfast_model::{
    ModuleName, NodeId, Slot,
    api::{
        ClusterPlan, PlanCount, PlanNode, PlanRequest, PlanRole, PlannedModule, PlannedMove,
        PlannedNode,
    },
};
use uuid::Uuid;

use super::{Load, Member, plan};
use crate::state::{Standing, State};

/// Members and slots as a state has them. Cheap to take, so that the plan need not be made under
/// the lock of the state.
#[derive(Clone, Debug)]
pub struct Present {
    members: Vec<Member>,
    modules: Vec<(ModuleName, Vec<Load>)>,
}

impl Present {
    /// Those of a state.
    #[must_use]
    pub fn of(state: &State) -> Self {
        let there = state.nodes().iter();
        let there = there.filter(|(_, node)| node.standing.may_own());
        let there: BTreeSet<NodeId> = there.map(|(id, _)| *id).collect();
        let mut members = state.members(&there);
        members.retain(|member| there.contains(&member.id));
        for member in &mut members {
            // It is back in a moment.
            member.eligible |= state.nodes()[&member.id].standing == Standing::Restarting;
        }
        let loads = |name: &ModuleName| {
            let mut loads = state.loads(name, &there);
            for load in &mut loads {
                // Of a node that was removed, what it has is nobody's when its lease is over.
                load.owner = load.owner.filter(|owner| there.contains(owner));
            }
            loads
        };
        let modules = state.modules().keys();
        let modules = modules.map(|name| (name.clone(), loads(name))).collect();
        Self { members, modules }
    }

    /// What would move. Nodes that are no members are passed over.
    #[must_use]
    pub fn forecast(&self, imagined: &PlanRequest) -> ClusterPlan {
        let then = self.members_then(imagined);
        let mut nodes: Vec<PlannedNode> = then.iter().map(planned).collect();
        for (node, member) in nodes.iter_mut().zip(&self.members) {
            node.weight_now = Some(member.weight);
        }
        let modules = self.modules.iter().map(|(name, loads)| {
            let change = Change::of(name, &then, loads, &imagined.leave);
            for (node, member) in nodes.iter_mut().zip(&then) {
                let count = |owned: &Owned| owned.get(&member.id).copied().unwrap_or_default();
                node.now.add(count(&change.now));
                node.then.add(count(&change.then));
            }
            change.told(name, &self.members, &then)
        });
        let modules: Vec<PlannedModule> = modules.collect();
        let (mut total, mut moves) = (PlanCount::default(), PlanCount::default());
        for module in &modules {
            total.add(module.total);
            moves.add(module.moves);
        }
        let owned = |count: fn(&PlannedNode) -> PlanCount| {
            let counts = then.iter().zip(&nodes);
            counts.map(|(m, node)| (m.id, count(node))).collect()
        };
        ClusterPlan {
            total,
            moves,
            max_mean_now: max_mean(&self.members, &owned(|node| node.now), total),
            max_mean_then: max_mean(&then, &owned(|node| node.then), total),
            nodes,
            modules,
        }
    }

    /// The present members, changed, and those that join after them.
    fn members_then(&self, imagined: &PlanRequest) -> Vec<Member> {
        let present = self.members.iter().map(|member| Member {
            weight: *imagined.weights.get(&member.id).unwrap_or(&member.weight),
            eligible: member.eligible && !imagined.leave.contains(&member.id),
            ..member.clone()
        });
        let joining = imagined.join.iter().zip(1..).map(|(node, number)| Member {
            id: id_of_new(number),
            weight: node.weight,
            zone: node.zone.clone(),
            eligible: true,
            stable: true,
        });
        present.chain(joining).collect()
    }
}

type Owned = BTreeMap<NodeId, PlanCount>;

/// Who has what of a module now and then.
#[derive(Default)]
struct Change {
    total: PlanCount,
    now: Owned,
    then: Owned,
    from_to: BTreeMap<(Option<PlanNode>, PlanNode), PlanCount>,
}

impl Change {
    fn of(name: &ModuleName, then: &[Member], loads: &[Load], leave: &BTreeSet<NodeId>) -> Self {
        let mut loads = loads.to_vec();
        for load in &mut loads {
            // Whatever holds it up: what has left has nothing.
            load.settled |= load.owner.is_none_or(|owner| leave.contains(&owner));
        }
        let assignments = plan(name, then, &loads, usize::MAX).into_iter();
        let assigned: BTreeMap<Slot, NodeId> = assignments.map(|a| (a.slot, a.to)).collect();
        let mut change = Self::default();
        for load in &loads {
            let resources = u64::from(load.resources);
            let assigned = assigned.get(&load.slot).copied();
            change.total.add_slot(resources);
            let owners = [
                (&mut change.now, load.owner),
                (&mut change.then, assigned.or(load.owner)),
            ];
            for (owned, owner) in owners {
                if let Some(owner) = owner {
                    owned.entry(owner).or_default().add_slot(resources);
                }
            }
            if let Some(to) = assigned {
                let way = (load.owner.map(name_of), name_of(to));
                let count = change.from_to.entry(way).or_default();
                count.add_slot(resources);
            }
        }
        change
    }

    fn told(self, name: &ModuleName, members: &[Member], members_then: &[Member]) -> PlannedModule {
        let mut moves = PlanCount::default();
        for ((from, _), count) in &self.from_to {
            if from.is_some() {
                moves.add(*count);
            }
        }
        let from_to = self.from_to.into_iter();
        PlannedModule {
            module: name.clone(),
            total: self.total,
            moves,
            max_mean_now: max_mean(members, &self.now, self.total),
            max_mean_then: max_mean(members_then, &self.then, self.total),
            from_to: from_to
                .map(|((from, to), count)| PlannedMove { from, to, count })
                .collect(),
        }
    }
}

fn planned(member: &Member) -> PlannedNode {
    let node = name_of(member.id);
    PlannedNode {
        node,
        role: match (node, member.eligible) {
            (PlanNode::New(_), _) => PlanRole::Joins,
            (PlanNode::Known(_), true) => PlanRole::Stays,
            (PlanNode::Known(_), false) => PlanRole::Leaves,
        },
        zone: member.zone.clone(),
        weight_now: None,
        weight_then: member.weight,
        now: PlanCount::default(),
        then: PlanCount::default(),
    }
}

/// How much of its fair share the fullest of those has that may hold something.
fn max_mean(members: &[Member], owned: &Owned, total: PlanCount) -> Option<f64> {
    let holders = || members.iter().filter(|member| member.holds());
    let weights: u64 = holders().map(|member| member.weight.get()).sum();
    let of_share = |member: &Member| {
        let owns = owned.get(&member.id).map_or(0, |count| count.resources);
        let share = total.resources as f64 * member.weight.get() as f64 / weights as f64;
        // More digits than anybody reads.
        (owns as f64 / share * 1_000.0).round() / 1_000.0
    };
    let is_any = total.resources > 0;
    holders()
        .filter(|_| is_any)
        .map(of_share)
        .max_by(f64::total_cmp)
}

/// The id of a node that does not exist. The same each time, so that the same question has the same
/// answer.
fn id_of_new(number: u32) -> NodeId {
    NodeId(Uuid::from_u128(NEW | u128::from(number)))
}

fn name_of(id: NodeId) -> PlanNode {
    match u32::try_from(id.0.as_u128() ^ NEW) {
        Ok(number) => PlanNode::New(number),
        Err(_) => PlanNode::Known(id),
    }
}

/// A UUID of version 8, which is anybody's own business (RFC 9562); those of nodes are of version 4.
const NEW: u128 = 0x8000_8000_0000_0000_0000;
