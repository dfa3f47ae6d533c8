//! `holdfast doctor`, beside a node that runs and where none can.
#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, and says where"
)]

use std::{net::TcpListener, process::Command};

use holdfast_tests::Cluster;
use serde_json::Value;

use crate::BIN;

/// The exit code, and what was found, in order.
fn doctor(args: &[&str]) -> (Option<i32>, Vec<Value>) {
    let output = Command::new(BIN)
        .args(["doctor", "--format", "json"])
        .args(args)
        .output()
        .unwrap();
    let findings = serde_json::from_slice(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    (output.status.code(), findings.expect(&error))
}

#[track_caller]
fn finding<'a>(findings: &'a [Value], check: &str, status: &str) -> &'a str {
    let found = findings.iter().find(|finding| finding["check"] == check);
    let found = found.unwrap_or_else(|| panic!("{check} is missing: {findings:?}"));
    assert_eq!(found["status"], status, "{found}");
    assert_eq!(found["remedy"].is_null(), status == "ok", "{found}");
    found["found"].as_str().unwrap()
}

#[test]
fn beside_a_node_the_doctor_says_which_it_is_and_makes_nothing() {
    let cluster = Cluster::builder(BIN).start();
    let listening = cluster.listening(0);
    let dir = cluster.folder().join("not-there");
    let (code, findings) = doctor(&[
        "--http",
        &listening.http.to_string(),
        "--listen",
        &listening.cluster.to_string(),
        "--data-dir",
        dir.to_str().unwrap(),
        "--seed",
        &listening.cluster.to_string(),
    ]);
    assert_eq!(code, Some(0), "{findings:?}");
    let node = &listening.node.to_string()[..8];
    let name = cluster.name();
    assert!(
        finding(&findings, "http-port", "ok").contains(&format!("node {node} of cluster {name}"))
    );
    for port in ["peer-port-tcp", "seed"] {
        assert!(finding(&findings, port, "ok").contains(&format!("a node of cluster {name}")));
    }
    assert!(finding(&findings, "peer-port-udp", "ok").contains("the node of the TCP port"));
    finding(&findings, "boot-clock", "ok");
    assert!(!dir.exists());
}

#[test]
fn where_no_node_can_run_the_doctor_fails_and_says_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let file = tempfile::NamedTempFile::new().unwrap();
    let free = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().to_string()
    };
    let (code, findings) = doctor(&[
        "--http",
        &taken,
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        file.path().to_str().unwrap(),
        "--seed",
        &free,
    ]);
    assert_eq!(code, Some(1), "{findings:?}");
    assert!(finding(&findings, "http-port", "failure").contains("no node of Holdfast"));
    assert!(finding(&findings, "peer-port-tcp", "ok").contains("is free"));
    assert!(finding(&findings, "data-dir", "failure").contains("Not a directory"));
    assert!(finding(&findings, "seed", "failure").contains("refused"));
}
