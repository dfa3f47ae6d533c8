//! The right to run: granted by the leader for some seconds, renewed all the time, and over by
//! itself when it is not.
//!
//! A [`Holder`] is one incarnation's side, a [`Grantor`] the leader's in one term. Both count on
//! their own node's clock, which must not stop while the machine is suspended, and both err on the
//! safe side of the other:
//!
//! ```text
//!            asks          stops running                     may be replaced
//! holder      |- - - - - - - - - - - -|- - - -|
//!             t_send            +ttl-guard   +ttl
//! leader           |- - - - - - - - - - - - - - - -|- - - -|
//!                  granted                        +ttl   +ttl+guard
//! ```
//!
//! Invariant: while a holder may run, no leader says that it may be replaced. A leader's grant is
//! counted from after the holder has asked; a new leader counts every grant of earlier leaders from
//! its own election, for as long as the longest of them may last. An earlier leader grants at most [`Terms::contact`] after its last contact
//! with a quorum began, so not longer than that after the election; the two guards hold that, the
//! drift of clocks, and the time that a holder takes to stop: see [`Terms::check`].
//!
//! Absent: clocks, messages, and what ends when a lease does.

mod grants;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use holdfast_model::{Incarnation, NodeId};
use serde::{Deserialize, Serialize};

pub use self::grants::{Grants, TermGrants};
use crate::{
    handover::Now,
    state::{self, Cluster, Decision, Owner, State},
};

/// How long leases last, and how much both sides stay away from their ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// How long a grant lasts. Too low: a slow disk or a busy machine costs running resources. Too
    /// high: resources of a node that fell silent wait that long.
    pub ttl: Duration,
    /// How much sooner than a grant ends its holder stops, and how much later its leader takes it
    /// for ended.
    pub guard: Duration,
    /// How long a leader grants after its last contact with a quorum began: the longest time of an
    /// election.
    pub contact: Duration,
}

/// Terms under which two nodes might run the same slot, or none could run any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Unsafe {
    /// The guards do not cover what they are for.
    #[error(
        "two guards of {} ms must be longer than an election ({} ms), the drift of clocks and the \
         end of a guest's computation together ({} ms): raise the guard",
        guard.as_millis(), contact.as_millis(), rest.as_millis()
    )]
    Guard {
        /// The guard.
        guard: Duration,
        /// The longest time of an election.
        contact: Duration,
        /// Drift, and the time to stop.
        rest: Duration,
    },
    /// The resources of a silent node would hardly be held again.
    #[error("leases of {} ms are longer than {} ms", .0.as_millis(), TTL_MAX.as_millis())]
    Long(Duration),
    /// A holder would hardly run.
    #[error(
        "leases of {} ms must last at least four guards of {} ms and {} ms for renewals: raise the \
         time to live",
        ttl.as_millis(), guard.as_millis(), RENEW_EVERY.as_millis()
    )]
    Ttl {
        /// The time to live.
        ttl: Duration,
        /// The guard.
        guard: Duration,
    },
}

impl Terms {
    /// The usual ones: leases of 3 s with guards of 0.5 s, for elections of at most 0.6 s.
    pub const DEFAULT: Self = Self {
        ttl: Duration::from_millis(3_000),
        guard: Duration::from_millis(500),
        contact: Duration::from_millis(600),
    };

    /// Makes sure that nothing is promised that the terms cannot keep.
    ///
    /// # Errors
    /// When the guard is too short for elections, clocks and guests, or the grant for the guard.
    pub fn check(self) -> Result<Self, Unsafe> {
        let Self {
            ttl,
            guard,
            contact,
        } = self;
        if ttl > TTL_MAX {
            return Err(Unsafe::Long(ttl));
        }
        if ttl < guard.saturating_mul(4).saturating_add(RENEW_EVERY) {
            return Err(Unsafe::Ttl { ttl, guard });
        }
        let rest = (ttl + guard) / DRIFT_PARTS + STOP;
        if contact + rest >= 2 * guard {
            return Err(Unsafe::Guard {
                guard,
                contact,
                rest,
            });
        }
        Ok(self)
    }

    /// The longest time from the last sign of life of a node, other than the leader, to its
    /// replacement.
    #[must_use]
    pub fn silence_max(self) -> Duration {
        self.ttl + self.guard
    }
}

/// What a leader answers to one who asks for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The incarnation may run.
    Granted(Grant),
    /// Not now; it may ask again.
    NotNow,
    /// Never again: the incarnation is about to be replaced, or was.
    Over,
}

/// The right to run until `ttl - guard` after it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// As agreed in the cluster when it was granted.
    pub terms: Terms,
    /// Position in the log that the leader had applied. What the holder runs is decided by a state
    /// that has the one of its first grant.
    pub index: u64,
}

/// One incarnation's lease, as itself sees it.
#[derive(Debug, Default)]
pub struct Holder {
    /// When it stops, by its own clock. None before the first grant.
    deadline: Option<Now>,
    /// The position of the first grant.
    index: u64,
    end: Option<End>,
}

/// How a lease ended.
#[derive(Clone, Copy, Debug)]
enum End {
    /// At this time, for want of a further grant.
    Unheard(Now),
    /// A leader said so; or grants again, so that the incarnation's time is over.
    Told,
}

/// Whether an incarnation may run its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not yet: it has no grant, or its state lags behind the first one.
    Waiting,
    /// Until then, unless it gets another grant before.
    Runs {
        /// By its own clock.
        until: Now,
    },
    /// Never again, and no leader with a majority was heard since: maybe there is none.
    Lost,
    /// Never again: a lease that ended does not come back.
    Over,
}

impl Holder {
    /// Takes the answer to a question that left at `asked`; it may come in any order, and twice.
    pub fn answered(&mut self, asked: Now, now: Now, answer: Answer) {
        self.expire(now);
        match answer {
            Answer::Granted(Grant { terms, index }) if self.end.is_none() => {
                let deadline = asked + terms.ttl.saturating_sub(terms.guard);
                if self.deadline.is_none() {
                    self.index = index;
                }
                self.deadline = self.deadline.max(Some(deadline));
                // The very first answer may have been under way for longer than it grants.
                self.expire(now);
            }
            Answer::Granted(_) => {
                // One that was asked for before the end says nothing of the time since.
                if let Some(End::Unheard(since)) = self.end
                    && asked >= since
                {
                    self.end = Some(End::Told);
                }
            }
            Answer::NotNow => {}
            Answer::Over => self.end = Some(End::Told),
        }
    }

    /// Whether the incarnation may run at `now`, with everything up to `applied` in its state.
    pub fn standing(&mut self, now: Now, applied: u64) -> Standing {
        self.expire(now);
        match (self.end, self.deadline) {
            (Some(End::Told), _) => Standing::Over,
            (Some(End::Unheard(_)), _) => Standing::Lost,
            (None, Some(until)) if applied >= self.index => Standing::Runs { until },
            (None, Some(_) | None) => Standing::Waiting,
        }
    }

    fn expire(&mut self, now: Now) {
        let ended = self.deadline.filter(|deadline| now >= *deadline);
        self.end = self.end.or(ended.map(End::Unheard));
    }
}

/// All leases, as the leader of one term sees them.
#[derive(Debug)]
pub struct Grantor {
    /// Until when grants of earlier leaders may last, and those of incarnations that have not asked.
    elected: Now,
    /// Position of the term's first entry. What earlier leaders decided stands before it.
    first: u64,
    /// The change of the settings whose longer grants are waited for, and when it was seen first.
    outlasting: Option<(u64, Now)>,
    /// When the last successful contact with a quorum began.
    contact: Option<Now>,
    /// When each incarnation was granted something last, or was seen to join.
    heard: BTreeMap<Owner, Now>,
    /// Those that get nothing any more.
    condemned: BTreeSet<Owner>,
    /// Grants nothing: the leadership is being handed over.
    paused: bool,
}

impl Grantor {
    /// Begins a term. `elected` is not before the election, `first` is the position of the term's
    /// first entry in the log.
    #[must_use]
    pub fn new(elected: Now, first: u64) -> Self {
        Self {
            elected,
            first,
            outlasting: None,
            contact: None,
            heard: BTreeMap::new(),
            condemned: BTreeSet::new(),
            paused: false,
        }
    }

    /// A quorum confirmed this leader, in this term, after it was asked at `began`.
    pub fn confirmed(&mut self, began: Now) {
        self.contact = self.contact.max(Some(began));
    }

    /// Stops granting, before the leadership is handed over; or goes on, when it was not.
    pub fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Answers an incarnation that asks to run. `state` is the leader's own, applied up to `index`.
    pub fn answer(&mut self, now: Now, asker: Owner, state: &State, index: u64) -> Answer {
        let known = state.nodes().get(&asker.node);
        let replaced = known.is_some_and(|known| known.incarnation > asker.incarnation);
        if replaced || self.condemned.contains(&asker) || is_ended(state, asker) {
            return Answer::Over;
        }
        let Some(terms) = state.cluster().map(|cluster| cluster.settings.lease) else {
            return Answer::NotNow;
        };
        let in_contact = self
            .contact
            .is_some_and(|began| now.saturating_sub(began) < terms.contact);
        // An earlier leader may have decided that the asker is dead, and that still comes to pass.
        let knows_all = index >= self.first;
        if self.paused || !in_contact || !knows_all || !state.is_member(asker) {
            return Answer::NotNow;
        }
        self.heard.insert(asker, now);
        Answer::Granted(Grant { terms, index })
    }

    /// Gives an incarnation nothing any more: it is to be replaced. False when that was so before.
    pub fn condemn(&mut self, run: Owner) -> bool {
        self.condemned.insert(run)
    }

    /// Whether an incarnation surely runs nothing any more, by this leader's clock alone.
    ///
    /// The caller must [`Grantor::condemn`] it before it acts on that.
    #[must_use]
    pub fn has_expired(&self, now: Now, run: Owner, state: &State) -> bool {
        let silence = state.cluster().map(Cluster::silence_max);
        silence.is_some_and(|silence| now >= self.last_heard(run) + silence)
    }

    /// Whether the slots of an incarnation are kept for the next one of its node, even if it is
    /// proven dead: it said that it restarts, and that was a moment ago.
    #[must_use]
    pub fn is_reserved(&self, now: Now, run: Owner, state: &State) -> bool {
        let restarts = state.nodes().get(&run.node).is_some_and(|known| {
            known.standing == state::Standing::Restarting && known.incarnation == run.incarnation
        });
        restarts && now < self.last_heard(run) + RESERVED_FOR
    }

    /// Condemns every incarnation that may own something and was silent for so long that its lease
    /// is over, and names them. They are named again until the state has them ended.
    pub fn silent(&mut self, now: Now, state: &State) -> Vec<Owner> {
        let removed = owners_that_were_removed(state);
        let members: Vec<Owner> = runs(state)
            .filter(|run| state.is_member(*run) || removed.contains(run))
            .collect();
        let present: BTreeSet<Owner> = members.iter().copied().collect();
        self.heard.retain(|run, _| present.contains(run));
        self.condemned.retain(|run| present.contains(run));
        for run in &members {
            // One that joined in this term is waited for as if it had been granted something.
            self.heard.entry(*run).or_insert(now);
        }
        let silent = members.into_iter().filter(|run| {
            self.has_expired(now, *run, state) && !self.is_reserved(now, *run, state)
        });
        let silent: Vec<Owner> = silent.collect();
        self.condemned.extend(&silent);
        silent
    }

    /// Says once the grants that outlasted a change of the settings are all over, by this leader's
    /// clock.
    pub fn outlasted(&mut self, now: Now, state: &State) -> Option<Decision> {
        let outlasting = state.cluster()?.outlasting?;
        let since = outlasting.since;
        let seen = match self.outlasting {
            Some((known, seen)) if known == since => seen,
            _ => now,
        };
        self.outlasting = Some((since, seen));
        (now >= seen + outlasting.silence).then_some(Decision::Outlasted { since })
    }

    /// When an incarnation was granted something last, or may have been by an earlier leader.
    fn last_heard(&self, run: Owner) -> Now {
        let heard = self.heard.get(&run).copied();
        heard.unwrap_or(self.elected).max(self.elected)
    }
}

fn runs(state: &State) -> impl Iterator<Item = Owner> {
    state.nodes().iter().map(|(node, known)| Owner {
        node: *node,
        incarnation: known.incarnation,
    })
}

/// What was removed while it still owned something.
fn owners_that_were_removed(state: &State) -> BTreeSet<Owner> {
    let removed = |run: &Owner| state.nodes()[&run.node].standing == state::Standing::Removed;
    let mut removed: BTreeSet<Owner> = runs(state).filter(removed).collect();
    // Nearly always there is none: the slots are not looked through for nothing.
    if !removed.is_empty() {
        let owners: BTreeSet<Owner> = state.owners().collect();
        removed.retain(|run| owners.contains(run));
    }
    removed
}

fn is_ended(state: &State, run: Owner) -> bool {
    let present = |node: &NodeId, incarnation: Incarnation| {
        state
            .nodes()
            .get(node)
            .is_some_and(|known| known.incarnation == incarnation)
    };
    present(&run.node, run.incarnation) && !state.is_member(run)
}

/// How often a holder asks.
pub const RENEW_EVERY: Duration = Duration::from_millis(500);

/// How long after its last grant the slots of an incarnation that restarts are kept for the next
/// one: 5 s, and the time that the last grant may have been before its end.
pub const RESERVED_FOR: Duration = Duration::from_millis(5_500);

/// Longer leases are a mistake.
const TTL_MAX: Duration = Duration::from_secs(600);

/// Clocks run at rates that differ by less than one part in this many.
const DRIFT_PARTS: u32 = 100;

/// How long a holder takes to stop: one tick of a guest's computation, and what is already past the
/// check of the lease.
const STOP: Duration = Duration::from_millis(50);
