//! Decides which nodes vote in the replicated log, and which only follow it as learners.
//!
//! Raft survives the loss of any minority of its voters, so voters stay odd in number: one until
//! a third node is live and caught up, then three, then five where that is set. [`next_change`]
//! names one step at a time; the leader carries it out and asks again. Its invariant: a step adds
//! only voters that are live and caught up, and never leaves a majority that is not live where
//! there was a live one.
//!
//! Absent: time (silence arrives measured), addresses, and how a membership change is made. A step
//! from one voter to three is one joint change, since two voters survive less than one does.

use std::{collections::BTreeSet, time::Duration};

use holdfast_model::NodeId;

/// A member of the replicated log, as its leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// It votes now; else it is a learner.
    pub voter: bool,
    /// It leads now. Exactly one candidate does.
    pub leader: bool,
    /// It answers.
    pub live: bool,
    /// It has all but the latest entries of the log.
    pub caught_up: bool,
    /// It is about to leave the cluster for good.
    pub leaving: bool,
    /// It is about to end, and may come back: it gives its vote to another that is ready for it, and
    /// keeps it where there is none.
    pub stopping: bool,
    /// How long nothing was heard of it.
    pub silent_for: Duration,
}

impl Candidate {
    fn may_become_voter(&self) -> bool {
        !self.voter && self.live && self.caught_up && !self.leaving && !self.stopping
    }
}

/// One step towards the wanted voters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Make exactly these the voters, in one joint change; voters left out become learners.
    Voters(BTreeSet<NodeId>),
    /// Hand leadership over to this voter: the leader is about to leave.
    Transfer(NodeId),
}

/// The next step towards `wanted` voters (odd; an even number counts as the odd one below, 0 as
/// 1), or `None` when all is as it should be or nothing can be done safely.
///
/// In this order: voters that leave for good are replaced, or else demoted; a leader that leaves
/// hands over before it is demoted itself; voters that stop are replaced, as many as there is somebody
/// for, and a leader that stops hands over; a voter that has been silent for `replace_after` is
/// replaced, if there is somebody to replace it with; voters are added two by two up to `wanted`,
/// and taken away two by two down to it. A sole voter that leaves waits for a successor.
#[must_use]
pub fn next_change(nodes: &[Candidate], wanted: usize, replace_after: Duration) -> Option<Change> {
    let wanted = if wanted.is_multiple_of(2) {
        wanted.saturating_sub(1).max(1)
    } else {
        wanted
    };
    let voters: Vec<&Candidate> = sorted(nodes, |node| node.voter);
    let spares: Vec<&Candidate> = sorted(nodes, Candidate::may_become_voter);
    let ids: BTreeSet<NodeId> = voters.iter().map(|voter| voter.node).collect();
    // Without a live majority no change can be agreed on, and a proposal would only be in the way.
    let live = voters.iter().filter(|voter| voter.live).count();
    if live <= voters.len() / 2 {
        return None;
    }
    let replaced = |out: NodeId, spare: Option<&&Candidate>| {
        let mut next = ids.clone();
        next.remove(&out);
        next.extend(spare.map(|spare| spare.node));
        Change::Voters(next)
    };
    let safe = |change: &Change| match change {
        Change::Voters(next) => {
            let live = nodes
                .iter()
                .filter(|n| n.live && next.contains(&n.node))
                .count();
            !next.is_empty() && live > next.len() / 2
        }
        Change::Transfer(_) => true,
    };

    let leaver = voters.iter().find(|voter| voter.leaving && !voter.leader);
    if let Some(leaver) = leaver {
        // Without a replacement the number is even for a while; that is better than a voter that
        // is about to vanish, as long as the rest can still decide.
        let change = replaced(leaver.node, spares.first());
        if safe(&change) {
            return Some(change);
        }
    }
    if voters.iter().any(|voter| voter.leader && voter.leaving) {
        let heir = voters
            .iter()
            .find(|v| !v.leader && !v.leaving && v.live && v.caught_up);
        if let Some(heir) = heir {
            return Some(Change::Transfer(heir.node));
        }
        if let Some(spare) = spares.first() {
            let mut next = ids.clone();
            next.insert(spare.node);
            return Some(Change::Voters(next)).filter(safe);
        }
    }

    // All at once: whoever has to wait for a second step may be gone before it.
    let stopping = voters
        .iter()
        .filter(|voter| voter.stopping && !voter.leader);
    let replacements: Vec<(NodeId, NodeId)> = stopping
        .map(|voter| voter.node)
        .zip(spares.iter().map(|spare| spare.node))
        .collect();
    if !replacements.is_empty() {
        let mut next = ids.clone();
        for (out, spare) in replacements {
            next.remove(&out);
            next.insert(spare);
        }
        return Some(Change::Voters(next)).filter(safe);
    }
    if voters.iter().any(|voter| voter.leader && voter.stopping) {
        let heir = voters
            .iter()
            .find(|v| !v.leader && !v.leaving && !v.stopping && v.live && v.caught_up);
        if let Some(heir) = heir {
            return Some(Change::Transfer(heir.node));
        }
    }

    let silent = voters
        .iter()
        .filter(|v| !v.live && !v.leader && v.silent_for >= replace_after);
    let silent = silent.max_by_key(|voter| (voter.silent_for, voter.node));
    if let (Some(silent), Some(spare)) = (silent, spares.first()) {
        return Some(replaced(silent.node, Some(spare))).filter(safe);
    }

    // Even numbers come from a demotion without a replacement: back to odd first.
    let missing = if voters.len().is_multiple_of(2) { 1 } else { 2 };
    if voters.len() < wanted && spares.len() >= missing {
        let mut next = ids.clone();
        next.extend(spares.iter().take(missing).map(|spare| spare.node));
        return Some(Change::Voters(next)).filter(safe);
    }
    let surplus = voters.len() > wanted || voters.len().is_multiple_of(2);
    if surplus {
        let count = if voters.len().is_multiple_of(2) { 1 } else { 2 };
        let mut expendable: Vec<_> = voters.iter().filter(|voter| !voter.leader).collect();
        expendable.sort_by_key(|v| (v.live, v.caught_up, std::cmp::Reverse(v.node)));
        let mut next = ids;
        for voter in expendable.into_iter().take(count) {
            next.remove(&voter.node);
        }
        return Some(Change::Voters(next)).filter(safe);
    }
    None
}

/// Whether nodes are a majority of each set that needs one of its own: one, or two while the voters
/// change. Of no set, nobody is a majority.
#[must_use]
pub fn is_quorum(sets: &[BTreeSet<NodeId>], nodes: &BTreeSet<NodeId>) -> bool {
    let has_majority = |set: &BTreeSet<NodeId>| set.intersection(nodes).count() > set.len() / 2;
    !sets.is_empty() && sets.iter().all(has_majority)
}

/// How many more voters may be lost, whichever they are, while the others can still decide.
///
/// 0 also when there is no live majority any more.
#[must_use]
pub fn survivable_losses(voters: usize, live: usize) -> usize {
    live.saturating_sub(voters / 2 + 1)
}

/// Those that `keep` wants, by id: the choice does not depend on the order they are named in.
fn sorted(nodes: &[Candidate], keep: impl Fn(&Candidate) -> bool) -> Vec<&Candidate> {
    let mut kept: Vec<_> = nodes.iter().filter(|node| keep(node)).collect();
    kept.sort_by_key(|node| node.node);
    kept
}

#[cfg(test)]
mod tests;
