//! Upgrades: what a restart starts, and what it waits for.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use holdfast_tests::{Cluster, LONG, Probe, probe::ids, wait_until};
use serde_json::{Value, json};

use crate::BIN;

/// Runs a command against a node, and gives its exit code and all that it printed.
fn holdfast(cluster: &Cluster, node: usize, args: &[&str]) -> (i32, String) {
    let server = format!("http://{}", cluster.listening(node).http);
    let output = Command::new(BIN)
        .args(["--server", &server])
        .args(args)
        .env_remove("HOLDFAST_TEST_PROCESS")
        .output()
        .expect("the binary under test can be started");
    let text = [output.stdout, output.stderr].concat();
    let code = output.status.code().expect("it ends by itself");
    (code, String::from_utf8_lossy(&text).into_owned())
}

/// The file that a process runs.
fn running(pid: u32) -> String {
    let file = fs::read_link(format!("/proc/{pid}/exe")).expect("it runs");
    file.to_string_lossy().into_owned()
}

/// A version of the program in a folder of its own.
fn install(folder: &Path, version: &str) {
    let of_it = folder.join(version);
    fs::create_dir(&of_it).expect("the test's folder is writable");
    let program = of_it.join("holdfast");
    if fs::hard_link(BIN, &program).is_err() {
        fs::copy(BIN, &program).expect("the test's folder is writable");
    }
}

#[test]
fn a_restart_starts_what_the_command_line_named_as_it_is_by_then() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    install(folder, "1.0");
    install(folder, "2.0");
    let current = folder.join("current");
    symlink("1.0", &current).unwrap();
    let program = current.join("holdfast");
    let cluster = Cluster::builder(program.to_str().unwrap()).nodes(2).start();
    let pid = cluster.pid(1);
    assert!(running(pid).contains("/1.0/"), "{}", running(pid));
    let node = cluster.listening(1).node.to_string();

    let replace = |version: &str| {
        let next = folder.join("next");
        symlink(version, &next).unwrap();
        fs::rename(&next, &current).unwrap();
    };
    replace("2.0");
    let (code, text) = holdfast(&cluster, 0, &["restart", &node, "--wait"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("is back, version"), "{text}");
    assert!(running(pid).contains("/2.0/"), "{}", running(pid));

    // By a signal too.
    replace("1.0");
    cluster.tell_to_restart(1);
    wait_until("the link is followed anew", LONG, || {
        let file = running(pid);
        file.contains("/1.0/").then_some(()).ok_or(file)
    });
    cluster.wait_formed();

    // What is older than asked for, gone, or no program, is not started, and the node goes on.
    let before = cluster.api(0).node(cluster.listening(1).node).unwrap();
    let args = ["restart", &node, "--wait", "--expect-version", "99.0.0"];
    let (code, text) = holdfast(&cluster, 0, &args);
    assert_eq!(code, 4, "{text}");
    assert!(
        text.contains("not 99.0.0 or later; it goes on as it is"),
        "{text}"
    );
    replace("3.0");
    let (code, text) = holdfast(&cluster, 0, &["restart", &node, "--wait"]);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("No such file"), "{text}");
    fs::create_dir(folder.join("3.0")).unwrap();
    fs::write(folder.join("3.0/holdfast"), "no program").unwrap();
    let (code, text) = holdfast(&cluster, 0, &["restart", "--all"]);
    assert_eq!(code, 4, "{text}");
    assert!(
        text.contains("no node is restarted; not restarted: "),
        "{text}"
    );
    let after = cluster.api(0).node(cluster.listening(1).node).unwrap();
    assert_eq!(after.incarnation, before.incarnation);
}

#[test]
fn a_restart_of_all_nodes_does_not_wait_for_what_was_not_held() {
    let cluster = Cluster::builder(BIN).nodes(3).start();
    let api = cluster.api(0);
    Probe::deploy(&api, "probe", cluster.collector());
    let held = ids("r", 30);
    api.allocate_all("probe", &held);
    let bad = ids("bad", 3);
    for (id, spec) in bad.iter().zip([
        json!({"fatal": true}),
        json!({"panic_in_handle": true}),
        json!({"no_such_field": 1}),
    ]) {
        let _ = api.allocate("probe", id, &spec).answer().expect(201);
    }
    cluster.collector().wait_held("probe", &held, LONG);
    let list = |args: &[&str]| {
        let wanted = ["--format", "json", "resources", "list", "--all-modules"];
        let (code, text) = holdfast(&cluster, 1, &[&wanted[..], args].concat());
        assert_eq!(code, 0, "{text}");
        let ids = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        ids.map(|info| info["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let failing = || list(&["--status", "failed,quarantined"]);
    wait_until("they have failed", LONG, || {
        let failing = failing();
        (failing == bad).then_some(()).ok_or(format!("{failing:?}"))
    });

    let args = [
        "restart",
        "--all",
        "--timeout",
        "2m",
        "--expect-version",
        "0.0.1",
    ];
    let (code, text) = holdfast(&cluster, 1, &args);
    assert_eq!(code, 0, "{text}");
    assert_eq!(text.matches("is back, version").count(), 3, "{text}");
    cluster
        .collector()
        .wait_held("probe", &held, LONG)
        .assert_undisturbed();
    assert_eq!(list(&["--status", "held"]).len(), held.len());
}
