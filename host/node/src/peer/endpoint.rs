//! This node's side of every connection: dials, accepts, and keeps track of who was seen.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use holdfast_model::{ClusterId, Incarnation, NodeId};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Level, debug, warn};

use super::{
    Event, Evidence, Handler, HelloError, Local, Options, PeerInfo, Proof, Refusal, Runtimes,
    handshake::{self, Ends, Failure, Purpose},
    info::Identity,
    places::{Place, Places},
    server, socket,
    twin::{Process, Twins},
};
use crate::{
    identity::{BootId, Key},
    telemetry::Repeated,
};

/// What all tasks of [`Peers`](super::Peers) share.
pub(super) struct Endpoint {
    pub(super) options: Options,
    pub(super) runtimes: Runtimes,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    local: Local,
    key: Key,
    handler: Arc<dyn Handler>,
    events: mpsc::Sender<Event>,
    /// The latest run of every node that has proven the secret.
    seen: Mutex<HashMap<NodeId, Seen>>,
    /// Where known nodes are: handshakes from there have places of their own.
    known: Mutex<HashMap<NodeId, IpAddr>>,
    pub(super) twins: Twins,
    /// Nodes that an operator has removed.
    removed: Mutex<BTreeSet<NodeId>>,
    /// A peer has said that this node is one of them.
    expelled: watch::Sender<bool>,
    guests: Mutex<Guests>,
    refusals: Repeated,
    turned_away: Repeated,
}

/// A run of a node, as its handshake showed it.
#[derive(Clone, Copy)]
struct Seen {
    incarnation: Incarnation,
    boot: BootId,
    process: Process,
    addr: SocketAddr,
}

/// The connections that peers have dialed.
#[derive(Default)]
struct Guests {
    next: u64,
    by_number: HashMap<u64, Guest>,
}

struct Guest {
    node: NodeId,
    incarnation: Incarnation,
    leave: CancellationToken,
}

impl Endpoint {
    pub(super) fn new(
        local: Local,
        key: Key,
        handler: Arc<dyn Handler>,
        options: Options,
        runtimes: Runtimes,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let twins = Twins::new(local.incarnation);
        Self {
            options,
            runtimes,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            local,
            key,
            handler,
            events,
            seen: Mutex::default(),
            known: Mutex::default(),
            twins,
            removed: Mutex::default(),
            expelled: watch::Sender::new(false),
            guests: Mutex::default(),
            refusals: Repeated::new(Level::WARN, "peer refused"),
            turned_away: Repeated::new(Level::WARN, "peer turned away: too many connections"),
        }
    }

    pub(super) fn node(&self) -> NodeId {
        self.local.node
    }

    /// Tells of an event, waiting for room.
    pub(super) async fn tell(&self, event: Event) {
        // Nobody listens any more: the node is stopping.
        let _ = self.events.send(event).await;
    }

    /// Takes a node for none any more, whatever it says.
    pub(super) fn remove(&self, node: NodeId) {
        self.removed.lock().insert(node);
        self.seen.lock().remove(&node);
        self.known.lock().remove(&node);
        self.twins.forget(node);
        // It connects again, and hears why it does not belong here.
        for guest in self.guests.lock().by_number.values() {
            if guest.node == node {
                guest.leave.cancel();
            }
        }
    }

    pub(super) fn has_removed(&self, node: NodeId) -> bool {
        self.removed.lock().contains(&node)
    }

    /// Takes note of where a known node is.
    pub(super) fn know(&self, node: NodeId, addr: SocketAddr) {
        self.known.lock().insert(node, addr.ip().to_canonical());
    }

    fn is_known(&self, from: IpAddr) -> bool {
        let from = from.to_canonical();
        self.known.lock().values().any(|known| *known == from)
    }

    /// Whether a connection stands that this node has dialed.
    pub(super) fn hears(&self, node: NodeId) -> bool {
        let guests = self.guests.lock();
        guests.by_number.values().any(|guest| guest.node == node)
    }

    /// Resolves when a peer, which has proven the secret, says that this node was removed.
    pub(super) async fn expelled(&self) {
        let mut expelled = self.expelled.subscribe();
        // The sender is self's, so it is there.
        let _ = expelled.wait_for(|expelled| *expelled).await;
    }

    /// Connects to an address and shakes hands with whoever is there.
    pub(super) async fn connect(
        &self,
        addr: SocketAddr,
        purpose: Purpose,
    ) -> Result<(TcpStream, PeerInfo), HelloError> {
        let after = self.options.connect_time;
        let stream = match timeout(after, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => return Err(HelloError::Connect { addr, source }),
            Err(_) => return Err(HelloError::TimedOut { addr, after }),
        };
        let after = self.options.handshake_time;
        let (stream, accepted) = timeout(after, self.introduce(stream, purpose))
            .await
            .map_err(|_| HelloError::TimedOut { addr, after })?
            .map_err(|failure| {
                match &failure {
                    Failure::Refused(Refusal::Removed(node)) if *node == self.local.node => {
                        self.expelled.send_replace(true);
                    }
                    Failure::Refused(Refusal::Twin {
                        node,
                        incarnation,
                        first,
                        addr,
                        met,
                    }) if *node == self.local.node => {
                        self.twins.found((*incarnation, *first), *addr, *met);
                    }
                    _ => {}
                }
                failure.at(addr)
            })?;
        let evidence = self
            .judge(&accepted.identity, Side::Dialer)
            .map_err(|reason| HelloError::Refused { addr, reason })?;
        if let Some(evidence) = evidence {
            self.tell(Event::Dead(evidence)).await;
        }
        let near = stream.local_addr();
        let near = near.map_err(|source| HelloError::Broken { addr, source })?;
        // Both ends: a relay may listen on the very address that its far end dials.
        let Ends { acceptor, dialer } = accepted.ends;
        let direct = socket::same(acceptor, addr) && socket::same(dialer, near);
        Ok((stream, PeerInfo::new(accepted.identity, direct)))
    }

    /// Accepts connections until the future is dropped. No error ends it.
    pub(super) async fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let places = Arc::new(Places::new(&self.options));
        let failures = Repeated::new(Level::WARN, "peer connections could not be accepted");
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    let endpoint = self.clone();
                    let place = places.take(from.ip(), self.is_known(from.ip()));
                    let admission = async move { endpoint.admit(stream, from, place).await };
                    self.tasks.spawn_on(admission, &self.runtimes.control);
                }
                Err(error) => {
                    if let Some(more) = failures.pass() {
                        warn!(error = %error, suppressed = more, "peer connections could not be accepted");
                    }
                    // Out of descriptors or memory: trying again at once would only burn time.
                    sleep(self.options.backoff_max).await;
                }
            }
        }
    }

    async fn introduce(
        &self,
        mut stream: TcpStream,
        purpose: Purpose,
    ) -> Result<(TcpStream, handshake::Accepted), Failure> {
        socket::prepare(&stream, self.options.silence_max)?;
        let (me, cluster) = (self.identity(), &self.local.cluster);
        let accepted = handshake::dial(&mut stream, &me, cluster, &self.key, purpose).await?;
        Ok((stream, accepted))
    }

    /// Shakes hands with a connection, then serves it until it is over, or until told to stop.
    async fn admit(self: &Arc<Self>, mut stream: TcpStream, from: SocketAddr, place: Place) {
        let mut evidence = None;
        let judge = |identity: &Identity| {
            evidence = self.judge(identity, Side::Acceptor)?;
            Ok(())
        };
        let shaken = async {
            socket::prepare(&stream, self.options.silence_max)?;
            let ends = Ends {
                acceptor: stream.local_addr()?,
                dialer: from,
            };
            let (me, cluster) = (self.identity(), &self.local.cluster);
            handshake::accept(&mut stream, ends, &me, cluster, &self.key, judge).await
        };
        let shaken = timeout(self.options.handshake_time, shaken);
        let shaken = tokio::select! {
            shaken = shaken => Some(shaken),
            () = place.given_up() => None,
            () = self.stop.cancelled() => None,
        };
        drop(place);
        if let Some(evidence) = evidence {
            self.tell(Event::Dead(evidence)).await;
        }
        let (identity, purpose) = match shaken {
            None => return,
            Some(Ok(Ok(shaken))) => shaken,
            Some(Ok(Err(failure))) => {
                if let Some(more) = self.refusals.pass() {
                    warn!(peer.addr = %from, reason = %failure, suppressed = more, "peer refused");
                }
                return;
            }
            Some(Err(_)) => return debug!(peer.addr = %from, "handshake timed out"),
        };
        let peer = PeerInfo::new(identity, false);
        match purpose {
            Purpose::Hello => {}
            Purpose::Control => self.serve(stream, peer).await,
            Purpose::Data => {
                // The socket moves to the reactor of the runtime that works on it.
                let endpoint = self.clone();
                let Ok(stream) = stream.into_std() else {
                    return;
                };
                let serve = async move {
                    let Ok(stream) = TcpStream::from_std(stream) else {
                        return;
                    };
                    endpoint.serve(stream, peer).await;
                };
                self.tasks.spawn_on(serve, &self.runtimes.data);
            }
        }
    }

    /// Serves a peer that has shaken hands.
    async fn serve(&self, stream: TcpStream, peer: PeerInfo) {
        let Some(guest) = self.enter(&peer) else {
            return;
        };
        let stream = Arc::new(stream);
        let served = server::serve(stream, &peer, &*self.handler, &self.options, &guest.leave);
        if let Err(error) = served.await {
            report(&error, &peer, "a peer's connection ended");
        }
    }

    fn enter(&self, peer: &PeerInfo) -> Option<Entered<'_>> {
        let mut guests = self.guests.lock();
        if guests.by_number.len() >= self.options.connections_max {
            if let Some(suppressed) = self.turned_away.pass() {
                warn!(node.id = %peer.node, suppressed, "peer turned away: too many connections");
            }
            return None;
        }
        let leave = self.stop.child_token();
        guests.next += 1;
        let number = guests.next;
        let (node, incarnation) = (peer.node, peer.incarnation);
        guests.by_number.insert(
            number,
            Guest {
                node,
                incarnation,
                leave: leave.clone(),
            },
        );
        Some(Entered {
            endpoint: self,
            number,
            leave,
        })
    }

    fn identity(&self) -> Identity {
        Identity {
            node: self.local.node,
            incarnation: self.local.incarnation,
            boot_id: self.local.boot_id,
            process: self.twins.this(),
            cluster_id: *self.local.cluster_id.borrow(),
            advertise: self.local.advertise,
            about: self.local.about.clone(),
        }
    }

    /// Decides whether a proven identity is one of our peers, and remembers it. Returns evidence if it
    /// shows that an earlier run is over.
    fn judge(&self, other: &Identity, me: Side) -> Result<Option<Evidence>, Refusal> {
        let ours: Option<ClusterId> = *self.local.cluster_id.borrow();
        if let (Some(ours), Some(theirs)) = (ours, other.cluster_id)
            && ours != theirs
        {
            let (acceptor, dialer) = match me {
                Side::Acceptor => (ours, theirs),
                Side::Dialer => (theirs, ours),
            };
            return Err(Refusal::OtherClusterId { acceptor, dialer });
        }
        if other.node == self.local.node {
            return Err(self.judge_own(other));
        }
        if self.has_removed(other.node) {
            return Err(Refusal::Removed(other.node));
        }
        let latest = Seen {
            incarnation: other.incarnation,
            boot: other.boot_id,
            process: other.process,
            addr: other.advertise,
        };
        let before = {
            let mut seen = self.seen.lock();
            let before = *seen.entry(other.node).or_insert(latest);
            if before.incarnation > other.incarnation {
                let (node, offered) = (other.node, other.incarnation);
                return Err(Refusal::StaleIncarnation {
                    node,
                    offered,
                    seen: before.incarnation,
                });
            }
            if before.incarnation == other.incarnation && before.process != other.process {
                self.twins.refuse(other.node, other.advertise, before.addr);
                return Err(Refusal::Twin {
                    node: other.node,
                    incarnation: other.incarnation,
                    first: before.process,
                    addr: before.addr,
                    met: false,
                });
            }
            seen.insert(other.node, latest);
            before
        };
        if before.incarnation == other.incarnation {
            return Ok(None);
        }
        for guest in self.guests.lock().by_number.values() {
            if guest.node == other.node && guest.incarnation < other.incarnation {
                guest.leave.cancel();
            }
        }
        let same_boot = before.boot == other.boot_id;
        let proof = Proof::NewerIncarnation {
            incarnation: other.incarnation,
            same_boot,
        };
        Ok(Some(Evidence {
            subject: (other.node, before.incarnation),
            proof,
        }))
    }
}

impl Endpoint {
    /// Why this node is no peer of its own: it is this process, or one that says to be it.
    fn judge_own(&self, other: &Identity) -> Refusal {
        if other.process == self.twins.this() {
            return Refusal::SameNode(other.node);
        }
        let theirs = (other.incarnation, other.process);
        self.twins.found(theirs, other.advertise, true);
        Refusal::Twin {
            node: other.node,
            incarnation: self.local.incarnation,
            first: self.twins.this(),
            addr: self.local.advertise,
            met: true,
        }
    }
}

#[derive(Clone, Copy)]
enum Side {
    Dialer,
    Acceptor,
}

/// A place among the guests, given back when dropped.
struct Entered<'a> {
    endpoint: &'a Endpoint,
    number: u64,
    leave: CancellationToken,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.endpoint.guests.lock().by_number.remove(&self.number);
    }
}

/// Logs how a connection ended: loudly only when it was a breach of the protocol.
pub(super) fn report(error: &io::Error, peer: &PeerInfo, what: &'static str) {
    if error.kind() == io::ErrorKind::InvalidData {
        warn!(node.id = %peer.node, peer.addr = %peer.addr, error = %error, "{what}");
    } else {
        debug!(node.id = %peer.node, peer.addr = %peer.addr, error = %error, "{what}");
    }
}
