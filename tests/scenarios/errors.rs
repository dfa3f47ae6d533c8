//! What a person is told when something goes wrong, and what a shell completes.

use std::{
    fs,
    process::{Command, Output},
};

use holdfast_tests::{Api, Cluster, LONG, Probe, cluster::Join, probe::ids, wait_until};
use serde_json::json;

use crate::BIN;

/// A command line against a node, as somebody types it.
fn type_in(cluster: &Cluster, line: &[&str]) -> Told {
    let server = format!("http://{}", cluster.listening(0).http);
    let output = Command::new(BIN)
        .args(["--server", &server])
        .args(line)
        .output()
        .expect("the binary under test can be started");
    Told::of(&output)
}

/// How a command ended, and what it said.
#[derive(Debug)]
struct Told {
    code: Option<i32>,
    printed: String,
    said: String,
}

impl Told {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            printed: String::from_utf8_lossy(&output.stdout).into_owned(),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    fn assert(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for part in says {
            assert!(self.said.contains(part), "{part:?} is not in {}", self.said);
        }
    }
}

fn cluster() -> Cluster {
    let cluster = Cluster::builder(BIN).nodes(1).start();
    Probe::deploy_with(&cluster.api(0), "probe", &Probe::settings_logging());
    cluster
}

#[test]
fn what_does_not_exist_is_told_with_what_was_probably_meant() {
    let cluster = cluster();
    cluster.api(0).allocate_all("probe", &ids("sensor-", 20));
    let node = cluster.api(0).nodes().expect("it answers")[0]
        .node
        .to_string();
    for (line, says) in [
        (&["modules", "get", "prob"][..], "did you mean probe?"),
        (&["invoke", "proeb/sensor-1", "x"], "did you mean probe?"),
        (&["resources", "list", "probes"], "did you mean probe?"),
        (
            &["resources", "get", "probe/senor-11"],
            "did you mean probe/sensor-11?",
        ),
        // What nothing is like gets the way to find out.
        (
            &["modules", "get", "another"],
            "`holdfast modules` lists the modules",
        ),
    ] {
        type_in(&cluster, line).assert(3, &[says]);
    }
    let typed = format!("{}x{}", &node[..3], &node[4..8]);
    let says = format!("did you mean {}?", &node[..8]);
    type_in(&cluster, &["drain", &typed]).assert(3, &[&says]);
    let told = type_in(&cluster, &["events", "--type", "instance-faild"]);
    told.assert(2, &["did you mean instance-failed?"]);
    type_in(&cluster, &["logs", "prob"]).assert(3, &["did you mean probe?"]);
}

#[test]
fn what_a_handler_refuses_has_one_exit_code_and_leaves_the_resource_where_it_is() {
    let cluster = cluster();
    let fatal = r#"{"fatal":true}"#;
    let allocate = [
        "resources",
        "allocate",
        "probe/bad",
        "--spec",
        fatal,
        "--wait",
    ];
    let until = "quarantined until its spec or its module changes";
    let told = type_in(&cluster, &allocate);
    told.assert(
        4,
        &["probe/bad is allocated, but", until, "it stays allocated"],
    );
    let told = type_in(&cluster, &["invoke", "probe/bad", "x"]);
    told.assert(4, &[until, "it stays allocated"]);
    let told = type_in(&cluster, &["resources", "list", "probe"]);
    assert!(told.printed.contains("quarantined"), "{told:?}");

    // It can be called again once its spec is another.
    let told = type_in(&cluster, &["resources", "allocate", "probe/bad", "--wait"]);
    told.assert(0, &[]);
    for kind in ["invalid", "not_found", "conflict", "failed"] {
        let body = json!({"op": "error", "kind": kind}).to_string();
        let told = type_in(&cluster, &["invoke", "probe/bad", &body]);
        told.assert(4, &["the resource stays as it was"]);
    }
    let body = json!({"op": "error", "kind": "unavailable"}).to_string();
    type_in(&cluster, &["invoke", "probe/bad", &body]).assert(5, &["try again"]);

    // What failed before is no news of what it runs now.
    let info = cluster.api(0).resource("probe", "bad");
    assert!(info.last_error.is_none(), "{info:?}");
}

#[test]
fn a_wrong_token_is_told_apart_from_none() {
    let mut cluster = Cluster::builder(BIN).nodes(1).start();
    let node = cluster.add(Join {
        args: vec![
            "--token".to_owned(),
            "the-api-token-of-this-test".to_owned(),
        ],
        ..Join::default()
    });
    let server = format!("http://{}", cluster.listening(node).http);
    let status = |token: Option<&str>| {
        let mut command = Command::new(BIN);
        command
            .args(["--server", &server, "status"])
            .env_remove("HOLDFAST_TOKEN");
        command.args(token.into_iter().flat_map(|token| ["--token", token]));
        Told::of(
            &command
                .output()
                .expect("the binary under test can be started"),
        )
    };
    let none = "shows no API token";
    status(None).assert(4, &[none, "give the API token with --token-file"]);
    let wrong = status(Some("another-api-token-for-this"));
    wrong.assert(4, &["is not the one of this node", "holds another token"]);
    // Until it has joined there is nothing to tell.
    wait_until("the right one is taken", LONG, || {
        let told = status(Some("the-api-token-of-this-test"));
        (told.code == Some(0)).then_some(()).ok_or(told.said)
    });
}

/// What bash would be told of a line whose last word is being typed.
fn completed(server: &str, words: &[&str]) -> Told {
    let output = Command::new(BIN)
        .arg("--")
        .args(["holdfast", "--server", server])
        .args(words)
        .env("HOLDFAST_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", (words.len() + 2).to_string())
        .env("_CLAP_IFS", "\n")
        .output()
        .expect("the binary under test can be started");
    Told::of(&output)
}

#[test]
fn shells_complete_the_names_of_what_there_is() {
    let cluster = cluster();
    let api: Api = cluster.api(0);
    api.allocate_all("probe", &ids("sensor", 3));
    Probe::deploy_with(&api, "other", &Probe::settings_logging());
    let node = api.nodes().expect("it answers")[0].node.to_string();
    let server = format!("http://{}", cluster.listening(0).http);
    let sensors = &ids("sensor", 3);
    let keys: Vec<String> = sensors.iter().map(|id| format!("probe/{id}")).collect();
    for (words, expected) in [
        (
            &["modules", "get", ""][..],
            vec!["other".to_owned(), "probe".to_owned()],
        ),
        (&["resources", "list", "pr"], vec!["probe".to_owned()]),
        (&["invoke", "pr"], vec!["probe/".to_owned()]),
        (&["invoke", "probe/s"], keys.clone()),
        (&["invoke", "probe", "s"], sensors.clone()),
        (&["logs", "probe/"], keys),
        (&["drain", &node[..2]], vec![node.clone()]),
        (&["nodes", "set", ""], vec![node.clone()]),
    ] {
        let told = completed(&server, words);
        assert_eq!((told.code, told.said.as_str()), (Some(0), ""), "{words:?}");
        let mut found: Vec<&str> = told.printed.lines().collect();
        found.retain(|line| !line.starts_with('-'));
        found.sort_unstable();
        assert_eq!(found, expected, "{words:?}");
    }
    // Where nobody answers, or nobody listens, nothing is said, and commands are there all the same.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let silent = silent.local_addr().expect("it is bound").to_string();
    for server in [silent.as_str(), "127.0.0.1:1"] {
        let told = completed(server, &["modules", "get", ""]);
        assert_eq!((told.code, told.said.as_str()), (Some(0), ""));
        assert!(!told.printed.contains("probe"), "{told:?}");
        let told = completed(server, &["mod"]);
        assert_eq!(told.printed, "modules");
    }
}

#[test]
fn a_script_completes_in_a_real_bash() {
    let cluster = cluster();
    let server = format!("http://{}", cluster.listening(0).http);
    let folder = tempfile::tempdir().expect("a folder can be made");
    let bin = folder.path().join("holdfast");
    std::os::unix::fs::symlink(BIN, &bin).expect("a link can be made");
    let script = folder.path().join("completions.bash");
    let made = Command::new(&bin).args(["completions", "bash"]).output();
    fs::write(&script, made.expect("it can be started").stdout).expect("it can be written");
    let types = format!(
        "source {script}; COMP_WORDS=(holdfast --server '{server}' modules get pr); COMP_CWORD=5; \
         _clap_complete_holdfast holdfast pr get; printf '%s' \"${{COMPREPLY[*]}}\"",
        script = script.display()
    );
    let output = Command::new("bash").args(["-c", &types]).output();
    let told = Told::of(&output.expect("there is a bash"));
    assert_eq!(told.printed, "probe", "{told:?}");
}
