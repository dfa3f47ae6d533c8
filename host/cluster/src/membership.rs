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
//!
//! Absent: encryption and the check that a packet belongs to this cluster; both happen before a
//! packet gets here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use bytes::Bytes;
use foca::{AccumulatingRuntime, Foca, NoCustomBroadcast, OwnedNotification, PeriodicParams};
use holdfast_model::{Incarnation, NodeId};
use rand::{SeedableRng, rngs::ChaCha8Rng};

use self::{
    timers::Timers,
    wire::{Codec, Identity},
};

mod timers;
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

/// How members watch each other. The same on all nodes of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How often one member, each in turn, is asked for a sign of life. 500 ms.
    ///
    /// Lower finds a crash sooner and sends more: some four packets per period and node. Higher
    /// delays every detection by as much.
    pub probe_period: Duration,
    /// How long the answer may take before others are asked to try. Less than half of
    /// [`Options::probe_period`] is wise; it must be less than all of it. 250 ms.
    ///
    /// Too low, slow networks cause needless indirect probes; too high, these come too late to
    /// prevent a suspicion.
    pub probe_rtt: Duration,
    /// How long a suspected member has to speak up before it is declared down. 1.5 s.
    ///
    /// Too low, pauses of busy machines look like crashes; higher delays every detection by as
    /// much. With the defaults a crash is noticed by all after 2.5 s as a rule, after 5 s if chance
    /// has it that nobody probes that node for a while.
    pub suspicion: Duration,
    /// First pause between announcements while nobody else is known; doubles up to
    /// [`Options::announce_alone_max`]. 1 s.
    ///
    /// Lower joins a cluster that starts all at once a little sooner, at the cost of packets to
    /// addresses where nobody is yet.
    pub announce_alone_min: Duration,
    /// Longest pause between announcements while nobody else is known. 10 s.
    ///
    /// It is also how long a node can stay alone after its network came back.
    pub announce_alone_max: Duration,
    /// Pause between announcements to seeds and members that are down, while others are up. 30 s.
    ///
    /// It bounds how long the halves of a cluster stay apart after the network between them came
    /// back. Lower sends more packets to addresses of nodes that left.
    pub announce_absent: Duration,
    /// How long a member that is down stays known, to be announced to. 24 h.
    ///
    /// Too low, a half that was cut off for longer is only found again through the seeds. Higher
    /// costs some 100 bytes for each node that ever left.
    pub forget_after: Duration,
    /// Largest packet, before it is sealed. 1,300 bytes.
    ///
    /// Higher risks packets that the network cuts up or drops, lower makes news spread slower. At
    /// least 512.
    pub packet_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            probe_period: Duration::from_millis(500),
            probe_rtt: Duration::from_millis(250),
            suspicion: Duration::from_millis(1500),
            announce_alone_min: Duration::from_secs(1),
            announce_alone_max: Duration::from_secs(10),
            announce_absent: Duration::from_secs(30),
            forget_after: Duration::from_secs(24 * 60 * 60),
            packet_bytes_max: 1300,
        }
    }
}

/// Why a [`Membership`] could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOptions {
    /// A duration that must not be zero is.
    #[error("{0} must be greater than zero")]
    Zero(&'static str),
    /// The direct probe would last as long as the whole round.
    #[error("probe_rtt ({rtt:?}) must be less than probe_period ({period:?})")]
    ProbeRtt {
        /// The rtt that was given.
        rtt: Duration,
        /// The period that was given.
        period: Duration,
    },
    /// The shortest pause is longer than the longest.
    #[error("announce_alone_min ({min:?}) must not be greater than announce_alone_max ({max:?})")]
    AnnounceAlone {
        /// The least that was given.
        min: Duration,
        /// The most that was given.
        max: Duration,
    },
    /// Members would not fit into a packet.
    #[error("packet_bytes_max is {0}, but must be from 512 to 65,000")]
    PacketBytes(usize),
    /// Others could not send to this node.
    #[error("{0} cannot be advertised to other nodes: give the address and port they reach")]
    Address(SocketAddr),
    /// The nil UUID stands for a seed whose node is unknown.
    #[error("the nil UUID cannot be the id of a node")]
    NilNode,
}

/// Something that happened outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A packet of another node arrived.
    Packet(&'a [u8]),
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
    /// Send a packet.
    Send {
        /// Where to.
        to: SocketAddr,
        /// At most [`Options::packet_bytes_max`] bytes.
        packet: Bytes,
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
}

impl Membership {
    /// The most seeds that are kept.
    pub const SEEDS_MAX: usize = 64;

    /// Membership of a node that knows nobody yet. Time counts from any fixed instant; `seed` is
    /// the seed of all randomness.
    pub fn new(own: Member, options: Options, seed: u64) -> Result<Self, InvalidOptions> {
        let config = config(&options)?;
        if own.node == NodeId::default() {
            return Err(InvalidOptions::NilNode);
        }
        let identity = Identity::new(own);
        if !identity.is_reachable() {
            return Err(InvalidOptions::Address(own.addr));
        }
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Ok(Self {
            swim: Foca::new(identity, config, rng, Codec { own: own.node }),
            effects: AccumulatingRuntime::new(),
            timers: Timers::default(),
            own: identity.member(),
            live: BTreeMap::new(),
            seeds: Vec::new(),
            announcements: Announcements {
                at: Duration::ZERO,
                pause: options.announce_alone_min,
                round: 0,
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
                let result = self.swim.handle_data(packet, &mut self.effects);
                self.collect(now, result, &mut actions);
            }
            Event::Tick => {
                for _ in 0..TIMERS_PER_STEP_MAX {
                    let Some(timer) = self.timers.pop_due(now) else {
                        break;
                    };
                    let result = self.swim.handle_timer(timer, &mut self.effects);
                    self.collect(now, result, &mut actions);
                }
                if self.announcements.at <= now {
                    self.announce(now, &mut actions);
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
        let announcement = self.announcements.at;
        Some(
            self.timers
                .next()
                .map_or(announcement, |timer| timer.min(announcement)),
        )
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
        let Announcements { at, pause, round } = &mut self.announcements;
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
            let to = to.member().addr;
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
                if let Some(member) = self.live.remove(&identity.member().node) {
                    out.push(Action::Down(member));
                }
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

fn config(options: &Options) -> Result<foca::Config, InvalidOptions> {
    for (name, duration) in [
        ("probe_period", options.probe_period),
        ("probe_rtt", options.probe_rtt),
        ("suspicion", options.suspicion),
        ("announce_alone_min", options.announce_alone_min),
        ("announce_absent", options.announce_absent),
        ("forget_after", options.forget_after),
    ] {
        if duration.is_zero() {
            return Err(InvalidOptions::Zero(name));
        }
    }
    let (rtt, period) = (options.probe_rtt, options.probe_period);
    if rtt >= period {
        return Err(InvalidOptions::ProbeRtt { rtt, period });
    }
    let (min, max) = (options.announce_alone_min, options.announce_alone_max);
    if min > max {
        return Err(InvalidOptions::AnnounceAlone { min, max });
    }
    let packet = NonZeroUsize::new(options.packet_bytes_max)
        .filter(|bytes| (512..=65_000).contains(&bytes.get()))
        .ok_or(InvalidOptions::PacketBytes(options.packet_bytes_max))?;
    let every = |frequency, members| {
        Some(PeriodicParams {
            frequency,
            num_members: NonZeroUsize::new(members).expect("the numbers below are not zero"),
        })
    };
    Ok(foca::Config {
        probe_period: period,
        probe_rtt: rtt,
        num_indirect_probes: NonZeroUsize::new(3).expect("three is not zero"),
        // Enough for a hundred members; each repeat costs some 30 bytes in packets sent anyway.
        max_transmissions: NonZeroU8::new(10).expect("ten is not zero"),
        suspect_to_down_after: options.suspicion,
        remove_down_after: Some(options.forget_after),
        max_packet_size: packet,
        // Without it a live node that was declared down would never learn of it.
        notify_down_members: true,
        periodic_announce: every(Duration::from_secs(30), 1),
        // `Membership::announce` does it, by address and also while nobody is up.
        periodic_announce_to_down_members: None,
        periodic_gossip: every(Duration::from_millis(200), 3),
    })
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

#[cfg(test)]
mod tests;
