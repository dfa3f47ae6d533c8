//! Outgoing HTTP of a handler, as its component meets it: what fails, fails as the SDK says.
#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, and says where"
)]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    thread,
};

use holdfast_tests::{Cluster, Probe};
use serde_json::{Value, json};

use crate::BIN;

#[test]
fn a_request_that_fails_says_how() {
    let cluster = Cluster::builder(BIN).start();
    let api = cluster.api(0);
    Probe::deploy(&api, "probe", cluster.collector());
    let _ = api
        .allocate_held("probe", "a", &json!({}))
        .answer()
        .expect(201);
    let server = five_bytes();
    let server = format!("http://{server}/");
    // It is connected to by the kernel, and never answers.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute_at = format!("http://{}/", mute.local_addr().unwrap());
    let fetch = |url: &str, timeout_ms: u64, bytes_max: usize, header: Value| -> String {
        let body = json!({
            "op": "fetch", "url": url, "timeout_ms": timeout_ms,
            "response_bytes_max": bytes_max, "header": header,
        });
        let call = api.invoke("probe", "a", body.to_string());
        let answer = call.answer().expect(200);
        String::from_utf8(answer.body.to_vec()).unwrap()
    };
    let [soon, long] = [100, 10_000];

    assert_eq!(fetch(&server, long, 5, Value::Null), "200, 5 bytes");
    assert_eq!(
        fetch(&server, long, 4, Value::Null),
        "TooLarge { bytes_max: 4 }"
    );
    assert_eq!(fetch(&mute_at, soon, 5, Value::Null), "TimedOut");
    for (name, value) in [
        ("a b", "x"),
        ("host", "other"),
        ("x", "a\nb"),
        ("Upgrade", "h2c"),
    ] {
        let refused = fetch(&server, long, 5, json!([name, value]));
        assert_eq!(refused, format!("Header {{ name: {name:?} }}"));
    }
    // After all of these the instance is the one it was.
    let fine = fetch(&server, long, 5, json!(["x-a", "tab\tand ü"]));
    assert_eq!(fine, "200, 5 bytes");
    let echo: Value = api.invoke("probe", "a", "").answer().expect(200).json();
    assert_eq!(echo["calls"], 9);
}

/// A server that answers each connection with five bytes, until the process ends.
fn five_bytes() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut line = String::new();
            while !line.ends_with("\r\n\r\n") && reader.read_line(&mut line).is_ok_and(|n| n > 0) {}
            let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\n12345";
            // A client that has seen enough may be gone.
            let _ = reader.get_mut().write_all(answer);
        }
    });
    addr
}
