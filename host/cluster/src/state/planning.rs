//! Plans who should own what, from what the state says: the state's side of [`placement`].

use std::collections::{BTreeMap, BTreeSet};

use holdfast_model::{ModuleName, NodeId, ResourceId, Slot, Token};

use super::{Node, Placed, SlotState, Standing, State};
use crate::placement::{
    self, Assignment,
    budget::{self, Claim},
    withheld::Unfit,
};

impl State {
    /// Plans first owners for the slots of these ids that do not exist yet, the whole batch
    /// counted in. `live` says which nodes can be reached. Any of them will do, however short it has
    /// been there: nothing runs yet that could be lost, and a cluster that was just started shall not
    /// begin with all on one node.
    #[must_use]
    pub fn place<'a>(
        &self,
        module: &ModuleName,
        ids: impl Iterator<Item = &'a ResourceId>,
        live: &BTreeSet<NodeId>,
    ) -> Vec<Placed> {
        self.place_with(module, ids, live, &Unfit::default())
    }

    /// The same, where some nodes cannot run some modules, or no more of them: they are given nothing,
    /// if others can.
    #[must_use]
    pub fn place_with<'a>(
        &self,
        module: &ModuleName,
        ids: impl Iterator<Item = &'a ResourceId>,
        live: &BTreeSet<NodeId>,
        unfit: &Unfit,
    ) -> Vec<Placed> {
        let existing = self.modules.get(module);
        let mut fresh: BTreeMap<Slot, BTreeSet<&ResourceId>> = BTreeMap::new();
        let mut more: BTreeMap<Slot, u32> = BTreeMap::new();
        for id in ids {
            match existing.and_then(|module| module.slots.get(&id.slot())) {
                None => {
                    fresh.entry(id.slot()).or_default().insert(id);
                }
                Some(slot) if slot.resources.contains(id) => {}
                Some(_) => *more.entry(id.slot()).or_default() += 1,
            }
        }
        let mut loads = self.loads(module, live);
        for load in &mut loads {
            load.resources += more.get(&load.slot).copied().unwrap_or(0);
        }
        loads.extend(fresh.iter().map(|(slot, ids)| placement::Load {
            slot: *slot,
            owner: None,
            resources: ids.len() as u32,
            settled: true,
            stranded: false,
        }));
        loads.sort_by_key(|load| load.slot);
        let mut members = unfit.members(module, &self.members(live)).into_owned();
        for member in &mut members {
            member.stable = !unfit.is_full(module, member.id);
        }
        placement::plan(module, &members, &loads, 0)
            .into_iter()
            .filter(|assignment| fresh.contains_key(&assignment.slot))
            .map(|assignment| Placed {
                slot: assignment.slot,
                to: assignment.to,
            })
            .collect()
    }

    /// Plans the moves of a round: every slot without an owner gets one, moves to nodes that are
    /// gone are called off, and at most `moves_max` others move, over all modules, which share them
    /// fairly. `live` says
    /// which nodes can be reached, `stable` which of them have been there for long enough to be
    /// given what others run.
    #[must_use]
    pub fn plan(
        &self,
        live: &BTreeSet<NodeId>,
        stable: &BTreeSet<NodeId>,
        moves_max: usize,
    ) -> Vec<(ModuleName, Placed, Token)> {
        self.plan_with(live, stable, &Unfit::default(), moves_max)
    }

    /// The same, where some nodes cannot run some modules.
    #[must_use]
    pub fn plan_with(
        &self,
        live: &BTreeSet<NodeId>,
        stable: &BTreeSet<NodeId>,
        unfit: &Unfit,
        moves_max: usize,
    ) -> Vec<(ModuleName, Placed, Token)> {
        let mut members = self.members(live);
        for member in &mut members {
            member.stable = stable.contains(&member.id);
        }
        let plan = |name: &ModuleName, moves_max: usize| {
            let members = unfit.members(name, &members);
            let loads = unfit.loads(name, self.loads(name, live));
            placement::plan(name, &members, &loads, moves_max)
        };
        let free = moves_max.saturating_sub(self.moves_under_way(live));
        let names = self.modules.keys();
        let mut plans: Vec<Vec<Assignment>> = names.clone().map(|name| plan(name, free)).collect();
        let claims = self.modules.values().zip(&plans).map(|(module, plan)| {
            let moves = |a: &&Assignment| module.slots[&a.slot].owner.is_some();
            Claim {
                under_way: module.moves_under_way(live),
                wanted: plan.iter().filter(moves).count(),
            }
        });
        let claims: Vec<Claim> = claims.collect();
        let given = budget::divide(moves_max, &claims);
        for ((name, planned), (claim, given)) in names.zip(&mut plans).zip(claims.iter().zip(given))
        {
            if given < claim.wanted {
                *planned = plan(name, given);
            }
        }

        let modules = self.modules.iter().zip(plans);
        let placed = modules.flat_map(|((name, module), assignments)| {
            let mut planned: BTreeMap<Slot, NodeId> = module
                .slots
                .iter()
                .filter(|(_, state)| self.is_called_off(state, live))
                .filter_map(|(slot, state)| Some((*slot, state.owner?.node)))
                .collect();
            planned.extend(assignments.iter().map(|a| (a.slot, a.to)));
            let place = |(slot, to)| {
                let token = module.slots[&slot].token;
                (name.clone(), Placed { slot, to }, token)
            };
            planned.into_iter().map(place)
        });
        placed.collect()
    }

    /// How many slots are on their way from one node to another, as far as their owners can be
    /// reached.
    #[must_use]
    pub fn moves_under_way(&self, live: &BTreeSet<NodeId>) -> usize {
        let modules = self.modules.values();
        modules.map(|module| module.moves_under_way(live)).sum()
    }

    /// The nodes whose next runs are about to take their place.
    #[must_use]
    pub fn restarting(&self) -> BTreeSet<NodeId> {
        let nodes = self.nodes.iter();
        let restarting = nodes.filter(|(_, node)| node.standing == Standing::Restarting);
        restarting.map(|(id, _)| *id).collect()
    }

    /// The nodes as placement sees them, all of them stable.
    #[must_use]
    pub fn members(&self, live: &BTreeSet<NodeId>) -> Vec<placement::Member> {
        self.nodes
            .iter()
            .map(|(id, node)| placement::Member {
                id: *id,
                weight: node.weight,
                zone: node.about.zone.clone(),
                eligible: self.is_eligible(*id, live),
                stable: true,
            })
            .collect()
    }

    /// The slots of a module as placement sees them. A slot whose owner cannot be reached stays:
    /// nobody but its owner can give it away. So does that of an owner that is about to be back.
    #[must_use]
    pub fn loads(&self, module: &ModuleName, live: &BTreeSet<NodeId>) -> Vec<placement::Load> {
        let Some(module) = self.modules.get(module) else {
            return Vec::new();
        };
        module
            .slots
            .iter()
            .filter(|(_, state)| !state.resources.is_empty())
            .map(|(slot, state)| {
                let next = state.next.filter(|_| !self.is_called_off(state, live));
                let present = state.owner.map(|owner| owner.node);
                placement::Load {
                    slot: *slot,
                    owner: next.or(present),
                    resources: state.resources.len() as u32,
                    settled: next.is_none() && present.is_none_or(|node| self.may_move(node, live)),
                    stranded: false,
                }
            })
            .collect()
    }

    /// Whether a node may be asked to give slots away.
    fn may_move(&self, owner: NodeId, live: &BTreeSet<NodeId>) -> bool {
        let restarts = |node: &Node| node.standing == Standing::Restarting;
        live.contains(&owner) && !self.nodes.get(&owner).is_some_and(restarts)
    }

    fn is_eligible(&self, node: NodeId, live: &BTreeSet<NodeId>) -> bool {
        live.contains(&node) && self.active(node).is_some()
    }

    /// Whether a slot is on its way to a node that cannot take it any more.
    fn is_called_off(&self, state: &SlotState, live: &BTreeSet<NodeId>) -> bool {
        state.next.is_some_and(|next| !self.is_eligible(next, live))
    }
}
