//! What must hold, seen from outside and in true time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use holdfast_cluster::{
    handover::SlotKey,
    lease::RESERVED_FOR,
    state::{Changes, Cluster, Command, Decision, Key, Owner, Position, Standing, State},
};
use holdfast_model::{ModuleName, NodeId, ResourceId, Slot, Token};

use crate::{
    leader::MOVES_MAX,
    log::{Checkpoint, Committed, Entry, What},
    node::TERMS,
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

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            invariant, text, ..
        } = self;
        write!(f, "\"{invariant}\" does not hold: {text}")
    }
}

/// Knows the one history that was agreed on, and watches who runs what.
#[derive(Default)]
pub(crate) struct Checker {
    log: Vec<Entry>,
    pub(crate) state: State,
    /// Allocations that were acknowledged, and that nobody has asked to take back.
    acknowledged: BTreeSet<ResourceId>,
    sinks: BTreeMap<SlotKey, (Token, Owner)>,
    /// When each slot with resources ran somewhere last, or came to be.
    held: BTreeMap<SlotKey, Duration>,
    placed: BTreeMap<u64, BTreeSet<NodeId>>,
    /// When each node was drained last, which takes a restart back.
    drained: BTreeMap<NodeId, Duration>,
    /// When a node was removed last.
    removed: Duration,
    /// How long silence may have to last.
    silence: Duration,
    /// Runs that have said that they restart, and when they ended.
    reserved: Vec<(Owner, Duration)>,
    /// Since when each run that lives is said to restart.
    restarting: BTreeMap<Owner, Duration>,
    /// Who led each term.
    leaders: BTreeMap<u64, NodeId>,
    /// The latest term of which something is known to be committed, and since when.
    terms: Vec<(Duration, u64)>,
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

    /// A leader proposed a placement, and had these in reach.
    pub(crate) fn placed(&mut self, number: u64, live: BTreeSet<NodeId>) {
        self.placed.insert(number, live);
    }

    /// A run ends that said at some time that it restarts.
    pub(crate) fn reserve(&mut self, run: Owner, said: Duration, ended: Duration) {
        let taken_back = self.drained.get(&run.node).is_some_and(|at| *at >= said);
        if !taken_back {
            self.reserved.push((run, ended));
        }
    }

    /// Whether a slot is kept for the next run of its owner.
    fn is_reserved(&self, now: Duration, before: &State, key: &SlotKey) -> bool {
        let Some(slot) = before.slot(&key.0, key.1) else {
            return false;
        };
        let reserved = |(run, ended): &(Owner, Duration)| {
            let standing = before.nodes().get(&run.node).map(|known| known.standing);
            slot.owner == Some(*run)
                && standing == Some(Standing::Restarting)
                && now < *ended + RESERVED
        };
        // What was on the move goes where it was to go, and what is empty vanishes.
        let stays = slot.next.is_none() && !slot.resources.is_empty();
        stays && self.reserved.iter().any(reserved)
    }

    /// A node leads a term, as it says.
    pub(crate) fn leads(&mut self, host: usize, node: NodeId, term: u64) {
        let known = *self.leaders.entry(term).or_insert(node);
        if known != node {
            let (known, node) = (story::name(known), story::name(node));
            let text = format!("{known} and {node} both lead term {term}");
            self.violated("one leader in each term", None, [host], text);
        }
    }

    /// A quorum has confirmed a leader of a term, which was asked after that time.
    pub(crate) fn confirmed(&mut self, host: usize, term: u64, asked: Duration) {
        let later = self.terms.iter().find(|(at, of)| *of > term && *at < asked);
        if let Some((at, of)) = later.copied() {
            let text = format!(
                "the leader of term {term} was confirmed on a question of {asked:?}, after term                  {of} had committed something at {at:?}"
            );
            self.violated("nobody confirms a deposed leader", None, [host], text);
        }
    }

    /// The log of a process that lives has ended.
    pub(crate) fn log_fails(&mut self, host: usize, why: &str) {
        let text = format!("the log of host {host} has ended: {why}");
        self.violated("logs go on", None, [host], text);
    }

    /// A leader has granted a lease to a run that it had given up in the same term.
    pub(crate) fn granted_after_all(&mut self, host: usize, run: Owner) {
        let run = story::run(run);
        let text = format!("host {host} has given {run} up, and grants it a lease");
        self.violated("who is given up gets no lease", None, [host], text);
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
        committed: Committed,
        story: &mut Story,
    ) {
        let (at, entry) = match committed {
            Committed::Entry(at, entry) => (at, entry),
            Committed::State(checkpoint) => return self.copy(host, &checkpoint),
        };
        match self.log.get(at.index as usize - 1) {
            Some(known) if *known == entry => {}
            None if self.log.len() as u64 + 1 == at.index => self.append(now, entry, story),
            known => {
                let text = match known {
                    Some(_) => format!("entry {} is committed twice", at.index),
                    None => format!("entry {} is committed before others", at.index),
                };
                self.violated("one history", None, [host], text);
            }
        }
    }

    /// A node took over a state in the place of entries.
    fn copy(&mut self, host: usize, checkpoint: &Checkpoint) {
        let Position { index, term } = checkpoint.at;
        let known = self.log.get(index as usize - 1).map(|entry| entry.term);
        if known != Some(term) {
            let text = format!("the state at entry {index} is of term {term}, not {known:?}");
            self.violated("one history", None, [host], text);
        }
    }

    /// What a node has applied leads to the agreed state.
    pub(crate) fn compare(&mut self, host: usize, applied: u64, state: &State) {
        if applied == self.log.len() as u64 && *state != self.state {
            let text = format!("the state of host {host} at entry {applied} is another");
            self.violated("one history", None, [host], text);
        }
    }

    fn append(&mut self, now: Duration, entry: Entry, story: &mut Story) {
        self.log.push(entry.clone());
        if self.terms.last().is_none_or(|(_, term)| *term < entry.term) {
            self.terms.push((now, entry.term));
        }
        let at = Position {
            index: self.log.len() as u64,
            term: entry.term,
        };
        let What::Command(command) = &entry.proposal.what else {
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
            let was = old.and_then(|(_, owner)| owner).map(|owner| owner.node);
            if owner.map(|owner| owner.node) != was && self.is_reserved(now, &before, &key) {
                let text = format!("slot {slot} did not wait for the restart of its owner");
                self.violated("a restart moves nothing", Some(slot), [], text);
            }
            let owner = owner.map_or("nobody".to_owned(), story::run);
            let text = match new {
                Some((token, _)) => format!("is {owner}'s under token {token}"),
                None => "is gone".to_owned(),
            };
            let text = format!("{text} (agreed, entry {})", at.index);
            story.note(now, None, Some(slot), text);
            if let (Some((old, _)), Some((new, _))) = (old, new)
                && new <= old
            {
                let text = format!("the token of slot {slot} went from {old} to {new}");
                self.violated("tokens grow", Some(slot), [], text);
            }
        }
        match command {
            Command::Remove { .. } => self.removed = now,
            Command::Drain { node, .. } => {
                self.drained.insert(*node, now);
                self.reserved.retain(|(run, _)| run.node != *node);
            }
            _ => {}
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
            && *term == at.term
            && let Some(live) = self.placed.remove(&entry.proposal.number)
        {
            // Moves of owners that were out of reach may be too many when they are back; none is added.
            let most = MOVES_MAX.max(before.moves_under_way(&live));
            let moves = self.state.moves_under_way(&live);
            if moves > most {
                let text = format!(
                    "{moves} moves at once, at most {most} are allowed (entry {}, term {term})",
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
        let silence = self.state.cluster().map(Cluster::silence_max);
        let silence = silence.unwrap_or_default();
        // What a run left that restarts is kept for the next one for as long.
        let restarts = self.state.nodes().values();
        let restarts = restarts.filter(|node| node.standing == Standing::Restarting);
        let silence = restarts.fold(silence, |silence, _| silence.max(RESERVED_FOR));
        // What must be waited for at first counts until the end.
        self.silence = calm.map_or(silence, |_| self.silence.max(silence));
        let bound = self.silence + 3 * TERMS.contact + REACTION;
        self.held.retain(|key, _| slots.contains(key));
        for key in slots {
            let held = seen.contains_key(&key);
            let since = self.held.entry(key.clone()).or_insert(now);
            if held {
                *since = now;
            }
            // What is taken from a node that was removed waits for the end of its lease.
            let since = calm.map(|calm| (*since).max(calm).max(self.removed));
            if let Some(since) = since.filter(|since| now > *since + bound) {
                let (slot, after) = (key.1, now.saturating_sub(since));
                let text = format!("slot {slot} runs nowhere for {after:?} without faults");
                self.violated("always held", Some(slot), [], text);
            }
        }
    }

    /// A run that is said to restart does, once nothing goes wrong any more.
    pub(crate) fn restarts(&mut self, now: Duration, living: &[Owner], calm: Option<Duration>) {
        let nodes = self.state.nodes();
        let restarting = living.iter().filter(|run| {
            nodes.get(&run.node).is_some_and(|known| {
                known.incarnation == run.incarnation && known.standing == Standing::Restarting
            })
        });
        let since = |run: &Owner| (*run, *self.restarting.get(run).unwrap_or(&now));
        self.restarting = restarting.map(since).collect();
        let Some(calm) = calm else { return };
        let forgotten = |(_, since): &(&Owner, &Duration)| now > (**since).max(calm) + RESTARTED;
        if let Some((run, _)) = self.restarting.iter().find(forgotten) {
            let text = format!("{} goes on, and is said to restart", story::run(*run));
            self.violated("no restart is forgotten", None, [], text);
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

/// How long a run that is said to restart may go on: until its own state says so.
const RESTARTED: Duration = Duration::from_secs(3);

/// To decide, stop and start. Beside that everything is held again after what silence takes, and
/// after an election that is won at the third attempt.
const REACTION: Duration = Duration::from_millis(1_500);

/// How long the slots of a run that restarts are kept for sure: 5 s, less the drift of clocks and what
/// the last grant may have been given by a leader that was deposed already.
const RESERVED: Duration = Duration::from_millis(4_200);
