//! Talks to the other nodes: multiplexed calls over TCP, behind a handshake that proves membership.
//!
//! Each node dials every peer it knows, and asks only on connections that it dialed; so two nodes
//! have one control connection in each direction, and data connections where calls need them. The
//! two lanes are apart so that no amount of forwarded calls delays what keeps the cluster alive.
//!
//! What this promises:
//! - Nothing but the reason of a refusal gets to anybody without the cluster's secret
//!   ([`Refusal`]). See `handshake` for what is absent: encryption.
//! - A failed call says whether the peer may have acted on it ([`CallError::may_have_run`]).
//! - [`Event::Dead`] is a proof, not a suspicion ([`Proof`]). Silence never becomes one.
//! - Every queue is bounded. What has no room is refused aloud ([`CallError::Busy`]).

use std::{
    collections::HashMap, fmt, future::Future, net::SocketAddr, num::NonZeroUsize, pin::Pin,
    sync::Arc, time::Duration,
};

use bytes::Bytes;
use holdfast_model::{ClusterId, ClusterName, Incarnation, NodeId};
use parking_lot::RwLock;
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::identity::{BootId, Key};

mod caller;
mod death;
mod endpoint;
mod error;
mod frame;
mod handshake;
mod info;
mod link;
mod outbox;
mod places;
mod recognize;
mod server;
mod socket;
#[cfg(test)]
pub(crate) mod tests;
mod twin;

pub use death::{Evidence, Proof};
pub use error::{CallError, HelloError, Refusal};
pub use info::{NodeAbout, PeerInfo};
pub use link::Unreached;
pub use recognize::recognize;
pub use twin::{Process, Twin};

use endpoint::Endpoint;
use handshake::Purpose;
use link::Peer;

/// The connections of this node to all others. A cheap handle; clones are the same thing.
#[derive(Clone)]
pub struct Peers {
    endpoint: Arc<Endpoint>,
    book: Arc<RwLock<HashMap<NodeId, Arc<Peer>, foldhash::fast::RandomState>>>,
}

/// What this node is to others.
#[derive(Clone, Debug)]
pub struct Local {
    /// Its identity.
    pub node: NodeId,
    /// Its run.
    pub incarnation: Incarnation,
    /// The kernel's boot it runs under.
    pub boot_id: BootId,
    /// The name of its cluster.
    pub cluster: ClusterName,
    /// The id of its cluster, once it knows it.
    pub cluster_id: watch::Receiver<Option<ClusterId>>,
    /// Where others reach its cluster port.
    pub advertise: SocketAddr,
    /// What else it tells them.
    pub about: NodeAbout,
}

/// Where the work is done. Handlers of the data lane may run guests, so that runtime is not the
/// one on which the cluster is kept alive.
#[derive(Clone, Debug)]
pub struct Runtimes {
    /// Accepts, shakes hands, and serves [`Lane::Control`].
    pub control: Handle,
    /// Serves [`Lane::Data`].
    pub data: Handle,
}

/// Settings of the connections between nodes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest frame in bytes, header included: 80 MiB, never taken as less than 64 KiB nor as more
    /// than the 4 GiB that a frame's length can say. Too low and big requests fail; too high and
    /// a peer can make this node hold that much per connection.
    pub frame_bytes_max: usize,
    /// Bytes that may wait to be written per connection: 32 MiB. Too low and bursts fail as busy;
    /// too high and a slow peer costs memory and answers come late.
    pub outgoing_bytes_max: usize,
    /// Requests of one connection that may be worked on at once: 16,384. More are answered as busy.
    pub requests_max: usize,
    /// Data connections per peer: 2. Each is served by one task at a time, so too few leave cores
    /// idle when calls are forwarded; too many batch less.
    pub data_connections: NonZeroUsize,
    /// Connections that peers may have to this node: 4,096.
    pub connections_max: usize,
    /// Handshakes at once that others began, known nodes aside: 256. With more the oldest is given up.
    pub handshakes_max: usize,
    /// The same from the addresses of known nodes: 256.
    pub handshakes_of_peers_max: usize,
    /// The same from one address: 64. Too low and nodes that share an address keep one another out;
    /// too high and whoever connects and says nothing takes the places of others.
    pub handshakes_of_address_max: usize,
    /// Time to connect: 2 s. Too low and distant peers are never reached.
    pub connect_time: Duration,
    /// Time to shake hands: 5 s.
    pub handshake_time: Duration,
    /// How long sent bytes may stay unacknowledged before a connection is given up: 2 s. Too low
    /// and a short loss of packets breaks connections; too high and calls hang on a dead host.
    pub silence_max: Duration,
    /// First pause before a failed connection is dialed again: 10 ms. It doubles each time.
    pub backoff_min: Duration,
    /// Longest pause: 1 s.
    pub backoff_max: Duration,
    /// Refusals in a row that prove a death: 3.
    pub proof_refusals: u32,
    /// Pause between the attempts: 2 ms.
    pub proof_pause: Duration,
    /// How long after a break refusals count: 1 s. Too low and a big process, slow to be torn
    /// down, is not proven dead; too high and the address may have changed hands meanwhile.
    pub proof_time: Duration,
    /// Events that may wait for the reader: 1,024. See [`Peers::new`].
    pub events_max: usize,
}

/// Which of the two kinds of connection a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Consensus and small requests between nodes.
    Control,
    /// Calls that users have made, forwarded to the owner.
    Data,
}

/// What a request asks for: a number whose meaning is the handler's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(pub u16);

/// What a handler says: bytes, or why it failed, as text for the caller's log.
pub type Answer = Result<Bytes, String>;

/// Answers the requests of peers.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Runs on the task that reads the connection, so it must not block; the
    /// future it may return is polled once there and gets a task of its own if it is not ready,
    /// or asked for one.
    /// It is dropped when the caller gives up or the connection ends.
    fn handle(&self, peer: &PeerInfo, kind: Kind, payload: Bytes) -> Reply;
}

/// A handler's answer, now or later.
pub enum Reply {
    /// Here it is.
    Ready(Answer),
    /// It will come. The future must not block either.
    Pending(Pin<Box<dyn Future<Output = Answer> + Send>>),
    /// It will come, and may block its thread meanwhile: it is a task of its own from the start, so
    /// that the other requests of the connection, and its answers, go on.
    Task(Pin<Box<dyn Future<Output = Answer> + Send>>),
}

/// What happened to a peer. For each peer [`Event::Connected`] and [`Event::Lost`] alternate; the
/// proof that a connection's end gives comes after it.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Our control connection to it stands.
    Connected(PeerInfo),
    /// That connection is over. Says nothing about the peer's life.
    Lost {
        /// The peer.
        node: NodeId,
        /// Its run.
        incarnation: Incarnation,
    },
    /// A run of it is over for certain.
    Dead(Evidence),
}

/// A standing control connection.
#[derive(Clone, Debug)]
pub struct Contact {
    /// To whom.
    pub peer: PeerInfo,
    /// How long ago anything was heard from it; an idle connection hears nothing.
    pub quiet_for: Duration,
}

impl Peers {
    /// Starts with an empty address book. The receiver brings the events: none is lost, so a reader
    /// that stalls in the end delays the reconnection of the peers that have something to tell.
    #[must_use]
    pub fn new(
        local: Local,
        key: Key,
        handler: Arc<dyn Handler>,
        mut options: Options,
        runtimes: Runtimes,
    ) -> (Self, mpsc::Receiver<Event>) {
        options.frame_bytes_max = options.frame_bytes_max.clamp(64 << 10, u32::MAX as usize);
        let (events, told) = mpsc::channel(options.events_max);
        let endpoint = Endpoint::new(local, key, handler, options, runtimes, events);
        (
            Self {
                endpoint: Arc::new(endpoint),
                book: Arc::default(),
            },
            told,
        )
    }

    /// Accepts connections until `stop`, then closes the listener, then ends everything else, and
    /// returns when that is done. Dropping the future ends everything too, without waiting.
    ///
    /// To peers the closed listener proves that this node's instances are gone: `stop` must not
    /// come before they are, and a node whose `run` has ended must not go on.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let _end = self.endpoint.stop.clone().drop_guard();
        stop.run_until_cancelled(self.endpoint.accept(&listener))
            .await;
        // First: a peer whose connection breaks takes the closed listener as our end.
        drop(listener);
        self.close().await;
    }

    /// Ends all connections and tasks for good, and waits for them.
    pub async fn close(&self) {
        self.endpoint.stop.cancel();
        self.endpoint.tasks.close();
        self.endpoint.tasks.wait().await;
    }

    /// Enters a peer into the address book and keeps a control connection to it from now on. News
    /// of an older incarnation than the known one are ignored, and so is this node itself.
    pub fn update(&self, node: NodeId, incarnation: Incarnation, addr: SocketAddr) {
        if node == self.endpoint.node() || self.endpoint.has_removed(node) {
            return;
        }
        self.endpoint.know(node, addr);
        let mut book = self.book.write();
        if let Some(peer) = book.get(&node) {
            return peer.retarget(incarnation, addr);
        }
        let stop = self.endpoint.stop.child_token();
        let peer = Arc::new(Peer::new(
            node,
            incarnation,
            addr,
            &self.endpoint.options,
            stop,
        ));
        book.insert(node, peer.clone());
        let endpoint = self.endpoint.clone();
        let keep = async move { peer.keep(&endpoint).await };
        self.endpoint
            .tasks
            .spawn_on(keep, &self.endpoint.runtimes.control);
    }

    /// Takes note that a run of a peer is over, whatever its process does: calls that wait for it on
    /// the data lane fail. A stopped process keeps its connections, and would keep its callers
    /// waiting. The control connection stays: by it the peer is seen to go on.
    pub fn ended(&self, node: NodeId, incarnation: Incarnation) {
        let peer = self.book.read().get(&node).cloned();
        if let Some(peer) = peer {
            peer.ended(incarnation);
        }
    }

    /// Takes a node for none any more, for good: our connections to it and its to us end, calls
    /// fail, what was seen of its runs is forgotten, and when it connects again it hears why it is
    /// refused.
    pub fn remove(&self, node: NodeId) {
        if let Some(peer) = self.book.write().remove(&node) {
            peer.stop.cancel();
        }
        self.endpoint.remove(node);
    }

    /// Resolves when a peer says that this node was removed from the cluster.
    pub async fn expelled(&self) {
        self.endpoint.expelled().await;
    }

    /// Asks a peer and waits for its answer, for `timeout` at most, connecting included. Dropping the
    /// future drops the peer's handler as well.
    ///
    /// # Errors
    /// See [`CallError`]; [`CallError::may_have_run`] says whether it may be repeated.
    pub async fn call(
        &self,
        node: NodeId,
        lane: Lane,
        kind: Kind,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let peer = self.book.read().get(&node).cloned();
        let peer = peer.ok_or(CallError::UnknownPeer(node))?;
        let deadline = Instant::now() + timeout;
        let caller = peer.reach(&self.endpoint, lane, deadline).await?;
        caller.call(kind, payload, deadline).await
    }

    /// Shakes hands with whoever is at an address, to learn who that is and which cluster it is in.
    /// No connection is kept.
    ///
    /// # Errors
    /// See [`HelloError`].
    pub async fn hello(&self, addr: SocketAddr) -> Result<PeerInfo, HelloError> {
        let (_, peer) = self.endpoint.connect(addr, Purpose::Hello).await?;
        Ok(peer)
    }

    /// Why this node does not reach a peer, while it does not.
    #[must_use]
    pub fn unreached(&self, node: NodeId) -> Option<Unreached> {
        let peer = self.book.read().get(&node).cloned();
        peer?.unreached()
    }

    /// The peers that reach this node, and that it does not reach.
    #[must_use]
    pub fn one_sided(&self) -> Vec<(NodeId, Unreached)> {
        let book = self.book.read();
        let unreached = book
            .values()
            .filter_map(|peer| Some((peer.node, peer.unreached()?)));
        unreached
            .filter(|(node, _)| self.endpoint.hears(*node))
            .collect()
    }

    /// The process under this node's id that was found last.
    #[must_use]
    pub fn twin(&self) -> watch::Receiver<Option<Twin>> {
        self.endpoint.twins.own()
    }

    /// Where a process is that was refused lately, for another one is that node.
    #[must_use]
    pub fn refused_twin(&self, node: NodeId) -> Option<SocketAddr> {
        self.endpoint.twins.refused(node)
    }

    /// The peers to which the control connection stands.
    #[must_use]
    pub fn connected(&self) -> Vec<Contact> {
        let book = self.book.read();
        let callers = book.values().filter_map(|peer| peer.control.caller());
        callers
            .map(|caller| Contact {
                peer: caller.info.clone(),
                quiet_for: caller.quiet_for(),
            })
            .collect()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            frame_bytes_max: 80 << 20,
            outgoing_bytes_max: 32 << 20,
            requests_max: 16_384,
            data_connections: NonZeroUsize::MIN.saturating_add(1),
            connections_max: 4096,
            handshakes_max: 256,
            handshakes_of_peers_max: 256,
            handshakes_of_address_max: 64,
            connect_time: Duration::from_secs(2),
            handshake_time: Duration::from_secs(5),
            silence_max: Duration::from_secs(2),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_secs(1),
            proof_refusals: 3,
            proof_pause: Duration::from_millis(2),
            proof_time: Duration::from_secs(1),
            events_max: 1024,
        }
    }
}

impl Runtimes {
    /// Both on the runtime of the calling task.
    ///
    /// # Panics
    /// Outside of a runtime.
    #[must_use]
    pub fn current() -> Self {
        Self {
            control: Handle::current(),
            data: Handle::current(),
        }
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers")
            .field("node", &self.endpoint.node())
            .finish_non_exhaustive()
    }
}
