use std::{collections::HashSet, task::Poll};

use tokio::{io::AsyncReadExt, task::JoinSet};

use super::{super::frame, *};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_lanes_bring_answers_in_both_directions() {
    let (a, b) = pair().await;
    for lane in [Lane::Control, Lane::Data] {
        for kind in [ECHO, LATER] {
            assert_eq!(
                a.ask(&b, lane, kind, "hello".into()).await,
                Ok("hello".into())
            );
            assert_eq!(b.ask(&a, lane, kind, Bytes::new()).await, Ok(Bytes::new()));
        }
    }
    let answer = a.ask(&b, Lane::Data, FAIL, Bytes::new()).await;
    assert_eq!(answer, Err(CallError::Remote("no such thing".into())));
    let unknown = a
        .peers
        .call(NodeId::random(), Lane::Data, ECHO, Bytes::new(), WAIT)
        .await;
    assert!(matches!(unknown, Err(CallError::UnknownPeer(_))));
    let contacts = a.peers.connected();
    assert_eq!(contacts.len(), 1);
    let peer = &contacts[0].peer;
    assert_eq!(
        (peer.node, peer.addr, &peer.about),
        (b.setup.node, b.addr, &about())
    );
    assert!(peer.direct && contacts[0].quiet_for < WAIT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_calls_at_once_each_get_their_own_answer() {
    let (a, b) = pair().await;
    let mut calls = JoinSet::new();
    for i in 0..10_000_u32 {
        let (peers, node) = (a.peers.clone(), b.setup.node);
        calls.spawn(async move {
            let payload = Bytes::copy_from_slice(&i.to_le_bytes());
            let kind = if i % 2 == 0 { ECHO } else { LATER };
            let answer = peers
                .call(node, Lane::Data, kind, payload.clone(), WAIT)
                .await;
            assert_eq!(answer, Ok(payload));
            i
        });
    }
    let answered: HashSet<u32> = calls.join_all().await.into_iter().collect();
    assert_eq!(answered.len(), 10_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_that_blocks_its_thread_holds_up_no_other_of_its_connection() {
    let mut setup = Setup::new();
    setup.options.data_connections = std::num::NonZeroUsize::MIN;
    let (a, b) = (setup.start().await, Setup::new().start().await);
    a.knows(&b);
    let (peers, node) = (a.peers.clone(), b.setup.node);
    let blocked = tokio::spawn(async move {
        peers
            .call(node, Lane::Data, BLOCK, "slow".into(), WAIT)
            .await
    });
    while b.handler.handled.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    for kind in [ECHO, LATER, ECHO] {
        let answer = a.ask(&b, Lane::Data, kind, "quick".into()).await;
        assert_eq!(answer, Ok("quick".into()));
    }
    assert!(!blocked.is_finished());
    b.handler.released.store(true, SeqCst);
    assert_eq!(blocked.await.unwrap(), Ok("slow".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn big_payloads_pass_up_to_the_longest_frame() {
    let (a, b) = pair().await;
    let big: Bytes = (0..40 << 20)
        .map(|i: u32| i.wrapping_mul(31) as u8)
        .collect();
    for kind in [ECHO, LATER] {
        assert!(a.ask(&b, Lane::Data, kind, big.clone()).await == Ok(big.clone()));
    }
    let too_big = Bytes::from(vec![0; 80 << 20]);
    let answer = a.ask(&b, Lane::Data, ECHO, too_big).await;
    assert!(matches!(&answer, Err(CallError::NotSent { reason }) if reason.contains("83886080")));
    let answer = a
        .ask(&b, Lane::Data, GROW, Bytes::from(vec![0; 1 << 20]))
        .await;
    assert!(
        matches!(&answer, Err(CallError::Remote(why)) if why.contains("longer")),
        "{answer:?}"
    );
    assert_eq!(
        a.ask(&b, Lane::Data, ECHO, "after".into()).await,
        Ok("after".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_never_left_is_told_from_one_that_may_have_run() {
    let (a, b) = pair().await;
    assert!(a.ask(&b, Lane::Data, ECHO, Bytes::new()).await.is_ok());
    let (peers, node) = (a.peers.clone(), b.setup.node);
    let ask = |kind| {
        let peers = peers.clone();
        async move { peers.call(node, Lane::Data, kind, Bytes::new(), WAIT).await }
    };
    let hanging = tokio::spawn(ask(NEVER));
    wait_until("the call runs", || b.handler.begun.load(SeqCst) == 1).await;
    b.kill().await;
    let lost = hanging.await.unwrap().unwrap_err();
    assert_eq!((lost.clone(), lost.may_have_run()), (CallError::Lost, true));
    // Connections that have just broken may still be met; then there is nobody to connect to.
    let deadline = Instant::now() + WAIT;
    loop {
        let failed = ask(ECHO).await.unwrap_err();
        let refused =
            matches!(&failed, CallError::NotSent { reason } if reason.contains("refused"));
        assert!(!(refused && failed.may_have_run()));
        if refused {
            break;
        }
        assert!(Instant::now() < deadline, "{failed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_waits_for_a_peer_that_does_not_answer_no_longer_than_its_timeout() {
    let a = Setup::new().start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = NodeId::random();
    a.peers
        .update(node, Incarnation(1), silent.local_addr().unwrap());
    let short = Duration::from_millis(50);
    let answer = a
        .peers
        .call(node, Lane::Data, ECHO, Bytes::new(), short)
        .await;
    assert_eq!(answer, Err(CallError::TimedOut { sent: false }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn giving_up_a_call_drops_its_handler() {
    let (a, b) = pair().await;
    let dropped = || b.handler.dropped.load(SeqCst);
    // So that there is a connection, and what is asked is sent at once.
    a.ask(&b, Lane::Data, ECHO, Bytes::new()).await.unwrap();
    let short = Duration::from_secs(2);
    let answer = a
        .peers
        .call(b.setup.node, Lane::Data, NEVER, Bytes::new(), short)
        .await;
    assert_eq!(answer, Err(CallError::TimedOut { sent: true }));
    wait_until("the handler is dropped after the timeout", || {
        dropped() == 1
    })
    .await;

    let mut call = Box::pin(a.ask(&b, Lane::Control, NEVER, Bytes::new()));
    wait_until("the call runs", || {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(matches!(call.as_mut().poll(&mut context), Poll::Pending));
        b.handler.begun.load(SeqCst) == 2
    })
    .await;
    assert_eq!(dropped(), 1);
    drop(call);
    wait_until("the handler is dropped with the call", || dropped() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_connection_drops_its_handlers() {
    let (a, b) = pair().await;
    let mut call = Box::pin(a.ask(&b, Lane::Data, NEVER, Bytes::new()));
    let mut begun = Box::pin(wait_until("it runs", || b.handler.begun.load(SeqCst) == 1));
    tokio::select! {
        _ = &mut call => panic!("no answer was due"),
        () = &mut begun => {}
    }
    drop((call, begun));
    let (peers, node) = (a.peers.clone(), b.setup.node);
    let call = tokio::spawn(async move {
        peers
            .call(node, Lane::Data, NEVER, Bytes::new(), WAIT)
            .await
    });
    wait_until("it runs again", || b.handler.begun.load(SeqCst) == 2).await;
    a.kill().await;
    wait_until("both are dropped", || b.handler.dropped.load(SeqCst) == 2).await;
    assert_eq!(call.await.unwrap(), Err(CallError::Lost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_at_work_on_too_many_requests_says_busy_without_looking_at_more() {
    let mut setup = Setup::new();
    setup.options.requests_max = 1;
    let (a, b) = (Setup::new().start().await, setup.start().await);
    a.knows(&b);
    let (peers, node) = (a.peers.clone(), b.setup.node);
    let hanging = tokio::spawn(async move {
        peers
            .call(node, Lane::Control, NEVER, Bytes::new(), WAIT)
            .await
    });
    wait_until("it runs", || b.handler.begun.load(SeqCst) == 1).await;
    assert_eq!(
        a.ask(&b, Lane::Control, ECHO, Bytes::new()).await,
        Err(CallError::Busy)
    );
    assert_eq!(b.handler.handled.load(SeqCst), 1);
    hanging.abort();
    wait_until("it is dropped", || b.handler.dropped.load(SeqCst) == 1).await;
    assert_eq!(
        a.ask(&b, Lane::Control, ECHO, "x".into()).await,
        Ok("x".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_buffer_says_busy_and_its_unsent_part_never_ran() {
    let mut setup = Setup::new();
    setup.options.outgoing_bytes_max = 4 << 20;
    setup.options.data_connections = 1.try_into().unwrap();
    setup.options.silence_max = WAIT;
    let a = setup.start().await;
    // Shakes hands and then never reads.
    let (b, listener) = (
        Setup::new(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    a.peers
        .update(b.node, Incarnation(1), listener.local_addr().unwrap());
    let control = accept_by_hand(&listener, &b).await;
    let mut calls = JoinSet::new();
    let call = || {
        let (peers, node) = (a.peers.clone(), b.node);
        let payload = Bytes::from(vec![0; 1 << 20]);
        async move { peers.call(node, Lane::Data, ECHO, payload, WAIT).await }
    };
    calls.spawn(call());
    let mut data = accept_by_hand(&listener, &b).await;
    let busy = loop {
        calls.spawn(call());
        if let Ok(done) = timeout(Duration::from_millis(5), calls.join_next()).await {
            break done.unwrap().unwrap();
        }
        assert!(calls.len() < 200, "nothing ever was full");
    };
    assert_eq!(busy, Err(CallError::Busy));
    assert!(!busy.unwrap_err().may_have_run());
    a.peers.remove(b.node);
    let ends = calls.join_all().await;
    let lost = ends
        .iter()
        .filter(|end| **end == Err(CallError::Lost))
        .count();
    let not_sent = ends
        .iter()
        .filter(|e| matches!(e, Err(CallError::NotSent { .. })))
        .count();
    // What the socket took arrives after all: whole frames are those that may have run.
    let mut arrived = Vec::new();
    timeout(WAIT, data.read_to_end(&mut arrived))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(lost, arrived.len() / ((1 << 20) + frame::HEADER));
    let busy = ends
        .iter()
        .filter(|end| **end == Err(CallError::Busy))
        .count();
    assert!(lost >= 1 && not_sent >= 1, "{lost} {not_sent}");
    assert_eq!(lost + not_sent + busy, ends.len());
    drop(control);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_handler_fails_its_call_and_the_node_goes_on() {
    let (a, b) = pair().await;
    let answer = a.ask(&b, Lane::Data, PANIC_LATER, Bytes::new()).await;
    assert!(matches!(&answer, Err(CallError::Remote(why)) if why.contains("without an answer")));
    assert_eq!(
        a.ask(&b, Lane::Data, PANIC, Bytes::new()).await,
        Err(CallError::Lost)
    );
    assert_eq!(
        a.ask(&b, Lane::Control, ECHO, "x".into()).await,
        Ok("x".into())
    );
    assert_eq!(
        a.ask(&b, Lane::Data, ECHO, "x".into()).await,
        Ok("x".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_peer_is_unknown_its_calls_end_and_it_hears_why() {
    let (a, b) = pair().await;
    let (peers, node) = (a.peers.clone(), b.setup.node);
    let hanging = tokio::spawn(async move {
        peers
            .call(node, Lane::Data, NEVER, Bytes::new(), WAIT)
            .await
    });
    wait_until("it runs", || b.handler.begun.load(SeqCst) == 1).await;
    a.peers.remove(node);
    assert_eq!(hanging.await.unwrap(), Err(CallError::Lost));
    let answer = a.ask(&b, Lane::Data, ECHO, Bytes::new()).await;
    assert_eq!(answer, Err(CallError::UnknownPeer(node)));
    // Gossip may see it for a while.
    a.knows(&b);
    let answer = a.ask(&b, Lane::Data, ECHO, Bytes::new()).await;
    assert_eq!(answer, Err(CallError::UnknownPeer(node)));
    let told = timeout(WAIT, b.peers.expelled()).await;
    assert_eq!(told, Ok(()), "it connects again, and is refused");
    let others = timeout(Duration::from_millis(50), a.peers.expelled()).await;
    assert!(others.is_err(), "nobody has removed the other one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_run_that_is_over_end_though_its_process_stands_still() {
    let (a, b) = pair().await;
    let (node, incarnation) = (b.setup.node, b.setup.incarnation);
    let begin = |lane| {
        let peers = a.peers.clone();
        tokio::spawn(async move { peers.call(node, lane, NEVER, Bytes::new(), WAIT).await })
    };
    let begun = || b.handler.begun.load(SeqCst);
    let (hanging, control) = (begin(Lane::Data), begin(Lane::Control));
    wait_until("they run", || begun() == 2).await;
    a.peers.ended(node, Incarnation(incarnation.0 - 1));
    assert!(!hanging.is_finished());
    a.peers.ended(node, incarnation);
    assert_eq!(hanging.await.unwrap(), Err(CallError::Lost));
    assert!(!control.is_finished() && !a.peers.connected().is_empty());
    let answer = a.ask(&b, Lane::Data, ECHO, "x".into()).await;
    assert_eq!(
        answer,
        Ok("x".into()),
        "a process that goes on is reached anew"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_closes_the_listener_and_every_connection() {
    let (a, mut b) = pair().await;
    assert!(a.ask(&b, Lane::Data, ECHO, Bytes::new()).await.is_ok());
    assert!(matches!(b.event().await, Event::Connected(_)));
    a.stop.cancel();
    a.running.await.unwrap();
    assert!(TcpStream::connect(a.addr).await.is_err());
    assert!(matches!(b.event().await, Event::Lost { .. }));
    assert!(b.ask(&b, Lane::Data, ECHO, Bytes::new()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_lane_is_served_on_its_own_runtime() {
    let data = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("data-lane")
        .enable_all()
        .build()
        .unwrap();
    let setup = || Setup {
        data: Some(data.handle().clone()),
        ..Setup::new()
    };
    let (a, b) = (setup().start().await, setup().start().await);
    a.knows(&b);
    let thread = a.ask(&b, Lane::Data, THREAD, Bytes::new()).await;
    assert_eq!(thread, Ok("data-lane".into()));
    let thread = a.ask(&b, Lane::Control, THREAD, Bytes::new()).await;
    assert_ne!(thread.unwrap(), "data-lane");
    a.kill().await;
    b.kill().await;
    data.shutdown_background();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stops_answers_what_it_began_and_passes_over_the_rest() {
    let (a, b) = pair().await;
    let answered = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (peers, node) = (a.peers.clone(), b.setup.node);
        let answered = Arc::clone(&answered);
        // Calls until it gets no answer.
        callers.spawn(async move {
            loop {
                let payload = Bytes::from_static(&[7; 2_000]);
                match peers.call(node, Lane::Data, ECHO, payload, WAIT).await {
                    Ok(_) => answered.fetch_add(1, SeqCst),
                    Err(error) => return error,
                };
            }
        });
    }
    wait_until("calls are under way", || answered.load(SeqCst) > 500).await;
    b.stop.cancel();
    let ends = callers.join_all().await;
    let unsure: Vec<_> = ends.iter().filter(|end| end.may_have_run()).collect();
    assert_eq!(
        unsure,
        Vec::<&CallError>::new(),
        "each is answered, or was not looked at"
    );
    b.running.await.unwrap();
}
