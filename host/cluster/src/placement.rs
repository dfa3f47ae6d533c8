//! Decides which node each slot of a module should have.
//!
//! [`plan`] is a pure function of the members, the slots' present owners and a budget; the leader
//! runs it and the view stores the result, so nodes never disagree about it. It wants, in this
//! order:
//!
//! 1. **Held**: a slot without an owner gets one, whatever the budget.
//! 2. **Even**: every module by itself. A node's resources stay between the whole numbers around
//!    its fair share (by weight), or within 1% of it where that is wider. Resources of one slot
//!    move together, so slots of many resources get as close to that as their size allows.
//! 3. **Stable**: nothing moves while all is even, and what moves makes the module strictly more
//!    even, so that a plan carried out yields an empty plan. A node that joins is given its share
//!    by the others; of a node that leaves, only its own slots move.
//! 4. **Spread over zones**: of the few that get the odd resource more, as many zones as possible
//!    have one. A slot has one owner only, so this is a tie-break and never costs evenness.
//! 5. **Close to the ring**: a slot goes to the first node clockwise on its module's [`Ring`](crate::ring::Ring) that
//!    has room ("consistent hashing with bounded loads", Mirrokni, Thorup and Zadimoghaddam, 2018).
//!
//! A member that is not [stable](stability::Stability) yet gets nothing while others can take it,
//! and keeps what it has. Where none is stable, what has no owner and what must leave goes to those
//! that there are, and nothing is evened out.
//!
//! What is absent: liveness, leases, tokens and the steps of a move. An owner that is not a member
//! keeps its slots here, until the view says that they have none.

use std::{cmp::Reverse, collections::BTreeMap};

use holdfast_model::{ModuleName, NodeId, Slot, Weight, Zone};

use self::board::Board;

mod board;
pub mod budget;
pub mod forecast;
pub mod stability;
pub mod withheld;

/// A node as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Identity of the node.
    pub id: NodeId,
    /// Share of the resources in relation to other nodes; a witness holds nothing.
    pub weight: Weight,
    /// Failure domain, if one was configured. Nodes without one count as one zone together.
    pub zone: Option<Zone>,
    /// Live and not draining. Slots of a member that is not are moved to others.
    pub eligible: bool,
    /// There for long enough to be given what others run.
    pub stable: bool,
}

impl Member {
    /// Whether the node may hold resources.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.eligible && self.weight > Weight::WITNESS
    }
}

/// A slot that exists, its present owner and what it weighs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// The slot. Each is named once.
    pub slot: Slot,
    /// Who has it; `None` once it was vacated, or when it is new.
    pub owner: Option<NodeId>,
    /// How many resources are in it, with those about to be allocated.
    pub resources: u32,
    /// False while a move is under way: `owner` is then where it is going, and stays.
    pub settled: bool,
    /// `owner` cannot start what is in it, for reasons of its own: it moves, if the owner is not
    /// given anything and another can take it.
    pub stranded: bool,
}

/// A slot and who should have it next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The slot.
    pub slot: Slot,
    /// Its new owner, always another than it has.
    pub to: NodeId,
}

/// The changes of owner that `module` needs: first of slots without an owner, all of them, then
/// at most `moves_max` others, those of members that drain before those that even out the load.
///
/// Empty when no member may hold resources. The same input gives the same output, in whatever
/// order members and loads are named; of a member or slot named twice, the first counts.
#[must_use]
pub fn plan(
    module: &ModuleName,
    members: &[Member],
    loads: &[Load],
    moves_max: usize,
) -> Vec<Assignment> {
    let mut holders = BTreeMap::new();
    let mut leavers = BTreeMap::new();
    let any_stable = members.iter().any(|m| m.holds() && m.stable);
    for member in members {
        let side = match (member.holds(), member.stable) {
            (true, stable) if stable == any_stable => &mut holders,
            (true, _) => continue,
            (false, _) => &mut leavers,
        };
        side.entry(member.id).or_insert_with(|| member.clone());
    }
    if holders.is_empty() {
        return Vec::new();
    }
    let holders: Vec<Member> = holders.into_values().collect();
    let mut board = Board::new(module, &holders);

    let mut unowned = Vec::new();
    let mut draining = Vec::new();
    let loads: BTreeMap<Slot, &Load> = loads.iter().rev().map(|load| (load.slot, load)).collect();
    for load in loads.into_values() {
        match load.owner {
            None => unowned.push(board.add(load, None)),
            Some(owner) => match holders.binary_search_by_key(&owner, |holder| holder.id) {
                Ok(holder) => {
                    board.add(load, Some(holder));
                }
                Err(_) if load.settled && (load.stranded || leavers.contains_key(&owner)) => {
                    draining.push(board.add(load, None));
                }
                Err(_) => {}
            },
        }
    }
    board.divide();

    // Great lumps first: the small ones then fill what is left over exactly.
    let by_size = |board: &Board<'_>, lumps: &mut Vec<usize>| {
        lumps.sort_by_key(|&lump| (Reverse(board.resources(lump)), lump));
    };
    by_size(&board, &mut unowned);
    by_size(&board, &mut draining);
    draining.truncate(moves_max);
    for &lump in unowned.iter().chain(&draining) {
        board.assign(lump);
    }
    if any_stable {
        board.even_out(moves_max - draining.len());
    } else {
        board.even_out(0);
    }
    board.assignments([unowned, draining])
}

#[cfg(test)]
mod tests;
