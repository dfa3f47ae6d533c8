use super::{
    super::{Evidence, Proof},
    *,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_peer_is_proven_dead_once() {
    let (mut a, b) = pair().await;
    let addr = b.addr;
    assert!(matches!(a.event().await, Event::Connected(peer) if peer.direct));
    let setup = b.kill().await;
    let (node, incarnation) = (setup.node, setup.incarnation);
    assert_eq!(a.event().await, Event::Lost { node, incarnation });
    let proof = Proof::Refused { addr };
    let evidence = Evidence {
        subject: (node, incarnation),
        proof,
    };
    assert_eq!(a.event().await, Event::Dead(evidence));
    let failed = a.failures(node);
    wait_until("it was tried again", || a.failures(node) > failed + 2).await;
    let _b = setup.next().start().await;
    let Event::Dead(Evidence { proof, .. }) = a.event().await else {
        panic!("a newer run is a proof, too");
    };
    assert!(
        matches!(proof, Proof::NewerIncarnation { .. }),
        "the other one was not given twice"
    );
    assert!(matches!(a.event().await, Event::Connected(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_behind_something_else_is_not_proven_dead() {
    let (mut a, b) = (Setup::new().start().await, Setup::new().start().await);
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, to) = (proxy.local_addr().unwrap(), b.addr);
    let forwarding = tokio::spawn(async move {
        let (mut near, _) = proxy.accept().await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    let node = b.setup.node;
    a.peers.update(node, Incarnation(1), at);
    assert!(matches!(a.event().await, Event::Connected(peer) if !peer.direct));
    // Only what is in between goes away: the node lives.
    forwarding.abort();
    let _ = forwarding.await;
    assert!(matches!(a.event().await, Event::Lost { .. }));
    wait_until("it was refused often", || a.failures(node) > 5).await;
    a.peers.update(node, Incarnation(1), to);
    assert!(matches!(a.event().await, Event::Connected(peer) if peer.direct));
}

/// A tunnel listens on one host at the port that its far end dials on another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_on_the_same_address_as_the_peer_is_not_taken_for_it() {
    let mut a = Setup::new().start().await;
    let (listener, b) = (
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        Setup::new(),
    );
    let at = listener.local_addr().unwrap();
    a.peers.update(b.node, Incarnation(1), at);
    let relay = "127.0.0.1:9".parse().unwrap();
    let accepted = accept_from(&listener, &b, |_| relay).await;
    assert!(matches!(a.event().await, Event::Connected(peer) if !peer.direct));
    drop((accepted, listener));
    assert!(matches!(a.event().await, Event::Lost { .. }));
    wait_until("it was refused often", || a.failures(b.node) > 5).await;
    a.peers.remove(b.node);
    assert!(
        a.events.try_recv().is_err(),
        "refusals of a relay prove nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stops_without_closing_is_not_proven_dead() {
    let mut setup = Setup::new();
    setup.options.handshake_time = Duration::from_millis(100);
    let mut a = setup.start().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let held = listener.try_clone().unwrap();
    let b = Setup::new().start_on(TcpListener::from_std(listener).unwrap());
    a.knows(&b);
    assert!(matches!(a.event().await, Event::Connected(_)));
    // Connections break, but connecting goes on to succeed: nobody answers.
    let setup = b.kill().await;
    assert!(matches!(a.event().await, Event::Lost { .. }));
    wait_until("silence was met", || a.failures(setup.node) >= 2).await;
    // Refusals that come after silence are no proof any more.
    drop(held);
    let failed = a.failures(setup.node);
    wait_until("it was refused often", || {
        a.failures(setup.node) > failed + 4
    })
    .await;
    let _b = setup.next().start().await;
    assert!(matches!(
        a.event().await,
        Event::Dead(Evidence {
            proof: Proof::NewerIncarnation { .. },
            ..
        })
    ));
    assert!(matches!(a.event().await, Event::Connected(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_never_connected_is_not_proven_dead() {
    let mut a = Setup::new().start().await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let setup = Setup {
        bind: gone.local_addr().unwrap(),
        ..Setup::new()
    };
    drop(gone);
    a.peers.update(setup.node, setup.incarnation, setup.bind);
    wait_until("it was refused often", || a.failures(setup.node) > 5).await;
    let _b = setup.start().await;
    assert!(matches!(a.event().await, Event::Connected(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_run_proves_the_end_of_the_one_before() {
    for same_boot in [true, false] {
        let mut a = Setup::new().start().await;
        let old = Setup::new().start().await;
        let node = old.setup.node;
        old.peers.hello(a.addr).await.unwrap();
        let boot_id = if same_boot {
            old.setup.boot_id
        } else {
            BootId(Uuid::from_u128(2))
        };
        let new = Setup {
            incarnation: Incarnation(3),
            boot_id,
            ..old.setup.clone()
        };
        let new = new.start().await;
        new.peers.hello(a.addr).await.unwrap();
        let proof = Proof::NewerIncarnation {
            incarnation: Incarnation(3),
            same_boot,
        };
        let evidence = Evidence {
            subject: (node, Incarnation(1)),
            proof,
        };
        assert_eq!(a.event().await, Event::Dead(evidence));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_of_an_older_run_do_not_move_a_peer() {
    let (a, b) = (Setup::new().start().await, Setup::new().start().await);
    a.peers.update(b.setup.node, Incarnation(1), b.addr);
    a.peers
        .update(b.setup.node, Incarnation(0), "127.0.0.1:1".parse().unwrap());
    assert_eq!(
        a.ask(&b, Lane::Control, ECHO, "x".into()).await,
        Ok("x".into())
    );
}
