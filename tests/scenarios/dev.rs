//! `holdfast dev`, as somebody uses it who writes a handler.
#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, and says where"
)]

use std::{
    cell::RefCell,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::symlink,
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
    /// All events that were looked at.
    seen: RefCell<Vec<Value>>,
    temporary: PathBuf,
}

impl Dev {
    fn start(project: &Path, temporary: &Path) -> Self {
        let target = target_dir().join("guests");
        Self::start_in(project, ".", &target, temporary, Stdio::inherit())
    }

    /// Develops a folder, named from another, with this build directory.
    fn start_in(here: &Path, dir: &str, target: &Path, temporary: &Path, log: Stdio) -> Self {
        fs::create_dir(temporary).unwrap();
        let mut process = Command::new(BIN)
            .args(["--format", "json", "dev", dir, "--http", "127.0.0.1:0"])
            .current_dir(here)
            .env("CARGO_NET_OFFLINE", "true")
            .env("CARGO_TARGET_DIR", target)
            .env("TMPDIR", temporary)
            .stdout(Stdio::piped())
            .stderr(log)
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
            seen: RefCell::default(),
            temporary: temporary.to_owned(),
        }
    }

    /// Waits for an event of this name of which this is so, and gives it.
    #[track_caller]
    fn wait(&self, name: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LONG;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(event) = self.events.recv_timeout(left) else {
                panic!("no such event {name}; there were {:#?}", self.seen.borrow());
            };
            self.seen.borrow_mut().push(event.clone());
            if event["event"] == name && is_it(&event) {
                return event;
            }
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
fn it_builds_for_what_cargo_reads_and_for_nothing_else() {
    let elsewhere = tempfile::tempdir().unwrap();
    let here = elsewhere.path();
    let made = Command::new(BIN)
        .args(["new", "my-bot"])
        .current_dir(here)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let project = here.join("my-bot");
    let write = |file: &str, text: &str| {
        let path = here.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    // A path dependency, a file that is included, and sources behind a symbolic link.
    let manifest = fs::read_to_string(project.join("Cargo.toml")).unwrap();
    let depends = "[dependencies]\nwords = { path = \"../words\" }";
    write(
        "my-bot/Cargo.toml",
        &manifest.replace("[dependencies]", depends),
    );
    let words = "[package]\nname = \"words\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
    write("words/Cargo.toml", words);
    write("words/src/lib.rs", "pub const END: &str = \"!\";\n");
    write("mood.txt", "well");
    let source = fs::read_to_string(project.join("src/lib.rs")).unwrap();
    let source = source.replace(
        "format!(\"{}, {name}!\", self.greeting)",
        "format!(\"{}, {name}{} {}\", self.greeting, words::END, include_str!(\"../mood.txt\"))",
    );
    assert!(
        source.contains("words::END"),
        "the template has changed: change this test with it"
    );
    write("shared/lib.rs", &source);
    fs::remove_dir_all(project.join("src")).unwrap();
    symlink(here.join("shared"), project.join("src")).unwrap();
    write(
        "my-bot/holdfast.toml",
        "name = \"my-bot\"\n[[resources]]\nid = \"ada\"\n",
    );
    // The build directory and the log are in the folder; the former is named from here.
    let _ = build("counter");
    symlink(target_dir().join("guests"), project.join("out")).unwrap();
    let log = fs::File::create(project.join("dev.log")).unwrap();
    let out = Path::new("my-bot/out");
    let dev = Dev::start_in(here, "my-bot", out, &here.join("tmp"), log.into());

    let server = dev.wait("listening", |_| true)["server"].clone();
    let server = server.as_str().unwrap();
    let api = Api::new(server.trim_start_matches("http://"));
    let next = dev.wait("next", |_| true);
    let invoke = format!("holdfast --server {server} invoke my-bot/ada hello");
    assert_eq!(next["commands"], json!([invoke]));
    let called = |expected: &str| {
        let answer: Value = api
            .invoke("my-bot", "ada", "Ada")
            .answer()
            .expect(200)
            .json();
        assert_eq!(answer["text"], expected);
        let told = dev.wait("called", |call| call["id"] == "ada");
        assert_eq!(
            (&told["module"], &told["status"]),
            (&json!("my-bot"), &json!(200))
        );
        assert!(told["took_ms"].as_f64().unwrap() > 0.0, "{told}");
    };
    called("Hello, Ada! well");
    let refused = api.invoke("my-bot", "ada", "").answer();
    refused.problem(400, "handler-refused");
    let told = dev.wait("called", |call| call["status"] == 400);
    assert_eq!(told["error"], "the body must be a name");

    // One by one, and no other build in between.
    let builds = |version: u64| dev.wait("serves", |event| event["version"] == version);
    write("words/src/lib.rs", "pub const END: &str = \"?\";\n");
    let _ = builds(2);
    called("Hello, Ada? well");
    write("mood.txt", "better");
    let _ = builds(3);
    called("Hello, Ada? better");
    // Another branch, and an edit in it.
    fs::rename(here.join("shared"), here.join("former")).unwrap();
    write(
        "shared/lib.rs",
        &source.replace("\"Hello\"", "\"Good day\""),
    );
    let _ = builds(4);
    write(
        "shared/lib.rs",
        &source.replace("\"Hello\"", "\"Good night\""),
    );
    let _ = builds(5);
    called("Good night, Ada? better");
    let changes = dev
        .seen
        .borrow()
        .iter()
        .filter(|event| event["event"] == "changed")
        .count();
    assert_eq!(changes, 4, "it built for something else");

    // What fails is named.
    let listed = "[[resources]]\nid = \"bad\"\nspec = { nonsense = 1 }\n";
    write(
        "my-bot/holdfast.toml",
        &format!("name = \"my-bot\"\n{listed}[[resources]]\nid = \"eve\"\n"),
    );
    let not_held = dev.wait("not-held", |_| true);
    assert_eq!(not_held["id"], "bad");
    let why = not_held["problem"]["detail"].as_str().unwrap();
    assert!(
        why.contains("quarantined") && why.contains("nonsense"),
        "{why}"
    );
    // The others are held all the same.
    let _ = dev.wait("held", |event| event["resource"]["id"] == "eve");
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
