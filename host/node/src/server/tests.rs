//! A node in this process, and how it ends.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    thread,
    time::Instant,
};

use futures_util::stream;
use holdfast_test_components::probe;

use super::*;
use crate::config::tests::founder;

#[test]
fn the_port_for_peers_is_open_until_the_last_instance_has_ended_even_if_the_node_panics() {
    let dir = tempfile::tempdir().unwrap();
    let config = NodeConfig {
        data_dir: dir.path().to_owned(),
        http: "127.0.0.1:0".parse().unwrap(),
        ..founder()
    };
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    let signals = stream::once(async move {
        let _ = told.await;
        panic!("as the test wants it");
    });
    let (say, listening) = mpsc::channel();
    let node = thread::spawn(move || {
        let run = || run(config, signals, move |at| say.send(at).unwrap());
        catch_unwind(AssertUnwindSafe(run)).is_err()
    });
    let at = listening.recv().unwrap();
    let settings = r#"{"limits":{"call_timeout_ms":3000}}"#;
    let deployed = ask(
        at.http,
        &format!("PUT /v1/modules/probe?wait=serving HTTP/1.1\r\nholdfast-settings: {settings}"),
        &probe(),
    );
    assert!(deployed.starts_with("HTTP/1.1 201"), "{deployed}");
    let resource = "/v1/modules/probe/resources/r";
    let held = ask(at.http, &format!("PUT {resource}?wait=held HTTP/1.1"), b"");
    assert!(held.starts_with("HTTP/1.1 201"), "{held}");
    let call = format!("POST {resource}/invoke HTTP/1.1");
    let call = thread::spawn(move || ask(at.http, &call, br#"{"op":"spin"}"#));
    until("the guest computes", || {
        let seen = ask(at.http, &format!("GET {resource} HTTP/1.1"), b"");
        seen.contains(r#""in_flight":1"#)
    });
    until("a thread computes", || guests_that_compute() > 0);

    tell.send(()).unwrap();
    until("the port is closed", || {
        TcpStream::connect(at.cluster).is_err()
    });
    assert_eq!(guests_that_compute(), 0, "peers would take it for ended");
    assert!(node.join().unwrap(), "it panicked");
    let _ = call.join();
}

#[test]
fn a_node_that_cannot_start_leaves_no_directory_behind() {
    let above = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let new = || NodeConfig {
        data_dir: above.path().join("new/data"),
        http: "127.0.0.1:0".parse().unwrap(),
        ..founder()
    };
    let nobody = NodeConfig {
        bootstrap: false,
        ..new()
    };
    for config in [
        NodeConfig { http: at, ..new() },
        NodeConfig {
            listen: at,
            ..new()
        },
        nobody,
    ] {
        let error = run(config, stream::pending(), |_| panic!("it listens")).unwrap_err();
        assert!(
            matches!(error, Error::Listen { .. } | Error::Config(_)),
            "{error:?}"
        );
        let left: Vec<_> = fs::read_dir(above.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    // An empty one that somebody made stays as it is.
    fs::create_dir_all(new().data_dir).unwrap();
    let config = NodeConfig { http: at, ..new() };
    run(config, stream::pending(), |_| panic!("it listens")).unwrap_err();
    assert_eq!(fs::read_dir(new().data_dir).unwrap().count(), 0);
}

/// How many threads that run guests compute now. They are told by the name that [`run`] gives them,
/// which the compiler's, that only wait, have from them.
fn guests_that_compute() -> usize {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let states = threads.filter_map(|thread| {
        // One that has just ended has none any more.
        fs::read_to_string(thread.ok()?.path().join("stat")).ok()
    });
    states.filter(|state| state.contains(" (data) R ")).count()
}

/// Asks, and gives all that is answered; nothing when the node ends before that.
fn ask(at: SocketAddr, head: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    let length = body.len();
    let rest = format!("host: {at}\r\nconnection: close\r\ncontent-length: {length}");
    write!(stream, "{head}\r\n{rest}\r\n\r\n").unwrap();
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
