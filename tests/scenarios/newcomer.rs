//! What `holdfast new` makes, as a newcomer uses it: outside of the repository, with the command.
#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, and says where"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use holdfast_tests::{
    Cluster,
    component::{build, target_dir},
};
use serde_json::{Value, json};

use crate::BIN;

#[test]
fn a_new_handler_is_tested_built_deployed_and_invoked() {
    let elsewhere = tempfile::tempdir().unwrap();
    let project = elsewhere.path().join("my-bot");
    run(Command::new(BIN)
        .args(["new", "my-bot"])
        .current_dir(elsewhere.path()));
    let manifest = fs::read_to_string(project.join("Cargo.toml")).unwrap();
    let lines = manifest.lines().filter(|line| !line.trim().is_empty());
    assert_eq!(lines.count(), 10, "{manifest}");

    // Whatever a handler depends on is on this machine once one of the workspace has been built.
    let _ = build("counter");
    let said = run(outside(Path::new("cargo"), &project).arg("test"));
    assert!(said.contains("1 passed"), "{said}");

    // As an upgrade of `holdfast` finds it: with the SDK of another version.
    let sdk = project.join(".holdfast/guest-sdk/src/lib.rs");
    let present = fs::read(&sdk).unwrap();
    fs::write(&sdk, "compile_error!(\"another SDK\");").unwrap();
    let said = run(outside(Path::new(BIN), &project).args(["build", "--format", "json"]));
    assert!(said.contains("held another SDK"), "{said}");
    assert_eq!(fs::read(&sdk).unwrap(), present);

    let made = said.lines().find(|line| line.starts_with('{')).unwrap();
    let made: Value = serde_json::from_str(made).unwrap();
    assert_eq!(made["module"], "my-bot");
    let component = PathBuf::from(made["path"].as_str().unwrap());
    let bytes = fs::read(&component).unwrap();

    let cluster = Cluster::builder(BIN).start();
    let api = cluster.api(0);
    let _ = api.deploy("my-bot", bytes.into(), &json!({})).answer();
    let held = api.allocate_held("my-bot", "ada", &json!({"greeting": "Good morning"}));
    let _ = held.answer().expect(201);
    let answer: Value = api
        .invoke("my-bot", "ada", "Ada")
        .answer()
        .expect(200)
        .json();
    assert_eq!(answer, json!({"text": "Good morning, Ada!", "greeted": 1}));
}

/// A command in the project that asks no network, and shares what other tests have compiled.
fn outside(program: &Path, project: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(project)
        .env("CARGO_NET_OFFLINE", "true")
        .env("CARGO_TARGET_DIR", target_dir().join("guests"));
    command
}

/// Runs it to its end, which must be a good one; gives what it said.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
    assert!(output.status.success(), "{command:?}:\n{out}\n{err}");
    out + &err
}
