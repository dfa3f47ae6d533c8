//! What the leader of a term does beside the log: answers those who ask for leases, admits nodes,
//! frees the slots of dead ones, plans, and keeps the voters. In rounds, like the real one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use holdfast_cluster::{
    handover::Now,
    lease::{Answer, Grantor, Grants},
    state::{About, Command, Decision, Outlasting, Owner, Standing},
    voters::{self, Candidate, Change},
};
use holdfast_model::{Labels, NodeId, Weight};
use rand::RngExt;

use crate::{
    log::Lead,
    node::{Bug, Out, Process, in_contact},
    story,
};

pub(crate) struct Leading {
    lead: Lead,
    round_at: Now,
    /// The last decision. The next round waits until it is applied: on a state without it, the same
    /// slots, or others in their place, would be moved once more.
    decided: Option<u64>,
    /// Until when a handing over of the leadership may take, which pauses the grants.
    handing_over: Option<Now>,
    /// Who waits for which proposal.
    clients: BTreeMap<u64, u64>,
    /// When each voter was in reach last.
    seen: BTreeMap<NodeId, Now>,
}

impl Leading {
    fn new(lead: Lead) -> Self {
        Self {
            lead,
            round_at: lead.elected,
            decided: None,
            handing_over: None,
            clients: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    /// Something changed: the next round is due.
    pub(crate) fn look(&mut self) {
        self.round_at = Now::ZERO;
    }

    pub(crate) fn serves(&mut self, number: u64, client: u64) {
        self.clients.insert(number, client);
    }

    /// What was proposed under a number is applied: the client who waited for it.
    pub(crate) fn applied(&mut self, number: u64) -> Option<u64> {
        self.clients.remove(&number)
    }

    pub(crate) fn clients(&self) -> usize {
        self.clients.len()
    }
}

/// The leases of the term that a process leads. Nobody else has begun a later one: rounds are not
/// interrupted.
fn grantor(grants: &mut Grants, lead: Lead) -> &mut Grantor {
    let grants = grants.of_term(lead.term, lead.elected, lead.first);
    &mut grants.expect("this is the newest term").grantor
}

impl Process {
    /// Answers who asks for a lease. What the answer takes for the term that this process leads may be
    /// read long before: threads stand still for as long as they like.
    pub(crate) fn answer(&mut self, now: Now, asker: Owner) -> Answer {
        let stood_still = self.rng.random_bool(0.3);
        let lead = match self.leading.as_ref().map(|leading| leading.lead) {
            _ if stood_still && !self.led.is_empty() => {
                Some(self.led[self.rng.random_range(0..self.led.len())])
            }
            lead => lead,
        };
        let Some(lead) = lead else {
            return Answer::NotNow;
        };
        if self.bug == Some(Bug::GrantsInOlderTerm)
            && self
                .grants
                .of_term(lead.term, lead.elected, lead.first)
                .is_none()
        {
            self.grants = Grants::default();
        }
        let Some(grants) = self.grants.of_term(lead.term, lead.elected, lead.first) else {
            return Answer::NotNow;
        };
        let contact = self.log.contact(now);
        let began = contact.filter(|(term, _)| *term == lead.term);
        if let Some((_, began)) = began {
            grants.grantor.confirmed(began);
        }
        let answer = grants.grantor.answer(now, asker, &self.state, self.applied);
        if matches!(answer, Answer::Granted(_)) && self.gave_up.contains(&(lead.term, asker)) {
            self.granted_after_all = Some(asker);
        }
        // One that has forgotten whom it condemned, or does not know of earlier leaders.
        let first = match (self.bug, answer) {
            (Some(Bug::GrantsCondemned), Answer::Over) => self.applied,
            (Some(Bug::GrantsUnknowing), Answer::NotNow) => 0,
            _ => return answer,
        };
        let mut careless = Grantor::new(lead.elected, first);
        if let Some((_, began)) = began {
            careless.confirmed(began);
        }
        careless.answer(now, asker, &self.state, self.applied)
    }

    /// Looks who is there, and does the leader's work, if this node leads.
    pub(crate) fn lead(&mut self, now: Now, out: &mut Out) {
        let runs: Vec<Owner> = self.reached(now).collect();
        let restarting = self.state.restarting();
        self.stability.see(now, runs, &restarting);
        let Some(lead) = self.log.lead() else {
            if self.leading.take().is_some() {
                out.note("leads no more".to_owned());
            }
            return;
        };
        let same = |leading: &Leading| leading.lead.term == lead.term;
        if !self.leading.as_ref().is_some_and(same) {
            out.note(format!("leads term {}", lead.term));
            self.leading = Some(Leading::new(lead));
            self.led.push(lead);
        }
        let Some(mut leading) = self.leading.take() else {
            return;
        };
        if leading.handing_over.is_some_and(|until| now >= until) {
            // Still this one, then.
            leading.handing_over = None;
            grantor(&mut self.grants, lead).pause(false);
        }
        // What earlier leaders decided holds, so it is known before anything is decided.
        if self.applied >= lead.first && now >= leading.round_at {
            leading.round_at = now + ROUND;
            if !leading
                .decided
                .is_some_and(|number| self.log.is_pending(number))
            {
                self.round(&mut leading, now, out);
            }
        }
        self.leading = Some(leading);
    }

    /// Hands the leadership over to another voter, granting nothing meanwhile.
    pub(crate) fn hand_over(&mut self, now: Now, to: NodeId, out: &mut Out) {
        if let Some(mut leading) = self.leading.take() {
            self.transfer(&mut leading, now, to, out);
            self.leading = Some(leading);
        }
    }

    fn transfer(&mut self, leading: &mut Leading, now: Now, to: NodeId, out: &mut Out) {
        if leading.handing_over.is_none() {
            out.note(format!("hands the leadership over to {}", story::name(to)));
            leading.handing_over = Some(now + HAND_OVER);
            grantor(&mut self.grants, leading.lead).pause(true);
            out.hands_over = true;
            self.log.transfer(now, to);
        }
    }

    fn round(&mut self, leading: &mut Leading, now: Now, out: &mut Out) {
        let live = self.live(now);
        let mut decisions = self.admissions(leading.lead, now);
        decisions.extend(self.deaths(leading, now, out));
        for decision in decisions {
            out.note(format!("decides {}", told(&decision)));
            self.note_decided(leading, decision);
        }
        let settings = self.state.cluster().map(|cluster| cluster.settings);
        let after = settings.map_or(Duration::ZERO, |settings| settings.stable_after);
        let stable = self.stability.stable(now, after);
        let moves = self.state.plan(&live, &stable, MOVES_MAX);
        if !moves.is_empty() {
            out.note(format!(
                "decides {} moves, reaches {}",
                moves.len(),
                live.len()
            ));
            let number = self.note_decided(leading, Decision::Place { slots: moves });
            out.placed
                .extend(number.map(|number| (number, live.clone())));
        }
        self.tend_voters(leading, now, &live, out);
    }

    fn note_decided(&mut self, leading: &mut Leading, decision: Decision) -> Option<u64> {
        let term = leading.lead.term;
        let number = self.append(Command::Decide { term, decision })?;
        leading.decided = Some(number);
        Some(number)
    }

    /// Nodes in reach that the state does not know, or not in this run.
    fn admissions(&mut self, lead: Lead, now: Now) -> Vec<Decision> {
        let members = self.membership.members();
        let reached = members.filter_map(|member| {
            let contact = self.contacts.get(&member.node)?;
            let same = contact.incarnation == member.incarnation;
            (same && self.in_contact(member.node, now)).then_some((
                Owner {
                    node: member.node,
                    incarnation: member.incarnation,
                },
                about(member.addr, contact.boot),
            ))
        });
        let found = reached.chain([(self.me, about(self.addr, self.boot))]);
        let found: Vec<(Owner, About)> = found.collect();
        let mut joins = Vec::new();
        for (run, about) in found {
            let known = self.state.nodes().get(&run.node);
            let news = known.is_none_or(|known| {
                known.standing != Standing::Removed && known.incarnation < run.incarnation
            });
            if news && self.has_ended_before(lead, now, run, &about) {
                joins.push(Decision::Join {
                    node: run.node,
                    incarnation: run.incarnation,
                    about,
                    at_ms: 0,
                });
            }
        }
        joins
    }

    /// Whether the former run of a node surely runs nothing any more. Under one boot of one kernel
    /// the lock of the data directory says so; under another one only the end of its lease does.
    fn has_ended_before(&mut self, lead: Lead, now: Now, run: Owner, about: &About) -> bool {
        let Some(known) = self.state.nodes().get(&run.node) else {
            return true;
        };
        let former = Owner {
            node: run.node,
            incarnation: known.incarnation,
        };
        if known.about.boot_id == about.boot_id || !self.state.is_member(former) {
            return true;
        }
        let grantor = grantor(&mut self.grants, lead);
        grantor.condemn(former);
        grantor.has_expired(now, former, &self.state)
    }

    /// Runs that are proven dead, or whose lease is over.
    fn deaths(&mut self, leading: &Leading, now: Now, out: &mut Out) -> Vec<Decision> {
        let state = &self.state;
        let grantor = grantor(&mut self.grants, leading.lead);
        let proven = self.evidence.pending(state);
        let mut proven: Vec<Decision> = proven
            .into_iter()
            .filter_map(|death| death.decision(state))
            .collect();
        proven.retain(|decision| {
            let Decision::Vacate { node, incarnation } = *decision else {
                return true;
            };
            let run = Owner { node, incarnation };
            let buried = !grantor.is_reserved(now, run, state);
            if buried {
                // Were it alive against all proof, it would not get another lease.
                grantor.condemn(run);
            }
            buried
        });
        let silent = if self.bug == Some(Bug::NoWaitAfterElection) {
            let members = state.nodes().iter().map(|(node, known)| Owner {
                node: *node,
                incarnation: known.incarnation,
            });
            let long_ago = Grantor::new(Now::ZERO, 0);
            let unheard = grantor.silent(now, state);
            let (me, contacts) = (self.me, &self.contacts);
            let fresh = members.filter(|run| {
                let here = *run != me && !in_contact(contacts, run.node, now);
                here && state.is_member(*run) && long_ago.has_expired(now, *run, state)
            });
            fresh.chain(unheard).collect()
        } else {
            grantor.silent(now, state)
        };
        for run in &silent {
            out.note(format!(
                "has not granted {} anything for long",
                story::run(*run)
            ));
        }
        let term = leading.lead.term;
        self.gave_up.extend(silent.iter().map(|run| (term, *run)));
        out.given_up.extend(&silent);
        let silent = silent.into_iter().map(|run| Decision::Vacate {
            node: run.node,
            incarnation: run.incarnation,
        });
        let outlasted = match state.cluster().and_then(|cluster| cluster.outlasting) {
            Some(Outlasting { since, .. }) if self.bug == Some(Bug::OutlastsNothing) => {
                Some(Decision::Outlasted { since })
            }
            _ => grantor.outlasted(now, state),
        };
        proven.into_iter().chain(outlasted).chain(silent).collect()
    }

    fn tend_voters(
        &mut self,
        leading: &mut Leading,
        now: Now,
        live: &BTreeSet<NodeId>,
        out: &mut Out,
    ) {
        if self.log.changes_voters() {
            return;
        }
        let voters: BTreeSet<NodeId> = self.log.quorums().into_iter().flatten().collect();
        for node in live.iter().chain(&voters) {
            let seen = leading.seen.entry(*node).or_insert(now);
            if live.contains(node) {
                *seen = now;
            }
        }
        let candidates = self.candidates(leading, now, live, &voters);
        match voters::next_change(&candidates, self.voters_wanted(), REPLACE_AFTER) {
            Some(Change::Voters(next)) => {
                let names = next.iter().copied().map(story::name);
                let names: Vec<String> = names.collect();
                out.note(format!("changes the voters to {}", names.join(" ")));
                self.log.change_voters(next);
            }
            Some(Change::Transfer(to)) => self.transfer(leading, now, to, out),
            None => {}
        }
    }

    fn is_removed(&self, node: NodeId) -> bool {
        let known = self.state.nodes().get(&node);
        known.is_some_and(|known| known.standing == Standing::Removed)
    }

    fn voters_wanted(&self) -> usize {
        let cluster = self.state.cluster();
        cluster.map_or(1, |cluster| usize::from(cluster.settings.voters_wanted))
    }

    fn candidates(
        &self,
        leading: &Leading,
        now: Now,
        live: &BTreeSet<NodeId>,
        voters: &BTreeSet<NodeId>,
    ) -> Vec<Candidate> {
        let known = self.state.nodes().keys();
        let nodes: BTreeSet<NodeId> = known.chain(voters).copied().collect();
        let candidate = |node: NodeId| {
            let me = node == self.me.node;
            let seen = leading.seen.get(&node).copied().unwrap_or(now);
            Candidate {
                node,
                voter: voters.contains(&node),
                leader: me,
                live: live.contains(&node),
                caught_up: self.log.is_near(node),
                leaving: self.is_removed(node),
                stopping: false,
                silent_for: now.saturating_sub(seen),
            }
        };
        nodes.into_iter().map(candidate).collect()
    }
}

pub(crate) fn about(addr: SocketAddr, boot: u64) -> About {
    About {
        addr,
        http: addr,
        weight: Weight::MAX,
        zone: None,
        labels: Labels::default(),
        boot_id: boot.to_string().into(),
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

/// How long a voter may take to take over.
const HAND_OVER: Duration = Duration::from_secs(2);
