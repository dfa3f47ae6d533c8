//! The examples, built and deployed as their READMEs say: each in its lane, each doing its job.
#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, and says where"
)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::Path,
    thread,
};

use holdfast::cli::{build, manifest::Manifest};
use holdfast_tests::{Cluster, component::target_dir};
use serde_json::{Value, json};

use crate::BIN;

/// Builds an example by `holdfast build`, deploys it by its manifest, and gives its lane.
fn deploy(cluster: &Cluster, example: &str) -> Value {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(example);
    let target = target_dir().join("guests");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let built = runtime.block_on(build::component(&dir, Some(&target), &mut |_| {}));
    let build::Built {
        bytes, manifest, ..
    } = built.unwrap_or_else(|error| panic!("build {example}: {error:?}"));
    let Manifest { name, settings, .. } = manifest;
    assert_eq!(name.as_str(), example);
    let settings = serde_json::to_value(&settings).unwrap();
    let answer = cluster.api(0).deploy(example, bytes, &settings).answer();
    let info: Value = answer.expect(201).json();
    info["version"]["lane"].clone()
}

#[test]
fn the_counter_counts_in_the_direct_lane() {
    let cluster = Cluster::builder(BIN).nodes(2).start();
    assert_eq!(deploy(&cluster, "counter"), "direct");
    let held = cluster
        .api(0)
        .allocate_held("counter", "visits", &json!({"start": 40}));
    let _ = held.answer().expect(201);
    for (node, value) in [(0, 41), (1, 42)] {
        let add = cluster
            .api(node)
            .invoke("counter", "visits", r#"{"add":1}"#);
        let answer: Value = add.answer().expect(200).json();
        assert_eq!(answer["value"], value);
    }
    let nonsense = cluster.api(0).invoke("counter", "visits", r#"{"odd":1}"#);
    nonsense
        .answer()
        .problem(400, "handler-refused")
        .names(&["odd"]);
}

#[test]
fn the_device_twin_tells_what_is_left_to_do_in_the_direct_lane() {
    let cluster = Cluster::builder(BIN).nodes(2).start();
    assert_eq!(deploy(&cluster, "device-twin"), "direct");
    let spec = json!({"desired": {"t": 20}});
    let held = cluster
        .api(0)
        .allocate_held("device-twin", "thermostat", &spec);
    let _ = held.answer().expect(201);
    let ask = |node: usize, operation: &Value| {
        let api = cluster.api(node);
        let call = api.invoke("device-twin", "thermostat", operation.to_string());
        call.answer()
    };
    let twin: Value = ask(0, &json!("get")).expect(200).json();
    assert_eq!(twin["delta"], json!({"t": 20}));
    let patch = json!({"patch": {"desired": {"t": 21}, "if_match": twin["etag"]}});
    let twin: Value = ask(1, &patch).expect(200).json();
    assert_eq!(twin["desired"], json!({"t": 21}));
    ask(0, &patch)
        .problem(409, "handler-refused")
        .names(&[twin["etag"].as_str().unwrap()]);
    let twin: Value = ask(1, &json!({"report": {"t": 21}})).expect(200).json();
    assert_eq!(twin["delta"], json!({}));

    // As deep as the SDK reads JSON, and deeper: neither costs the instance its state.
    let nested = |depth: usize| {
        let nested = (0..depth).fold(json!(1), |inner, _| json!({"a": inner}));
        json!({"report": nested})
    };
    let deep: Value = ask(0, &nested(60)).expect(200).json();
    assert_eq!(deep["reported"]["t"], 21);
    ask(0, &nested(1_000))
        .problem(400, "handler-refused")
        .names(&["deeper than 64"]);
    let twin: Value = ask(0, &json!("get")).expect(200).json();
    assert_eq!(twin["etag"], deep["etag"]);
}

#[test]
fn the_webhook_delivers_in_the_fiber_lane_with_its_idempotency_key() {
    let cluster = Cluster::builder(BIN).start();
    assert_eq!(deploy(&cluster, "webhook"), "fiber");
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/events", receiver.local_addr().unwrap());
    let received = thread::spawn(move || receive_one(&receiver));
    let api = cluster.api(0);
    let held = api.allocate_held("webhook", "orders", &json!({"url": url}));
    let _ = held.answer().expect(201);
    let event = api
        .invoke("webhook", "orders", r#"{"order":1}"#)
        .header("idempotency-key", "order-1");
    let answer: Value = event.answer().expect(200).json();
    assert_eq!(answer["status"], 204);
    assert_eq!(answer["delivered"], 1);
    let (head, body) = received.join().unwrap();
    assert!(head.starts_with("post /events http/1.1"), "{head}");
    assert!(head.contains("idempotency-key: order-1"), "{head}");
    assert_eq!(body, r#"{"order":1}"#);
}

/// Answers one request with 204; gives its head in lower case, and its body.
fn receive_one(listener: &TcpListener) -> (String, String) {
    let (stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "cut off: {head}");
    }
    let head = head.to_lowercase();
    let body = match head.split("content-length: ").nth(1) {
        Some(rest) => {
            let length = rest.lines().next().unwrap().parse().unwrap();
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            body
        }
        None => read_chunks(&mut reader),
    };
    let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
    reader.get_mut().write_all(answer).unwrap();
    (head, String::from_utf8(body).unwrap())
}

fn read_chunks(reader: &mut impl BufRead) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        reader.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&chunk[..size]);
    }
}
