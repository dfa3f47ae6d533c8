//! The state of one run of [`plan`](super::plan): who has which slot by now, and who has room.
//!
//! Whole numbers only: comparisons of shares are cross-multiplied, so nothing depends on rounding.
//! With at most 4,096 slots of 2^32 resources and weights of 100 every product fits in 64 bits.

use std::cmp::{Ordering, Reverse};

use holdfast_model::{ModuleName, Slot};

use super::{Assignment, Load, Member};
use crate::ring::Ring;

pub(super) struct Board<'a> {
    ring: Ring,
    holders: &'a [Member],
    nodes: Vec<Node>,
    zones: Vec<Zone>,
    lumps: Vec<Lump>,
    /// Resources of all lumps.
    total: u64,
    /// Sum of the nodes' weights.
    weights: u64,
    /// How many resources are above the whole number below their node's fair share, and how many
    /// may be: that many nodes get one more than others.
    odd: u64,
    odd_max: u64,
}

struct Node {
    weight: u64,
    zone: usize,
    load: u64,
    /// Lumps it has by now.
    lumps: Vec<usize>,
    /// Fair share, rounded down and up.
    floor: u64,
    ceil: u64,
    /// Bounds within which nothing needs to move.
    least: u64,
    most: u64,
}

struct Zone {
    load: u64,
    weight: u64,
    /// Fair share of all its nodes, rounded up.
    ceil: u64,
}

/// A slot with its resources, which move together.
struct Lump {
    slot: Slot,
    resources: u64,
    /// A move is under way: it stays.
    fixed: bool,
    /// Which holder runs it, if one does: to take it from there costs a move.
    home: Option<usize>,
    /// Who has it by now; `None` for one that drains and was not assigned yet.
    at: Option<usize>,
    /// First choice of the ring.
    preferred: usize,
}

impl<'a> Board<'a> {
    /// A board without lumps. `holders` is not empty.
    pub(super) fn new(module: &ModuleName, holders: &'a [Member]) -> Self {
        let mut names: Vec<_> = holders.iter().map(|holder| &holder.zone).collect();
        names.sort();
        names.dedup();
        let mut zones: Vec<Zone> = names
            .iter()
            .map(|_| Zone {
                load: 0,
                weight: 0,
                ceil: 0,
            })
            .collect();
        let nodes = holders
            .iter()
            .map(|holder| {
                let zone = names.partition_point(|name| *name < &holder.zone);
                let weight = holder.weight.get();
                zones[zone].weight += weight;
                Node {
                    weight,
                    zone,
                    load: 0,
                    lumps: vec![],
                    floor: 0,
                    ceil: 0,
                    least: 0,
                    most: 0,
                }
            })
            .collect();
        Self {
            ring: Ring::new(module, holders),
            holders,
            nodes,
            weights: zones.iter().map(|zone| zone.weight).sum(),
            zones,
            lumps: Vec::new(),
            total: 0,
            odd: 0,
            odd_max: 0,
        }
    }

    /// Adds a slot that `home` has, or that is to be assigned; returns its number.
    pub(super) fn add(&mut self, load: &Load, home: Option<usize>) -> usize {
        let number = self.lumps.len();
        self.lumps.push(Lump {
            slot: load.slot,
            resources: u64::from(load.resources),
            fixed: !load.settled && home.is_some(),
            home,
            at: None,
            preferred: self.ring.indices(load.slot).next().unwrap_or(0),
        });
        self.total += u64::from(load.resources);
        number
    }

    /// Computes fair shares, once all lumps are added, and puts every lump where it is.
    pub(super) fn divide(&mut self) {
        let share = |weight: u64, percent: u64| (self.total * weight * percent, self.weights * 100);
        for node in &mut self.nodes {
            let (resources, parts) = share(node.weight, 100);
            (node.floor, node.ceil) = (resources / parts, resources.div_ceil(parts));
            let (resources, parts) = share(node.weight, 99);
            node.least = node.floor.min(resources.div_ceil(parts));
            let (resources, parts) = share(node.weight, 101);
            node.most = node.ceil.max(resources / parts);
        }
        for zone in &mut self.zones {
            let (resources, parts) = share(zone.weight, 100);
            zone.ceil = resources.div_ceil(parts);
        }
        self.odd_max = self.total - self.nodes.iter().map(|node| node.floor).sum::<u64>();
        for lump in 0..self.lumps.len() {
            if let Some(home) = self.lumps[lump].home {
                self.put(lump, home);
            }
        }
    }

    pub(super) fn resources(&self, lump: usize) -> u64 {
        self.lumps[lump].resources
    }

    /// Gives a lump to the first node on its ring with room: in a zone that has nothing yet if there
    /// is one, else in a zone with room. Without any to the node that has the least for its weight
    /// with it.
    pub(super) fn assign(&mut self, lump: usize) {
        let Lump {
            slot, resources, ..
        } = self.lumps[lump];
        let mut roomy = None;
        if self.nodes.iter().any(|node| self.has_room(node, resources)) {
            let first = |wanted: fn(&Zone, u64) -> bool| {
                self.ring.indices(slot).find(|&index| {
                    let node = &self.nodes[index];
                    wanted(&self.zones[node.zone], resources) && self.has_room(node, resources)
                })
            };
            if self.zones.iter().any(|zone| zone.load == 0) {
                roomy = first(|zone, _| zone.load == 0);
            }
            roomy = roomy
                .or_else(|| first(|zone, resources| zone.load + resources <= zone.ceil))
                .or_else(|| first(|_, _| true));
        }
        let least = || {
            self.ring.indices(slot).min_by(|&a, &b| {
                let (a, b) = (&self.nodes[a], &self.nodes[b]);
                compare_shares(a.load + resources, a.weight, b.load + resources, b.weight)
            })
        };
        let to = roomy.or_else(least).expect("a board has at least one node");
        self.put(lump, to);
    }

    /// Moves lumps from nodes with much to nodes with little while one is out of bounds and a move
    /// makes it better. Takes at most `moves_max` lumps away from where they run.
    pub(super) fn even_out(&mut self, moves_max: usize) {
        let mut moves_left = moves_max;
        // Every step improves a measure that is bounded below (see `best_lump`), so this ends by
        // itself; the bound is for the reader.
        for _ in 0..self.lumps.len() * 2 {
            let Some((lump, to)) = self.next_move(moves_left > 0) else {
                return;
            };
            let Lump { home, at, .. } = self.lumps[lump];
            if home.is_some() && home == at {
                moves_left -= 1;
            } else if home == Some(to) {
                moves_left += 1;
            }
            self.take(lump);
            self.put(lump, to);
        }
    }

    /// The slots that are not where they run, of the lumps named and then of all others.
    pub(super) fn assignments(&self, first: [Vec<usize>; 2]) -> Vec<Assignment> {
        let moved = (0..self.lumps.len()).filter(|&number| {
            let lump = &self.lumps[number];
            lump.home.is_some() && lump.home != lump.at
        });
        first
            .into_iter()
            .flatten()
            .chain(moved)
            .filter_map(|number| {
                let Lump { slot, at, .. } = self.lumps[number];
                at.map(|at| Assignment {
                    slot,
                    to: self.holders[at].id,
                })
            })
            .collect()
    }

    fn has_room(&self, node: &Node, resources: u64) -> bool {
        let load = node.load + resources;
        load <= node.floor || load <= node.ceil && self.odd < self.odd_max
    }

    /// The best lump of the fullest node that can improve something, and the emptiest node for it.
    fn next_move(&self, may_take_running: bool) -> Option<(usize, usize)> {
        let out_of_bounds = |node: &Node| node.load > node.most || node.load < node.least;
        if !self.nodes.iter().any(out_of_bounds) {
            return None;
        }
        let mut by_load: Vec<usize> = (0..self.nodes.len()).collect();
        by_load.sort_by(|&a, &b| self.compare(a, b).then(a.cmp(&b)));
        let pairs = || {
            by_load.iter().enumerate().rev().flat_map(|(rank, &giver)| {
                let needed = move |taker: &usize| {
                    self.nodes[giver].load > self.nodes[giver].most
                        || self.nodes[*taker].load < self.nodes[*taker].least
                };
                by_load[..rank]
                    .iter()
                    .copied()
                    .filter(needed)
                    .map(move |taker| (giver, taker))
            })
        };
        let search = |strict: bool| {
            pairs().find_map(|(giver, taker)| {
                let lump = self.best_lump(giver, taker, may_take_running, strict)?;
                Some((lump, taker))
            })
        };
        search(true).or_else(|| search(false))
    }

    /// With `strict`, only a lump that leaves neither of the two on the other side of its bounds,
    /// where it would have to be moved again or replaced by another.
    fn best_lump(
        &self,
        giver: usize,
        taker: usize,
        may_take_running: bool,
        strict: bool,
    ) -> Option<usize> {
        let (from, to) = (&self.nodes[giver], &self.nodes[taker]);
        let spare = from.load.saturating_sub(from.floor);
        let wanted = spare.min(to.ceil.saturating_sub(to.load));
        let outside = |node: &Node, load: u64| {
            node.least.saturating_sub(load) + load.saturating_sub(node.most)
        };
        // Two measures that fall one after the other, so that no move is ever taken back: how far
        // the two are out of bounds, and their load^2 / weight.
        let improves = |resources: u64| {
            let before = outside(from, from.load) + outside(to, to.load);
            let after = outside(from, from.load - resources) + outside(to, to.load + resources);
            let left = (2 * from.load - resources) * to.weight;
            let right = (2 * to.load + resources) * from.weight;
            after < before || after == before && left > right
        };
        let within_bounds =
            |resources: u64| from.load >= from.least + resources && to.load + resources <= to.most;
        let candidates = from.lumps.iter().copied().filter(|&number| {
            let lump = &self.lumps[number];
            let runs_here = lump.home == Some(giver);
            !lump.fixed
                && lump.resources > 0
                && (may_take_running || !runs_here)
                && improves(lump.resources)
                && (!strict || within_bounds(lump.resources))
        });
        candidates.max_by_key(|&number| {
            let lump = &self.lumps[number];
            let fits = lump.resources <= wanted;
            let runs_here = lump.home == Some(giver);
            let size = if fits {
                lump.resources
            } else {
                u64::MAX - lump.resources
            };
            (
                fits,
                !runs_here,
                lump.preferred == taker,
                size,
                Reverse(lump.slot),
            )
        })
    }

    /// Which of two nodes has less for its weight, or else whose zone has.
    fn compare(&self, a: usize, b: usize) -> Ordering {
        let (a, b) = (&self.nodes[a], &self.nodes[b]);
        let (zone_a, zone_b) = (&self.zones[a.zone], &self.zones[b.zone]);
        compare_shares(a.load, a.weight, b.load, b.weight).then(compare_shares(
            zone_a.load,
            zone_a.weight,
            zone_b.load,
            zone_b.weight,
        ))
    }

    fn put(&mut self, lump: usize, to: usize) {
        let resources = self.lumps[lump].resources;
        let node = &mut self.nodes[to];
        self.odd -= node.load.saturating_sub(node.floor);
        node.load += resources;
        self.odd += node.load.saturating_sub(node.floor);
        node.lumps.push(lump);
        self.zones[node.zone].load += resources;
        self.lumps[lump].at = Some(to);
    }

    fn take(&mut self, lump: usize) {
        let Lump { at, resources, .. } = self.lumps[lump];
        let Some(from) = at else { return };
        let node = &mut self.nodes[from];
        self.odd -= node.load.saturating_sub(node.floor);
        node.load -= resources;
        self.odd += node.load.saturating_sub(node.floor);
        node.lumps.retain(|&held| held != lump);
        self.zones[node.zone].load -= resources;
        self.lumps[lump].at = None;
    }
}

fn compare_shares(a: u64, weight_a: u64, b: u64, weight_b: u64) -> Ordering {
    (a * weight_b).cmp(&(b * weight_a))
}
