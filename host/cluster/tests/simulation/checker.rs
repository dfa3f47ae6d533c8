//! What must hold, seen from outside and in true time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use holdfast_cluster::{
    handover::SlotKey,
    state::{Changes, Command, Decision, Key, Owner, Position, State},
};
use holdfast_model::{ModuleName, NodeId, ResourceId, Slot, Token};

use crate::{
    leader::MOVES_MAX,
    log::{Entry, What},
    node::{Process, TERMS},
    story::{self, Story},
};

/// What did not hold.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) slot: Option<Slot>,
    pub(crate) hosts: BTreeSet<usize>,
    pub(crate) text: String,
}

/// Knows the one history that was agreed on, and watches who runs what.
#[derive(Default)]
pub(crate) struct Checker {
    log: Vec<Arc<Entry>>,
    pub(crate) state: State,
    /// Allocations that were acknowledged, and that nobody has asked to take back.
    acknowledged: BTreeSet<ResourceId>,
    sinks: BTreeMap<SlotKey, (Token, Owner)>,
    /// When each slot with resources ran somewhere last, or came to be.
    held: BTreeMap<SlotKey, Duration>,
    placed: BTreeMap<(u64, u64), BTreeSet<NodeId>>,
    violation: Option<Violation>,
}

impl Checker {
    /// An allocation was acknowledged to its client.
    pub(crate) fn acknowledge(&mut self, ids: impl IntoIterator<Item = ResourceId>) {
        self.acknowledged.extend(ids);
    }

    /// A client asks for the end of these.
    pub(crate) fn take_back(&mut self, ids: &[ResourceId]) {
        for id in ids {
            self.acknowledged.remove(id);
        }
    }

    pub(crate) fn placed(&mut self, position: (u64, u64), live: BTreeSet<NodeId>) {
        self.placed.insert(position, live);
    }

    fn violated(
        &mut self,
        invariant: &'static str,
        slot: Option<Slot>,
        hosts: impl IntoIterator<Item = usize>,
        text: String,
    ) {
        let hosts = hosts.into_iter().collect();
        self.violation.get_or_insert(Violation {
            invariant,
            slot,
            hosts,
            text,
        });
    }

    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Takes over what a node knows to be committed.
    pub(crate) fn commits(
        &mut self,
        now: Duration,
        host: usize,
        process: &mut Process,
        story: &mut Story,
    ) {
        while process.compared < process.raft.commit {
            let entry = &process.disk.log[process.compared as usize];
            process.compared += 1;
            match self.log.get(process.compared as usize - 1) {
                Some(known) if Arc::ptr_eq(known, entry) => {}
                Some(_) => {
                    let text = format!("entry {} is committed twice", process.compared);
                    self.violated("one history", None, [host], text);
                }
                None => self.append(now, entry.clone(), story),
            }
        }
    }

    fn append(&mut self, now: Duration, entry: Arc<Entry>, story: &mut Story) {
        self.log.push(entry.clone());
        let at = Position {
            index: self.log.len() as u64,
            term: entry.term,
        };
        let What::Command(command) = &entry.what else {
            return;
        };
        let tokens = |state: &State, key: &SlotKey| {
            state
                .slot(&key.0, key.1)
                .map(|state| (state.token, state.owner))
        };
        let before = self.state.clone();
        let mut changes = Changes::new();
        self.state.apply(at, command.clone(), &mut changes);
        for key in changes {
            let Key::Slot(module, slot) = key else {
                continue;
            };
            let key = (module, slot);
            let (old, new) = (tokens(&before, &key), tokens(&self.state, &key));
            if old == new {
                continue;
            }
            let owner = new.and_then(|(_, owner)| owner);
            let owner = owner.map_or("nobody".to_owned(), story::run);
            let token = new.map_or(Token(0), |(token, _)| token);
            let text = format!(
                "is {owner}'s under token {token} (agreed, entry {})",
                at.index
            );
            story.note(now, None, Some(slot), text);
            if let (Some((old, _)), Some((new, _))) = (old, new)
                && new <= old
            {
                let text = format!("the token of slot {slot} went from {old} to {new}");
                self.violated("tokens grow", Some(slot), [], text);
            }
        }
        let lost = self.acknowledged.iter();
        let module = module();
        let mut lost = lost.filter(|id| self.state.resource(&module, id).is_none());
        if let Some(lost) = lost.next().cloned() {
            let text = format!("{lost} was acknowledged and is gone");
            self.violated("nothing lost", Some(lost.slot()), [], text);
        }
        if let Command::Decide {
            term,
            decision: Decision::Place { .. },
        } = command
            && let Some(live) = self.placed.remove(&(*term, at.index))
        {
            let moves = self.state.moves_under_way(&live);
            if moves > MOVES_MAX {
                let text = format!(
                    "{moves} moves at once, at most {MOVES_MAX} are allowed (entry {}, term {term})",
                    at.index
                );
                self.violated("moves within budget", None, [], text);
            }
        }
    }

    /// Looks at who runs what now: by machine, each slot with its token. `calm` is when the faults
    /// stopped.
    pub(crate) fn look(
        &mut self,
        now: Duration,
        running: &[(usize, Owner, SlotKey, Token)],
        calm: Option<Duration>,
    ) {
        let mut seen: BTreeMap<&SlotKey, usize> = BTreeMap::new();
        for (host, _, key, _) in running {
            let Some(other) = seen.insert(key, *host) else {
                continue;
            };
            let slot = key.1;
            let text = format!("slot {slot} runs on host {other} and on host {host}");
            self.violated("at most one", Some(slot), [other, *host], text);
        }
        let modules = self.state.modules().iter();
        let slots = modules.flat_map(|(name, module)| {
            let slots = module.slots.iter();
            slots
                .filter(|(_, state)| !state.resources.is_empty())
                .map(|(slot, _)| (name.clone(), *slot))
        });
        let slots: BTreeSet<SlotKey> = slots.collect();
        self.held.retain(|key, _| slots.contains(key));
        for key in slots {
            let held = seen.contains_key(&key);
            let since = self.held.entry(key.clone()).or_insert(now);
            if held {
                *since = now;
            }
            let since = calm.map(|calm| (*since).max(calm));
            if let Some(since) = since.filter(|since| now > *since + BOUND) {
                let (slot, after) = (key.1, now.saturating_sub(since));
                let text = format!("slot {slot} runs nowhere for {after:?} without faults");
                self.violated("always held", Some(slot), [], text);
            }
        }
    }

    /// A slot's instance writes to a third party, which refuses smaller tokens than it has seen.
    pub(crate) fn write(&mut self, host: usize, owner: Owner, key: &SlotKey, token: Token) {
        let (seen, by) = *self.sinks.get(key).unwrap_or(&(token, owner));
        let slot = key.1;
        if token < seen || (token == seen && by != owner) {
            let (owner, by) = (story::run(owner), story::run(by));
            let text =
                format!("slot {slot}: {owner} writes with token {token}, after {by} with {seen}");
            self.violated("tokens grow at every sink", Some(slot), [host], text);
        }
        self.sinks.insert(key.clone(), (token, owner));
    }

    /// Nothing piles up.
    pub(crate) fn bounded(&mut self, host: Option<usize>, what: &str, is: usize, most: usize) {
        if is > most {
            let text = format!("{is} {what}, at most {most} are expected");
            self.violated("queues are bounded", None, host, text);
        }
    }

    pub(crate) fn committed(&self) -> usize {
        self.log.len()
    }
}

pub(crate) fn module() -> ModuleName {
    "m".parse().expect("the name is valid")
}

/// An election that is won at the second or third attempt, what silence takes, and a second to
/// decide, stop and start.
pub(crate) const BOUND: Duration = {
    let millis = TERMS.ttl.as_millis() + TERMS.guard.as_millis() + 3 * TERMS.contact.as_millis();
    Duration::from_millis(millis as u64 + 1_500)
};
