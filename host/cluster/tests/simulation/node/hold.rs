//! What a process runs: as the handover and the lease say, and no longer.

use std::time::Duration;

use holdfast_cluster::{
    handover::{Action, Handover, Now, SlotKey},
    lease::{Holder, RENEW_EVERY, Standing},
    state::{Command, Owner, SlotState},
};
use rand::RngExt;

use super::{Bug, Instance, Out, Process, RELEASE_RETRY, member};
use crate::{
    network::{Message, To},
    story,
};

impl Process {
    /// Asks for the lease, and runs what it allows.
    pub(super) fn hold(&mut self, now: Now, out: &mut Out) {
        let leader = self.log.leader();
        if now >= self.ask_at || leader != self.asked {
            self.asked = leader;
            // Who has nothing yet asks more often.
            let waits = self.until.is_none();
            self.ask_at = now + if waits { ASK_AGAIN } else { RENEW_EVERY };
            match leader {
                Some(leader) if leader == self.me.node => {
                    let answer = self.answer(now, self.me);
                    self.holder.answered(now, now, answer);
                }
                Some(leader) => {
                    let ask = Message::Ask(self.me, now);
                    out.sends.push((To::Node(leader), ask));
                }
                None => {}
            }
        }
        let waited = self.until.is_none();
        match self.holder.standing(now, self.applied) {
            Standing::Waiting => {}
            Standing::Runs { until } => {
                if waited {
                    out.note(format!("{} has a lease", story::run(self.me)));
                }
                self.until = Some(until);
                self.start_instances(now, out);
            }
            Standing::Lost | Standing::Over
                if self.bug == Some(Bug::RunsPastDeadline) && self.is_member() =>
            {
                self.holder = Holder::default();
            }
            Standing::Lost | Standing::Over => self.fence(now, out),
        }
    }

    fn is_member(&self) -> bool {
        self.state.is_member(self.me)
    }

    fn start_instances(&mut self, now: Now, out: &mut Out) {
        let slots = self.handover.slots();
        let waiting = slots.filter(|key| !self.instances.contains_key(*key));
        let wanted: Vec<SlotKey> = waiting
            .filter(|key| self.handover.is_running(key) || self.runs_after_release(key, now))
            .cloned()
            .collect();
        for key in wanted {
            let token = self.tokens[&key];
            let text = format!("{} runs under token {token}", story::run(self.me));
            out.notes.push((Some(key.clone()), text));
            self.instances.insert(key, Instance { token, ends: None });
        }
    }

    fn runs_after_release(&self, key: &SlotKey, now: Now) -> bool {
        let proposed = self.proposed.get(key);
        self.bug == Some(Bug::RunsAfterRelease)
            && self.tokens.contains_key(key)
            && proposed.is_some_and(|at| now >= *at + 2 * RELEASE_RETRY)
    }

    /// Drops everything, no hook runs, and comes back as the next incarnation.
    fn fence(&mut self, now: Now, out: &mut Out) {
        let instances = self.instances.len();
        let me = story::run(self.me);
        out.note(format!(
            "the lease of {me} is over; {instances} slots dropped"
        ));
        self.me.incarnation.0 += 1;
        self.instances.clear();
        self.tokens.clear();
        self.proposed.clear();
        (self.holder, self.until) = (Holder::default(), None);
        self.handover = Handover::new(self.me, RELEASE_RETRY);
        self.membership = member(self.me, self.addr, &mut self.rng);
        self.hello_at = now;
        self.begin(now, out);
    }

    pub(super) fn stopped(&mut self, now: Now, key: &SlotKey, out: &mut Out) {
        let text = format!("{} has stopped", story::run(self.me));
        out.notes.push((Some(key.clone()), text));
        let actions = self.handover.stopped(now, key);
        self.act(now, actions, out);
    }

    pub(super) fn act(&mut self, now: Now, actions: Vec<Action>, out: &mut Out) {
        let mut releases = Vec::new();
        for action in actions {
            match action {
                Action::Run(key, token) => {
                    self.proposed.remove(&key);
                    if let Some(instance) = self.instances.get_mut(&key) {
                        instance.token = token;
                    }
                    self.tokens.insert(key, token);
                }
                Action::Stop(key, _) => {
                    let after = Duration::from_millis(self.rng.random_range(0..400));
                    let early = self.bug == Some(Bug::ReleasesBeforeStopped);
                    let instance = self.instances.get_mut(&key);
                    if let Some(instance) = instance {
                        instance.ends = Some(now + after);
                        if !early {
                            continue;
                        }
                    }
                    self.stopped(now, &key, out);
                }
                Action::Release(key, token) => {
                    self.proposed.entry(key.clone()).or_insert(now);
                    let text = format!("{} releases token {token}", story::run(self.me));
                    out.notes.push((Some(key.clone()), text));
                    releases.push((key.0, key.1, token));
                }
                Action::Drop(key) => {
                    let text = format!("{} drops", story::run(self.me));
                    out.notes.push((Some(key.clone()), text));
                    self.instances.remove(&key);
                }
            }
        }
        // What is not this node's any more does not run, whatever was forgotten before.
        let mine = |key: &SlotKey| {
            let state: Option<&SlotState> = self.state.slot(&key.0, key.1);
            state.is_some_and(|state| state.owner == Some(self.me))
        };
        if self.bug == Some(Bug::RunsAfterRelease) {
            self.instances.retain(|key, _| mine(key));
        }
        if !releases.is_empty() {
            let Owner { node, incarnation } = self.me;
            let command = Command::Release {
                node,
                incarnation,
                slots: releases,
            };
            match self.log.leader() {
                Some(leader) if leader == node => self.propose(command, out),
                Some(leader) => out
                    .sends
                    .push((To::Node(leader), Message::Propose(command))),
                None => {}
            }
        }
    }
}

/// How soon a node asks again that was granted nothing yet.
const ASK_AGAIN: Duration = Duration::from_millis(50);
