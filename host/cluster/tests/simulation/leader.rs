//! What the leader of a term does beside the log: answers those who ask for leases, admits nodes,
//! frees the slots of dead ones, plans, and keeps the voters. In rounds, like the real one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use holdfast_cluster::{
    handover::Now,
    lease::{Answer, Grantor},
    state::{About, ClusterSettings, Decision, Owner, Position, Standing},
    voters::{self, Candidate, Change},
};
use holdfast_model::{Incarnation, NodeId};

use crate::{
    log::{Disk, What},
    node::{Bug, Out, Process},
    story,
};

pub(crate) struct Leading {
    term: u64,
    grantor: Grantor,
    round_at: Now,
    /// The last decision. The next round waits until it is applied: on a state without it, the same
    /// slots, or others in their place, would be moved once more.
    decided: u64,
    /// Who waits for which entry.
    clients: Vec<(u64, u64)>,
    /// When each voter was in reach last.
    seen: BTreeMap<NodeId, Now>,
}

impl Leading {
    fn new(term: u64, elected: Now, first: u64) -> Self {
        Self {
            term,
            grantor: Grantor::new(elected, first),
            round_at: elected,
            decided: 0,
            clients: Vec::new(),
            seen: BTreeMap::new(),
        }
    }

    /// Something changed: the next round is due.
    pub(crate) fn look(&mut self) {
        self.round_at = Now::ZERO;
    }

    pub(crate) fn serves(&mut self, index: u64, client: u64) {
        self.clients.push((index, client));
    }

    /// An entry was applied: the clients who waited for it.
    pub(crate) fn applied(&mut self, at: Position) -> Vec<u64> {
        let (term, mut served) = (self.term, Vec::new());
        self.clients.retain(|(index, client)| {
            if *index == at.index && at.term == term {
                served.push(*client);
            }
            *index > at.index
        });
        served
    }

    pub(crate) fn answer(
        &mut self,
        now: Now,
        contact: Option<Now>,
        asker: Owner,
        disk: &Disk,
    ) -> Answer {
        if let Some(began) = contact {
            self.grantor.confirmed(began);
        }
        self.grantor.answer(now, asker, &disk.state, disk.applied)
    }

    pub(crate) fn clients(&self) -> usize {
        self.clients.len()
    }
}

impl Process {
    /// Looks who is there, and does the leader's work, if this node leads.
    pub(crate) fn lead(&mut self, now: Now, out: &mut Out) {
        let runs: Vec<Owner> = self.reached(now).collect();
        self.stability.see(now, runs);
        let Some(lead) = self.raft.lead() else {
            if self.leading.take().is_some() {
                out.note("leads no more".to_owned());
            }
            return;
        };
        let (term, elected, first) = (self.disk.term, lead.elected, lead.first);
        if self
            .leading
            .as_ref()
            .is_none_or(|leading| leading.term != term)
        {
            out.note(format!("leads term {term}"));
            self.leading = Some(Leading::new(term, elected, first));
        }
        let Some(mut leading) = self.leading.take() else {
            return;
        };
        // What earlier leaders decided holds, so it is known before anything is decided.
        if self.disk.applied >= first && now >= leading.round_at {
            leading.round_at = now + ROUND;
            if self.disk.applied >= leading.decided {
                self.round(&mut leading, now, out);
            }
        }
        self.leading = Some(leading);
    }

    fn round(&mut self, leading: &mut Leading, now: Now, out: &mut Out) {
        let live = self.live(now);
        let mut decisions = self.admissions(now);
        decisions.extend(self.deaths(leading, now, out));
        for decision in decisions {
            out.note(format!("decides {}", told(&decision)));
            self.note_decided(leading, decision);
        }
        let stable = self
            .stability
            .stable(now, ClusterSettings::DEFAULT.stable_after);
        let moves = self.disk.state.plan(&live, &stable, MOVES_MAX);
        if !moves.is_empty() {
            out.note(format!(
                "decides {} moves, reaches {}",
                moves.len(),
                live.len()
            ));
            let index = self.note_decided(leading, Decision::Place { slots: moves });
            out.placed
                .extend(index.map(|index| ((leading.term, index), live.clone())));
        }
        self.tend_voters(leading, now, &live, out);
    }

    fn note_decided(&mut self, leading: &mut Leading, what: Decision) -> Option<u64> {
        let index = self.decide(what)?;
        leading.decided = index;
        Some(index)
    }

    /// Nodes in reach that the state does not know, or not in this run.
    fn admissions(&self, now: Now) -> Vec<Decision> {
        let members = self.membership.members();
        let reached = members.filter(|member| {
            let contact = self.contacts.get(&member.node);
            let same = contact.is_some_and(|(run, _)| *run == member.incarnation);
            same && self.in_contact(member.node, now)
        });
        let reached = reached.map(|member| (member.node, member.incarnation, member.addr));
        let me = (self.me.node, self.me.incarnation, self.addr);
        let news = |node: &NodeId, incarnation: Incarnation| {
            let known = self.disk.state.nodes().get(node);
            known.is_none_or(|known| {
                known.standing != Standing::Removed && known.incarnation < incarnation
            })
        };
        let found = reached.chain([me]);
        found
            .filter(|(node, incarnation, _)| news(node, *incarnation))
            .map(|(node, incarnation, addr)| Decision::Join {
                node,
                incarnation,
                about: about(addr),
                at_ms: 0,
            })
            .collect()
    }

    /// Runs that are proven dead, or whose lease is over.
    fn deaths(&mut self, leading: &mut Leading, now: Now, out: &mut Out) -> Vec<Decision> {
        let state = &self.disk.state;
        let proven = self.evidence.pending(state);
        let proven: Vec<Decision> = proven
            .into_iter()
            .filter_map(|death| death.decision(state))
            .collect();
        let silent = if self.bug == Some(Bug::NoWaitAfterElection) {
            let members = state.nodes().iter().map(|(node, known)| Owner {
                node: *node,
                incarnation: known.incarnation,
            });
            let long_ago = Grantor::new(Now::ZERO, 0);
            let unheard = leading.grantor.silent(now, state);
            let fresh = members.filter(|run| {
                let here = *run != self.me && !self.in_contact(run.node, now);
                here && state.is_member(*run) && long_ago.has_expired(now, *run, state)
            });
            fresh.chain(unheard).collect()
        } else {
            leading.grantor.silent(now, state)
        };
        for run in &silent {
            out.note(format!(
                "has not granted {} anything for long",
                story::run(*run)
            ));
        }
        let silent = silent.into_iter().map(|run| Decision::Vacate {
            node: run.node,
            incarnation: run.incarnation,
        });
        proven.into_iter().chain(silent).collect()
    }

    fn tend_voters(
        &mut self,
        leading: &mut Leading,
        now: Now,
        live: &BTreeSet<NodeId>,
        out: &mut Out,
    ) {
        let (index, sets) = self.disk.voters();
        if index > self.raft.commit {
            return;
        }
        let next = match sets {
            [_, last] => Some(vec![last.clone()]),
            [voters] => {
                let voters = voters.clone();
                for node in live.iter().chain(&voters) {
                    let seen = leading.seen.entry(*node).or_insert(now);
                    if live.contains(node) {
                        *seen = now;
                    }
                }
                let candidates = self.candidates(leading, now, live, &voters);
                match voters::next_change(&candidates, self.voters_wanted(), REPLACE_AFTER) {
                    Some(Change::Voters(next)) => Some(vec![voters, next]),
                    Some(Change::Transfer(_)) | None => None,
                }
            }
            _ => None,
        };
        if let Some(sets) = next {
            let names = sets.iter().map(|set| {
                let names: Vec<String> = set.iter().copied().map(story::name).collect();
                names.join(" ")
            });
            let names: Vec<String> = names.collect();
            out.note(format!("changes the voters: {}", names.join(" to ")));
            self.raft.propose(&mut self.disk, What::Voters(sets));
        }
    }

    fn voters_wanted(&self) -> usize {
        let cluster = self.disk.state.cluster();
        cluster.map_or(1, |cluster| usize::from(cluster.settings.voters_wanted))
    }

    fn candidates(
        &self,
        leading: &Leading,
        now: Now,
        live: &BTreeSet<NodeId>,
        voters: &BTreeSet<NodeId>,
    ) -> Vec<Candidate> {
        let known = self.disk.state.nodes().keys();
        let nodes: BTreeSet<NodeId> = known.chain(voters).copied().collect();
        let candidate = |node: NodeId| {
            let me = node == self.me.node;
            let seen = leading.seen.get(&node).copied().unwrap_or(now);
            Candidate {
                node,
                voter: voters.contains(&node),
                leader: me,
                live: live.contains(&node),
                caught_up: me || self.raft.matched(node) + LAG_MAX >= self.disk.last(),
                leaving: false,
                silent_for: now.saturating_sub(seen),
            }
        };
        nodes.into_iter().map(candidate).collect()
    }
}

pub(crate) fn about(addr: std::net::SocketAddr) -> About {
    About {
        addr,
        http: addr,
        weight: 1,
        zone: None,
        boot_id: "boot".into(),
        version: "0".into(),
    }
}

fn told(decision: &Decision) -> String {
    let run = |node, incarnation| story::run(Owner { node, incarnation });
    match decision {
        Decision::Join {
            node, incarnation, ..
        } => format!("that {} joins", run(*node, *incarnation)),
        Decision::Vacate { node, incarnation } => {
            format!("that {} is dead", run(*node, *incarnation))
        }
        Decision::Outlasted { .. } => "that earlier grants are over".to_owned(),
        Decision::Place { slots } => format!("{} moves", slots.len()),
    }
}

/// Slots on the move at once.
pub(crate) const MOVES_MAX: usize = 8;

const ROUND: Duration = Duration::from_millis(250);
const REPLACE_AFTER: Duration = Duration::from_secs(3);
const LAG_MAX: u64 = 20;
