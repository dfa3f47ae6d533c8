//! What handlers say, read through any node.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use holdfast_model::{
    NodeId,
    api::{LogEntry, LogLine},
};
use holdfast_tests::{Answer, Cluster, LONG, Probe, cluster::Join, probe::ids, wait_until};

use crate::BIN;

/// The entries of an answer, in which no node is missing.
fn entries(answer: &Answer) -> Vec<LogEntry> {
    let text = String::from_utf8_lossy(&answer.body);
    let lines = text.lines().map(serde_json::from_str);
    let entries = lines.map(|line| match line {
        Ok(LogLine::Entry(entry)) => entry,
        other => panic!("no entry: {other:?}"),
    });
    entries.collect()
}

#[test]
fn what_handlers_say_anywhere_is_read_through_any_node() {
    let cluster = Cluster::builder(BIN).nodes(3).start();
    Probe::deploy_with(&cluster.api(0), "probe", &Probe::settings_logging());
    let resources = ids("r", 30);
    cluster.api(0).allocate_all("probe", &resources);
    for id in &resources {
        let held = cluster
            .api(0)
            .allocate_held("probe", id, &serde_json::json!({}));
        assert!(held.answer().expect(200).status == 200);
    }
    for node in 0..3 {
        let said = cluster.api(node).get("/v1/logs?module=probe&limit=1000");
        let said = entries(&said.answer().expect(200));
        let handled = said
            .iter()
            .filter(|entry| entry.message.contains(r#""event":"handle""#));
        let handled: BTreeSet<&str> = handled.map(|entry| entry.resource.as_str()).collect();
        assert_eq!(handled.len(), resources.len(), "through node {node}");
        let nodes: BTreeSet<NodeId> = said.iter().map(|entry| entry.node).collect();
        assert_eq!(nodes.len(), 3, "through node {node}");
        assert!(said.is_sorted_by_key(|entry| entry.at_ms), "in order");
    }
    // What a handler writes to stderr before it ends is there with its level.
    let _ = cluster
        .api(0)
        .invoke("probe", "r7", Probe::panic())
        .answer();
    let query = "/v1/logs?module=probe&resource=r7&level=warn";
    wait_until("the panic is told", LONG, || {
        let said = entries(&cluster.api(2).get(query).answer().expect(200));
        let only = said.iter().all(|entry| entry.resource.as_str() == "r7");
        assert!(only, "{said:?}");
        let told = said.iter().any(|entry| entry.message.contains("panicked"));
        told.then_some(()).ok_or(format!("{said:?}"))
    });
    let one = cluster.api(0).get("/v1/logs?limit=1").answer();
    assert_eq!(entries(&one.expect(200)).len(), 1);
}

#[test]
fn what_makes_no_sense_is_refused_and_a_node_that_is_not_there_is_named() {
    let cluster = Cluster::builder(BIN).start();
    let api = cluster.api(0);
    for (query, status, kind, names) in [
        ("?module=none", 404, "unknown-module", "none"),
        ("?resource=a", 400, "invalid-request", "module"),
        ("?limit=10001", 400, "invalid-request", "10000"),
        ("?level=loud", 400, "invalid-request", "loud"),
        ("?lines=1", 400, "invalid-request", "lines"),
    ] {
        let answer = api.get(&format!("/v1/logs{query}")).answer();
        answer.problem(status, kind).names(&[names]);
    }
    let nobody = "00000000-0000-4000-8000-000000000001";
    let answer = api
        .get(&format!("/v1/logs?node={nobody}"))
        .answer()
        .expect(200);
    let line: LogLine = answer.json();
    let LogLine::Missing(missing) = line else {
        panic!("it is not there: {line:?}");
    };
    assert_eq!(missing.node.to_string(), nobody);
}

/// `holdfast logs -f`, and the entries that it shows.
struct Follower {
    process: Child,
    entries: mpsc::Receiver<LogEntry>,
    /// Where something was said.
    nodes: BTreeSet<NodeId>,
    /// What said that it is handled, each time, and in which words.
    handled: Vec<String>,
    messages: Vec<String>,
}

impl Follower {
    fn start(cluster: &Cluster, node: usize) -> Self {
        let server = format!("http://{}", cluster.listening(node).http);
        let mut process = Command::new(BIN)
            .args(["--format", "json", "--server", &server])
            .args(["logs", "probe", "--follow", "--lines", "1000"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary under test can be started");
        let stdout = process.stdout.take().expect("it is piped");
        let (tell, entries) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(LogLine::Entry(entry)) = serde_json::from_str(&line) {
                    let _ = tell.send(entry);
                }
            }
        });
        Self {
            process,
            entries,
            nodes: BTreeSet::new(),
            handled: Vec::new(),
            messages: Vec::new(),
        }
    }

    fn hear(&mut self) {
        for entry in self.entries.try_iter() {
            self.nodes.insert(entry.node);
            if entry.message.contains(r#""event":"handle""#) {
                self.handled.push(entry.resource.to_string());
                self.messages.push(entry.message.to_string());
            }
        }
    }

    /// Waits until all of these have said that they are handled.
    #[track_caller]
    fn wait_handled(&mut self, ids: &[String]) {
        wait_until("all are said to be handled", LONG, || {
            self.hear();
            let missing = ids.iter().filter(|id| !self.handled.contains(id));
            let missing: Vec<_> = missing.collect();
            missing
                .is_empty()
                .then_some(())
                .ok_or(format!("{missing:?}"))
        });
    }

    /// Waits until something is said on this node.
    #[track_caller]
    fn wait_said_on(&mut self, node: NodeId) {
        wait_until("something is said there", LONG, || {
            self.hear();
            let nodes = &self.nodes;
            nodes
                .contains(&node)
                .then_some(())
                .ok_or(format!("{nodes:?}"))
        });
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn who_follows_hears_nodes_that_come_later_and_goes_on_when_the_own_one_ends() {
    let mut cluster = Cluster::builder(BIN).nodes(2).start();
    Probe::deploy_with(&cluster.api(0), "probe", &Probe::settings_logging());
    let mut follower = Follower::start(&cluster, 1);
    cluster.api(0).allocate_all("probe", &ids("r", 300));
    for node in 0..2 {
        follower.wait_said_on(cluster.listening(node).node);
    }
    // It comes, and takes its share.
    let third = cluster.add(Join::default());
    follower.wait_said_on(cluster.listening(third).node);
    follower.wait_handled(&ids("r", 300));
    assert_eq!(cluster.stop(1).code(), Some(0));
    let after = ids("after", 30);
    cluster.api(0).allocate_all("probe", &after);
    follower.wait_handled(&after);
    // The one that it goes on through ends, and another run begins: it is told what is missing.
    cluster.restart(1);
    cluster.wait_formed();
    let last = ids("last", 30);
    cluster.api(0).allocate_all("probe", &last);
    follower.wait_handled(&last);
    // Each instance numbers itself: one that moved says another thing.
    let told: BTreeSet<&String> = follower.messages.iter().collect();
    assert_eq!(told.len(), follower.messages.len(), "some is told twice");
}
