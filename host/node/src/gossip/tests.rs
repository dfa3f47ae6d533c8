use bytes::Bytes;
use holdfast_model::{Incarnation, Labels, NodeId, Weight};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use uuid::Uuid;

use super::*;
use crate::{
    identity::{BootId, Secret},
    peer::{Handler, Kind, Local, NodeAbout, PeerInfo, Reply, Runtimes},
};

#[derive(Clone)]
struct Setup {
    cluster: ClusterName,
    cluster_id: ClusterId,
    secret: Secret,
    incarnation: Incarnation,
    node: NodeId,
}

struct Node {
    own: Member,
    handle: Handle,
    events: broadcast::Receiver<Event>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Setup {
    fn new() -> Self {
        Self {
            cluster: "test".parse().unwrap(),
            cluster_id: ClusterId(Uuid::from_u128(7)),
            secret: "a secret of the tests".parse().unwrap(),
            incarnation: Incarnation(1),
            node: NodeId::random(),
        }
    }

    async fn start(self) -> Node {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let own = Member {
            node: self.node,
            incarnation: self.incarnation,
            addr,
        };
        let key = self.secret.gossip_key(&self.cluster);
        let options = Options {
            probe_period: Duration::from_millis(100),
            probe_rtt: Duration::from_millis(40),
            suspicion: Duration::from_millis(200),
            announce_alone_min: Duration::from_millis(50),
            announce_alone_max: Duration::from_millis(100),
            ..Options::default()
        };
        let (gossip, handle) = Gossip::new(
            socket.into(),
            own,
            &self.cluster,
            self.cluster_id,
            &key,
            options,
            Connections {
                peers: crate::peer::tests::nobody(),
                delivered: Inbox::new().1,
            },
        )
        .unwrap();
        let (events, stop) = (handle.events(), CancellationToken::new());
        let running = tokio::spawn(gossip.run(stop.clone()));
        Node {
            own,
            handle,
            events,
            stop,
            running,
        }
    }
}

impl Node {
    /// Waits until exactly these others are up.
    async fn sees(&self, others: &[&Node]) {
        let mut expected: Vec<Member> = others.iter().map(|node| node.own).collect();
        expected.sort();
        let mut members = self.handle.members();
        let seen = members.wait_for(|members| **members == *expected);
        timeout(WAIT, seen).await.expect("members in time").unwrap();
    }

    async fn event(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let found = async {
            loop {
                let event = self.events.recv().await.unwrap();
                if wanted(&event) {
                    return event;
                }
            }
        };
        timeout(WAIT, found).await.expect("the event in time")
    }

    async fn counts(&self, what: &str, done: impl Fn(Counts) -> bool) {
        let deadline = Instant::now() + WAIT;
        while !done(self.handle.counts()) {
            assert!(Instant::now() < deadline, "waited in vain until {what}");
            sleep(Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test]
async fn three_nodes_find_each_other_through_one_seed_that_is_given_late() {
    let (mut a, b, c) = (
        Setup::new().start().await,
        Setup::new().start().await,
        Setup::new().start().await,
    );
    b.handle.announce(vec![a.own.addr]);
    a.sees(&[&b]).await;
    c.handle.announce(vec![a.own.addr]);
    a.sees(&[&b, &c]).await;
    b.sees(&[&a, &c]).await;
    c.sees(&[&a, &b]).await;
    let own = c.own;
    a.event(|event| *event == Event::Up(own)).await;
    assert!(a.handle.counts().foreign == 0 && a.handle.counts().refused == 0);
}

#[tokio::test]
async fn a_crash_is_suspected_and_leaving_is_told() {
    let (mut a, b, c) = (
        Setup::new().start().await,
        Setup::new().start().await,
        Setup::new().start().await,
    );
    b.handle.announce(vec![a.own.addr]);
    c.handle.announce(vec![a.own.addr]);
    a.sees(&[&b, &c]).await;
    b.sees(&[&a, &c]).await;
    b.running.abort();
    a.sees(&[&c]).await;
    let own = b.own;
    a.event(|event| *event == Event::Down(own)).await;
    c.stop.cancel();
    c.running.await.unwrap();
    a.sees(&[]).await;
}

#[tokio::test]
async fn a_restart_is_a_new_name_for_the_same_node() {
    let setup = Setup::new();
    let (mut a, b) = (Setup::new().start().await, setup.clone().start().await);
    b.handle.announce(vec![a.own.addr]);
    a.sees(&[&b]).await;
    b.running.abort();
    let again = Setup {
        incarnation: Incarnation(2),
        ..setup
    }
    .start()
    .await;
    again.handle.announce(vec![a.own.addr]);
    a.sees(&[&again]).await;
    let (from, to) = (b.own, again.own);
    // A busy machine may take longer than the suspicion lasts; the outcome is the same.
    let told = [Event::Renamed { from, to }, Event::Down(from)];
    a.event(|event| told.contains(event)).await;
}

#[tokio::test]
async fn a_node_with_another_secret_or_name_never_joins() {
    let a = Setup::new().start().await;
    for (n, other) in [
        Setup {
            secret: Secret::generate(),
            ..Setup::new()
        },
        Setup {
            cluster: "other".parse().unwrap(),
            ..Setup::new()
        },
    ]
    .into_iter()
    .enumerate()
    {
        let other = other.start().await;
        other.handle.announce(vec![a.own.addr]);
        a.counts("packets were dropped", |counts| {
            counts.foreign >= 3 * (n as u64 + 1)
        })
        .await;
        assert!(a.handle.members().borrow().is_empty());
        assert_eq!(other.handle.counts().received, 0, "it must get no answer");
    }
    assert_eq!(a.handle.counts().received, 0);
}

#[tokio::test]
async fn another_cluster_under_the_same_name_and_secret_is_reported() {
    let mut a = Setup::new().start().await;
    let other = ClusterId::random();
    let b = Setup {
        cluster_id: other,
        ..Setup::new()
    }
    .start()
    .await;
    b.handle.announce(vec![a.own.addr]);
    let from = b.own.addr;
    let event = a.event(|_| true).await;
    assert_eq!(event, Event::NameTaken { other, from });
    assert!(a.handle.members().borrow().is_empty());
}

/// Brings gossip that peers deliver to its inbox.
struct Deliver(Inbox);

impl Handler for Deliver {
    fn handle(&self, _: &PeerInfo, kind: Kind, payload: Bytes) -> Reply {
        assert_eq!(kind, DELIVER);
        self.0.take(&payload);
        Reply::Ready(Ok(Bytes::new()))
    }
}

/// A node whose port for peers takes connections, and where nothing takes UDP.
async fn start_without_udp() -> (Handle, Peers, Member) {
    let Setup {
        cluster,
        cluster_id,
        secret,
        node,
        incarnation,
    } = Setup::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (inbox, delivered) = Inbox::new();
    let local = Local {
        node,
        incarnation,
        boot_id: BootId(Uuid::from_u128(1)),
        cluster: cluster.clone(),
        cluster_id: watch::channel(Some(cluster_id)).1,
        advertise: addr,
        about: NodeAbout {
            http: addr,
            weight: Weight::MAX,
            zone: None,
            labels: Labels::default(),
            version: String::new(),
        },
    };
    let (key, handler) = (secret.handshake_key(&cluster), Arc::new(Deliver(inbox)));
    let options = crate::peer::Options::default();
    let (peers, mut events) = Peers::new(local, key, handler, options, Runtimes::current());
    tokio::spawn(peers.clone().run(listener, CancellationToken::new()));
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let own = Member {
        node,
        incarnation,
        addr,
    };
    // Another port than the one that is told.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap().into();
    let key = secret.gossip_key(&cluster);
    let options = Options::default();
    let (gossip, handle) = Gossip::new(
        socket,
        own,
        &cluster,
        cluster_id,
        &key,
        options,
        Connections {
            peers: peers.clone(),
            delivered,
        },
    )
    .unwrap();
    tokio::spawn(gossip.run(CancellationToken::new()));
    (handle, peers, own)
}

#[tokio::test]
async fn where_udp_gets_nowhere_gossip_goes_over_connections_and_both_ends_say_so() {
    let (a, of_a, own_a) = start_without_udp().await;
    let (b, of_b, own_b) = start_without_udp().await;
    of_a.update(own_b.node, own_b.incarnation, own_b.addr);
    of_b.update(own_a.node, own_a.incarnation, own_a.addr);
    for (handle, other) in [(&a, own_b), (&b, own_a)] {
        let mut members = handle.members();
        let seen = members.wait_for(|members| **members == [other]);
        timeout(WAIT, seen).await.expect("members in time").unwrap();
        let mut blocked = handle.blocked();
        let said = blocked.wait_for(|blocked| blocked.iter().any(|it| it.node == other.node));
        timeout(WAIT, said).await.expect("told in time").unwrap();
        assert!(handle.counts().delivered > 0);
    }
}

#[tokio::test]
async fn a_process_that_gossips_as_this_node_is_reported_by_it() {
    let setup = Setup::new();
    let (mut a, copy) = (setup.clone().start().await, setup.start().await);
    copy.handle.announce(vec![a.own.addr]);
    let addr = copy.own.addr;
    a.event(|event| *event == Event::Twin { addr }).await;
    assert!(a.handle.members().borrow().is_empty());
}

#[tokio::test]
async fn garbage_is_dropped_and_gossip_goes_on() {
    let a = Setup::new().start().await;
    let noise = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for bytes in [
        vec![],
        vec![0; 10],
        vec![0xff; 68],
        b"HFG\x01".repeat(40),
        vec![1; 60_000],
    ] {
        noise.send_to(&bytes, a.own.addr).await.unwrap();
    }
    a.counts("all are dropped", |counts| counts.foreign == 5)
        .await;
    // Sealed by a member, and still nonsense.
    let setup = Setup::new();
    let key = setup.secret.gossip_key(&setup.cluster);
    let seal = Seal::new(&setup.cluster, setup.cluster_id, &key);
    noise
        .send_to(&seal.close(b"nonsense"), a.own.addr)
        .await
        .unwrap();
    a.counts("it is refused", |counts| counts.refused == 1)
        .await;
    let b = Setup::new().start().await;
    b.handle.announce(vec![a.own.addr]);
    a.sees(&[&b]).await;
}

#[test]
fn every_bit_of_a_sealed_packet_counts() {
    let setup = Setup::new();
    let key = setup.secret.gossip_key(&setup.cluster);
    let seal = Seal::new(&setup.cluster, setup.cluster_id, &key);
    let packet = seal.close(b"hello");
    assert_eq!(packet.len(), seal::OVERHEAD + 5);
    assert_ne!(packet, seal.close(b"hello"), "the nonce is new each time");
    assert!(!packet.windows(5).any(|w| w == b"hello"));
    assert_eq!(seal.open(&mut packet.clone()), Opened::Ours(b"hello"));
    for bit in 0..packet.len() * 8 {
        let mut broken = packet.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(seal.open(&mut broken), Opened::Foreign, "bit {bit}");
    }
    for length in 0..packet.len() {
        assert_eq!(seal.open(&mut packet[..length].to_vec()), Opened::Foreign);
    }
}

const WAIT: Duration = Duration::from_secs(20);
