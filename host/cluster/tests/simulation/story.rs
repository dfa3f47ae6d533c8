//! What happened, for people and for comparing runs.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use holdfast_cluster::state::Owner;
use holdfast_model::{NodeId, Slot};

/// Everything that happened, as a hash, and the last of it as text.
#[derive(Default)]
pub(crate) struct Story {
    hasher: DefaultHasher,
    last: VecDeque<Event>,
    pub(crate) events: u64,
}

struct Event {
    at: Duration,
    host: Option<usize>,
    slot: Option<Slot>,
    text: String,
}

impl Story {
    /// Notes what happened on a machine, or to all; to a slot, or to none.
    pub(crate) fn note(
        &mut self,
        at: Duration,
        host: Option<usize>,
        slot: Option<Slot>,
        text: String,
    ) {
        (at, host, slot, &text).hash(&mut self.hasher);
        self.events += 1;
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(Event {
            at,
            host,
            slot,
            text,
        });
    }

    /// Two runs with equal hashes were the same.
    pub(crate) fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    /// How many of the last events say that.
    pub(crate) fn says(&self, words: &str) -> usize {
        let says = |event: &&Event| event.text.contains(words);
        self.last.iter().filter(says).count()
    }

    /// Adds how often each of [`HAPPENS`] did.
    pub(crate) fn count(&self, counts: &mut [usize; HAPPENS.len()]) {
        for (count, words) in counts.iter_mut().zip(HAPPENS) {
            *count += self.says(words);
        }
    }

    /// The last events that concern the slot, or a machine's lot as a whole.
    pub(crate) fn tell(&self, slot: Option<Slot>, hosts: &BTreeSet<usize>) -> String {
        let public = |event: &Event| PUBLIC.iter().any(|words| event.text.starts_with(words));
        let concerns = |event: &&Event| match (event.slot, event.host) {
            (Some(_), _) => event.slot == slot,
            (None, Some(host)) => hosts.is_empty() || hosts.contains(&host) || public(event),
            (None, None) => true,
        };
        // What is said again and again is told once.
        let mut said: BTreeMap<Option<usize>, &str> = BTreeMap::new();
        let mut told: Vec<&Event> = self.last.iter().filter(concerns).collect();
        told.retain(|event| said.insert(event.host, &event.text) != Some(&event.text));
        let mut text = String::new();
        for event in told.iter().skip(told.len().saturating_sub(TOLD)) {
            let host = event
                .host
                .map_or("       ".to_owned(), |h| format!("host {h:<2}"));
            let at = event.at.as_secs_f64();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {at:>8.3} s  {host}  {}", event.text);
        }
        text
    }
}

/// A node's id in the simulation: a small number.
pub(crate) fn node(number: usize) -> NodeId {
    NodeId(uuid::Uuid::from_u128(number as u128))
}

pub(crate) fn name(node: NodeId) -> String {
    format!("n{}", node.0.as_u128())
}

pub(crate) fn run(Owner { node, incarnation }: Owner) -> String {
    format!("{}.{incarnation}", name(node))
}

/// What a simulation that proves something has seen, in the words of its events.
pub(crate) const HAPPENS: [&str; 27] = [
    "leads term",
    "leads no more",
    "was taken for the leader",
    "has a lease",
    "the lease of",
    "has not granted",
    "is dead",
    "joins",
    "changes the voters",
    "runs under token",
    "has stopped",
    "releases token",
    "stands still",
    "is killed",
    "its disk lost",
    "is switched off",
    "has a slow disk",
    "applies late",
    "takes over a state",
    "hands the leadership",
    "is to be removed",
    "is removed",
    "restarts",
    "leases are to last",
    "that earlier grants are over",
    "for dead",
    "moves, reaches",
];

/// How events begin that matter to others than their host: what goes wrong, and what a leader does.
const PUBLIC: [&str; 4] = ["* ", "leads term", "decides that", "hands the leadership"];

/// Events that are kept.
const LAST: usize = 4_000;

/// Events that are told.
const TOLD: usize = 60;
