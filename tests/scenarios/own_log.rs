//! A node's own log, whoever reads it or does not, and what signals do.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read as _, Write as _},
    net::UdpSocket,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use holdfast_tests::{Cluster, LONG, Probe, cluster::Join, wait_until};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat},
    process::Signal,
};
use serde_json::json;

use crate::BIN;

/// A pipe that is held open, full, and not read. Reads and writes of this end never wait.
fn full_pipe(at: &Path) -> File {
    mknodat(CWD, at, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .expect("the test's folder is writable");
    let mut pipe = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(at)
        .expect("it was made just now");
    let error = loop {
        if let Err(error) = pipe.write_all(b"full of what nobody reads\n") {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    pipe
}

/// Reads as fast as it is written, until a text comes.
fn read_until(pipe: &mut File, text: &str) {
    let (begin, mut read) = (Instant::now(), Vec::new());
    while !String::from_utf8_lossy(&read).contains(text) {
        assert!(begin.elapsed() < LONG, "{text:?} does not come");
        // It may be halfway through the text.
        read.drain(..read.len().saturating_sub(text.len()));
        match pipe.read_to_end(&mut read) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => panic!("the node has it open: {other:?}"),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let mut cluster = Cluster::builder(BIN).start();
    let log = cluster.folder().join("unread");
    // Open as long as the node runs.
    let mut pipe = full_pipe(&log);
    let node = cluster.add(Join {
        log: Some(log),
        args: vec!["--log".to_owned(), "trace".to_owned()],
        ..Join::default()
    });
    cluster.wait_formed();
    let api = cluster.api(node);
    let mut settings = Probe::settings_logging();
    // A part of each report: lines that are long enough to fill what may wait.
    settings["config"]["node"] = json!("x".repeat(2_000));
    Probe::deploy_with(&api, "probe", &settings);
    for number in 0..20 {
        let id = format!("r{number}");
        let held = api.allocate_held("probe", &id, &json!({})).answer();
        let _ = held.expect(201);
        for call in [Probe::observed(), Probe::panic(), Probe::observed()] {
            wait_until("the call is answered", LONG, || {
                let answer = api.invoke("probe", &id, call.clone()).answer();
                matches!(answer.status, 200 | 500)
                    .then_some(())
                    .ok_or(answer.to_string())
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
        let dropped = dropped.expect("it is there");
        dropped.parse::<f64>().expect("it is a number")
    };
    wait_until("lines are dropped and counted", LONG, || {
        let _ = api.get("/healthz").answer().expect(200);
        for number in 0..20 {
            let id = format!("r{number}");
            let answer = api.invoke("probe", &id, Probe::observed()).answer();
            let _ = answer.expect(200);
        }
        (dropped() > 0.0).then_some(()).ok_or("none yet")
    });
    cluster.wait_formed();
    // Read again, it says what is missing, however much there is to log.
    read_until(&mut pipe, "log lines dropped");
    // Not read any more, it ends all the same.
    assert!(cluster.stop(node).success());
}

/// Waits until the log of a node has a text.
#[track_caller]
fn wait_logged(cluster: &Cluster, node: usize, text: &str) {
    wait_until(&format!("the log has {text:?}"), LONG, || {
        let log = cluster.log(node);
        log.contains(text).then_some(()).ok_or(log)
    });
}

#[test]
fn a_second_signal_ends_a_node_that_waits() {
    let mut cluster = Cluster::builder(BIN)
        .nodes(2)
        .args(&[
            "--drain-timeout",
            "10m",
            "--voters",
            "1",
            "--lease-ttl",
            "60s",
            "--lease-guard",
            "2s",
        ])
        .start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let ids: Vec<String> = (0..20).map(|number| format!("r{number}")).collect();
    cluster.api(0).allocate_all("probe", &ids);
    // Whoever is to take over lives, and does nothing.
    cluster.pause(1);
    cluster.signal(0, Signal::TERM);
    wait_logged(&cluster, 0, "handing over");
    cluster.signal(0, Signal::TERM);
    assert_eq!(cluster.ended(0).code(), Some(130));
    assert!(cluster.log(0).contains("told to stop a second time"));
}

#[test]
fn a_log_says_where_each_run_begins_and_how_it_ends() {
    let mut cluster = Cluster::builder(BIN).args(&["--zone", "attic"]).start();
    let begins = [
        "holdfast begins",
        env!("CARGO_PKG_VERSION"),
        cluster.name(),
        "--zone=attic",
        "the node begins",
        &cluster.listening(0).node.to_string(),
        "open_files_max=",
    ]
    .map(str::to_owned);
    for text in &begins {
        assert!(cluster.log(0).contains(text), "{text}");
    }
    assert!(!cluster.log(0).contains(cluster.secret()));
    assert!(!cluster.log(0).contains("holdfast ends"));
    assert!(cluster.stop(0).success());
    for text in [
        "signal=\"SIGTERM\"",
        "end instances",
        "reason=\"told to stop\"",
    ] {
        assert!(cluster.log(0).contains(text), "{text}");
    }
    let last = cluster.log(0);
    let last = last.lines().last().unwrap();
    assert!(last.contains("holdfast ends"), "{last}");

    cluster.restart(0);
    wait_logged(&cluster, 0, "the run before ended by itself");
    cluster.kill9(0);
    cluster.restart(0);
    wait_logged(&cluster, 0, "the run before was cut short");
}

#[test]
fn a_hangup_reads_the_token_again_and_ends_nothing() {
    let mut cluster = Cluster::builder(BIN).start();
    let file = cluster.folder().join("token");
    fs::write(&file, "the-first-token-of-all").unwrap();
    let node = cluster.add(Join {
        args: vec!["--token-file".to_owned(), file.display().to_string()],
        ..Join::default()
    });
    let status = |token: &str| {
        let api = cluster.api(node).with_token(token);
        api.get("/v1/cluster").answer().status
    };
    wait_until("the node has joined", LONG, || {
        let status = status("the-first-token-of-all");
        (status == 200).then_some(()).ok_or(status)
    });
    fs::write(&file, "the-second-token-of-all").unwrap();
    assert_eq!(status("the-second-token-of-all"), 401);
    cluster.signal(node, Signal::HUP);
    wait_until("the new token counts", LONG, || {
        let status = status("the-second-token-of-all");
        (status == 200).then_some(()).ok_or(status)
    });
    assert_eq!(status("the-first-token-of-all"), 401);
    fs::remove_file(&file).unwrap();
    cluster.signal(node, Signal::HUP);
    wait_logged(&cluster, node, "not reloaded");
    assert_eq!(status("the-second-token-of-all"), 200);
    assert!(cluster.stop(node).success());
}

#[test]
fn a_new_run_needs_no_file_that_may_be_gone() {
    let mut cluster = Cluster::builder(BIN).start();
    let [secret, token] = ["secret", "token"].map(|name| cluster.folder().join(name));
    fs::write(&secret, cluster.secret()).unwrap();
    fs::write(&token, cluster.secret()).unwrap();
    let argument = |name: &str, path: &Path| [name.to_owned(), path.display().to_string()];
    let args = [
        argument("--secret-file", &secret),
        argument("--token-file", &token),
    ];
    let node = cluster.add(Join {
        secret: Some(String::new()),
        args: args.concat(),
        ..Join::default()
    });
    let api = cluster.api(node).with_token(cluster.secret());
    // It is lost again and again here.
    let settings = cluster.api(0).ask("PATCH", "/v1/cluster/settings");
    let settings = settings.json(&json!({"stable_after_ms": 0})).answer();
    let _ = settings.expect(200);
    let ready = || wait_until("the node is ready", LONG, || api.ready());
    ready();
    fs::remove_file(&secret).unwrap();
    fs::remove_file(&token).unwrap();

    // Asked for, some times: what it takes along must not disturb what still runs.
    for run in 1..=5 {
        cluster.tell_to_restart(node);
        wait_until("it has begun anew", LONG, || {
            let begun = cluster.begun_anew(node).len();
            (begun >= run).then_some(()).ok_or(begun)
        });
        ready();
        assert_eq!(api.get("/v1/cluster").answer().status, 200);
    }
    // And when its lease is lost.
    cluster.pause(node);
    wait_logged(&cluster, 0, "its slots are free");
    cluster.resume(node);
    wait_until("it has begun anew", LONG, || {
        let begun = cluster.begun_anew(node).len();
        (begun >= 6).then_some(()).ok_or(begun)
    });
    ready();
    let log = cluster.log(node);
    for unwanted in ["panicked", "ERROR"] {
        assert!(!log.contains(unwanted), "{unwanted}:\n{log}");
    }
}
