//! Whether the copies of the state are equal, and which of them is wrong where they are not.
//!
//! A copy's digest is the sum of the hashes of its rows, so a change of one row costs two additions, and
//! the order of the rows does not matter. Each copy remembers its digest at some positions of the log:
//! the newest ones, and some that every copy remembers, however it cuts the log into pieces. Equal
//! positions must have equal digests.
//!
//! A copy is wrong where a majority of the voters agrees on another digest. Where no majority agrees,
//! nobody can tell.
//!
//! Absent: who asks whom, and what becomes of a copy that is wrong. No protection against copies that
//! lie.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use holdfast_model::NodeId;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::voters;

/// A digest of a whole state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StateDigest(pub u64);

/// A position of the log, and the digest of the state there.
pub type Mark = (u64, StateDigest);

/// The digest of one copy, kept up as rows change.
#[derive(Debug, Default)]
pub struct Digests {
    /// The hash of each row, by that of its key.
    rows: BTreeMap<u64, u64>,
    sum: u64,
    newest: VecDeque<Mark>,
    common: VecDeque<Mark>,
}

impl Digests {
    /// A row is this now; none when it is gone.
    pub fn set(&mut self, key: &[u8], row: Option<&[u8]>) {
        let name = hash(&[key]);
        let before = match row {
            Some(row) => {
                let hash = hash(&[key, row]);
                self.sum = self.sum.wrapping_add(hash);
                self.rows.insert(name, hash)
            }
            None => self.rows.remove(&name),
        };
        self.sum = self.sum.wrapping_sub(before.unwrap_or(0));
    }

    /// Everything up to an entry of the log is applied.
    pub fn mark(&mut self, index: u64) {
        let mark = (index, StateDigest(self.sum));
        let (ring, kept) = match index.is_multiple_of(COMMON_EVERY) {
            true => (&mut self.common, COMMON_KEPT),
            false => (&mut self.newest, NEWEST_KEPT),
        };
        if ring.back() != Some(&mark) {
            ring.push_back(mark);
        }
        while ring.len() > kept {
            ring.pop_front();
        }
    }

    /// What is remembered.
    #[must_use]
    pub fn marks(&self) -> Vec<Mark> {
        self.common.iter().chain(&self.newest).copied().collect()
    }
}

/// What a comparison of copies comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No other copy is known at a position of this one.
    Unknown,
    /// This copy is what a majority has, or the same as all that are known.
    Right,
    /// A majority of the voters has another state.
    Wrong {
        /// The position of the log.
        at: u64,
        /// Those that agree with each other.
        majority: BTreeSet<NodeId>,
    },
    /// Copies differ, and no majority of the voters agrees.
    Unclear {
        /// The position of the log.
        at: u64,
        /// Those that differ from this one.
        others: BTreeSet<NodeId>,
    },
}

/// Compares a copy with those of others, at the newest position where most of them are known.
/// `quorums` are the sets of voters of which a majority each has to agree.
#[must_use]
pub fn judge(
    me: NodeId,
    own: &[Mark],
    others: &BTreeMap<NodeId, Vec<Mark>>,
    quorums: &[BTreeSet<NodeId>],
) -> Verdict {
    let known_at = |index: u64| {
        let known = others.iter().filter_map(|(node, marks)| {
            let mark = marks.iter().find(|(at, _)| *at == index)?;
            Some((*node, mark.1))
        });
        known.collect::<BTreeMap<NodeId, StateDigest>>()
    };
    let positions = own.iter().map(|(at, digest)| (known_at(*at), *at, *digest));
    let best = positions.max_by_key(|(known, at, _)| (known.len(), *at));
    let Some((known, at, mine)) = best.filter(|(known, ..)| !known.is_empty()) else {
        return Verdict::Unknown;
    };
    let with = |digest: StateDigest| {
        let nodes = known.iter().filter(|(_, other)| **other == digest);
        let nodes = nodes.map(|(node, _)| *node);
        nodes
            .chain((mine == digest).then_some(me))
            .collect::<BTreeSet<NodeId>>()
    };
    let different = known.iter().filter(|(_, other)| **other != mine);
    let different: BTreeMap<NodeId, StateDigest> = different.map(|(n, d)| (*n, *d)).collect();
    if different.is_empty() || voters::is_quorum(quorums, &with(mine)) {
        return Verdict::Right;
    }
    let digests: BTreeSet<StateDigest> = different.values().copied().collect();
    let agreed = digests.into_iter().map(with);
    match agreed
        .into_iter()
        .find(|nodes| voters::is_quorum(quorums, nodes))
    {
        Some(majority) => Verdict::Wrong { at, majority },
        None => Verdict::Unclear {
            at,
            others: different.into_keys().collect(),
        },
    }
}

/// Every copy remembers its digest at the multiples of this.
pub const COMMON_EVERY: u64 = 256;

/// How many of these are remembered: copies that are further apart are not compared.
const COMMON_KEPT: usize = 16;

/// How many of the last positions are remembered besides: where little is written, copies have these in
/// common.
const NEWEST_KEPT: usize = 32;

fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = Xxh3::new();
    for part in parts {
        // The length tells where one part ends and the next begins.
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.digest()
}

#[cfg(test)]
mod tests;
