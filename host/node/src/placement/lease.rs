//! This node's lease, kept alive; and all leases, while this node leads.
//!
//! The rules are `cluster::lease`'s. Here are the clock, the questions and the answers. Nothing
//! here waits for the leader's rounds, for the disk or for a handler: a lease that ends because
//! the node was busy costs everything it runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use holdfast_cluster::{
    lease::{Answer, Grantor, Holder, RENEW_EVERY, Standing, TermGrants},
    placement::withheld::{Unfit, Withheld},
    state::{Cluster, Owner},
};
use holdfast_model::{NodeId, api::ConditionKind};
use holdfast_runtime::Fences;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Placement,
    readiness::{Found, Readiness},
    withheld::Verdict,
};
use crate::{
    clock::boot_time,
    control::{ChangeError, Leadership},
    metrics::LeaseTimes,
    modules::Modules,
    peer::{Kind, Lane},
    rpc::{self, Question},
    self_test::SelfTest,
    start_faults::StartFaults,
};

/// Asks the leader whether the asking incarnation may run what it owns.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Renew {
    /// What it would run at once if it were given it.
    readiness: Readiness,
}

impl Question for Renew {
    const KIND: Kind = Kind(10);
    const LANE: Lane = Lane::Control;
    type Answer = Renewed;
}

/// What the leader says of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Renewed {
    /// Whether it may.
    pub(super) answer: Answer,
    /// Whether it is given anything.
    pub(super) verdict: Verdict,
}

/// Whether this node may run what it owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// Not yet.
    Waiting,
    /// It may, until the fence shuts.
    Runs,
    /// Never again, but for what goes on without a majority: none is heard. Followed by
    /// [`Lease::Over`] once one is.
    Lost,
    /// Never again, in this incarnation.
    Over,
}

/// The task that keeps this node's lease.
pub struct Renewals {
    placement: Placement,
    me: Owner,
    fences: Fences,
    modules: Modules,
    start_faults: StartFaults,
    times: LeaseTimes,
    self_test: SelfTest,
    lease: watch::Sender<Lease>,
}

/// The task that makes sure, while this node leads, that a quorum takes it for the leader.
pub struct Contacts(pub(super) Placement);

/// What the leader of a term notes beside its leases.
#[derive(Default)]
pub(super) struct Notes {
    /// Who would not run at once all that it is given, by what it said last.
    unready: BTreeMap<Owner, Readiness>,
    /// Who was given nothing in the last round, and why; none before the first one.
    withheld: Option<BTreeMap<Owner, Withheld>>,
}

impl Placement {
    /// What a task that keeps this node's lease needs. Nothing runs before it does.
    #[must_use]
    pub fn renewals(
        &self,
        me: Owner,
        fences: Fences,
        modules: Modules,
        start_faults: StartFaults,
        times: LeaseTimes,
        self_test: SelfTest,
    ) -> (Renewals, watch::Receiver<Lease>) {
        let (lease, follow) = watch::channel(Lease::Waiting);
        let renewals = Renewals {
            placement: self.clone(),
            me,
            fences,
            modules,
            start_faults,
            times,
            self_test,
            lease,
        };
        (renewals, follow)
    }

    /// What keeps this node in contact with a quorum while it leads.
    #[must_use]
    pub fn contacts(&self) -> Contacts {
        Contacts(self.clone())
    }

    /// Does something with the leases of a term; none when this node does not lead it, or has led a
    /// later one since.
    pub(super) fn with_grants<T>(
        &self,
        term: u64,
        act: impl FnOnce(&mut Grantor) -> T,
    ) -> Option<T> {
        let lead = *self.0.control.leadership().borrow();
        if lead.term != term {
            return None;
        }
        self.with_grants_of(lead, |grants| act(&mut grants.grantor))
    }

    /// The nodes that have said, in this term, that they would run nothing that they are given.
    pub(super) fn unready(&self) -> BTreeSet<NodeId> {
        let unready = self.said(|run, readiness| (!readiness.runs).then_some(run.node));
        unready.into_iter().collect()
    }

    /// The nodes that have said, in this term, which modules they would not run.
    pub(super) fn unfit(&self) -> Unfit {
        let said = self.said(|run, readiness| Some((run.node, readiness.clone())));
        let mut unfit = Unfit::default();
        for (
            node,
            Readiness {
                pending,
                unable,
                stranded,
                ..
            },
        ) in said
        {
            for (module, slots) in stranded {
                unfit
                    .stranded
                    .entry(module)
                    .or_default()
                    .insert(node, slots);
            }
            for module in pending {
                unfit.pending.entry(module).or_default().insert(node);
            }
            for module in unable {
                unfit.unable.entry(module).or_default().insert(node);
            }
        }
        unfit
    }

    /// What members have said of their readiness in this term, those that are not ready for all.
    fn said<T>(&self, look: impl Fn(&Owner, &Readiness) -> Option<T>) -> Vec<T> {
        let control = &self.0.control;
        let lead = *control.leadership().borrow();
        let said = self.with_grants_of(lead, |grants| {
            let unready = &mut grants.notes.unready;
            control.read(|state| unready.retain(|run, _| state.is_member(*run)));
            let unready = unready.iter();
            unready.filter_map(|(run, said)| look(run, said)).collect()
        });
        said.unwrap_or_default()
    }

    /// Notes who was given nothing in a round of a term, and why.
    pub(super) fn note_withheld(&self, withheld: BTreeMap<Owner, Withheld>) {
        let lead = *self.0.control.leadership().borrow();
        self.with_grants_of(lead, |grants| grants.notes.withheld = Some(withheld));
    }

    /// Who was given nothing in the last round, while this node leads.
    pub(super) fn withheld(&self) -> BTreeMap<Owner, Withheld> {
        let lead = *self.0.control.leadership().borrow();
        let withheld = self.with_grants_of(lead, |grants| grants.notes.withheld.clone());
        withheld.flatten().unwrap_or_default()
    }

    fn with_grants_of<T>(
        &self,
        lead: Leadership,
        act: impl FnOnce(&mut TermGrants<Notes>) -> T,
    ) -> Option<T> {
        if !lead.me {
            return None;
        }
        // This node's state, applied up to there, has the term's first entry.
        let (elected, first) = (boot_time(), *self.0.control.applied().borrow());
        // By now this node may lead a later term: then this does nothing.
        let mut grants = self.0.grants.lock();
        grants.of_term(lead.term, elected, first).map(act)
    }

    /// How long it takes until a node that fell silent is replaced, even if it led: its silence is
    /// noticed within one election timeout, and another leader found within a second one. An
    /// election without a winner is repeated, which comes on top.
    #[must_use]
    pub fn failover_max(&self) -> Duration {
        self.0.control.read(|state| {
            let of = |cluster: &Cluster| 2 * cluster.settings.lease.contact + cluster.silence_max();
            state.cluster().map_or(Duration::ZERO, of)
        })
    }

    /// Answers an incarnation that asks for a lease.
    pub(crate) fn answer_renew(&self, asker: Owner, question: &Renew) -> Renewed {
        let index = *self.0.control.applied().borrow();
        let control = &self.0.control;
        let lead = *control.leadership().borrow();
        let granted = self.with_grants_of(lead, |grants| {
            let notes = &mut grants.notes;
            if question.readiness.is_full() {
                notes.unready.remove(&asker);
            } else {
                notes.unready.insert(asker, question.readiness.clone());
            }
            let verdict = match &notes.withheld {
                None => Verdict::Unknown,
                Some(withheld) => withheld
                    .get(&asker)
                    .map_or(Verdict::Given, |why| Verdict::Withheld(*why)),
            };
            let grantor = &mut grants.grantor;
            let answer = control.read(|state| grantor.answer(boot_time(), asker, state, index));
            Renewed { answer, verdict }
        });
        granted.unwrap_or(Renewed {
            answer: Answer::NotNow,
            verdict: Verdict::Unknown,
        })
    }

    /// Hands the leadership to another voter, granting nothing meanwhile.
    ///
    /// # Errors
    /// When this node does not lead, or the other does not take over in time.
    pub async fn hand_over(
        &self,
        to: NodeId,
        deadline: std::time::Instant,
    ) -> Result<(), ChangeError> {
        let term = self.0.control.leadership().borrow().term;
        self.with_grants(term, |grantor| grantor.pause(true));
        let handed = self.0.control.transfer_leadership(to, deadline).await;
        if handed.is_err() {
            // Still this one, then; or another one, and then these grants are nobody's.
            self.with_grants(term, |grantor| grantor.pause(false));
        }
        handed
    }

    async fn renew(&self, run: Owner, question: &Renew) -> Option<Renewed> {
        let leader = self.0.control.leadership().borrow().leader?;
        if leader == self.0.me {
            return Some(self.answer_renew(run, question));
        }
        let asked = rpc::ask(&self.0.peers, leader, question, RENEW_EVERY).await;
        asked
            .inspect_err(|error| debug!(%error, "the leader did not answer about the lease"))
            .ok()
    }
}

impl Renewals {
    /// Keeps the lease until stopped, or until it is over.
    pub async fn run(self, stop: CancellationToken) {
        let mut holder = Holder::default();
        let mut applied = self.placement.0.control.applied();
        let mut leadership = self.placement.0.control.leadership();
        loop {
            let question = Renew {
                readiness: self.readiness(),
            };
            let asked = boot_time();
            let renewed = tokio::select! {
                () = stop.cancelled() => return,
                renewed = self.ask(&question) => renewed,
            };
            let answer = renewed.map(|renewed| renewed.answer);
            if let Some(Renewed { verdict, .. }) = renewed {
                verdict.show(&self.placement.0.conditions);
                if question.readiness.is_full() && verdict == Verdict::Given {
                    self.placement.0.conditions.settle();
                }
            }
            if let Some(answer) = answer {
                let now = boot_time();
                let before = holder.standing(now, *applied.borrow());
                holder.answered(asked, now, answer);
                if let (Standing::Runs { until }, Answer::Granted(_)) = (before, answer) {
                    let (took, slack) = (now.saturating_sub(asked), until.saturating_sub(now));
                    self.times.observe(took, slack);
                }
            }
            let index = *applied.borrow_and_update();
            let standing = holder.standing(boot_time(), index);
            // A leader that was just elected grants a moment later, and may not live for long.
            let granted = matches!(answer, Some(Answer::Granted(_)));
            let again = match standing {
                Standing::Runs { .. } if granted => RENEW_EVERY,
                // For as long as it takes; a leader that is found is asked at once.
                Standing::Lost => RENEW_EVERY,
                _ => ASK_AGAIN,
            };
            let pause = self.adopt(standing, asked + again);
            if *self.lease.borrow() == Lease::Over {
                stop.cancelled().await;
                return;
            }
            // Each of them may be what was missing.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                Ok(()) = leadership.changed() => {}
            }
        }
    }

    /// Asks for a renewal, if the node could use it: one that cannot serve lets its lease run out.
    async fn ask(&self, question: &Renew) -> Option<Renewed> {
        let unfit = self.self_test.unfit();
        let told = unfit.as_ref().map(ToString::to_string);
        let conditions = &self.placement.0.conditions;
        conditions.put(ConditionKind::Stalled, told);
        match unfit {
            None => self.placement.renew(self.me, question).await,
            Some(_) => None,
        }
    }

    /// What it would run at once if it were given it; where that is not all, its conditions say why.
    fn readiness(&self) -> Readiness {
        let found = self
            .placement
            .0
            .control
            .read(|state| Found::look(state, &self.modules, &self.start_faults));
        found.show(&self.placement.0.conditions);
        Readiness {
            runs: *self.lease.borrow() == Lease::Runs,
            ..found.readiness
        }
    }

    /// Tells everybody. Gives the pause before the next question, which is due at `next`.
    fn adopt(&self, standing: Standing, next: Duration) -> Duration {
        let lease = match standing {
            Standing::Waiting => Lease::Waiting,
            Standing::Runs { until } => {
                self.fences.pass_until(until);
                Lease::Runs
            }
            Standing::Lost if self.goes_on() => {
                self.fences.lapse();
                Lease::Lost
            }
            Standing::Lost | Standing::Over => {
                self.fences.end();
                Lease::Over
            }
        };
        self.placement.0.conditions.put(
            ConditionKind::Lease,
            match lease {
                Lease::Waiting => Some("waits for its first lease".to_owned()),
                Lease::Lost | Lease::Over => Some("its lease is over".to_owned()),
                Lease::Runs => None,
            },
        );
        let before = self.lease.send_replace(lease);
        if before != lease {
            match lease {
                Lease::Waiting => {}
                Lease::Runs => info!("may run what it owns"),
                Lease::Lost => warn!(
                    "may not run anything any more, but for modules that go on without a majority: \
                     its lease was not renewed, and no leader is heard"
                ),
                Lease::Over => warn!("may not run anything any more: its lease was not renewed"),
            }
        }
        // At the end of the lease at the latest, to see that it has ended.
        let next = match standing {
            Standing::Runs { until } => until.min(next),
            Standing::Waiting | Standing::Lost | Standing::Over => next,
        };
        next.saturating_sub(boot_time()).max(PAUSE_MIN)
    }

    /// Whether this run has something that goes on without a majority. One that had no lease yet
    /// runs nothing, so nothing goes on.
    fn goes_on(&self) -> bool {
        // It is not for want of a majority then: this run has to end, for the next one to be fit.
        if self.self_test.unfit().is_some() {
            return false;
        }
        let ran = matches!(*self.lease.borrow(), Lease::Runs | Lease::Lost);
        let control = &self.placement.0.control;
        ran && control.read(|state| state.goes_on_without_quorum(self.me))
    }
}

impl Contacts {
    /// Asks the others again and again while this node leads; until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let Self(placement) = self;
        let mut leadership = placement.0.control.leadership();
        let mut tick = tokio::time::interval(CONTACT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                // Whoever has just been elected is waited for.
                Ok(()) = leadership.changed() => {}
                _ = tick.tick() => {}
            }
            if !placement.0.control.leadership().borrow().me {
                continue;
            }
            // The grant counts from before anybody was asked.
            let began = boot_time();
            let deadline = (Instant::now() + CONTACT_MAX).into_std();
            let confirmed = placement.0.control.confirm_leadership(deadline).await;
            if let Ok(term) = confirmed {
                placement.with_grants(term, |grantor| grantor.confirmed(began));
            }
        }
    }
}

/// How soon a node asks again that was granted nothing.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// The shortest pause between two questions.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// How often a leader makes sure that it leads.
const CONTACT_EVERY: Duration = Duration::from_millis(150);

/// How long that may take.
const CONTACT_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
