use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    super::frame::{self, Frame, Malformed, Type, header},
    *,
};

#[test]
fn frames_survive_any_cut_of_the_stream() {
    let payload = |n: usize| Bytes::from(vec![n as u8; n]);
    let mut stream = Vec::new();
    for n in [0, 1, 5000] {
        stream.extend_from_slice(&header(Type::Request, n as u64, Kind(9), n));
        stream.extend_from_slice(&payload(n));
    }
    for step in [1, 7, 4096, 10_000] {
        let (mut read, mut frames) = (BytesMut::new(), Vec::new());
        for piece in stream.chunks(step) {
            read.extend_from_slice(piece);
            while let Some(frame) = frame::take(&mut read, 6000).unwrap() {
                frames.push(frame);
            }
        }
        let expected = [0, 1, 5000].map(|n| Frame {
            ty: Type::Request,
            call: n as u64,
            kind: Kind(9),
            payload: payload(n),
        });
        assert_eq!(frames, expected);
    }
}

#[test]
fn what_is_no_frame_is_told_as_soon_as_its_length_is_there() {
    let take = |bytes: &[u8]| frame::take(&mut bytes.into(), 100);
    assert_eq!(take(&[0, 0, 0]), Ok(None));
    assert_eq!(
        take(&97_u32.to_le_bytes()),
        Err(Malformed::Long {
            bytes: 101,
            max: 100
        })
    );
    assert_eq!(
        take(&[0xff; 4]),
        Err(Malformed::Long {
            bytes: 0xffff_ffff + 4,
            max: 100
        })
    );
    assert_eq!(take(&[10, 0, 0, 0]), Err(Malformed::Short { bytes: 14 }));
    let mut unknown = header(Type::Cancel, 1, Kind(0), 0);
    unknown[4] = 77;
    assert_eq!(take(&unknown), Err(Malformed::Type(77)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breach_of_the_protocol_ends_that_connection_only() {
    let (a, b) = pair().await;
    assert!(a.ask(&b, Lane::Control, ECHO, Bytes::new()).await.is_ok());
    let since = a.peers.connected();
    let mut oversized = header(Type::Request, 1, ECHO, 0);
    oversized[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let answer = header(Type::Response, 1, ECHO, 0);
    for bytes in [&oversized[..], &answer, &[0; 64], &[0xff; 64]] {
        let mut stream = dial_by_hand(b.addr, &Setup::new(), Purpose::Control).await;
        stream
            .write_all(&header(Type::Request, 1, ECHO, 0))
            .await
            .unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        // Ended, with or without the answer to the valid request before.
        let ended = timeout(WAIT, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the connection stayed open");
        assert!(rest.is_empty() || rest == header(Type::Response, 1, Kind(0), 0));
    }
    assert_eq!(
        a.ask(&b, Lane::Control, ECHO, "x".into()).await,
        Ok("x".into())
    );
    assert_eq!(since.len(), a.peers.connected().len());
    assert_eq!(
        a.failures(b.setup.node),
        0,
        "the connection of another peer must stay"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_answers_with_garbage_loses_the_connection_and_the_calls_on_it() {
    let mut setup = Setup::new();
    setup.options.data_connections = 1.try_into().unwrap();
    let a = setup.start().await;
    let (b, listener) = (
        Setup::new(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    a.peers
        .update(b.node, Incarnation(1), listener.local_addr().unwrap());
    let mut control = accept_by_hand(&listener, &b).await;
    let call = a
        .peers
        .call(b.node, Lane::Control, ECHO, Bytes::new(), WAIT);
    let garbage = async {
        let mut request = [0; frame::HEADER];
        control.read_exact(&mut request).await.unwrap();
        control
            .write_all(&header(Type::Request, 1, ECHO, 0))
            .await
            .unwrap();
    };
    let (answer, ()) = tokio::join!(call, garbage);
    assert_eq!(answer, Err(CallError::Lost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_to_nobody_is_ignored() {
    let a = Setup::new().start().await;
    let (b, listener) = (
        Setup::new(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    a.peers
        .update(b.node, Incarnation(1), listener.local_addr().unwrap());
    let mut control = accept_by_hand(&listener, &b).await;
    let call = a
        .peers
        .call(b.node, Lane::Control, ECHO, Bytes::new(), WAIT);
    let answers = async {
        let mut request = [0; frame::HEADER];
        control.read_exact(&mut request).await.unwrap();
        let id = u64::from_le_bytes(request[5..13].try_into().unwrap());
        control
            .write_all(&header(Type::Response, id + 100, Kind(0), 0))
            .await
            .unwrap();
        control
            .write_all(&header(Type::Response, id, Kind(0), 2))
            .await
            .unwrap();
        control.write_all(b"ok").await.unwrap();
    };
    let (answer, ()) = tokio::join!(call, answers);
    assert_eq!(answer, Ok("ok".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_asks_and_never_reads_is_cut_off() {
    let mut setup = Setup::new();
    setup.options.outgoing_bytes_max = 64 << 10;
    setup.options.frame_bytes_max = 64 << 10;
    setup.options.silence_max = WAIT;
    let b = setup.start().await;
    let mut stream = dial_by_hand(b.addr, &Setup::new(), Purpose::Data).await;
    let mut request = header(Type::Request, 1, ECHO, 30 << 10).to_vec();
    request.resize(request.len() + (30 << 10), 0);
    let flood = async { while stream.write_all(&request).await.is_ok() {} };
    assert!(timeout(WAIT, flood).await.is_ok(), "it was never cut off");
}
