//! Carries the membership protocol over UDP: sealed packets in and out, timers, and who is there.
//!
//! [`holdfast_cluster::membership`] holds the protocol; here are its socket and clock. What is told
//! here is a hint: it never decides who owns anything.
//!
//! Where UDP does not get through, packets go over the connections that stand to the other nodes, and
//! both ends say so ([`Handle::blocked`]). There they are not sealed: those who send there have proven
//! the secret.
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

use holdfast_cluster::membership::{
    self, Action, Blocked, InvalidOptions, Member, Membership, Options,
};
use holdfast_model::{ClusterId, ClusterName};
use tokio::{
    net::UdpSocket,
    sync::{broadcast, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::{
    connections::Deliveries,
    seal::{Opened, Seal},
    trouble::{Refutations, Trouble, is_down},
};
use crate::{
    identity::{Key, random},
    peer::Peers,
};

pub use self::connections::Delivered;
pub(crate) use self::connections::{DELIVER, Inbox};

mod connections;
mod seal;
#[cfg(test)]
mod tests;
mod trouble;

/// The task that gossips; see [`Gossip::run`].
pub struct Gossip {
    socket: Arc<UdpSocket>,
    membership: Membership,
    seal: Seal,
    buffer: Vec<u8>,
    origin: Instant,
    peers: Peers,
    delivered: mpsc::Receiver<Delivered>,
    deliveries: Deliveries,
    handle: Handle,
    trouble: Trouble,
    refutations: Refutations,
}

/// What others use of it. Clones are the same thing.
#[derive(Clone)]
pub struct Handle {
    seeds: watch::Sender<Vec<SocketAddr>>,
    members: watch::Sender<Arc<[Member]>>,
    blocked: watch::Sender<Arc<[Blocked]>>,
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
    /// Another process gossips as this node. Told again at most every few seconds.
    Twin {
        /// Where it says that it is.
        addr: SocketAddr,
    },
}

/// How packets go where datagrams do not get through.
#[derive(Debug)]
pub struct Connections {
    /// Where they are sent.
    pub peers: Peers,
    /// What peers deliver: the receiver of an `Inbox`.
    pub delivered: mpsc::Receiver<Delivered>,
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
    /// Of those received, over connections.
    pub delivered: u64,
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
        Connections { peers, delivered }: Connections,
    ) -> Result<(Self, Handle), InvalidOptions> {
        // One byte more than a packet can have: what is longer is cut there and fails its seal.
        let buffer = vec![0; options.packet_bytes_max + seal::OVERHEAD + 1];
        let membership = Membership::new(own, options, u64::from_le_bytes(random()))?;
        let handle = Handle {
            seeds: watch::Sender::default(),
            members: watch::Sender::new(Arc::default()),
            blocked: watch::Sender::new(Arc::default()),
            events: broadcast::Sender::new(EVENTS_MAX),
            counters: Arc::default(),
        };
        let gossip = Self {
            socket,
            membership,
            seal: Seal::new(cluster, cluster_id, key),
            buffer,
            origin: Instant::now(),
            deliveries: Deliveries::new(peers.clone()),
            peers,
            delivered,
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
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                _ = look.tick() => self.look_at_connections(),
                Some(Delivered { deaf, packet }) = self.delivered.recv() => {
                    self.handle.counters.received.fetch_add(1, Relaxed);
                    self.handle.counters.delivered.fetch_add(1, Relaxed);
                    let packet = &packet[..];
                    self.step(membership::Event::Delivered { packet, deaf });
                }
                () = self.deliveries.next() => {}
                () = sleep_until(held.unwrap_or(self.origin)), if held.is_some() => {
                    self.refutations.hold = None;
                }
                received = self.socket.recv_from(&mut self.buffer), if held.is_none() => match received {
                    Ok((bytes, from)) => self.take(bytes, from),
                    Err(error) => {
                        self.receive_failed(&error);
                        // An error that stays must not keep a core busy.
                        sleep(RECEIVE_PAUSE).await;
                    }
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
                Action::Deliver { to, packet, deaf } => self.deliveries.push(to, &packet, deaf),
                Action::Twin { node, addr } => {
                    if node == self.membership.own().node {
                        if self.trouble.twin.pass().is_some() {
                            self.handle.tell(Event::Twin { addr });
                        }
                    } else if let Some(suppressed) = self.trouble.other_twin.pass() {
                        error!(
                            node.id = %node, peer.addr = %addr, suppressed,
                            "two processes gossip as one node: its data directory was copied; \
                             what this one says is ignored"
                        );
                    }
                }
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
                if is_down(&error) {
                    if let Some(suppressed) = self.trouble.unsent.pass() {
                        debug!(peer.addr = %to, %error, suppressed, "gossip packets not sent");
                    }
                } else if let Some(suppressed) = self.trouble.unsendable.pass() {
                    warn!(
                        peer.addr = %to, %error, suppressed,
                        "gossip packets cannot be sent over UDP"
                    );
                }
                counters.unsent.fetch_add(1, Relaxed)
            }
        };
    }

    /// Sees which connections stand, and which nodes UDP does not reach.
    fn look_at_connections(&mut self) {
        let connections = self.peers.connected().into_iter();
        let connections = connections.map(|contact| (contact.peer.node, contact.peer.addr));
        self.step(membership::Event::Connected(connections.collect()));
        let now = self.origin.elapsed();
        let blocked: Arc<[Blocked]> = self.membership.blocked(now).collect();
        let news = |before: &mut Arc<[Blocked]>| {
            let differ = *before != blocked;
            for Blocked {
                node,
                addr,
                inwards,
                ..
            } in blocked.iter()
            {
                if before.iter().any(|before| before.node == *node) {
                    continue;
                }
                let what = match inwards {
                    true => "its packets do not arrive here",
                    false => "ours do not arrive there",
                };
                warn!(
                    node.id = %node, peer.addr = %addr, what,
                    "gossip over UDP is lost, and goes over TCP: is UDP let through on the ports for \
                     peers, in both directions?"
                );
            }
            for Blocked { node, addr, .. } in before.iter() {
                if !blocked.iter().any(|still| still.node == *node) {
                    info!(node.id = %node, peer.addr = %addr, "gossip over UDP gets through again");
                }
            }
            before.clone_from(&blocked);
            differ
        };
        self.handle.blocked.send_if_modified(news);
    }

    fn receive_failed(&self, error: &io::Error) {
        if let Some(suppressed) = self.trouble.receive.pass() {
            warn!(error = %error, suppressed, "gossip packets could not be received");
        }
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

    /// The nodes that UDP does not reach, or from which nothing arrives over it, while connections to
    /// them stand and carry gossip.
    #[must_use]
    pub fn blocked(&self) -> watch::Receiver<Arc<[Blocked]>> {
        self.blocked.subscribe()
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
            delivered,
        } = &*self.counters;
        Counts {
            received: received.load(Relaxed),
            foreign: foreign.load(Relaxed),
            refused: refused.load(Relaxed),
            sent: sent.load(Relaxed),
            unsent: unsent.load(Relaxed),
            delivered: delivered.load(Relaxed),
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
    delivered: AtomicU64,
}

const EVENTS_MAX: usize = 1024;
const RECEIVE_PAUSE: Duration = Duration::from_millis(50);

/// How often to see which connections stand.
const LOOK: Duration = Duration::from_millis(250);
