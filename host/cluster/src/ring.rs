//! The weighted consistent-hash ring of a module: which node a slot would like best, which next.
//!
//! Every node has points on a circle of 2^64 places, at XXH3-64 of module name, node id and the
//! point's number; the [`Slot::COUNT`] slots divide the same circle into equal arcs. A slot's
//! preferred owner has the first point clockwise of the start of the slot's arc. A node that comes
//! or goes changes the preferences of the slots before its own points, and no others.
//!
//! The ring only plans: what it says is a wish. Evenness is the business of [`crate::placement`],
//! and who owns a slot is what the view says.

use holdfast_model::{ModuleName, NodeId, Slot};
use xxhash_rust::xxh3::xxh3_64;

use crate::placement::Member;

/// The points of a module's eligible nodes, in clockwise order.
#[derive(Debug, Clone)]
pub struct Ring {
    /// Place on the circle, and the index in `nodes` of whose point it is.
    points: Vec<(u64, u32)>,
    nodes: Vec<NodeId>,
}

impl Ring {
    /// Points of the heaviest node; a lighter one has its share of them, and at least one.
    ///
    /// Few enough to build 10 rings of 100 nodes in some milliseconds, enough to spread the slots
    /// of a vanished node over all others.
    pub const POINTS_MAX: u32 = 128;

    /// The ring of `module` over the members that are eligible and have a weight above 0.
    #[must_use]
    pub fn new(module: &ModuleName, members: &[Member]) -> Self {
        let holders = || members.iter().filter(|m| m.holds());
        let heaviest = holders().map(|m| m.weight.get()).max().unwrap_or(1);
        let mut nodes = Vec::new();
        let mut points = Vec::new();
        let mut text = module.as_str().as_bytes().to_vec();
        // A name never contains this byte, so no two texts that are hashed are alike.
        text.push(0);
        let prefix = text.len();
        for member in holders() {
            let index = nodes.len() as u32;
            nodes.push(member.id);
            text.truncate(prefix);
            text.extend_from_slice(member.id.0.as_bytes());
            for number in 0..points_of(member.weight.get(), heaviest) {
                text.truncate(prefix + 16);
                text.extend_from_slice(&number.to_le_bytes());
                points.push((xxh3_64(&text), index));
            }
        }
        // Points that fall together are ordered by node id, whatever the order of the members.
        points.sort_unstable_by_key(|&(place, index)| (place, nodes[index as usize]));
        Self { points, nodes }
    }

    /// Every node of the ring once, clockwise from `slot`: the preferred owner first.
    pub fn owners(&self, slot: Slot) -> impl Iterator<Item = NodeId> + '_ {
        self.indices(slot).map(|index| self.nodes[index])
    }

    /// Like [`Ring::owners`], as positions among the eligible members that were given.
    pub(crate) fn indices(&self, slot: Slot) -> impl Iterator<Item = usize> + '_ {
        let place = u64::from(slot.0 % Slot::COUNT) << (u64::BITS - Slot::COUNT.ilog2());
        let start = self.points.partition_point(|&(point, _)| point < place);
        let (before, after) = self.points.split_at(start);
        let mut seen = vec![false; self.nodes.len()];
        let turn = after.iter().chain(before).map(|&(_, index)| index as usize);
        turn.filter(move |&index| !std::mem::replace(&mut seen[index], true))
            .take(self.nodes.len())
    }
}

fn points_of(share: u64, heaviest: u64) -> u32 {
    let max = u64::from(Ring::POINTS_MAX);
    (max * share).div_ceil(heaviest).min(max) as u32
}

#[cfg(test)]
mod tests;
