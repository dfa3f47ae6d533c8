//! `holdfast dev`, as somebody uses it who writes a handler.
#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, and says where"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Instant,
};

use holdfast_tests::{
    Api, LONG,
    component::{build, target_dir},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::BIN;

/// `holdfast dev`, with a folder for temporary files of its own.
struct Dev {
    process: Child,
    events: mpsc::Receiver<Value>,
    temporary: PathBuf,
}

impl Dev {
    fn start(project: &Path, temporary: &Path) -> Self {
        fs::create_dir(temporary).unwrap();
        let mut process = Command::new(BIN)
            .args(["--format", "json", "dev", "--http", "127.0.0.1:0"])
            .current_dir(project)
            .env("CARGO_NET_OFFLINE", "true")
            .env("CARGO_TARGET_DIR", target_dir().join("guests"))
            .env("TMPDIR", temporary)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = process.stdout.take().unwrap();
        let (tell, events) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = tell.send(serde_json::from_str(&line).unwrap());
            }
        });
        Self {
            process,
            events,
            temporary: temporary.to_owned(),
        }
    }

    /// Waits for an event of this name of which this is so, and gives it.
    #[track_caller]
    fn wait(&self, name: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LONG;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(event) = self.events.recv_timeout(left) else {
                panic!("no such event {name}; there were {seen:#?}");
            };
            if event["event"] == name && is_it(&event) {
                return event;
            }
            seen.push(event);
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_handler_runs_while_it_is_written() {
    let elsewhere = tempfile::tempdir().unwrap();
    let project = elsewhere.path().join("my-bot");
    let made = Command::new(BIN)
        .args(["new", "my-bot"])
        .current_dir(elsewhere.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let manifest = project.join("holdfast.toml");
    let list = |resources: &str| {
        let text = fs::read_to_string(&manifest).unwrap();
        let begin = text.find("\n[[resources]]").map_or(text.len(), |at| at + 1);
        fs::write(&manifest, format!("{}{resources}", &text[..begin])).unwrap();
    };
    list("[[resources]]\nid = \"ada\"\nspec = { greeting = \"Hi\" }\n");
    // Whatever a handler depends on is on this machine once one of the workspace has been built.
    let _ = build("counter");

    let temporary = elsewhere.path().join("tmp");
    let mut dev = Dev::start(&project, &temporary);
    let server = dev.wait("listening", |_| true)["server"].clone();
    let api = Api::new(server.as_str().unwrap().trim_start_matches("http://"));
    let greet = |id: &str| -> Value { api.invoke("my-bot", id, "Ada").answer().expect(200).json() };
    let held = |id: &'static str| move |event: &Value| event["resource"]["id"] == id;
    let _ = dev.wait("serves", |event| event["version"] == 1);
    let _ = dev.wait("held", held("ada"));
    assert_eq!(greet("ada")["text"], "Hi, Ada!");

    // What does not compile leaves the version before.
    let source = project.join("src/lib.rs");
    let first = fs::read_to_string(&source).unwrap();
    fs::write(&source, format!("{first}\nfn broken(")).unwrap();
    let failed = dev.wait("failed", |_| true);
    assert_eq!(failed["serving"], json!(true));
    assert_eq!(greet("ada")["text"], "Hi, Ada!");

    // A change of the logic.
    let second = first.replace("\"{}, {name}!\"", "\"{}, dear {name}!\"");
    assert_ne!(
        first, second,
        "the template has changed: change this test with it"
    );
    fs::write(&source, second).unwrap();
    let _ = dev.wait("serves", |event| event["version"] == 2);
    let answer = greet("ada");
    assert_eq!(answer["text"], "Hi, dear Ada!");

    // Changes of what is listed.
    list("[[resources]]\nid = \"eve\"\n");
    let _ = dev.wait("deallocated", |event| event["id"] == "ada");
    let _ = dev.wait("held", held("eve"));
    let gone = api.invoke("my-bot", "ada", "Ada").answer();
    gone.problem(404, "unknown-resource");

    // Ctrl-C ends it, and leaves nothing behind.
    let pid = Pid::from_raw(i32::try_from(dev.process.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let status = dev.process.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(api.cluster().is_err(), "the node goes on");
    let left: Vec<_> = fs::read_dir(&dev.temporary).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_cannot_be_run_is_told_at_once() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(BIN)
        .args(["dev", empty.path().to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("holdfast.toml") && said.contains("holdfast new"),
        "{said}"
    );

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    fs::write(empty.path().join("holdfast.toml"), "name = \"a\"").unwrap();
    let output = Command::new(BIN)
        .args(["dev", empty.path().to_str().unwrap(), "--http"])
        .arg(taken.local_addr().unwrap().to_string())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--http 127.0.0.1:0"), "{said}");
}
