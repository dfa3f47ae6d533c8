//! What happens in a cluster, as those hear who watch it through any node.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use holdfast_model::{
    NodeId,
    api::{Event, EventType, Happening, StopReason},
};
use holdfast_tests::{Cluster, LONG, Probe, api::resource_path, probe::ids};
use parking_lot::Mutex;
use serde_json::json;

use crate::BIN;

/// A connection that hears events.
pub(crate) struct Watcher {
    /// Where it began.
    begin: Arc<Mutex<String>>,
    heard: Arc<Mutex<Vec<(String, Event)>>>,
    connection: TcpStream,
}

impl Watcher {
    pub(crate) fn start(cluster: &Cluster, node: usize, query: &str, after: Option<&str>) -> Self {
        let addr = cluster.listening(node).http;
        let mut connection = TcpStream::connect(addr).expect("the node listens");
        let after = after.map_or(String::new(), |id| format!("last-event-id: {id}\r\n"));
        write!(
            connection,
            "GET /v1/events{query} HTTP/1.1\r\nhost: {addr}\r\n{after}\r\n"
        )
        .expect("it reads");
        let mut lines = BufReader::new(connection.try_clone().expect("it is open")).lines();
        let status = lines.next().expect("an answer").expect("an answer");
        assert!(status.starts_with("HTTP/1.1 200"), "{status}");
        // Whatever happens after the first comment is heard.
        let is_first = |line: &String| line == ": events";
        let first = lines.by_ref().map_while(Result::ok).find(is_first);
        assert!(first.is_some(), "the stream begins");
        let heard = Arc::<Mutex<Vec<(String, Event)>>>::default();
        let tell = heard.clone();
        let begin = Arc::<Mutex<String>>::default();
        let told = begin.clone();
        thread::spawn(move || {
            let (mut id, mut kind) = (String::new(), String::new());
            for line in lines.map_while(Result::ok) {
                match line.split_once(": ") {
                    Some(("id", text)) => {
                        text.clone_into(&mut id);
                        let mut begin = told.lock();
                        if begin.is_empty() {
                            id.clone_into(&mut begin);
                        }
                    }
                    Some(("event", text)) => text.clone_into(&mut kind),
                    Some(("data", json)) => {
                        let event: Event = serde_json::from_str(json).expect("an event");
                        assert_eq!(event.what.kind().as_str(), kind);
                        tell.lock().push((id.clone(), event));
                    }
                    _ => {}
                }
            }
        });
        Self {
            begin,
            heard,
            connection,
        }
    }

    /// Waits until something was heard of which this is so, and gives its id.
    #[track_caller]
    fn wait(&self, what: &str, is_it: impl Fn(&Happening) -> bool) -> String {
        let deadline = Instant::now() + LONG;
        loop {
            let heard = self.heard.lock().clone();
            if let Some((id, _)) = heard.iter().find(|(_, event)| is_it(&event.what)) {
                return id.clone();
            }
            assert!(Instant::now() < deadline, "not heard of {what}: {heard:#?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The id with which the stream began, before anything happened.
    #[track_caller]
    fn wait_begin(&self) -> String {
        let (begin, _) = holdfast_tests::wait_until("it says where it begins", LONG, || {
            let begin = self.begin.lock().clone();
            (!begin.is_empty()).then_some(begin).ok_or("not yet")
        });
        begin
    }

    /// The same, each with its time.
    pub(crate) fn heard_at(&self) -> Vec<(u64, Happening)> {
        let heard = self.heard.lock();
        let heard = heard.iter();
        heard
            .map(|(_, event)| (event.at_ms, event.what.clone()))
            .collect()
    }

    /// What was heard, in its order.
    pub(crate) fn heard(&self) -> Vec<Happening> {
        let heard = self.heard.lock();
        heard.iter().map(|(_, event)| event.what.clone()).collect()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.connection.shutdown(std::net::Shutdown::Both);
    }
}

fn resource(happening: &Happening) -> Option<&str> {
    match happening {
        Happening::ResourceAllocated { resource, .. }
        | Happening::ResourceChanged { resource, .. }
        | Happening::ResourceDeallocated { resource, .. }
        | Happening::InstanceStarted { resource, .. }
        | Happening::InstanceFailed { resource, .. }
        | Happening::InstanceStopped { resource, .. } => Some(resource.as_str()),
        _ => None,
    }
}

#[test]
fn every_event_of_a_cluster_is_heard_where_it_did_not_happen() {
    let mut cluster = Cluster::builder(BIN).nodes(3).start();
    let node = |n: usize| cluster.listening(n).node;
    let nodes = [0, 1, 2].map(node);
    let watcher = Watcher::start(&cluster, 0, "", None);
    let api = cluster.api(0);
    let is_kind = |kind| move |event: &Happening| event.kind() == kind;
    let of = |kind: EventType, id: &'static str| {
        move |event: &Happening| event.kind() == kind && resource(event) == Some(id)
    };

    Probe::deploy_with(&api, "probe", &Probe::settings_logging());
    let _ = watcher.wait("the deployment", is_kind(EventType::ModuleDeployed));
    let _ = watcher.wait("the version", is_kind(EventType::ModuleServing));
    for there in nodes {
        let _ = watcher.wait(
            "each node",
            |event| matches!(event, Happening::ModuleReady { node, .. } if *node == there),
        );
    }

    let resources = ids("r", 60);
    api.allocate_all("probe", &resources);
    let fatal = api.allocate("probe", "fatal", &json!({"fatal": true}));
    let _ = fatal.answer().expect(201);
    let _ = watcher.wait("an allocation", of(EventType::ResourceAllocated, "r7"));
    let _ = watcher.wait("a start", of(EventType::InstanceStarted, "r59"));
    let _ = watcher.wait("a failure", |event| {
        matches!(event, Happening::InstanceFailed { resource, quarantined: true, .. }
            if resource.as_str() == "fatal")
    });
    let _ = api
        .allocate("probe", "r7", &json!({"handle_ms": 1}))
        .answer();
    let _ = watcher.wait("a change", of(EventType::ResourceChanged, "r7"));
    let _ = watcher.wait("what it ended", |event| {
        matches!(event, Happening::InstanceStopped { resource, reason: StopReason::Upgraded, .. }
            if resource.as_str() == "r7")
    });
    let _ = api.ask("DELETE", &resource_path("probe", "r8")).answer();
    let _ = watcher.wait("a deallocation", of(EventType::ResourceDeallocated, "r8"));

    let drain = format!("/v1/cluster/nodes/{}/drain", nodes[2]);
    let _ = api.ask("POST", &format!("{drain}?wait=empty")).answer();
    let _ = watcher.wait("the drain", is_kind(EventType::NodeDraining));
    let _ = watcher.wait("a move", |event| {
        let from = |owner: &Option<holdfast_model::api::Owner>| owner.map(|owner| owner.node);
        matches!(event, Happening::Moved { from: left, .. } if from(left) == Some(nodes[2]))
    });
    let _ = watcher.wait("an end", |event| {
        matches!(event, Happening::InstanceStopped { node, reason: StopReason::Moved, .. }
            if *node == nodes[2])
    });
    let _ = api.ask("POST", &format!("{drain}?cancel=true")).answer();
    let _ = watcher.wait("the end of the drain", is_kind(EventType::NodeActive));

    let restart = format!("/v1/cluster/nodes/{}/restart", nodes[1]);
    let _ = api.ask("POST", &restart).answer().expect(202);
    let _ = watcher.wait("the restart", is_kind(EventType::NodeRestarting));
    let _ = watcher.wait("the next run", |event| {
        matches!(event, Happening::NodeUp { node, incarnation } if *node == nodes[1] && incarnation.0 == 2)
    });
    cluster.kill9(2);
    let _ = watcher.wait(
        "a death",
        |event| matches!(event, Happening::NodeDown { node, .. } if *node == nodes[2]),
    );
    let api = cluster.api(0);
    let remove = format!("/v1/cluster/nodes/{}?confirm_dead=true", nodes[2]);
    let _ = api.ask("DELETE", &remove).answer();
    let _ = watcher.wait("a removal", is_kind(EventType::NodeRemoved));
    let gone = "/v1/modules/probe?force=true&wait=gone";
    let _ = api.ask("DELETE", gone).answer().expect(204);
    let _ = watcher.wait(
        "the removal of the module",
        is_kind(EventType::ModuleRemoving),
    );
    let _ = watcher.wait("its end", is_kind(EventType::ModuleRemoved));

    let kinds: BTreeSet<EventType> = watcher.heard().iter().map(Happening::kind).collect();
    let unheard = EventType::ALL.iter().filter(|kind| !kinds.contains(kind));
    // What nothing here brings about: its own tests do. On a machine that is slow, one may be missed.
    let unheard = unheard.filter(|kind| **kind != EventType::Missed);
    let unheard: Vec<_> = unheard.map(|kind| kind.as_str()).collect();
    assert_eq!(unheard, ["module-failed"]);
}

#[test]
fn who_goes_on_through_another_node_misses_nothing_and_hears_nothing_twice() {
    let cluster = Cluster::builder(BIN).nodes(2).start();
    let api = cluster.api(0);
    Probe::deploy_with(&api, "probe", &Probe::settings_logging());
    let query = "?module=probe";
    let first = Watcher::start(&cluster, 0, query, None);
    api.allocate_all("probe", &ids("a", 20));
    let started = |id: &'static str| {
        move |event: &Happening| {
            event.kind() == EventType::InstanceStarted && resource(event) == Some(id)
        }
    };
    for id in ["a0", "a19"] {
        let _ = first.wait("the first ones", started(id));
    }
    let (last, before) = {
        let heard = first.heard.lock().clone();
        let (id, _) = heard.last().expect("some").clone();
        (id, heard)
    };
    drop(first);
    // Unheard by anybody.
    api.allocate_all("probe", &ids("b", 20));
    let second = Watcher::start(&cluster, 1, query, Some(&last));
    let _ = second.wait("those meanwhile", started("b19"));
    api.allocate_all("probe", &ids("c", 5));
    for id in ["a0", "a19", "b0", "b10", "b19", "c0", "c4"] {
        let is_it = |event: &&Happening| {
            event.kind() == EventType::InstanceStarted && resource(event) == Some(id)
        };
        if !id.starts_with('a') {
            let _ = second.wait("those that are new", started(id));
        }
        let before = before.iter().map(|(_, event)| &event.what);
        let heard = second.heard();
        let times = before.filter(is_it).count() + heard.iter().filter(is_it).count();
        assert_eq!(times, 1, "{id}");
        let missed = heard.iter().any(|event| event.kind() == EventType::Missed);
        assert!(!missed);
    }

    // All of it is known, too.
    let replay = Watcher::start(&cluster, 1, "?module=probe&replay=true", None);
    let _ = replay.wait("the first of all", |event| {
        event.kind() == EventType::ModuleDeployed
    });
    let _ = replay.wait("the last", started("c4"));
}

#[test]
fn who_lost_the_connection_before_anything_happened_goes_on_and_hears_nothing_old() {
    let cluster = Cluster::builder(BIN).nodes(3).start();
    let api = cluster.api(0);
    Probe::deploy_with(&api, "probe", &Probe::settings_logging());
    api.allocate_all("probe", &ids("old", 30));
    let started = |id: &str| {
        let id = id.to_owned();
        move |event: &Happening| {
            event.kind() == EventType::InstanceStarted && resource(event) == Some(&id)
        }
    };
    // All of them, at the node whose word counts below.
    let all = Watcher::start(&cluster, 1, "?replay=true", None);
    for id in ids("old", 30) {
        let _ = all.wait("the old ones", started(&id));
    }
    // Of the second node nothing more is heard than where it is.
    let first = Watcher::start(&cluster, 1, "?type=instance-started", None);
    let begin = first.wait_begin();
    drop(first);
    api.allocate_all("probe", &ids("new", 9));
    let second = Watcher::start(&cluster, 2, "?type=instance-started", Some(&begin));
    for id in ["new0", "new4", "new8"] {
        let _ = second.wait("the new ones", started(id));
    }
    let heard = second.heard();
    let old = |event: &&Happening| resource(event).is_some_and(|id| id.starts_with("old"));
    assert_eq!(heard.iter().find(old), None);
    assert!(!heard.iter().any(|event| event.kind() == EventType::Missed));
}

#[test]
fn a_version_that_holds_nothing_and_what_nobody_knows_any_more_are_told() {
    let mut cluster = Cluster::builder(BIN).nodes(2).start();
    let api = cluster.api(0);
    Probe::deploy_with(&api, "probe", &Probe::settings_logging());
    let held = api.allocate_held("probe", "r", &json!({}));
    let _ = held.answer().expect(201);
    let watcher = Watcher::start(&cluster, 0, "", None);
    let wit =
        holdfast_tests::component::resource_handler() + "world it { export resource-handler; }";
    let broken = holdfast_tests::component::trapping(&wit);
    let _ = api.deploy("probe", broken, &json!({})).answer();
    let id = watcher.wait("the failed version", |event| {
        event.kind() == EventType::ModuleFailed
    });
    // The run that has told of its instances ends.
    cluster.kill9(1);
    cluster.restart(1);
    let up = |event: &Happening| matches!(event, Happening::NodeUp { .. });
    let _ = watcher.wait("the next run", up);
    let there: NodeId = cluster.listening(1).node;
    let own = format!(";{}.1.1", there.0.simple());
    let log = id
        .split(';')
        .next()
        .expect("the log comes first")
        .to_owned();
    let again = Watcher::start(&cluster, 0, "", Some(&format!("{log}{own}")));
    let _ = again.wait(
        "what was lost with it",
        |event| matches!(event, Happening::Missed { node: Some(node) } if *node == there),
    );
    // A log that nobody has from its beginning.
    let old = Watcher::start(&cluster, 1, "", Some("1"));
    let _ = old.wait("what it was not there for", |event| {
        matches!(event, Happening::Missed { node: None })
    });
}

#[test]
fn what_makes_no_sense_is_refused() {
    let cluster = Cluster::builder(BIN).start();
    let api = cluster.api(0);
    for (query, names) in [
        ("?type=nothing", "nothing"),
        ("?resource=a", "module"),
        ("?since=1", "since"),
    ] {
        let answer = api.get(&format!("/v1/events{query}")).answer();
        answer.problem(400, "invalid-request").names(&[names]);
    }
    let answer = api.get("/v1/events").header("last-event-id", "x").answer();
    let problem = answer.problem(400, "invalid-request");
    drop(problem);
}

#[test]
fn the_catalogue_has_every_event_as_it_is_written() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/EVENTS.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let mut listed = BTreeSet::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [name, _, example] = cells[..] else {
            panic!("three cells: {row}");
        };
        let example = example.trim_end_matches(" |").trim_matches('`');
        let event: Event =
            serde_json::from_str(example).unwrap_or_else(|error| panic!("{error}: {row}"));
        assert_eq!(serde_json::to_string(&event).ok().as_deref(), Some(example));
        assert_eq!(
            event.what.kind().as_str(),
            name.trim_start_matches("| ").trim_matches('`')
        );
        listed.insert(event.what.kind());
    }
    let all: BTreeSet<EventType> = EventType::ALL.iter().copied().collect();
    assert_eq!(listed, all);
}
