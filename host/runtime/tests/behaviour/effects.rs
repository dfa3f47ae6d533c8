//! What handlers answer, read and reach.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails the test")]

use std::{net::SocketAddr, sync::Arc};

use futures_util::FutureExt as _;
use holdfast_model::{Lane, ModuleName, Settings, call, call::Refusal};
use holdfast_runtime::{Failure, Follow, Followed, Source, TerminateReason};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::support::{
    echo, echo_of_content_type, handler_importing, held, load, probe, request, resource, runtime,
    runtime_that_keeps,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_is_handled_invoked_and_terminated() {
    let runtime = runtime();
    let module = load(&runtime, &probe(), &Settings::default())
        .await
        .unwrap();
    assert!(module.exports().invocation);
    assert_eq!(module.lane(), Lane::Direct);
    let mut instance = module.instantiate(resource("{}")).await.unwrap();
    instance.handle().await.unwrap();
    for calls in 1..=3 {
        // In the direct lane the answer is there at the first poll.
        let request = request("");
        let answer = instance.invoke(&request).now_or_never().unwrap().unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(answer["id"], "r");
        assert_eq!(answer["token"], 7);
        assert_eq!(answer["calls"], calls);
    }
    instance.terminate(TerminateReason::Removed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_comes_back_as_it_was_sent() {
    let runtime = runtime();
    for lane in [Lane::Direct, Lane::Fiber] {
        let settings = Settings {
            lane: Some(lane),
            ..Settings::default()
        };
        let module = load(&runtime, &echo(), &settings).await.unwrap();
        let mut instance = module.instantiate(resource("{}")).await.unwrap();
        for size in [0, 200, 64 << 10] {
            let body = vec![b'x'; size];
            let answer = instance.invoke(&request(body.clone())).await.unwrap();
            assert_eq!(answer.body, body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_keep_their_kind_and_their_words() {
    let mut instance = held(&runtime(), &Settings::default()).await;
    for (name, kind) in [
        ("invalid", Refusal::Invalid),
        ("not_found", Refusal::NotFound),
        ("conflict", Refusal::Conflict),
        ("unavailable", Refusal::Unavailable),
        ("failed", Refusal::Failed),
    ] {
        let body = format!(r#"{{"op":"error","kind":"{name}"}}"#);
        let failure = instance.invoke(&request(body)).await.unwrap_err();
        let message = "told to fail".to_owned();
        assert_eq!(
            failure,
            Failure::Refused {
                kind,
                message: message.clone()
            }
        );
        let module: ModuleName = "probe".parse().unwrap();
        let expected = call::Error::Refused { kind, message };
        assert_eq!(failure.into_call_error(&module), expected);
    }
    assert!(!instance.is_dead(), "a refusal is an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn handle_says_whether_trying_again_helps() {
    let module = load(&runtime(), &probe(), &Settings::default())
        .await
        .unwrap();
    for (spec, retry) in [(r#"{"fail_handle":1}"#, true), (r#"{"fatal":true}"#, false)] {
        let mut instance = module.instantiate(resource(spec)).await.unwrap();
        match instance.handle().await.unwrap_err() {
            Failure::Retry(_) => assert!(retry),
            Failure::Fatal(_) => assert!(!retry),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_above_the_limit_is_an_error() {
    let mut settings = Settings::default();
    settings.limits.body_bytes_max = 8;
    let mut instance = held(&runtime(), &settings).await;
    let failure = instance.invoke(&request("")).await.unwrap_err();
    assert!(
        matches!(failure, Failure::AnswerTooLarge { max: 8, .. }),
        "{failure:?}"
    );
    assert!(!instance.is_dead());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_type_that_cannot_be_sent_is_an_error() {
    let module = load(&runtime(), &echo_of_content_type(), &Settings::default())
        .await
        .unwrap();
    let mut instance = module.instantiate(resource("{}")).await.unwrap();
    for (content_type, fits) in [
        ("text/plain; charset=utf-8".to_owned(), true),
        ("x".repeat(256), true),
        ("x".repeat(257), false),
        ("text/plain\r\nset-cookie: a=b".to_owned(), false),
    ] {
        let mut request = request("");
        request.content_type = Some(content_type.clone());
        match instance.invoke(&request).await {
            Ok(answer) => assert_eq!((answer.content_type, fits), (Some(content_type), true)),
            Err(failure) => {
                let len = content_type.len();
                assert_eq!((failure, fits), (Failure::BadContentType { len }, false));
            }
        }
    }
    assert!(!instance.is_dead());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_granted_destination_is_reached() {
    let server = Server::start().await;
    for grant in [
        format!("{}", server.addr),
        format!("localhost:{}", server.addr.port()),
    ] {
        let host = grant.split(':').next().unwrap().to_owned();
        let settings = server.settings(&grant, &host);
        let module = load(&runtime(), &probe(), &settings).await.unwrap();
        assert_eq!(module.lane(), Lane::Fiber, "a grant makes it wait");
        let mut instance = module.instantiate(resource("{}")).await.unwrap();
        instance.handle().await.unwrap();
        let seen = std::mem::take(&mut *server.seen.lock());
        assert_eq!(seen.len(), 1, "the trial of a load reports nothing");
        assert!(
            seen[0].starts_with("POST /reports HTTP/1.1\r\n"),
            "{}",
            seen[0]
        );
        let host = format!("host: {host}:{}\r\n", server.addr.port());
        assert!(seen[0].contains(&host), "{}", seen[0]);
        assert!(seen[0].contains(r#""event":"handle""#), "{}", seen[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_granted_is_denied_before_anything_is_sent() {
    let server = Server::start().await;
    let elsewhere = server.settings("api.example.com:443", "127.0.0.1");
    let nothing = Settings {
        grants: Default::default(),
        ..elsewhere.clone()
    };
    let direct = Settings {
        lane: Some(Lane::Direct),
        ..server.settings("127.0.0.1:*", "127.0.0.1")
    };
    let port = server.addr.port();
    let lacks = format!("\"127.0.0.1:{port}\" in grants.http");
    let lane = "lane = \"fiber\"".to_owned();
    for (settings, remedy) in [(elsewhere, &lacks), (nothing, &lacks), (direct, &lane)] {
        let (runtime, said) = runtime_that_keeps();
        let module = load(&runtime, &probe(), &settings).await.unwrap();
        let mut instance = module.instantiate(resource("{}")).await.unwrap();
        let failure = instance.handle().await.unwrap_err();
        let said = said.0.lock();
        let denied = said
            .iter()
            .find(|(.., text)| text.contains("is denied"))
            .unwrap();
        let of = format!("outgoing HTTP to 127.0.0.1:{port} is denied");
        assert!(denied.3.starts_with(&of), "{denied:?}");
        assert!(denied.3.contains(remedy.as_str()), "{denied:?}");
        assert!(matches!(failure, Failure::Retry(_)), "{failure:?}");
        assert!(
            failure.to_string().to_lowercase().contains("denied"),
            "{failure}"
        );
        assert!(server.seen.lock().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_a_call_adds_to_what_it_sends_and_hears_how_that_ended() {
    let server = Server::start().await;
    let granted = server.settings("127.0.0.1:*", "127.0.0.1");
    let denied = server.settings("api.example.com:443", "127.0.0.1");
    for (settings, heard) in [(granted, "204"), (denied, "HttpRequestDenied")] {
        let follower = Arc::new(Follower::default());
        let module = load(&runtime(), &probe(), &settings).await.unwrap();
        let mut instance = module.instantiate(resource("{}")).await.unwrap();
        instance.follow(Some(follower.clone()));
        let handled = instance.handle().await;
        assert_eq!(handled.is_ok(), heard == "204");
        assert_eq!(*follower.0.lock(), ["POST", heard]);
        // From now on by nobody.
        instance.follow(None);
        let _ = instance.terminate(TerminateReason::Stopping).await;
        assert_eq!(follower.0.lock().len(), 2);
    }
    let seen = server.seen.lock();
    let followed = seen.iter().map(|seen| seen.contains("x-follows: me\r\n"));
    assert_eq!(followed.collect::<Vec<_>>(), [true, false, false]);
}

/// Notes the methods and the ends of what guests send.
#[derive(Default)]
struct Follower(Mutex<Vec<String>>);

impl Follow for Follower {
    fn request(self: Arc<Self>, head: &mut http::request::Parts) -> Option<Box<dyn Followed>> {
        let value = http::HeaderValue::from_static("me");
        head.headers.insert("x-follows", value);
        self.0.lock().push(head.method.to_string());
        Some(Box::new(Sent(self)))
    }
}

struct Sent(Arc<Follower>);

impl Followed for Sent {
    fn ended(self: Box<Self>, outcome: Result<http::StatusCode, &dyn std::error::Error>) {
        let heard = match outcome {
            Ok(status) => status.as_u16().to_string(),
            Err(error) => format!("{error:?}"),
        };
        self.0.0.lock().push(heard);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_carry_module_and_resource() {
    let (runtime, said) = runtime_that_keeps();
    let fields = r#"
        (import "wasi:logging/logging@0.1.0-draft" "log"
            (func $log (param i32 i32 i32 i32 i32)))
        (data (i32.const 64) "herehello")"#;
    let log = "(call $log (i32.const 3) (i32.const 64) (i32.const 4) (i32.const 68) (i32.const 5))";
    let component = handler_importing(&["wasi:logging/logging@0.1.0-draft"], log, fields);
    let module = load(&runtime, &component, &Settings::default())
        .await
        .unwrap();
    let mut instance = module.instantiate(resource("{}")).await.unwrap();
    instance.handle().await.unwrap();
    let expected = ("probe", "r", Source::Logging, "hello");
    let said = said.0.lock();
    let said: Vec<_> = said
        .iter()
        .map(|(m, r, s, t)| (m.as_str(), r.as_str(), *s, t.as_str()))
        .collect();
    assert_eq!(said, [expected]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_are_denied_in_both_lanes() {
    let interfaces = [
        "wasi:sockets/tcp-create-socket@0.2.12",
        "wasi:sockets/udp-create-socket@0.2.12",
    ];
    let fields = r#"
        (import "wasi:sockets/tcp-create-socket@0.2.12" "create-tcp-socket"
            (func $tcp (param i32 i32)))
        (import "wasi:sockets/udp-create-socket@0.2.12" "create-udp-socket"
            (func $udp (param i32 i32)))"#;
    // An error, and the error is `access-denied`.
    let denied = "(if (i32.ne (i32.load8_u (i32.const 64)) (i32.const 1)) (then unreachable))
        (if (i32.ne (i32.load8_u (i32.const 68)) (i32.const 1)) (then unreachable))";
    let handle = format!(
        "(call $tcp (i32.const 0) (i32.const 64)) {denied}
         (i64.store (i32.const 64) (i64.const 0))
         (call $udp (i32.const 0) (i32.const 64)) {denied}"
    );
    let component = handler_importing(&interfaces, &handle, fields);
    for lane in [Lane::Direct, Lane::Fiber] {
        let settings = Settings {
            lane: Some(lane),
            ..Settings::default()
        };
        let module = load(&runtime(), &component, &settings).await.unwrap();
        let mut instance = module.instantiate(resource("{}")).await.unwrap();
        instance.handle().await.unwrap();
    }
}

/// Answers every request with 204, and keeps them.
struct Server {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let keep = seen.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut text = String::new();
                let mut bytes = [0; 4096];
                // A report is a JSON object: it ends with a brace.
                while !text.ends_with('}') {
                    match stream.read(&mut bytes).await {
                        Ok(n) if n > 0 => text.push_str(&String::from_utf8_lossy(&bytes[..n])),
                        _ => break,
                    }
                    if text.ends_with("0\r\n\r\n") {
                        break;
                    }
                }
                keep.lock().push(text);
                let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer).await;
            }
        });
        Self { addr, seen }
    }

    fn settings(&self, grant: &str, host: &str) -> Settings {
        let url = format!("http://{host}:{}/reports", self.addr.port());
        let mut settings = Settings::default();
        settings.grants.http = vec![grant.parse().unwrap()];
        settings.config.insert("report_url".to_owned(), url);
        settings
    }
}
