//! `holdfast bench`: what it tells is what was, and it leaves nothing behind.

use std::process::{Child, Command, Output, Stdio};

use holdfast_tests::{Cluster, LONG, Probe, probe::ids, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::BIN;

/// Begins `holdfast bench` against a node.
fn begin(cluster: &Cluster, args: &[&str]) -> Child {
    let server = format!("http://{}", cluster.listening(0).http);
    Command::new(BIN)
        .args(["--format", "json", "--server", &server, "bench"])
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary under test can be started")
}

/// Its exit code, what it printed, and what it said besides.
fn end(child: Child) -> (Option<i32>, Value, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().expect("it is a child of ours");
    let said = String::from_utf8_lossy(&stderr).into_owned();
    let printed = serde_json::from_slice(&stdout).unwrap_or(Value::Null);
    (status.code(), printed, said)
}

/// A cluster whose module has some resources of its own.
fn cluster() -> Cluster {
    let cluster = Cluster::builder(BIN).nodes(2).start();
    let api = cluster.api(0);
    Probe::deploy_with(&api, "probe", &Probe::settings_logging());
    api.allocate_all("probe", &ids("mine", MINE));
    cluster
}

#[track_caller]
fn assert_nothing_is_left(cluster: &Cluster) {
    let left = cluster.api(1).module("probe").resources;
    assert_eq!(
        left, MINE as u64,
        "what was there is there, and nothing else"
    );
}

#[test]
fn calls_are_measured_and_nothing_is_left_behind() {
    let cluster = cluster();
    let args = ["invoke", "probe", "--connections", "4", "--duration", "1s"];
    let more = ["--resources", "20", "--body", r#"{"op":"echo"}"#];
    let (code, told, said) = end(begin(&cluster, &[&args[..], &more].concat()));
    assert_eq!(code, Some(0), "{told} {said}");
    let calls = &told["calls"];
    assert!(calls["succeeded"].as_u64() >= Some(4), "{told}");
    assert_eq!(calls["failed"], 0, "{told}");
    assert!(calls["latency_ms"]["p99"].as_f64() > Some(0.0), "{told}");
    assert_eq!(told["interrupted"], false);
    assert_eq!(told["body_bytes"], 13);
    assert_nothing_is_left(&cluster);
}

#[test]
fn failures_are_told_by_kind_with_the_first_words_and_an_exit_code() {
    let cluster = cluster();
    let args = [
        "invoke",
        "probe",
        "--connections",
        "2",
        "--duration",
        "300ms",
    ];
    let refused = Probe::error("conflict");
    let (code, told, said) = end(begin(
        &cluster,
        &[&args[..], &["--body", &refused]].concat(),
    ));
    assert_eq!(code, Some(1), "{told} {said}");
    let calls = &told["calls"];
    assert_eq!(calls["succeeded"], 0, "{told}");
    assert_eq!(calls["latency_ms"], Value::Null, "{told}");
    let failed = &calls["failures"]["handler-refused"];
    assert_eq!(failed["count"], calls["failed"], "{told}");
    assert!(
        failed["first"].to_string().contains("told to fail"),
        "{told}"
    );
    assert_nothing_is_left(&cluster);

    // A spec that the handler quarantines: nothing can be called.
    let args = [
        "invoke",
        "probe",
        "--resources",
        "3",
        "--spec",
        r#"{"fatal":true}"#,
    ];
    let (code, _, said) = end(begin(&cluster, &args));
    assert_ne!(code, Some(0), "{said}");
    assert!(said.contains("told to fail for good"), "{said}");
    assert_nothing_is_left(&cluster);

    let (code, _, said) = end(begin(&cluster, &["churn", "nothing"]));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("unknown-module"), "{said}");
}

#[test]
fn allocations_are_measured_at_the_rate_asked_for() {
    let cluster = cluster();
    let args = ["churn", "probe", "--rate", "40", "--duration", "1s"];
    let (code, told, said) = end(begin(&cluster, &args));
    assert_eq!(code, Some(0), "{told} {said}");
    for step in ["held", "gone"] {
        assert_eq!(told[step]["succeeded"], 40, "{told}");
        assert_eq!(told[step]["failed"], 0, "{told}");
        assert!(
            told[step]["latency_ms"]["p50"].as_f64() > Some(0.0),
            "{told}"
        );
    }
    assert_nothing_is_left(&cluster);

    let spec = json!({"fatal": true}).to_string();
    let args = [
        "churn",
        "probe",
        "--rate",
        "10",
        "--duration",
        "500ms",
        "--spec",
        &spec,
    ];
    let (code, told, said) = end(begin(&cluster, &args));
    assert_eq!(code, Some(1), "{told} {said}");
    assert_eq!(told["held"]["failed"], 5, "{told}");
    assert_nothing_is_left(&cluster);
}

#[test]
fn interrupted_it_tells_what_it_has_and_leaves_nothing_behind() {
    let cluster = cluster();
    let called = Probe::observed();
    let invoke = ["invoke", "probe", "--duration", "1h", "--body", &called];
    let churn = ["churn", "probe", "--duration", "1h"];
    for (args, step, sign) in [
        (&invoke[..], "calls", r#""event":"called""#),
        (&churn[..], "gone", r#""event":"terminated""#),
    ] {
        let before = cluster.log(0).matches(sign).count();
        let child = begin(&cluster, args);
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.expect("a child has a positive pid");
        wait_until("it measures", LONG, || {
            let seen = cluster.log(0).matches(sign).count() - before;
            (seen > 10).then_some(()).ok_or(seen)
        });
        kill_process(pid, Signal::INT).expect("an unreaped child can be signalled");
        let (code, told, said) = end(child);
        assert_eq!(code, Some(0), "{told} {said}");
        assert_eq!(told["interrupted"], true, "{told}");
        assert!(told[step]["succeeded"].as_u64() > Some(0), "{told}");
        assert_eq!(told[step]["failed"], 0, "{told}");
        assert_nothing_is_left(&cluster);
    }
}

/// Resources that are there before.
const MINE: usize = 3;
