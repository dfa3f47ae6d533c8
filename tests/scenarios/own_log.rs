//! A node's own log, and whoever reads it, or does not.

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    net::UdpSocket,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use holdfast_tests::{Cluster, LONG, Probe, cluster::Join, wait_until};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use serde_json::json;

use crate::BIN;

/// A pipe that is held open, full, and not read. Reads and writes of this end never wait.
fn full_pipe(at: &Path) -> File {
    mknodat(CWD, at, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut pipe = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(at)
        .unwrap();
    let error = loop {
        match pipe.write(b"full of what nobody reads\n") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    pipe
}

/// What is in a pipe.
fn read(pipe: &mut File) -> String {
    let mut bytes = Vec::new();
    let error = pipe.read_to_end(&mut bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let mut cluster = Cluster::builder(BIN).start();
    let log = cluster.folder().join("unread");
    let mut pipe = full_pipe(&log);
    let node = cluster.add(Join {
        log: Some(log),
        args: vec!["--log".to_owned(), "trace".to_owned()],
        ..Join::default()
    });
    cluster.wait_formed();
    let api = cluster.api(node);
    Probe::deploy_with(&api, "probe", &Probe::settings_logging());
    for number in 0..20 {
        let id = format!("r{number}");
        let held = api.allocate_held("probe", &id, &json!({})).answer();
        let _ = held.expect(201);
        for call in [Probe::observed(), Probe::panic(), Probe::observed()] {
            wait_until("the call is answered", LONG, || {
                let answer = api.invoke("probe", &id, call.clone()).answer();
                matches!(answer.status, 200 | 500)
                    .then_some(())
                    .ok_or(answer)
            });
        }
    }
    // Each of these packets is worth a warning.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..100 {
        let to = cluster.listening(node).cluster;
        socket.send_to(b"no packet of ours", to).unwrap();
    }
    let dropped = || {
        let metrics = api.get("/metrics").answer().expect(200);
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        let dropped = text
            .lines()
            .find_map(|line| line.strip_prefix("holdfast_log_lines_dropped_total "));
        dropped.expect("it is there").to_owned()
    };
    wait_until("lines are dropped and counted", LONG, || {
        let _ = api.get("/healthz").answer().expect(200);
        (dropped() != "0").then_some(()).ok_or_else(dropped)
    });
    cluster.wait_formed();

    // Read again, it says what is missing.
    let mut text = String::new();
    wait_until("it is told", LONG, || {
        text.push_str(&read(&mut pipe));
        text.contains("log lines dropped").then_some(()).ok_or("no")
    });
    // Not read again, it ends all the same.
    assert!(cluster.stop(node).success());
}
