//! Carries the membership protocol over UDP: sealed packets in and out, timers, and who is there.
//!
//! [`holdfast_cluster::membership`] holds the protocol; here are its socket and clock. What is told
//! here is a hint: it never decides who owns anything.
//!
//! Packets of others are counted and dropped: another cluster's, a damaged one, one under another
//! secret. A recorded packet that somebody sends again does no harm: it can only repeat what was
//! true once, and every statement in it carries the incarnation that it is about. An older one is
//! ignored, and a suspicion that comes up again is refuted by the node that it is about. At worst
//! a hint is late or wrong for a moment, which hints may be.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use holdfast_cluster::membership::{self, Action, InvalidOptions, Member, Membership, Options};
use holdfast_model::{ClusterId, ClusterName};
use tokio::{
    net::UdpSocket,
    sync::{broadcast, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{Level, debug, info, warn};

use self::seal::{Opened, Seal};
use crate::{
    identity::{Key, random},
    telemetry::Repeated,
};

mod seal;
#[cfg(test)]
mod tests;

/// The task that gossips; see [`Gossip::run`].
pub struct Gossip {
    socket: Arc<UdpSocket>,
    membership: Membership,
    seal: Seal,
    buffer: Vec<u8>,
    origin: Instant,
    handle: Handle,
    trouble: Trouble,
    refutations: Refutations,
}

/// What others use of it. Clones are the same thing.
#[derive(Clone)]
pub struct Handle {
    seeds: watch::Sender<Vec<SocketAddr>>,
    members: watch::Sender<Arc<[Member]>>,
    events: broadcast::Sender<Event>,
    counters: Arc<Counters>,
}

/// Something that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node is there that was not.
    Up(Member),
    /// A node that was there is suspected to be dead, or said that it leaves.
    Down(Member),
    /// A node that was there has another incarnation or address now.
    Renamed {
        /// As it was known.
        from: Member,
        /// As it is known now.
        to: Member,
    },
    /// Somebody with our secret uses our cluster's name for another cluster. Told again at most
    /// every few seconds while it goes on. A recording of a former cluster with the same name and
    /// secret looks alike, so an established node should report it rather than exit.
    NameTaken {
        /// The other cluster.
        other: ClusterId,
        /// Where the packet came from.
        from: SocketAddr,
    },
}

/// Packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Received and taken in.
    pub received: u64,
    /// Received and dropped: not sealed with our secret for our cluster, or damaged on the way.
    pub foreign: u64,
    /// Ours, but refused by the protocol.
    pub refused: u64,
    /// Given to the network.
    pub sent: u64,
    /// Dropped because the network would not take them.
    pub unsent: u64,
}

impl Gossip {
    /// Gossips as `own` on a bound socket, once run. The socket may be given to another one later,
    /// for the next incarnation.
    ///
    /// # Errors
    /// See [`InvalidOptions`].
    pub fn new(
        socket: Arc<UdpSocket>,
        own: Member,
        cluster: &ClusterName,
        cluster_id: ClusterId,
        key: &Key,
        options: Options,
    ) -> Result<(Self, Handle), InvalidOptions> {
        // One byte more than a packet can have: what is longer is cut there and fails its seal.
        let buffer = vec![0; options.packet_bytes_max + seal::OVERHEAD + 1];
        let membership = Membership::new(own, options, u64::from_le_bytes(random()))?;
        let handle = Handle {
            seeds: watch::Sender::default(),
            members: watch::Sender::new(Arc::default()),
            events: broadcast::Sender::new(EVENTS_MAX),
            counters: Arc::default(),
        };
        let gossip = Self {
            socket,
            membership,
            seal: Seal::new(cluster, cluster_id, key),
            buffer,
            origin: Instant::now(),
            handle: handle.clone(),
            trouble: Trouble::default(),
            refutations: Refutations::default(),
        };
        Ok((gossip, handle))
    }

    /// Gossips until `stop`, then tells the others that this node leaves. No error ends it.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut seeds = self.handle.seeds.subscribe();
        seeds.mark_changed();
        while let Some(tick) = self.membership.next_tick() {
            let held = self.refutations.hold;
            // Each branch may be dropped at any time: packets stay in the socket, seeds and ticks
            // are looked at again.
            tokio::select! {
                () = stop.cancelled() => self.step(membership::Event::Leave),
                () = sleep_until(self.origin + tick) => self.step(membership::Event::Tick),
                changed = seeds.changed() => {
                    changed.expect("`self.handle` holds the sender");
                    let seeds = seeds.borrow_and_update().clone();
                    self.step(membership::Event::Announce(seeds));
                }
                () = sleep_until(held.unwrap_or(self.origin)), if held.is_some() => {
                    self.refutations.hold = None;
                }
                received = self.socket.recv_from(&mut self.buffer), if held.is_none() => match received {
                    Ok((bytes, from)) => self.take(bytes, from),
                    Err(error) => self.pause(&error).await,
                }
            }
        }
    }

    /// Takes in the first bytes of the buffer, as they came.
    fn take(&mut self, bytes: usize, from: SocketAddr) {
        let counters = self.handle.counters.clone();
        match self.seal.open(&mut self.buffer[..bytes]) {
            Opened::Ours(packet) => {
                counters.received.fetch_add(1, Relaxed);
                let now = self.origin.elapsed();
                let actions = self.membership.step(now, membership::Event::Packet(packet));
                self.act(actions);
            }
            Opened::NameTaken(other) => {
                counters.foreign.fetch_add(1, Relaxed);
                if let Some(suppressed) = self.trouble.name_taken.pass() {
                    warn!(
                        peer.addr = %from, cluster.id = %other, suppressed,
                        "another cluster uses this cluster's name and secret"
                    );
                    self.handle.tell(Event::NameTaken { other, from });
                    // It does not understand us, but it hears that its name is taken.
                    self.send(from, &[]);
                }
            }
            Opened::Foreign => {
                counters.foreign.fetch_add(1, Relaxed);
                if let Some(suppressed) = self.trouble.foreign.pass() {
                    warn!(
                        peer.addr = %from, suppressed,
                        "gossip packets dropped: another cluster's, or another secret"
                    );
                }
            }
        }
    }

    fn step(&mut self, event: membership::Event<'_>) {
        let actions = self.membership.step(self.origin.elapsed(), event);
        self.act(actions);
    }

    fn act(&mut self, actions: Vec<Action>) {
        let mut moved = Vec::new();
        for action in actions {
            match action {
                Action::Send { to, packet } => self.send(to, &packet),
                Action::Up(member) => moved.push(Event::Up(member)),
                Action::Down(member) => moved.push(Event::Down(member)),
                Action::Renamed { from, to } => moved.push(Event::Renamed { from, to }),
                Action::Refuted => {
                    self.refutations.count(Instant::now());
                    if let Some(suppressed) = self.trouble.refuted.pass() {
                        info!(
                            suppressed,
                            "others took this node for dead; told them that it lives"
                        );
                    }
                }
                Action::Refused(error) => {
                    self.handle.counters.refused.fetch_add(1, Relaxed);
                    if let Some(suppressed) = self.trouble.refused.pass() {
                        warn!(error = %error, suppressed, "gossip packets refused");
                    }
                }
            }
        }
        if moved.is_empty() {
            return;
        }
        // First the whole, then the change: who hears of a change finds it in the whole.
        self.handle
            .members
            .send_replace(self.membership.members().collect());
        for event in moved {
            debug!(?event, "membership changed");
            self.handle.tell(event);
        }
    }

    fn send(&self, to: SocketAddr, packet: &[u8]) {
        let counters = &self.handle.counters;
        // A packet that does not leave at once is lost, as packets are; the protocol repeats.
        match self.socket.try_send_to(&self.seal.close(packet), to) {
            Ok(_) => counters.sent.fetch_add(1, Relaxed),
            Err(error) => {
                if let Some(suppressed) = self.trouble.unsent.pass() {
                    debug!(peer.addr = %to, error = %error, suppressed, "gossip packets not sent");
                }
                counters.unsent.fetch_add(1, Relaxed)
            }
        };
    }

    async fn pause(&self, error: &io::Error) {
        if let Some(suppressed) = self.trouble.receive.pass() {
            warn!(error = %error, suppressed, "gossip packets could not be received");
        }
        // An error that stays must not keep a core busy.
        sleep(RECEIVE_PAUSE).await;
    }
}

impl Handle {
    /// Names the addresses where other nodes may be, in place of those named before. They are
    /// announced to until somebody answers, and now and again afterwards.
    pub fn announce(&self, seeds: Vec<SocketAddr>) {
        self.seeds.send_replace(seeds);
    }

    /// All other nodes that are up, by node id. This is the whole truth of gossip: a reader that was
    /// slow misses steps, never the outcome.
    #[must_use]
    pub fn members(&self) -> watch::Receiver<Arc<[Member]>> {
        self.members.subscribe()
    }

    /// What happens from now on. A reader that falls behind by more than 1,024 events is told so by
    /// the channel and reads [`Handle::members`] instead.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Packets so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let Counters {
            received,
            foreign,
            refused,
            sent,
            unsent,
        } = &*self.counters;
        Counts {
            received: received.load(Relaxed),
            foreign: foreign.load(Relaxed),
            refused: refused.load(Relaxed),
            sent: sent.load(Relaxed),
            unsent: unsent.load(Relaxed),
        }
    }

    fn tell(&self, event: Event) {
        // Nobody listens: `members` says it all.
        let _ = self.events.send(event);
    }
}

#[derive(Default)]
struct Counters {
    received: AtomicU64,
    foreign: AtomicU64,
    refused: AtomicU64,
    sent: AtomicU64,
    unsent: AtomicU64,
}

/// Slows down answers to those who take this node for dead. A second process with the same identity
/// refutes what this one has said, and they would do so as fast as packets travel.
#[derive(Default)]
struct Refutations {
    in_a_row: u32,
    last: Option<Instant>,
    /// Until when no packets are read.
    hold: Option<Instant>,
}

impl Refutations {
    fn count(&mut self, now: Instant) {
        let in_a_row = |last| now.saturating_duration_since(last) < REFUTATIONS_APART;
        self.in_a_row = match self.last.is_some_and(in_a_row) {
            true => self.in_a_row.saturating_add(1),
            false => 1,
        };
        self.last = Some(now);
        if self.in_a_row > REFUTATIONS_AT_ONCE {
            self.hold = Some(now + REFUTATION_PAUSE);
        }
    }
}

/// Keeps reports of each kind of trouble rare.
struct Trouble {
    foreign: Repeated,
    name_taken: Repeated,
    refuted: Repeated,
    refused: Repeated,
    unsent: Repeated,
    receive: Repeated,
}

impl Default for Trouble {
    fn default() -> Self {
        let warning = |message| Repeated::new(Level::WARN, message);
        Self {
            foreign: warning("gossip packets dropped: another cluster's, or another secret"),
            name_taken: warning("another cluster uses this cluster's name and secret"),
            refuted: Repeated::new(
                Level::INFO,
                "others took this node for dead; told them that it lives",
            ),
            refused: warning("gossip packets refused"),
            unsent: Repeated::new(Level::DEBUG, "gossip packets not sent"),
            receive: warning("gossip packets could not be received"),
        }
    }
}

const EVENTS_MAX: usize = 1024;
const RECEIVE_PAUSE: Duration = Duration::from_millis(50);

/// Refutations that are sent at once; a network that heals causes a few. Those after them, unless
/// they are this far apart, come with a pause.
const REFUTATIONS_AT_ONCE: u32 = 8;
const REFUTATIONS_APART: Duration = Duration::from_secs(1);
const REFUTATION_PAUSE: Duration = Duration::from_millis(100);
