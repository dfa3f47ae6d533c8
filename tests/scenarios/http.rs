//! What clients may take of a node: connections, memory and time.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use holdfast_tests::{
    Api, Cluster, Probe,
    wait::{LONG, wait_until},
};
use serde_json::{Value, json};

use crate::BIN;

#[test]
fn idle_connections_without_a_token_shut_out_nobody_and_leave_files_to_the_node() {
    let cluster = Cluster::builder(BIN).token().files_max(256).start();
    let (api, addr) = (cluster.api(0), cluster.listening(0).http);
    let _ = Probe::deploy(&api, "probe", cluster.collector());
    // More than the process may open files, and again as they are closed.
    let idle: Vec<TcpStream> = (0..400).map(|_| connect(addr)).collect();
    wait_until("a node with many idle connections is alive", LONG, || {
        let health = Api::new(&addr.to_string()).get("/healthz").send();
        health.map_err(|error| error.to_string())?.is(200)
    });
    for n in 0..8 {
        // Each time as a client that has just come.
        let _ = cluster
            .api(0)
            .allocate_held("probe", &format!("r-{n}"), &json!({}))
            .answer()
            .expect(201);
        let _ = cluster
            .api(0)
            .invoke("probe", &format!("r-{n}"), Probe::echo())
            .answer()
            .expect(200);
    }
    let log = cluster.log(0);
    assert!(!log.contains("Too many open files"), "{log}");
    drop(idle);
}

#[test]
fn who_is_turned_away_for_want_of_connections_is_told_so_and_health_is_answered() {
    let args = ["--http-connections-max", "16"];
    let cluster = Cluster::builder(BIN).token().args(&args).start();
    let addr = cluster.listening(0).http;
    let follow = format!(
        "GET /v1/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n",
        cluster.secret()
    );
    // Whoever is being answered keeps the connection.
    let mut busy: Vec<TcpStream> = Vec::new();
    wait_until("all places are taken", LONG, || {
        let mut stream = connect(addr);
        stream.write_all(follow.as_bytes()).expect("it is open");
        let head = head(&mut stream);
        if head.starts_with("HTTP/1.1 200") {
            busy.push(stream);
            return Err(format!("{} are", busy.len()));
        }
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        Ok(())
    });
    assert!(busy.len() >= 16, "{}", busy.len());
    let asked = request(addr, "GET /v1/cluster HTTP/1.1\r\nHost: a\r\n\r\n");
    asked.problem(503, "overloaded");
    let health = request(addr, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(health.text.starts_with("HTTP/1.1 200"), "{}", health.text);
    drop(busy);
    wait_until("there is room again", LONG, || cluster.api(0).ready());
}

#[test]
fn what_comes_too_slowly_is_told_so_and_its_connection_ends() {
    let args = [
        "--http-head-timeout",
        "1s",
        "--http-stall-timeout",
        "1s",
        "--http-idle-timeout",
        "1s",
    ];
    let cluster = Cluster::builder(BIN).args(&args).start();
    let addr = cluster.listening(0).http;
    let _ = Probe::deploy(&cluster.api(0), "probe", cluster.collector());

    let partial = request(addr, "GET /healthz HTTP/1.1\r\nHo");
    partial.problem(408, "request-timeout");
    for path in [
        "/v1/modules/probe/resources/one/invoke",
        "/v1/cluster/plan",
        "/v1/modules/probe/resources:batch",
    ] {
        let body =
            format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf");
        let body = request(addr, &body);
        if path.ends_with("batch") {
            // Its answer had begun.
            assert!(body.text.contains("request-timeout"), "{}", body.text);
        } else {
            body.problem(408, "request-timeout");
        }
    }
    // Who asks nothing is told nothing.
    assert_eq!(request(addr, "").text, "");
    // Whoever goes on, however often it pauses, is not disturbed.
    let mut steady = connect(addr);
    for _ in 0..3 {
        steady
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .expect("the connection is kept");
        assert!(head(&mut steady).starts_with("HTTP/1.1 200"));
        let mut body = [0; 3];
        steady.read_exact(&mut body).expect("the body comes");
    }
}

#[test]
fn bodies_take_no_more_memory_than_they_may() {
    let args = ["--http-memory-max", "2000000"];
    let cluster = Cluster::builder(BIN).args(&args).start();
    let (api, addr) = (cluster.api(0), cluster.listening(0).http);
    let _ = Probe::deploy(&api, "probe", cluster.collector());
    let held = |bytes: usize| {
        let mut stream = connect(addr);
        let head = "POST /v1/modules/probe/resources/one/invoke HTTP/1.1\r\nHost: localhost\r\n";
        let head = format!("{head}Content-Length: {}\r\n\r\n", bytes + 1);
        stream.write_all(head.as_bytes()).expect("it is open");
        // It may be answered before it was sent to its end.
        let _ = stream.write_all(&vec![b'x'; bytes]);
        stream
    };
    let metric = |name: &str| {
        let text = api.get("/metrics").answer().expect(200).body;
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse::<f64>().ok())
            .unwrap_or_else(|| panic!("{name} is not in {text}"))
    };
    // A module's half has room for sixteen.
    let first: Vec<TcpStream> = (0..16).map(|_| held(60_000)).collect();
    wait_until("the first bodies are in memory", LONG, || {
        match metric("holdfast_http_request_held_bytes ") {
            bytes if bytes >= 960_000.0 => Ok(()),
            bytes => Err(format!("{bytes}")),
        }
    });
    let mut second = held(60_000);
    Answered::read(&mut second).problem(429, "overloaded");
    drop((first, second));
    wait_until("nothing is held", LONG, || {
        match metric("holdfast_http_request_held_bytes ") {
            0.0 => Ok(()),
            bytes => Err(format!("{bytes}")),
        }
    });
}

#[test]
fn what_the_parser_refuses_is_a_problem_too() {
    let cluster = Cluster::builder(BIN).start();
    let addr = cluster.listening(0).http;
    let long = "x".repeat(100_000);
    let with_header = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nLong: {long}\r\n\r\n");
    for (sent, status, kind) in [
        ("NONSENSE\r\n\r\n", 400, "invalid-request"),
        ("GET / HTTP/9.9\r\n\r\n", 400, "invalid-request"),
        (&*with_header, 431, "too-large"),
    ] {
        request(addr, sent).problem(status, kind);
    }
    // After an answer that was read too.
    let mut stream = connect(addr);
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("it is open");
    assert!(head(&mut stream).starts_with("HTTP/1.1 200"));
    let mut body = [0; 3];
    stream.read_exact(&mut body).expect("the body comes");
    stream.write_all(b"NONSENSE\r\n\r\n").expect("it is open");
    Answered::read(&mut stream).problem(400, "invalid-request");
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let cluster = Cluster::builder(BIN).start();
    let addr = cluster.listening(0).http;
    let invoke = "POST /v1/modules/m/resources/r/invoke HTTP/1.1\r\nHost: localhost\r\n";
    for (sent, status) in [
        ("GET /healthz HTTP/1.1\r\n\r\n".to_owned(), 400),
        (
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: b\r\n\r\n".to_owned(),
            400,
        ),
        (format!("{invoke}Origin: null\r\nOrigin: null\r\n\r\n"), 400),
        (
            format!("{invoke}Authorization: a\r\nAuthorization: b\r\n\r\n"),
            400,
        ),
        (
            format!("{invoke}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            501,
        ),
        (
            "GET /v1/modules/%zz HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
            400,
        ),
        (
            "GET /v1/modules?limit=%4 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
            400,
        ),
    ] {
        let close = sent.replacen("HTTP/1.1\r\n", "HTTP/1.1\r\nConnection: close\r\n", 1);
        request(addr, &close).problem(status, "invalid-request");
    }
}

#[test]
fn specs_keep_their_numbers_and_have_each_key_once() {
    let cluster = Cluster::builder(BIN).start();
    let api = cluster.api(0);
    let _ = Probe::deploy(&api, "probe", cluster.collector());
    let spec = r#"{"n":12345678901234567890123}"#;
    let put = |id: &str, spec: &str| {
        let path = format!("/v1/modules/probe/resources/{id}");
        let put = api
            .ask("PUT", &path)
            .header("content-type", "application/json");
        put.body(spec.to_owned()).answer()
    };
    let _ = put("one", spec).expect(201);
    let line = format!("{{\"op\":\"allocate\",\"id\":\"two\",\"spec\":{spec}}}\n");
    let _ = api
        .ask("POST", "/v1/modules/probe/resources:batch")
        .header("content-type", "application/x-ndjson")
        .body(line)
        .answer()
        .expect(200);
    for id in ["one", "two"] {
        let shown = api
            .get(&format!("/v1/modules/probe/resources/{id}"))
            .answer();
        let text = String::from_utf8_lossy(&shown.body).into_owned();
        assert!(text.contains(&format!("\"spec\":{spec}")), "{text}");
    }
    let twice = put("three", r#"{"a":1,"a":2}"#);
    twice.problem(400, "invalid-request").names(&["twice"]);
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("the node listens");
    stream.set_read_timeout(Some(LONG)).expect("it is open");
    stream
}

/// Sends this and reads what comes until the connection ends.
fn request(addr: SocketAddr, text: &str) -> Answered {
    let mut stream = connect(addr);
    // What is refused early may not be read to its end.
    let _ = stream.write_all(text.as_bytes());
    Answered::read(&mut stream)
}

/// The head of an answer.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1..) => head.push(byte[0]),
            Ok(_) => break,
            Err(error) => panic!("{error} after {}", String::from_utf8_lossy(&head)),
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// All that came.
struct Answered {
    text: String,
}

impl Answered {
    fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        match stream.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("{error}"),
        }
        Self {
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    #[track_caller]
    fn problem(&self, status: u16, kind: &str) {
        let text = &self.text;
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text:?}");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head has an end");
        assert!(
            head.contains("content-type: application/problem+json"),
            "{text}"
        );
        let body: Value =
            serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(
            body["type"],
            format!("urn:holdfast:problem:{kind}"),
            "{text}"
        );
        assert_eq!(body["status"], status, "{text}");
        assert!(body["detail"].is_string(), "{text}");
    }
}
