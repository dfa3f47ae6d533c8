//! The leader's rounds: one after each thing that happened, and one now and then.

mod admission;
mod unheard;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use holdfast_cluster::{
    handover::Overdue,
    placement::stability::Stability,
    state::{About, ClusterSettings, Decision, Outcome, Owner, Standing, State},
    voters::{self, Candidate, Change},
};
use holdfast_model::{Incarnation, NodeId};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::unheard::{Patience, Reports, Unheard};
use super::{
    Died, Placement,
    placing::{Placing, Round},
};
use crate::{
    clock::boot_time,
    control::{ChangeError, Leadership, Membership},
    modules::chain,
    rpc,
};

/// The task behind a [`Placement`].
pub struct Leader {
    placement: Placement,
    incarnation: Incarnation,
    about: About,
    /// Who has been there for how long, seen from here, whoever leads.
    stability: Stability,
    watched: Watched,
    reports: Reports,
}

/// What a leader has seen in its term. A later one begins with nothing: what was noted in an earlier
/// one may be long past.
#[derive(Default)]
struct Watched {
    term: u64,
    /// When each voter was last alive.
    seen: BTreeMap<NodeId, Instant>,
    /// Slots that their owners are to give away.
    leaving: Overdue,
    patience: Patience,
}

impl Leader {
    /// Makes the task of a node that says this of itself.
    #[must_use]
    pub fn new(placement: Placement, incarnation: Incarnation, about: About) -> Self {
        Self {
            placement,
            incarnation,
            about,
            stability: Stability::default(),
            watched: Watched::default(),
            reports: Reports::default(),
        }
    }

    /// Does the leader's work while this node leads; until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let inner = Arc::clone(&self.placement.0);
        let mut leadership = inner.control.leadership();
        let mut changes = inner.control.subscribe();
        let mut members = inner.members.clone();
        let mut placing = Placing::default();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // All of these only wake: what happened is read from where it is kept.
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = leadership.changed() => {}
                _ = changes.changed() => {}
                Ok(()) = members.changed() => {}
                () = inner.news.notified() => {}
                _ = tick.tick() => {}
            }
            let own = Owner {
                node: inner.me,
                incarnation: self.incarnation,
            };
            let present = inner.reached().into_iter().chain([own]);
            let restarting = inner.control.read(State::restarting);
            self.stability.see(boot_time(), present, &restarting);
            let lead = *leadership.borrow_and_update();
            if !lead.me {
                self.tell(lead).await;
                continue;
            }
            if self.watched.term != lead.term {
                self.watched = Watched {
                    term: lead.term,
                    ..Watched::default()
                };
            }
            self.refuse_overdue(lead.term);
            // Without a majority each round would fail as the one before, and wakes come often.
            if !self.watched.patience.is_over(Instant::now()) {
                continue;
            }
            let heard = self.round(lead.term, &mut placing).await;
            self.watched.patience.note(&heard, Instant::now());
        }
    }

    /// Decides what is due. A leader that is deposed in the middle of it finds its decisions
    /// refused.
    async fn round(&mut self, term: u64, placing: &mut Placing) -> Result<(), Unheard> {
        self.admit(term).await?;
        self.bury(term).await?;
        self.give_up(term).await?;
        self.note_withheld();
        self.plan(term, placing).await?;
        self.tend_voters().await;
        Ok(())
    }

    /// Gives the proofs of death that this node has to whoever leads; sees to it that somebody
    /// does, where it is the leader that died.
    async fn tell(&self, lead: Leadership) {
        if !self.settings().fast_failover {
            return;
        }
        let inner = &self.placement.0;
        let deaths = inner
            .control
            .read(|state| inner.evidence.lock().pending(state));
        let Some(leader) = lead.leader.filter(|leader| *leader != inner.me) else {
            return;
        };
        if deaths.is_empty() {
            return;
        }
        // A later run of it may lead before the state knows that run.
        if deaths.iter().any(|death| death.node == leader) && !inner.is_connected(leader) {
            info!(node.id = %leader, "the leader is dead; another one is to be elected");
            return inner.control.succeed(leader).await;
        }
        if let Err(error) = rpc::ask(&inner.peers, leader, &Died { deaths }, TELL).await {
            // Told again with the next tick, to whoever leads then.
            debug!(error = chain(&error), "the leader did not hear of a death");
        }
    }

    /// Frees the slots of incarnations that are proven dead.
    async fn bury(&self, term: u64) -> Result<(), Unheard> {
        if !self.settings().fast_failover {
            return Ok(());
        }
        let inner = &self.placement.0;
        let vacated: Vec<Decision> = inner.control.read(|state| {
            let deaths = inner.evidence.lock().pending(state);
            deaths
                .into_iter()
                .filter_map(|death| death.decision(state))
                .collect()
        });
        for vacate in vacated {
            let Decision::Vacate { node, incarnation } = vacate else {
                continue;
            };
            let run = Owner { node, incarnation };
            let condemned = self.placement.with_grants(term, |grantor| {
                let is_reserved = |state: &State| grantor.is_reserved(boot_time(), run, state);
                if inner.control.read(is_reserved) {
                    return false;
                }
                // Were it alive against all proof, it would not get another lease.
                grantor.condemn(run);
                true
            });
            if condemned == Some(true) && self.decide(term, vacate).await? {
                info!(node.id = %node, node.incarnation = %incarnation, "dead; its slots are free");
            }
        }
        Ok(())
    }

    /// Lets the leases of those run out that do not give slots away which they were to.
    fn refuse_overdue(&mut self, term: u64) {
        let leaving = &mut self.watched.leaving;
        let control = &self.placement.0.control;
        let overdue = control.read(|state| leaving.owners(boot_time(), state));
        for run in overdue {
            let fresh = self
                .placement
                .with_grants(term, |grantor| grantor.condemn(run));
            if fresh == Some(true) {
                warn!(
                    node.id = %run.node, node.incarnation = %run.incarnation,
                    "it does not give away what it was to; it gets no more leases"
                );
            }
        }
    }

    /// Frees the slots of incarnations whose leases are over.
    async fn give_up(&self, term: u64) -> Result<(), Unheard> {
        let control = &self.placement.0.control;
        let found = self.placement.with_grants(term, |grantor| {
            control.read(|state| {
                let now = boot_time();
                (grantor.silent(now, state), grantor.outlasted(now, state))
            })
        });
        let (silent, outlasted) = found.unwrap_or_default();
        if let Some(outlasted) = outlasted {
            info!("the leases of the former settings are over");
            self.decide(term, outlasted).await?;
        }
        for Owner { node, incarnation } in silent {
            let vacate = Decision::Vacate { node, incarnation };
            if self.decide(term, vacate).await? {
                info!(
                    node.id = %node, node.incarnation = %incarnation,
                    "silent for longer than its lease; its slots are free"
                );
            }
        }
        Ok(())
    }

    /// Gives every slot an owner, and the modules their balance.
    async fn plan(&self, term: u64, placing: &mut Placing) -> Result<(), Unheard> {
        let inner = &self.placement.0;
        let plan = || {
            let live = inner.live();
            let after = self.settings().stable_after;
            // Whoever has yet to get ready is given nothing that runs elsewhere meanwhile. Whoever has
            // not said so counts as ready: in the first moments of a term that are nearly all.
            let stable = &self.stability.stable(boot_time(), after) - &self.placement.unready();
            let unfit = self.placement.unfit();
            let plan = |state: &State| state.plan_with(&live, &stable, &unfit, MOVES_MAX);
            let slots = inner.control.read(plan);
            (!slots.is_empty()).then(|| {
                let (control, place) = (inner.control.clone(), Decision::Place { slots });
                let until = (Instant::now() + WHOLE_TERM).into_std();
                async move { control.propose_as_leader(term, place, until).await }.boxed()
            })
        };
        match placing.round(term, DECISION, plan).await {
            Round::Idle | Round::StillUnheard | Round::Heard(Ok(Outcome::Done)) => {}
            Round::Heard(Ok(outcome)) => {
                if let Some(suppressed) = self.reports.plan.pass() {
                    warn!(?outcome, suppressed, "a plan was refused");
                }
            }
            Round::Heard(Err(error)) => {
                if let Some(suppressed) = self.reports.plan.pass() {
                    warn!(error = chain(&error), suppressed, "a plan was not heard");
                }
                return Err(Unheard);
            }
            Round::Unheard => {
                warn!("a plan was not heard yet; nothing more is planned until it is");
            }
        }
        Ok(())
    }

    /// Notes whom the next plan passes over, for those who ask why.
    fn note_withheld(&self) {
        let (live, unready) = (self.placement.live(), self.placement.unready());
        let after = self.settings().stable_after;
        let waits = self.stability.waits(boot_time(), after);
        let withheld = |state: &State| state.withheld(&live, &waits, &unready);
        let withheld = self.placement.0.control.read(withheld);
        self.placement.note_withheld(withheld);
    }

    fn settings(&self) -> ClusterSettings {
        let settings = |state: &State| state.cluster().map(|cluster| cluster.settings);
        let settings = self.placement.0.control.read(settings);
        settings.unwrap_or(ClusterSettings::DEFAULT)
    }

    /// Whether the decision is made; not when the state refuses it.
    async fn decide(&self, term: u64, decision: Decision) -> Result<bool, Unheard> {
        let deadline = (Instant::now() + DECISION).into_std();
        match self
            .placement
            .0
            .control
            .propose_as_leader(term, decision, deadline)
            .await
        {
            Ok(Outcome::Refused(refused)) => {
                if let Some(suppressed) = self.reports.refused.pass() {
                    warn!(%refused, suppressed, "a decision was refused");
                }
                Ok(false)
            }
            Ok(_) => Ok(true),
            Err(error) => {
                // Whoever leads next decides anew, on its own view.
                if let Some(suppressed) = self.reports.unheard.pass() {
                    warn!(
                        error = chain(&error),
                        suppressed, "a decision was not heard"
                    );
                }
                Err(Unheard)
            }
        }
    }

    /// Takes one step towards the voters that the cluster wants, and lets removed nodes go.
    async fn tend_voters(&mut self) {
        let inner = Arc::clone(&self.placement.0);
        let raft = inner.control.members();
        let now = Instant::now();
        let deadline = (now + DECISION).into_std();
        if raft.changing {
            let unended = raft.quorums.len() > 1;
            // This node may be in the middle of it itself; else its leader died there.
            if unended
                && let Err(error) = inner.control.finish_change(deadline).await
                && error != ChangeError::InProgress
                && let Some(suppressed) = self.reports.voters.pass()
            {
                warn!(
                    error = chain(&error),
                    suppressed, "a change of the voters was not ended"
                );
            }
            return;
        }
        let live = inner.live();
        self.see(&live, &raft.voters, now);
        let settings = self.settings();
        let (candidates, removed) = inner.control.read(|state| {
            let candidates = self.candidates(state, &raft, &live, now);
            (candidates, removed(state, &raft))
        });
        let step = voters::next_change(
            &candidates,
            usize::from(settings.voters_wanted),
            settings.replace_voters_after,
        );
        let changed = match step {
            Some(Change::Voters(voters)) => {
                info!(?voters, "changing the voters");
                inner.control.change_voters(voters, deadline).await
            }
            Some(Change::Transfer(to)) => self.placement.hand_over(to, deadline).await,
            None => match removed {
                Some(node) => inner.control.remove(node, deadline).await,
                None => Ok(()),
            },
        };
        if let Err(error) = changed
            && let Some(suppressed) = self.reports.voters.pass()
        {
            // Tried again in the next round, if it is still wanted then.
            warn!(
                error = chain(&error),
                suppressed, "the voters were not changed"
            );
        }
    }

    /// Notes who is alive. A voter that was never seen in this term counts as seen when the term
    /// began.
    fn see(&mut self, live: &BTreeSet<NodeId>, voters: &BTreeSet<NodeId>, now: Instant) {
        let seen = &mut self.watched.seen;
        seen.extend(live.iter().map(|node| (*node, now)));
        for voter in voters {
            seen.entry(*voter).or_insert(now);
        }
    }

    fn candidates(
        &self,
        state: &State,
        raft: &Membership,
        live: &BTreeSet<NodeId>,
        now: Instant,
    ) -> Vec<Candidate> {
        let me = self.placement.0.me;
        let stopping = self.placement.0.stopping.at(boot_time());
        let candidate = |node: &NodeId| {
            let standing = state.nodes().get(node).map(|known| known.standing);
            let near = raft
                .progress
                .get(node)
                .is_some_and(|progress| progress.lag <= LAG_MAX);
            let seen = self.watched.seen.get(node).copied();
            Candidate {
                node: *node,
                voter: raft.voters.contains(node),
                leader: *node == me,
                live: live.contains(node),
                caught_up: *node == me || near,
                leaving: standing == Some(Standing::Removed),
                // One that has given its vote away already says so by its standing, to any leader.
                stopping: stopping.contains(node)
                    || !raft.voters.contains(node) && standing.is_some_and(is_on_its_way_out),
                silent_for: seen.map_or(Duration::ZERO, |seen| now.saturating_duration_since(seen)),
            }
        };
        raft.voters
            .iter()
            .chain(&raft.learners)
            .map(candidate)
            .collect()
    }
}

/// Whether a node may end at any moment, so that it is given no vote.
pub(super) fn is_on_its_way_out(standing: Standing) -> bool {
    match standing {
        Standing::Active => false,
        Standing::Draining | Standing::Restarting | Standing::Down | Standing::Removed => true,
    }
}

/// A removed node that takes part all the same, without a vote.
fn removed(state: &State, raft: &Membership) -> Option<NodeId> {
    let is_removed = |node: &&NodeId| {
        state
            .nodes()
            .get(node)
            .is_some_and(|known| known.standing == Standing::Removed)
    };
    raft.learners.iter().find(is_removed).copied()
}

/// How often the leader looks without being told to.
const TICK: Duration = Duration::from_millis(250);

/// How long a decision may take to be applied. Longer than an election, so that a slow disk does
/// not make the leader decide the same again and again.
const DECISION: Duration = Duration::from_secs(2);

/// Longer than any term lasts in which nothing is committed.
const WHOLE_TERM: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How long telling the leader of a death may take.
const TELL: Duration = Duration::from_millis(500);

/// How many slots may be on the move at once. Fewer: a rebalancing takes longer, above all where
/// `terminate` does. More: those that take over fall behind those that let go, for a slot counts
/// until it is released, and gaps grow with what waits to be started (docs/PERFORMANCE.md).
const MOVES_MAX: usize = 16;

/// How many entries a learner may lack to be made a voter.
const LAG_MAX: u64 = 1_000;
