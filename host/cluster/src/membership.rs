//! Knows which nodes are there: SWIM (foca 2) without IO.
//!
//! [`Membership::step`] takes an [`Event`] and the time and returns [`Action`]s; the caller owns
//! socket and clock, and calls again with [`Event::Tick`] at [`Membership::next_tick`]. All
//! randomness comes from the seed, so the same events give the same actions.
//!
//! SWIM hints, it decides nothing: a node named here may be gone and one declared down may be
//! running. Added to foca here:
//!
//! - A member is a node id. A restart (greater [`Incarnation`]), even at another address, replaces
//!   what was known of it at once; nodes that swap addresses are not mistaken for one another.
//! - A seed is a bare socket address, whose node is unknown until it answers.
//! - Nobody is given up: seeds and members that are down are announced to again and again, often
//!   while this node sees nobody, so that halves of a cluster that lost each other meet again.
//! - A live node that was declared down comes back by itself, without a new incarnation.
//! - Where datagrams do not get through, packets go over the connections that stand ([`Blocked`]).
//! - Two processes under one node id and incarnation are told apart; the first one is the node.
//!
//! Absent: encryption and the check that a packet belongs to this cluster; both happen before a
//! packet gets here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;
use foca::{AccumulatingRuntime, Codec as _, Foca, Message, NoCustomBroadcast, OwnedNotification};
use holdfast_model::{Incarnation, NodeId};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

pub use self::{
    options::{InvalidOptions, Options},
    paths::Blocked,
};
use self::{
    paths::Paths,
    timers::Timers,
    twins::Processes,
    wire::{Codec, Identity},
};

mod options;
mod paths;
mod timers;
mod twins;
mod wire;

/// One run of a node, and where its packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Identity of the node. Not the nil UUID.
    pub node: NodeId,
    /// Which run of it.
    pub incarnation: Incarnation,
    /// The address that others send its packets to.
    pub addr: SocketAddr,
}

/// Something that happened outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A packet of another node arrived, as a datagram.
    Packet(&'a [u8]),
    /// A packet of another node arrived over its connection.
    Delivered {
        /// The packet.
        packet: &'a [u8],
        /// Whether that node says that no datagram of this one arrives there.
        deaf: bool,
    },
    /// Connections stand to these nodes, whose datagrams go to these addresses; in place of those
    /// named before.
    Connected(Vec<(NodeId, SocketAddr)>),
    /// The time of [`Membership::next_tick`] has come. At any other time it does no harm.
    Tick,
    /// These are the addresses of nodes that may be there, in place of those named before; they
    /// are announced to now and again. More than [`Membership::SEEDS_MAX`] are ignored.
    Announce(Vec<SocketAddr>),
    /// This node leaves: tells the others, then falls silent for good.
    Leave,
}

/// Something to do or to know.
#[derive(Debug)]
pub enum Action {
    /// Send a packet, as a datagram.
    Send {
        /// Where to.
        to: SocketAddr,
        /// At most [`Options::packet_bytes_max`] bytes.
        packet: Bytes,
    },
    /// Send a packet over the connection to a node. Some go out as a datagram as well: what arrives
    /// twice does no harm.
    Deliver {
        /// To whom.
        to: NodeId,
        /// The packet.
        packet: Bytes,
        /// Whether to say that no datagram of that node arrives here.
        deaf: bool,
    },
    /// A node is there that was not.
    Up(Member),
    /// A node that was up has another incarnation or address now.
    Renamed {
        /// As it was known.
        from: Member,
        /// As it is known now.
        to: Member,
    },
    /// A node that was up is suspected to be dead, or said that it leaves.
    Down(Member),
    /// Others declared this node down, and it told them that it lives.
    Refuted,
    /// Another process runs under the id and incarnation of a node.
    Twin {
        /// Which node: perhaps this one.
        node: NodeId,
        /// Where the process is that is not that node.
        addr: SocketAddr,
    },
    /// The event was refused. Nothing was harmed by it.
    Refused(Error),
}

/// Why an event was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No packet of ours, damaged, or of another version.
    #[error("the packet is malformed")]
    Malformed(#[source] foca::Error),
    /// A packet that names this node as its sender: its own echo, when a seed is its own address,
    /// or a second process with a copy of its data directory.
    #[error("the packet claims to come from this node")]
    FromOurselves,
    /// The protocol stumbled and went on.
    #[error("membership protocol")]
    Protocol(#[source] foca::Error),
}

/// The members of the cluster as this node sees them.
pub struct Membership {
    swim: Foca<Identity, Codec, ChaCha8Rng, NoCustomBroadcast>,
    codec: Codec,
    paths: Paths,
    effects: AccumulatingRuntime<Identity>,
    timers: Timers,
    options: Options,
    own: Member,
    live: BTreeMap<NodeId, Member>,
    seeds: Vec<SocketAddr>,
    announcements: Announcements,
    left: bool,
}

/// When to announce next, and to whom first.
struct Announcements {
    at: Duration,
    /// The pause after the next one while nobody is there.
    pause: Duration,
    /// Rounds so far: each begins where the one before ended.
    round: usize,
    /// When to announce next over connections to nodes that are not up.
    connected_at: Duration,
}

impl Membership {
    /// The most seeds that are kept.
    pub const SEEDS_MAX: usize = 64;

    /// Membership of a node that knows nobody yet. Time counts from any fixed instant; `seed` is
    /// the seed of all randomness.
    pub fn new(own: Member, options: Options, seed: u64) -> Result<Self, InvalidOptions> {
        let config = options::config(&options)?;
        if own.node == NodeId::default() {
            return Err(InvalidOptions::NilNode);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let identity = Identity::new(own, rng.random());
        if !identity.is_reachable() {
            return Err(InvalidOptions::Address(own.addr));
        }
        let processes = Processes::default();
        processes.first(&identity);
        let codec = || Codec {
            own: own.node,
            processes: processes.clone(),
        };
        Ok(Self {
            swim: Foca::new(identity, config, rng, codec()),
            codec: codec(),
            paths: Paths::new(options.probe_rtt),
            effects: AccumulatingRuntime::new(),
            timers: Timers::default(),
            own: identity.member(),
            live: BTreeMap::new(),
            seeds: Vec::new(),
            announcements: Announcements {
                at: Duration::ZERO,
                pause: options.announce_alone_min,
                round: 0,
                connected_at: Duration::MAX,
            },
            options,
            left: false,
        })
    }

    /// Takes in an event and returns what follows from it. `now` never goes back.
    ///
    /// The work is bounded: a tick fires at most 64 timers, and [`Membership::next_tick`] says
    /// `now` when more are due.
    pub fn step(&mut self, now: Duration, event: Event<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.left {
            return actions;
        }
        match event {
            Event::Packet(packet) => {
                if let Some(from) = self.sender(packet) {
                    self.paths.heard(now, from);
                }
                self.take(now, packet, &mut actions);
            }
            Event::Delivered { packet, deaf } => {
                if let Some(from) = self.sender(packet) {
                    self.paths.delivered(now, from, deaf);
                }
                self.take(now, packet, &mut actions);
            }
            Event::Connected(connections) => {
                self.paths.connect(connections);
                if self.absent_connections().next().is_some() {
                    let soon = now + self.options.probe_period;
                    let at = &mut self.announcements.connected_at;
                    *at = soon.min(*at);
                }
            }
            Event::Tick => {
                for _ in 0..TIMERS_PER_STEP_MAX {
                    let Some(timer) = self.timers.pop_due(now) else {
                        break;
                    };
                    let result = self.swim.handle_timer(timer, &mut self.effects);
                    self.collect(now, result, &mut actions);
                }
                for (to, packet) in self.paths.unanswered(now) {
                    let deaf = true;
                    actions.push(Action::Deliver { to, packet, deaf });
                }
                if self.announcements.at <= now {
                    self.announce(now, &mut actions);
                }
                if self.announcements.connected_at <= now {
                    self.announce_over_connections(now, &mut actions);
                }
            }
            Event::Announce(mut seeds) => {
                seeds.truncate(Self::SEEDS_MAX);
                self.seeds = seeds;
                self.announce(now, &mut actions);
            }
            Event::Leave => {
                let result = self.swim.leave_cluster(&mut self.effects);
                self.collect(now, result, &mut actions);
                self.timers = Timers::default();
                self.left = true;
            }
        }
        actions
    }

    /// When [`Event::Tick`] is due; `None` once this node left.
    #[must_use]
    pub fn next_tick(&self) -> Option<Duration> {
        if self.left {
            return None;
        }
        let Announcements {
            at, connected_at, ..
        } = self.announcements;
        let others = [self.timers.next(), self.paths.next(), Some(connected_at)];
        Some(others.into_iter().flatten().fold(at, Duration::min))
    }

    /// This node.
    #[must_use]
    pub fn own(&self) -> Member {
        self.own
    }

    /// All others that are up, by node id; also those that are under suspicion.
    pub fn members(&self) -> impl ExactSizeIterator<Item = Member> + '_ {
        self.live.values().copied()
    }

    /// Whom datagrams do not reach, or whose do not arrive, while connections to them carry packets.
    pub fn blocked(&self, now: Duration) -> impl Iterator<Item = Blocked> {
        self.paths.blocked(now)
    }

    /// Who sent a packet, if it is one.
    fn sender(&mut self, packet: &[u8]) -> Option<NodeId> {
        let header = self.codec.decode_header(packet).ok()?;
        Some(header.src.member().node)
    }

    fn take(&mut self, now: Duration, packet: &[u8], actions: &mut Vec<Action>) {
        let result = self.swim.handle_data(packet, &mut self.effects);
        let twin = self.codec.processes.take_twin();
        let Some(Member { node, addr, .. }) = twin.map(|twin| twin.member()) else {
            return self.collect(now, result, actions);
        };
        // What it says is refused, which is said by this.
        let result = result.or_else(|error| match error {
            foca::Error::Decode(_) => Ok(()),
            error => Err(error),
        });
        self.collect(now, result, actions);
        actions.push(Action::Twin { node, addr });
    }

    /// The nodes to which a connection stands, and that are not up.
    fn absent_connections(&self) -> impl Iterator<Item = (NodeId, SocketAddr)> {
        let connections = self.paths.connections();
        connections.filter(|(node, _)| !self.live.contains_key(node))
    }

    /// Announces this node over connections, at most 32 of them, to nodes that are not up: their
    /// connections stand, so what is amiss may be the way of datagrams alone.
    fn announce_over_connections(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let absent: Vec<_> = self.absent_connections().collect();
        let count = absent.len().min(ANNOUNCEMENTS_PER_ROUND_MAX);
        let first = self.announcements.round % absent.len().max(1);
        for (to, addr) in absent.iter().copied().cycle().skip(first).take(count) {
            let result = self.swim.announce(Identity::seed(addr), &mut self.effects);
            while let Some((_, packet)) = self.effects.to_send() {
                let deaf = true;
                actions.push(Action::Deliver { to, packet, deaf });
            }
            self.collect(now, result, actions);
        }
        let Announcements {
            round,
            connected_at,
            ..
        } = &mut self.announcements;
        *round = round.wrapping_add(count);
        *connected_at = if absent.is_empty() {
            Duration::MAX
        } else {
            now + ANNOUNCE_OVER_CONNECTIONS
        };
    }

    /// Announces this node to seeds and members that are down, at most 32 of them, and notes when
    /// to do so again.
    fn announce(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let mut absent: BTreeSet<SocketAddr> = self.seeds.iter().copied().collect();
        let known = self
            .swim
            .iter_membership_state()
            .map(|known| known.id().member());
        absent.extend(
            known
                .filter(|known| known.node != self.own.node)
                .map(|known| known.addr),
        );
        absent.remove(&self.own.addr);
        for member in self.live.values() {
            absent.remove(&member.addr);
        }
        let count = absent.len().min(ANNOUNCEMENTS_PER_ROUND_MAX);
        let first = self.announcements.round * count % absent.len().max(1);
        for addr in absent.iter().cycle().skip(first).take(count) {
            let result = self.swim.announce(Identity::seed(*addr), &mut self.effects);
            self.collect(now, result, actions);
        }
        let Announcements {
            at, pause, round, ..
        } = &mut self.announcements;
        *round = round.wrapping_add(1);
        if self.live.is_empty() {
            *at = now + *pause;
            *pause = (*pause * 2).min(self.options.announce_alone_max);
        } else {
            *at = now + self.options.announce_absent;
        }
    }

    /// Takes over what foca wants done.
    fn collect(&mut self, now: Duration, result: Result<(), foca::Error>, out: &mut Vec<Action>) {
        while let Some((after, timer)) = self.effects.to_schedule() {
            self.timers.push(now + after, timer);
        }
        while let Some((to, packet)) = self.effects.to_send() {
            let Member { node, addr: to, .. } = to.member();
            let is_ping = || {
                let header = self.codec.decode_header(&packet[..]);
                header.is_ok_and(|header| matches!(header.message, Message::Ping(_)))
            };
            if let Some(deaf) = self.paths.send(now, node, &packet, is_ping) {
                let (to, packet) = (node, packet.clone());
                out.push(Action::Deliver { to, packet, deaf });
            }
            // A node that died may have had the address that is ours now.
            if to != self.own.addr {
                out.push(Action::Send { to, packet });
            }
        }
        while let Some(notification) = self.effects.to_notify() {
            self.note(now, notification, out);
        }
        if let Err(source) = result {
            out.push(Action::Refused(refusal(source)));
        }
    }

    fn note(
        &mut self,
        now: Duration,
        notification: OwnedNotification<Identity>,
        out: &mut Vec<Action>,
    ) {
        match notification {
            OwnedNotification::MemberUp(identity) => {
                let member = identity.member();
                self.live.insert(member.node, member);
                out.push(Action::Up(member));
            }
            OwnedNotification::MemberDown(identity) => {
                let node = identity.member().node;
                if node != self.own.node {
                    self.codec.processes.forget(node);
                }
                if let Some(member) = self.live.remove(&node) {
                    out.push(Action::Down(member));
                }
                let at = &mut self.announcements.connected_at;
                *at = (*at).min(now + self.options.probe_period);
            }
            OwnedNotification::Rename(_, identity) => {
                let to = identity.member();
                // One that was down and is back is told of by what follows.
                if let Some(known) = self.live.get_mut(&to.node)
                    && *known != to
                {
                    let from = std::mem::replace(known, to);
                    out.push(Action::Renamed { from, to });
                }
            }
            OwnedNotification::Active => {
                self.announcements.pause = self.options.announce_alone_min;
                self.announcements.at = now + self.options.announce_absent;
            }
            // Foca is silent from now on: the next tick announces.
            OwnedNotification::Idle => {
                self.announcements.pause = self.options.announce_alone_min;
                self.announcements.at = now;
            }
            OwnedNotification::Rejoin(_) => out.push(Action::Refuted),
            // Only a node that leaves becomes defunct: identities can be renewed.
            OwnedNotification::Defunct => {}
        }
    }
}

fn refusal(source: foca::Error) -> Error {
    match source {
        foca::Error::DataFromOurselves => Error::FromOurselves,
        foca::Error::DataTooBig
        | foca::Error::MalformedPacket
        | foca::Error::IndirectForOurselves
        | foca::Error::CustomBroadcast(_)
        | foca::Error::Decode(_) => Error::Malformed(source),
        foca::Error::NotUndead
        | foca::Error::SameIdentity
        | foca::Error::NotConnected
        | foca::Error::IncompleteProbeCycle
        | foca::Error::Encode(_)
        | foca::Error::InvalidConfig => Error::Protocol(source),
    }
}

const TIMERS_PER_STEP_MAX: usize = 64;
const ANNOUNCEMENTS_PER_ROUND_MAX: usize = 32;

/// Pause between announcements over connections to nodes that are not up.
const ANNOUNCE_OVER_CONNECTIONS: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
