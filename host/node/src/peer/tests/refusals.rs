use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    super::{Refusal, recognize},
    *,
};

/// What `asking` hears from `asked`.
async fn refusal(asking: &Node, asked: &Node) -> Refusal {
    match asking.peers.hello(asked.addr).await {
        Err(HelloError::Refused { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_hello_tells_who_is_there_and_a_joiner_learns_the_cluster() {
    let joiner = Setup {
        cluster_id: None,
        ..Setup::new()
    }
    .start()
    .await;
    let member = Setup::new().start().await;
    let met = joiner.peers.hello(member.addr).await.unwrap();
    assert_eq!(
        (met.node, met.cluster_id),
        (member.setup.node, member.setup.cluster_id)
    );
    assert!(met.direct);
    let met = member.peers.hello(joiner.addr).await.unwrap();
    assert_eq!(met.cluster_id, None);
    joiner.cluster_id.send_replace(member.setup.cluster_id);
    let met = member.peers.hello(joiner.addr).await.unwrap();
    assert_eq!(met.cluster_id, member.setup.cluster_id);
}

#[tokio::test]
async fn a_node_of_another_cluster_name_is_refused_with_both_names() {
    let a = Setup::new().start().await;
    // Another secret as well: the name is the better explanation.
    let other = Setup {
        cluster: "other".parse().unwrap(),
        secret: Secret::generate(),
        ..Setup::new()
    };
    let b = other.start().await;
    let reason = refusal(&b, &a).await;
    let (acceptor, dialer) = ("test".parse().unwrap(), "other".parse().unwrap());
    assert_eq!(reason, Refusal::OtherCluster { acceptor, dialer });
    let text = reason.to_string();
    assert!(text.contains("test") && text.contains("other"), "{text}");
}

#[tokio::test]
async fn whoever_asks_learns_which_cluster_a_node_is_of_and_nothing_else_passes_for_one() {
    let node = Setup::new().start().await;
    for pretended in ["another", "test"] {
        let cluster = recognize(node.addr, &pretended.parse().unwrap()).await;
        assert_eq!(cluster.unwrap().as_str(), "test");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let web = tokio::spawn(async move {
        for answer in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            b"HFPR\xff\xff\0\0",
        ] {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(answer).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    let pretended = "another".parse().unwrap();
    let web_server = recognize(addr, &pretended).await;
    assert!(matches!(web_server, Err(HelloError::NotHoldfast { .. })));
    let newer = recognize(addr, &pretended).await.unwrap_err();
    let HelloError::Refused { reason, .. } = newer else {
        panic!("{newer:?}");
    };
    assert!(matches!(
        reason,
        Refusal::Version {
            acceptor: 0xffff,
            ..
        }
    ));
    web.await.unwrap();
    let gone = recognize(addr, &pretended).await;
    assert!(matches!(gone, Err(HelloError::Connect { .. })));
}

#[tokio::test]
async fn a_node_of_another_cluster_id_is_refused_with_both_ids() {
    let a = Setup::new().start().await;
    let id = ClusterId::random();
    let b = Setup {
        cluster_id: Some(id),
        ..Setup::new()
    }
    .start()
    .await;
    let acceptor = a.setup.cluster_id.unwrap();
    assert_eq!(
        refusal(&b, &a).await,
        Refusal::OtherClusterId {
            acceptor,
            dialer: id
        }
    );
}

#[tokio::test]
async fn a_node_with_another_secret_is_refused_in_both_directions() {
    let a = Setup::new().start().await;
    let b = Setup {
        secret: Secret::generate(),
        ..Setup::new()
    }
    .start()
    .await;
    assert_eq!(refusal(&b, &a).await, Refusal::WrongSecret);
    assert_eq!(refusal(&a, &b).await, Refusal::WrongSecret);
    b.knows(&a);
    let answer = b.ask(&a, Lane::Control, ECHO, Bytes::new()).await;
    assert!(matches!(&answer, Err(CallError::NotSent { reason }) if reason.contains("secret")));
    assert_eq!(a.handler.handled.load(SeqCst), 0);
}

#[tokio::test]
async fn a_node_refuses_itself_and_its_copy_and_both_know_which_one_is_the_later() {
    let a = Setup::new().start().await;
    let node = a.setup.node;
    assert_eq!(refusal(&a, &a).await, Refusal::SameNode(node));
    assert_eq!(*a.peers.twin().borrow(), None);
    let copy = Setup {
        node,
        ..Setup::new()
    }
    .start()
    .await;
    let refused = refusal(&copy, &a).await;
    assert!(
        matches!(refused, Refusal::Twin { met: true, .. }),
        "{refused:?}"
    );
    let (of_a, of_copy) = (*a.peers.twin().borrow(), *copy.peers.twin().borrow());
    let (of_a, of_copy) = (of_a.unwrap(), of_copy.unwrap());
    assert!(of_a.met && of_copy.met);
    assert_eq!((of_a.addr, of_copy.addr), (copy.addr, a.addr));
    assert_ne!(of_a.this_is_later, of_copy.this_is_later);
}

#[tokio::test]
async fn of_two_processes_under_one_run_the_one_that_was_met_first_is_the_node() {
    let witness = Setup::new().start().await;
    let first = Setup::new().start().await;
    let node = first.setup.node;
    first.peers.hello(witness.addr).await.unwrap();
    let copy = Setup {
        node,
        ..Setup::new()
    }
    .start()
    .await;
    let refused = refusal(&copy, &witness).await;
    assert!(
        matches!(refused, Refusal::Twin { met: false, .. }),
        "{refused:?}"
    );
    let told = copy.peers.twin().borrow().unwrap();
    assert!(!told.met && told.addr == first.addr);
    assert_eq!(witness.peers.refused_twin(node), Some(copy.addr));
    // The other way round, too.
    let refused = refusal(&witness, &copy).await;
    assert!(matches!(refused, Refusal::Twin { .. }), "{refused:?}");
    first.peers.hello(witness.addr).await.unwrap();
    // A run that follows is the node, whichever of the two it came from.
    copy.kill().await;
    let next = Setup {
        node,
        incarnation: Incarnation(2),
        ..Setup::new()
    }
    .start()
    .await;
    next.peers.hello(witness.addr).await.unwrap();
}

#[tokio::test]
async fn who_connects_and_says_nothing_keeps_no_peer_out() {
    let patient = Setup {
        options: Options {
            handshake_time: 10 * WAIT,
            ..Options::default()
        },
        ..Setup::new()
    };
    let (node, peer) = (patient.start().await, Setup::new().start().await);
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(node.addr).await.unwrap());
    }
    let greeted = timeout(WAIT, peer.peers.hello(node.addr));
    assert!(greeted.await.expect("a handshake in time").is_ok());
    // The oldest were given up.
    let mut byte = [0];
    let read = timeout(WAIT, silent[0].read(&mut byte));
    assert!(!matches!(read.await.expect("an end"), Ok(1..)));
}

#[tokio::test]
async fn why_a_peer_is_not_reached_is_known_for_as_long_as_it_is_not() {
    let (node, peer) = (Setup::new().start().await, Setup::new().start().await);
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = nowhere.local_addr().unwrap();
    drop(nowhere);
    let (id, run) = (peer.setup.node, peer.setup.incarnation);
    node.peers.update(id, run, addr);
    wait_until("it is not reached", || node.peers.unreached(id).is_some()).await;
    let unreached = node.peers.unreached(id).unwrap();
    assert_eq!(unreached.addr, addr);
    assert!(unreached.reason.contains("connect to"), "{unreached:?}");
    assert_eq!(node.peers.one_sided(), [], "nothing comes from there");
    peer.knows(&node);
    wait_until("it is heard", || !node.peers.one_sided().is_empty()).await;
    node.peers.update(id, run, peer.addr);
    wait_until("it is reached", || node.peers.unreached(id).is_none()).await;
}

#[tokio::test]
async fn a_run_that_is_over_is_refused_by_dialer_and_acceptor() {
    let a = Setup::new().start().await;
    let new = Setup {
        incarnation: Incarnation(5),
        ..Setup::new()
    };
    let old = Setup {
        incarnation: Incarnation(4),
        ..new.clone()
    };
    let node = new.node;
    let (new, old) = (new.start().await, old.start().await);
    new.peers.hello(a.addr).await.unwrap();
    let expected = Refusal::StaleIncarnation {
        node,
        offered: Incarnation(4),
        seen: Incarnation(5),
    };
    assert_eq!(refusal(&old, &a).await, expected);
    assert_eq!(refusal(&a, &old).await, expected);
    new.peers.hello(a.addr).await.unwrap();
}

#[tokio::test]
async fn another_node_at_the_address_is_not_taken_for_the_peer() {
    let (a, b) = (Setup::new().start().await, Setup::new().start().await);
    let expected = NodeId::random();
    a.peers.update(expected, Incarnation(1), b.addr);
    let answer = a
        .peers
        .call(expected, Lane::Data, ECHO, Bytes::new(), WAIT)
        .await;
    let text = answer.unwrap_err().to_string();
    assert!(text.contains(&expected.to_string()), "{text}");
    assert!(text.contains(&b.setup.node.to_string()), "{text}");
}

#[tokio::test]
async fn versions_are_compared_before_anything_else() {
    let a = Setup::new().start().await;
    let mut newer = TcpStream::connect(a.addr).await.unwrap();
    newer.write_all(b"HFPR\x09\x00\x03\x00abc").await.unwrap();
    let mut answer = Vec::new();
    newer.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, message(&[]));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let answering = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HFPR\x09\x00\x00\x00").await.unwrap();
        stream
    });
    let error = a.peers.hello(addr).await.unwrap_err();
    let expected = Refusal::Version {
        acceptor: 9,
        dialer: handshake::VERSION,
    };
    assert!(matches!(error, HelloError::Refused { reason, .. } if reason == expected));
    drop(answering.await);
}

#[tokio::test]
async fn what_is_no_peer_is_named_and_what_is_silent_times_out() {
    let a = Setup::new().start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let web = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        (stream, listener)
    });
    let error = a.peers.hello(addr).await.unwrap_err();
    assert!(matches!(error, HelloError::NotHoldfast { .. }), "{error:?}");
    let _open = web.await.unwrap();
    let mut impatient = Setup::new();
    impatient.options.handshake_time = Duration::from_millis(100);
    let impatient = impatient.start().await;
    let error = impatient.peers.hello(addr).await.unwrap_err();
    assert!(matches!(error, HelloError::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn without_the_secret_nothing_but_a_refusal_comes_back() {
    let a = Setup::new().start().await;
    let mut stream = TcpStream::connect(a.addr).await.unwrap();
    let hello = [
        &b"\x01\x82\xa7cluster\xa4test\xa5nonce\xc4\x20"[..],
        &[0; 32],
    ]
    .concat();
    send(&mut stream, &hello).await;
    let challenge = receive(&mut stream).await;
    let nonce = challenge.strip_prefix(NONCE).map(<[u8]>::len);
    assert_eq!(nonce, Some(32), "a nonce and nothing else");
    send(&mut stream, &[7; 200]).await;
    let verdict = receive(&mut stream).await;
    // No MAC that could be used to guess the secret.
    assert_eq!(verdict, [&[0; 32][..], WRONG_SECRET].concat());
    let mut rest = Vec::new();
    assert_eq!(stream.read_to_end(&mut rest).await.unwrap(), 0);
}

#[tokio::test]
async fn a_recorded_handshake_opens_nothing() {
    let a = Setup::new().start().await;
    // A peer's handshake and its first request, as somebody on the way would record them.
    let wire = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tapped = wire.local_addr().unwrap();
    let to = a.addr;
    let tap = tokio::spawn(async move {
        let (mut near, _) = wire.accept().await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        let mut sent = Vec::new();
        for _ in 0..2 {
            let message = receive(&mut near).await;
            sent.push(message.clone());
            send(&mut far, &message).await;
            let answer = receive(&mut far).await;
            send(&mut near, &answer).await;
        }
        sent
    });
    dial_by_hand(tapped, &Setup::new(), Purpose::Control).await;
    let recorded = tap.await.unwrap();

    let mut attacker = TcpStream::connect(a.addr).await.unwrap();
    for message in &recorded {
        send(&mut attacker, message).await;
        let answer = receive(&mut attacker).await;
        if !answer.starts_with(NONCE) {
            assert_eq!(answer, [&[0; 32][..], WRONG_SECRET].concat());
        }
    }
    let frame = super::super::frame::header(super::super::frame::Type::Request, 1, ECHO, 0);
    let _ = attacker.write_all(&frame).await;
    let mut rest = Vec::new();
    let _ = attacker.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    assert_eq!(a.handler.handled.load(SeqCst), 0);
}

#[tokio::test]
async fn a_proof_cannot_be_mirrored() {
    // Somebody without the secret echoes each message back to the dialer.
    let a = Setup::new().start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mirror = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        receive(&mut stream).await;
        send(&mut stream, &[NONCE, &[9; 32]].concat()).await;
        let proof = receive(&mut stream).await;
        send(&mut stream, &proof).await;
        stream
    });
    let error = a.peers.hello(addr).await.unwrap_err();
    let wrong = matches!(
        error,
        HelloError::Refused {
            reason: Refusal::WrongSecret,
            ..
        }
    );
    assert!(wrong);
    drop(mirror.await);
}

/// What is before the nonce of an acceptor, and its verdict on a wrong secret: they stay as they are.
const NONCE: &[u8] = b"\x01\x81\xa5Nonce\xc4\x20";
const WRONG_SECRET: &[u8] = b"\x01\x81\xa7Refused\xabWrongSecret";

/// A message of the handshake as it is on the wire.
fn message(body: &[u8]) -> Vec<u8> {
    let version = handshake::VERSION.to_le_bytes();
    let length = u16::try_from(body.len()).unwrap().to_le_bytes();
    [&b"HFPR"[..], &version, &length, body].concat()
}

async fn send(stream: &mut TcpStream, body: &[u8]) {
    stream.write_all(&message(body)).await.unwrap();
}

async fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let mut prefix = [0; 8];
    stream.read_exact(&mut prefix).await.unwrap();
    let mut body = vec![0; usize::from(u16::from_le_bytes([prefix[6], prefix[7]]))];
    stream.read_exact(&mut body).await.unwrap();
    body
}
