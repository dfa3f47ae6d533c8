//! What a forwarded call costs, by how its handler runs: `cargo bench --workspace --bench forward`.
//!
//! Two ends of a connection over loopback, in one process. Compare ratios, not absolute numbers. What a
//! whole call with a large body costs over the hop: `--bench invokes -- --body-bytes 65536`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use holdfast::{
    identity::{BootId, Secret},
    peer::{Handler, Kind, Lane, Local, NodeAbout, Options, PeerInfo, Peers, Reply, Runtimes},
};
use holdfast_model::{ClusterId, Incarnation, Labels, NodeId, Weight};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The ways in which a handler may run, and their kinds.
const WAYS: [(Kind, &str); 3] = [
    (Kind(1), "at once, on the reading task"),
    (Kind(2), "polled first, on the reading task"),
    (Kind(3), "on a task of its own"),
];

/// Answers with what it got.
struct Echo;

impl Handler for Echo {
    fn handle(&self, _: &PeerInfo, kind: Kind, payload: Bytes) -> Reply {
        match kind.0 {
            1 => Reply::Ready(Ok(payload)),
            2 => Reply::Pending(Box::pin(async move { Ok(payload) })),
            _ => Reply::Task(Box::pin(async move { Ok(payload) })),
        }
    }
}

fn main() {
    let tokio = tokio::runtime::Runtime::new().expect("threads can be started");
    let measured = tokio.spawn(measure());
    tokio.block_on(measured).expect("the bench runs to its end");
}

async fn measure() {
    let (caller, _) = start(1).await;
    let (_callee, addr) = start(2).await;
    caller.update(node(2), Incarnation(1), addr);
    for (in_flight, body_bytes) in [(1, 200), (64, 200), (1, 64 << 10), (64, 64 << 10)] {
        let mut rates = [const { Vec::new() }; WAYS.len()];
        // In turn, so that what else the machine does hits all of them.
        for _ in 0..ROUNDS {
            for ((kind, _), rates) in WAYS.iter().zip(&mut rates) {
                rates.push(rate(&caller, *kind, in_flight, body_bytes).await);
            }
        }
        let medians = rates.map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates[ROUNDS / 2]
        });
        for ((_, way), rate) in WAYS.iter().zip(medians) {
            let ratio = rate / medians[1];
            println!(
                "{in_flight:2} in flight, {body_bytes} bytes, {way}: {rate:.0} calls/s, {ratio:.2} of polled first"
            );
        }
    }
}

/// Calls per second.
async fn rate(caller: &Peers, kind: Kind, in_flight: usize, body_bytes: usize) -> f64 {
    let body = Bytes::from(vec![b'x'; body_bytes]);
    let calls = if body_bytes > 1_000 {
        CALLS / 10
    } else {
        CALLS
    };
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..in_flight {
        let (caller, body) = (caller.clone(), body.clone());
        callers.spawn(async move {
            for _ in 0..calls / in_flight {
                let payload = body.clone();
                let answer = caller.call(node(2), Lane::Data, kind, payload, WAIT).await;
                answer.expect("an echo");
            }
        });
    }
    callers.join_all().await;
    calls as f64 / begun.elapsed().as_secs_f64()
}

async fn start(number: u128) -> (Peers, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("loopback has a free port");
    let addr = listener.local_addr().expect("it is bound");
    let cluster = "bench".parse().expect("it is a name");
    let secret: Secret = "a secret of the bench".parse().expect("it is long enough");
    let key = secret.handshake_key(&cluster);
    let (_, cluster_id) = watch::channel(Some(ClusterId(Uuid::from_u128(7))));
    let local = Local {
        node: node(number),
        incarnation: Incarnation(1),
        boot_id: BootId(Uuid::from_u128(1)),
        cluster,
        cluster_id,
        advertise: addr,
        about: NodeAbout {
            http: addr,
            weight: Weight::MAX,
            zone: None,
            labels: Labels::default(),
            version: String::new(),
        },
    };
    let runtimes = Runtimes::current();
    let (peers, mut events) = Peers::new(local, key, Arc::new(Echo), Options::default(), runtimes);
    tokio::spawn(peers.clone().run(listener, CancellationToken::new()));
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    (peers, addr)
}

fn node(number: u128) -> NodeId {
    NodeId(Uuid::from_u128(number))
}

const CALLS: usize = 64_000;
const ROUNDS: usize = 7;
const WAIT: Duration = Duration::from_secs(20);
