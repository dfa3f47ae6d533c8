//! What one node does with the slots it owns: start them, stop them, give them away.
//!
//! A slot is *running* from the moment the applied state names this incarnation its owner until
//! the state wants it elsewhere; then it is *stopping* while its instances end, then *releasing*
//! until the state says what became of the release. After a release was proposed, the slot runs
//! here again only under a newer token.
//!
//! Only the owner's release moves a running slot. What the state takes away without one (the
//! incarnation was declared dead) is dropped at once, and no hook of the handler runs: another
//! node may be running it already.

mod overdue;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use holdfast_model::{ModuleName, Slot, Token};

pub use self::overdue::Overdue;
use crate::state::{Owner, SlotState};

/// A module's slot.
pub type SlotKey = (ModuleName, Slot);

/// A point in time: how long since some fixed moment of the caller's clock.
pub type Now = Duration;

/// What the node is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run the slot's resources, under this token; those that run already now run under it.
    Run(SlotKey, Token),
    /// Admit no more calls, let those in flight end, terminate every instance; then say
    /// [`Handover::stopped`].
    Stop(SlotKey, Token),
    /// Propose this slot's release.
    Release(SlotKey, Token),
    /// Drop every instance of the slot without any hook.
    Drop(SlotKey),
}

/// The slots of one incarnation.
#[derive(Debug)]
pub struct Handover {
    me: Owner,
    /// How long a proposed release may stay unanswered before it is proposed again.
    release_retry: Duration,
    slots: BTreeMap<SlotKey, Phase>,
    /// Slots in `Releasing`, so that a tick need not look at all.
    releasing: BTreeSet<SlotKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running { token: Token },
    Stopping { token: Token },
    Releasing { token: Token, proposed: Now },
}

impl Handover {
    /// Nothing runs yet.
    #[must_use]
    pub fn new(me: Owner, release_retry: Duration) -> Self {
        Self {
            me,
            release_retry,
            slots: BTreeMap::new(),
            releasing: BTreeSet::new(),
        }
    }

    /// The applied state says this of a slot now (none: it does not exist).
    pub fn view(&mut self, now: Now, key: &SlotKey, state: Option<&SlotState>) -> Vec<Action> {
        let mine = state.filter(|state| state.owner == Some(self.me));
        let Some(state) = mine else {
            let Some(phase) = self.slots.remove(key) else {
                return Vec::new();
            };
            self.releasing.remove(key);
            // After a release there is nothing left to drop.
            let ended = matches!(phase, Phase::Releasing { .. });
            return if ended {
                Vec::new()
            } else {
                vec![Action::Drop(key.clone())]
            };
        };
        let token = state.token;
        let leaving = state.next.is_some() || state.resources.is_empty();
        match self.slots.get(key).copied() {
            // A slot that leaves before it ran here needs no stop, only the release.
            None if leaving => self.release(now, key, token),
            None => self.run(key, token),
            Some(Phase::Running { token: known }) if leaving => {
                self.slots.insert(key.clone(), Phase::Stopping { token });
                let mut actions = vec![Action::Stop(key.clone(), token)];
                if known != token {
                    actions.insert(0, Action::Run(key.clone(), token));
                }
                actions
            }
            Some(Phase::Running { token: known }) if known == token => Vec::new(),
            Some(Phase::Running { .. }) => self.run(key, token),
            // Instances are ending: whatever the state wants now comes after that. A move that
            // was called off meanwhile ends in a release to ourselves under a new token.
            Some(Phase::Stopping { .. }) => {
                self.slots.insert(key.clone(), Phase::Stopping { token });
                Vec::new()
            }
            Some(Phase::Releasing { token: known, .. }) if known == token => Vec::new(),
            Some(Phase::Releasing { .. }) if leaving => self.release(now, key, token),
            Some(Phase::Releasing { .. }) => self.run(key, token),
        }
    }

    /// Every instance of a stopping slot has ended.
    pub fn stopped(&mut self, now: Now, key: &SlotKey) -> Vec<Action> {
        match self.slots.get(key).copied() {
            Some(Phase::Stopping { token }) => self.release(now, key, token),
            _ => Vec::new(),
        }
    }

    /// Time has passed: releases that nobody answered are proposed again.
    pub fn tick(&mut self, now: Now) -> Vec<Action> {
        let mut actions = Vec::new();
        for key in &self.releasing {
            let Some(Phase::Releasing { token, proposed }) = self.slots.get_mut(key) else {
                continue;
            };
            if now.saturating_sub(*proposed) >= self.release_retry {
                *proposed = now;
                actions.push(Action::Release(key.clone(), *token));
            }
        }
        actions
    }

    /// The slots that run, stop or are being released here.
    pub fn slots(&self) -> impl Iterator<Item = &SlotKey> {
        self.slots.keys()
    }

    /// Whether this slot may start instances and admit calls.
    #[must_use]
    pub fn is_running(&self, key: &SlotKey) -> bool {
        matches!(self.slots.get(key), Some(Phase::Running { .. }))
    }

    fn run(&mut self, key: &SlotKey, token: Token) -> Vec<Action> {
        self.releasing.remove(key);
        self.slots.insert(key.clone(), Phase::Running { token });
        vec![Action::Run(key.clone(), token)]
    }

    fn release(&mut self, now: Now, key: &SlotKey, token: Token) -> Vec<Action> {
        self.releasing.insert(key.clone());
        self.slots.insert(
            key.clone(),
            Phase::Releasing {
                token,
                proposed: now,
            },
        );
        vec![Action::Release(key.clone(), token)]
    }
}
