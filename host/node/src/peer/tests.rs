//! Real nodes over loopback sockets.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use holdfast_model::{ClusterId, ClusterName, Incarnation, Labels, NodeId, Weight};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    CallError, Event, Handler, HelloError, Kind, Lane, Local, NodeAbout, Options, PeerInfo, Peers,
    Reply, Runtimes,
    handshake::{self, Ends, Purpose},
    info::Identity,
};
use crate::identity::{BootId, Key, Secret};

mod calls;
mod deaths;
mod frames;
mod refusals;

/// What a node of a test is made of; each test changes what it is about.
#[derive(Clone)]
struct Setup {
    node: NodeId,
    incarnation: Incarnation,
    boot_id: BootId,
    cluster: ClusterName,
    cluster_id: Option<ClusterId>,
    secret: Secret,
    bind: SocketAddr,
    options: Options,
    /// Where the data lane runs, if not with the rest.
    data: Option<Handle>,
}

struct Node {
    peers: Peers,
    events: mpsc::Receiver<Event>,
    addr: SocketAddr,
    setup: Setup,
    handler: Arc<Echo>,
    cluster_id: watch::Sender<Option<ClusterId>>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

/// Answers with what it got, at once, later, or never.
#[derive(Default)]
struct Echo {
    handled: AtomicUsize,
    /// Futures of `NEVER` that were begun and dropped.
    begun: AtomicUsize,
    dropped: Arc<AtomicUsize>,
    /// Lets the tasks of `BLOCK` go on.
    released: Arc<AtomicBool>,
}

const ECHO: Kind = Kind(1);
const LATER: Kind = Kind(2);
const NEVER: Kind = Kind(3);
const FAIL: Kind = Kind(4);
const PANIC: Kind = Kind(5);
const PANIC_LATER: Kind = Kind(6);
const GROW: Kind = Kind(7);
const THREAD: Kind = Kind(8);
const BLOCK: Kind = Kind(9);
const WAIT: Duration = Duration::from_secs(20);

impl Handler for Echo {
    fn handle(&self, _peer: &PeerInfo, kind: Kind, payload: Bytes) -> Reply {
        self.handled.fetch_add(1, SeqCst);
        match kind {
            ECHO => Reply::Ready(Ok(payload)),
            LATER => Reply::Pending(Box::pin(async move {
                tokio::task::yield_now().await;
                Ok(payload)
            })),
            NEVER => {
                self.begun.fetch_add(1, SeqCst);
                let counted = Counted(self.dropped.clone());
                Reply::Pending(Box::pin(async move {
                    let _counted = counted;
                    std::future::pending().await
                }))
            }
            FAIL => Reply::Ready(Err("no such thing".into())),
            THREAD => {
                let thread = std::thread::current();
                Reply::Ready(Ok(thread.name().unwrap_or_default().to_owned().into()))
            }
            PANIC => panic!("asked to"),
            PANIC_LATER => Reply::Pending(Box::pin(async {
                tokio::task::yield_now().await;
                panic!("asked to")
            })),
            BLOCK => {
                let released = self.released.clone();
                Reply::Task(Box::pin(async move {
                    // As the runtime does it with a guest that computes: the other tasks of this
                    // thread go on elsewhere.
                    tokio::task::block_in_place(|| {
                        let deadline = std::time::Instant::now() + 3 * WAIT;
                        while !released.load(SeqCst) && std::time::Instant::now() < deadline {
                            std::thread::yield_now();
                        }
                    });
                    Ok(payload)
                }))
            }
            GROW => Reply::Ready(Ok(Bytes::from(vec![0; payload.len() * 100]))),
            kind => Reply::Ready(Err(format!("unknown kind {}", kind.0))),
        }
    }
}

/// Those of a node that reaches nobody, for tests of what is above this module.
pub(crate) fn nobody() -> Peers {
    let setup = Setup::new();
    let (_, cluster_id) = watch::channel(setup.cluster_id);
    let (peers, _) = setup.peers(setup.bind, cluster_id, Arc::default());
    peers
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Setup {
    fn new() -> Self {
        Self {
            node: NodeId::random(),
            incarnation: Incarnation(1),
            boot_id: BootId(Uuid::from_u128(1)),
            cluster: "test".parse().unwrap(),
            cluster_id: Some(ClusterId(Uuid::from_u128(7))),
            secret: "a secret of the tests".parse().unwrap(),
            bind: "127.0.0.1:0".parse().unwrap(),
            options: Options {
                handshake_time: Duration::from_secs(10),
                ..Options::default()
            },
            data: None,
        }
    }

    fn key(&self) -> Key {
        self.secret.handshake_key(&self.cluster)
    }

    fn identity(&self) -> Identity {
        Identity {
            node: self.node,
            incarnation: self.incarnation,
            boot_id: self.boot_id,
            process: super::twin::Process::of_test(1),
            cluster_id: self.cluster_id,
            advertise: "127.0.0.1:9".parse().unwrap(),
            about: about(),
        }
    }

    /// What runs on a listener at this address.
    fn peers(
        &self,
        advertise: SocketAddr,
        cluster_id: watch::Receiver<Option<ClusterId>>,
        handler: Arc<Echo>,
    ) -> (Peers, mpsc::Receiver<Event>) {
        let local = Local {
            node: self.node,
            incarnation: self.incarnation,
            boot_id: self.boot_id,
            cluster: self.cluster.clone(),
            cluster_id,
            advertise,
            about: about(),
        };
        let runtimes = Runtimes {
            control: Handle::current(),
            data: self.data.clone().unwrap_or_else(Handle::current),
        };
        Peers::new(local, self.key(), handler, self.options.clone(), runtimes)
    }

    /// The next run of the same node.
    fn next(self) -> Self {
        Self {
            incarnation: Incarnation(self.incarnation.0 + 1),
            ..self
        }
    }

    async fn start(self) -> Node {
        let listener = TcpListener::bind(self.bind).await.unwrap();
        self.start_on(listener)
    }

    fn start_on(self, listener: TcpListener) -> Node {
        let addr = listener.local_addr().unwrap();
        let (cluster_id, known) = watch::channel(self.cluster_id);
        let handler = Arc::new(Echo::default());
        let (peers, events) = self.peers(addr, known, handler.clone());
        let stop = CancellationToken::new();
        let running = tokio::spawn(peers.clone().run(listener, stop.clone()));
        Node {
            peers,
            events,
            addr,
            setup: self,
            handler,
            cluster_id,
            stop,
            running,
        }
    }
}

impl Node {
    fn knows(&self, other: &Node) {
        self.peers
            .update(other.setup.node, other.setup.incarnation, other.addr);
    }

    async fn ask(&self, other: &Node, lane: Lane, kind: Kind, payload: Bytes) -> Asked {
        self.peers
            .call(other.setup.node, lane, kind, payload, WAIT)
            .await
    }

    async fn event(&mut self) -> Event {
        timeout(WAIT, self.events.recv())
            .await
            .expect("an event in time")
            .expect("a live node")
    }

    /// Ends it as a crash would: listener and connections go, nobody is told.
    async fn kill(self) -> Setup {
        self.running.abort();
        let _ = self.running.await;
        self.peers.close().await;
        Setup {
            bind: self.addr,
            ..self.setup
        }
    }

    fn failures(&self, node: NodeId) -> u32 {
        self.peers.book.read()[&node].control.failures.load(SeqCst)
    }
}

type Asked = Result<Bytes, CallError>;

fn about() -> NodeAbout {
    NodeAbout {
        http: "127.0.0.1:7300".parse().unwrap(),
        weight: Weight::MAX,
        zone: Some("z1".parse().unwrap()),
        labels: Labels::default(),
        version: "0.1.0".into(),
    }
}

/// Two nodes that know each other.
async fn pair() -> (Node, Node) {
    let (a, b) = (Setup::new().start().await, Setup::new().start().await);
    a.knows(&b);
    b.knows(&a);
    (a, b)
}

/// A peer made by hand: connects and shakes hands, the rest is up to the test.
async fn dial_by_hand(to: SocketAddr, setup: &Setup, purpose: Purpose) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let (me, key) = (setup.identity(), setup.key());
    handshake::dial(&mut stream, &me, &setup.cluster, &key, purpose)
        .await
        .unwrap();
    stream
}

/// The other way round: accepts one connection and shakes hands.
async fn accept_by_hand(listener: &TcpListener, setup: &Setup) -> TcpStream {
    accept_from(listener, setup, |from| from).await
}

/// The same, but with its own idea of where the connection came from.
async fn accept_from(
    listener: &TcpListener,
    setup: &Setup,
    from: impl FnOnce(SocketAddr) -> SocketAddr,
) -> TcpStream {
    let (mut stream, dialer) = listener.accept().await.unwrap();
    let ends = Ends {
        acceptor: stream.local_addr().unwrap(),
        dialer: from(dialer),
    };
    let (me, key) = (setup.identity(), setup.key());
    handshake::accept(&mut stream, ends, &me, &setup.cluster, &key, |_| Ok(()))
        .await
        .unwrap();
    stream
}

async fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
