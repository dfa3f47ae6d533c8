//! Messages under way: lost, doubled, late, out of order, or cut off in one direction.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use holdfast_cluster::{
    evidence::Death,
    handover::Now,
    lease::Answer,
    state::{Command, Owner},
};
use holdfast_model::NodeId;
use rand::{RngExt, rngs::ChaCha8Rng};

use crate::log;

/// What machines send one another.
#[derive(Clone)]
pub(crate) enum Message {
    Gossip(Bytes),
    /// Gossip over a connection, and whether its sender hears no datagrams.
    GossipDelivered(Bytes, bool),
    /// A connection to this run stands; and the boot that it runs under.
    Hello(Owner, u64),
    Raft(log::Message),
    /// Asks for a lease; the time is the asker's.
    Ask(Owner, Now),
    Answered(Owner, Now, Answer),
    /// To the leader: append this.
    Propose(Command),
    /// To anybody: see to this, and say so to the client with that number.
    Serve(u64, Command),
    Died(Vec<Death>),
    /// From an operator, to the leader: have this one lead.
    HandOver(NodeId),
    /// The connection to this run broke, and its port refuses.
    Refused(Death),
}

/// Where to.
#[derive(Clone, Copy)]
pub(crate) enum To {
    Host(usize),
    Node(NodeId),
    Everybody,
}

#[derive(Clone)]
pub(crate) struct Envelope {
    pub(crate) from: NodeId,
    pub(crate) source: usize,
    pub(crate) host: usize,
    /// None: whoever is there.
    pub(crate) node: Option<NodeId>,
    pub(crate) message: Message,
}

/// The wires between the machines.
pub(crate) struct Network {
    rng: ChaCha8Rng,
    under_way: BTreeMap<(Duration, u64), Envelope>,
    sent: u64,
    /// When the last message of each link arrives.
    arrived: BTreeMap<(usize, usize), Duration>,
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// Where connections carry what they do, and datagrams are lost.
    pub(crate) without_datagrams: BTreeSet<(usize, usize)>,
    pub(crate) weather: Weather,
}

/// How bad the wires are now.
#[derive(Clone, Copy, Default)]
pub(crate) struct Weather {
    pub(crate) drop: f64,
    pub(crate) duplicate: f64,
    pub(crate) delay: f64,
    pub(crate) reorder: bool,
}

impl Network {
    pub(crate) fn new(rng: ChaCha8Rng) -> Self {
        Self {
            rng,
            under_way: BTreeMap::new(),
            sent: 0,
            arrived: BTreeMap::new(),
            cut: BTreeSet::new(),
            without_datagrams: BTreeSet::new(),
            weather: Weather::default(),
        }
    }

    pub(crate) fn send(&mut self, now: Duration, envelope: Envelope) {
        let Weather {
            drop, duplicate, ..
        } = self.weather;
        let link = (envelope.source, envelope.host);
        let local = link.0 == link.1;
        let datagram = matches!(envelope.message, Message::Gossip(_));
        if datagram && self.without_datagrams.contains(&link) {
            return;
        }
        if self.cut.contains(&link) || (!local && self.rng.random_bool(drop)) {
            return;
        }
        let copies = if !local && self.rng.random_bool(duplicate) {
            2
        } else {
            1
        };
        for copy in 0..copies {
            let at = self.arrival(now, link, copy > 0);
            self.sent += 1;
            self.under_way.insert((at, self.sent), envelope.clone());
        }
    }

    fn arrival(&mut self, now: Duration, link: (usize, usize), again: bool) -> Duration {
        let millis = |range: std::ops::Range<u64>, rng: &mut ChaCha8Rng| {
            Duration::from_millis(rng.random_range(range))
        };
        let mut after = millis(1..8, &mut self.rng);
        if link.0 != link.1 {
            if self.rng.random_bool(self.weather.delay) {
                after += millis(20..800, &mut self.rng);
            }
            // A repetition comes when nobody waits for it any more.
            if again && self.rng.random_bool(0.5) {
                after += millis(50..3_000, &mut self.rng);
            }
        }
        let at = now + after;
        if self.weather.reorder || again {
            return at;
        }
        let last = self.arrived.entry(link).or_default();
        *last = at.max(*last);
        *last
    }

    /// What has arrived by now.
    pub(crate) fn arrived(&mut self, now: Duration) -> Vec<Envelope> {
        let later = self.under_way.split_off(&(now, u64::MAX));
        let arrived = std::mem::replace(&mut self.under_way, later);
        let through = |envelope: &Envelope| !self.cut.contains(&(envelope.source, envelope.host));
        arrived.into_values().filter(through).collect()
    }

    pub(crate) fn under_way(&self) -> usize {
        self.under_way.len()
    }
}
