//! Traces: from a caller, over the hop between nodes, into what a handler sends, seen by a collector.
#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, and says where"
)]

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener},
    sync::mpsc,
    thread,
};

use holdfast_model::api::ResourceStatus;
use holdfast_tests::{
    Api, Cluster, LONG, Probe, SOON,
    cluster::Join,
    probe::ids,
    traces::{Span, Traces},
    wait_until,
};
use serde_json::{Value, json};

use crate::BIN;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A cluster of two that is followed, with a resource, its owner, and the other node.
struct Scene {
    traces: Traces,
    cluster: Cluster,
    id: String,
    owner: usize,
    other: usize,
    elsewhere: Elsewhere,
}

impl Scene {
    fn start(args: &[&str]) -> Self {
        let traces = Traces::start();
        let url = traces.url();
        let args: Vec<&str> = [&["--otlp-endpoint", &url], args].concat();
        let cluster = Cluster::builder(BIN).nodes(2).args(&args).start();
        let api = cluster.api(0);
        Probe::deploy(&api, "probe", cluster.collector());
        let ids = ids("r", 16);
        api.allocate_all("probe", &ids);
        cluster.collector().wait_held("probe", &ids, SOON);
        // What moves while the second node gets its share is none to call.
        let second = cluster.listening(1).node;
        let is_there = |id: &&String| {
            let info = api.resource("probe", id);
            let owner = info.owner.map(|owner| owner.node);
            owner == Some(second) && info.status == ResourceStatus::Held
        };
        let (id, _) = wait_until("node 1 holds a resource", LONG, || {
            let mut all = ids.iter();
            all.find(is_there).cloned().ok_or("not yet")
        });
        Self {
            traces,
            cluster,
            id,
            owner: 1,
            other: 0,
            elsewhere: Elsewhere::start(),
        }
    }

    /// Has the handler send a request, for a caller with these headers, and gives what it sent.
    fn call(&self, node: usize, headers: &[(&str, &str)], of_guest: Value) -> Heads {
        let body = json!({
            "op": "fetch", "url": format!("http://{}/path?key=secret", self.elsewhere.addr),
            "timeout_ms": 10_000, "response_bytes_max": 64, "header": of_guest,
        });
        let mut ask = self
            .cluster
            .api(node)
            .invoke("probe", &self.id, body.to_string());
        for (name, value) in headers {
            ask = ask.header(name, value);
        }
        let answer = ask.answer().expect(200);
        assert_eq!(answer.body, "200, 5 bytes");
        self.elsewhere.heads.recv_timeout(SOON).unwrap()
    }
}

fn parent(sampled: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{sampled}")
}

/// The parts of a `traceparent` that are not its version.
fn parts(heads: &Heads) -> (&str, &str, &str) {
    let mut parts = heads["traceparent"].split('-').skip(1);
    let mut next = || parts.next().unwrap();
    (next(), next(), next())
}

#[test]
fn a_call_is_followed_from_its_caller_over_the_hop_into_what_the_handler_sends() {
    let scene = Scene::start(&[]);
    let headers = [
        ("traceparent", &*parent("01")),
        ("tracestate", "vendor=1,other=2"),
    ];
    let heads = scene.call(scene.other, &headers, Value::Null);
    let spans = scene.traces.wait(TRACE, 5);
    let nodes = [scene.other, scene.owner].map(|node| scene.cluster.listening(node).node);
    let [first, owner] = nodes.map(|node| node.to_string());
    let mut above = CALLER;
    for (kind, name, node) in [
        (
            "server",
            "POST /v1/modules/{module}/resources/{id}/invoke",
            &first,
        ),
        ("client", "Resources/Invoke", &first),
        ("server", "Resources/Invoke", &owner),
        ("internal", "invoke", &owner),
        ("client", "GET", &owner),
    ] {
        let span = spans.iter().find(|span| span.parent == above);
        let span = span.unwrap_or_else(|| panic!("nothing below {above}: {spans:?}"));
        assert_eq!((span.kind, &*span.name, span.node()), (kind, name, &**node));
        assert_eq!(span.state, "vendor=1,other=2");
        assert!(!span.failed, "{span:?}");
        assert_eq!(span.resource["service.name"], "holdfast");
        above = &span.id;
    }
    assert_eq!(spans.len(), 5);
    // What was sent belongs to the last of them.
    assert_eq!(parts(&heads), (TRACE, above, "01"));
    assert_eq!(heads["tracestate"], "vendor=1,other=2");

    let of = |kind, name: &str| {
        let mut spans = spans.iter();
        let is_it = |span: &&Span| span.kind == kind && span.name.contains(name);
        spans.find(is_it).unwrap()
    };
    let http = of("server", "POST");
    let path = format!("/v1/modules/probe/resources/{}/invoke", scene.id);
    assert_eq!(http.says("url.path"), path);
    assert_eq!(http.says("http.request.method"), "POST");
    assert_eq!(http.says("http.response.status_code"), "200");
    let hop = of("client", "Resources");
    assert_eq!(hop.says("holdfast.owner"), owner);
    let invoke = of("internal", "invoke");
    assert_eq!(invoke.says("holdfast.module"), "probe");
    assert_eq!(invoke.says("holdfast.resource"), scene.id);
    assert!(
        invoke
            .says("holdfast.queue_seconds")
            .parse::<f64>()
            .unwrap()
            < 60.0
    );
    let sent = of("client", "GET");
    let addr = scene.elsewhere.addr;
    assert_eq!(sent.says("server.address"), "127.0.0.1");
    assert_eq!(sent.says("server.port"), addr.port().to_string());
    // A query may have secrets in it.
    assert_eq!(sent.says("url.full"), format!("http://{addr}/path"));
    assert_eq!(sent.says("http.response.status_code"), "200");
}

#[test]
fn of_a_trace_that_its_caller_does_not_keep_nothing_is_recorded_but_all_is_passed_on() {
    let scene = Scene::start(&[]);
    let unkept = "0af7651916cd43dd8448eb211c80319c";
    let parent_of_unkept = format!("00-{unkept}-{CALLER}-00");
    let headers = [
        ("traceparent", &*parent_of_unkept),
        ("tracestate", "vendor=1"),
    ];
    let heads = scene.call(scene.other, &headers, Value::Null);
    let (trace, _, sampled) = parts(&heads);
    assert_eq!((trace, sampled), (unkept, "00"));
    assert_eq!(heads["tracestate"], "vendor=1");
    // Whatever was recorded of it would have come before these.
    scene.call(scene.other, &[("traceparent", &parent("01"))], Value::Null);
    scene.traces.wait(TRACE, 5);
    assert_eq!(scene.traces.of(unkept).len(), 0);
}

#[test]
fn a_handler_that_says_what_its_request_belongs_to_is_believed() {
    let scene = Scene::start(&[]);
    let own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("traceparent", &*parent("01")), ("tracestate", "vendor=1")];
    let heads = scene.call(scene.owner, &headers, json!(["traceparent", own]));
    assert_eq!(heads["traceparent"], own);
    assert_eq!(heads.get("tracestate"), None);
    // The node's own span is there all the same.
    let spans = scene.traces.wait(TRACE, 3);
    assert!(spans.iter().any(|span| span.name == "GET"), "{spans:?}");
}

#[test]
fn a_malformed_context_begins_a_new_trace_and_the_ratio_says_whether_it_is_kept() {
    for (ratio, sampled) in [("1", "01"), ("0", "00")] {
        let scene = Scene::start(&["--trace-ratio", ratio]);
        for malformed in [None, Some("nonsense"), Some(&*parent("01").to_uppercase())] {
            let header = malformed.map(|text| ("traceparent", text));
            let headers: Vec<_> = header.into_iter().collect();
            let heads = scene.call(scene.other, &headers, Value::Null);
            let (trace, _, flags) = parts(&heads);
            assert_ne!(trace, TRACE);
            assert_eq!((trace.len(), flags), (32, sampled), "{malformed:?}");
            if sampled == "01" {
                let spans = scene.traces.wait(trace, 5);
                let roots = spans.iter().filter(|span| span.parent.is_empty());
                assert_eq!(roots.count(), 1, "{spans:?}");
            }
        }
        // A caller decides for itself, whatever the ratio.
        scene.call(scene.other, &[("traceparent", &parent("01"))], Value::Null);
        scene.traces.wait(TRACE, 5);
        let traces = scene.traces.spans();
        let is_callers = traces.iter().all(|span| span.trace == TRACE);
        assert_eq!(is_callers, sampled == "00", "{traces:?}");
    }
}

#[test]
fn starts_and_ends_of_instances_and_requests_of_the_api_are_traces_too() {
    let mut scene = Scene::start(&[]);
    let start_of =
        |span: &&Span| span.name == "start" && span.says("holdfast.resource") == scene.id;
    let (started, _) = wait_until("its start arrives", SOON, || {
        let spans = scene.traces.spans();
        spans.iter().find(start_of).cloned().ok_or("not yet")
    });
    assert_eq!(started.parent, "");
    // The probe reports when it is held: a request within `handle`.
    let spans = scene.traces.wait(&started.trace, 3);
    let below = |span: &Span| {
        let mut spans = spans.iter();
        spans.find(|other| other.parent == span.id).unwrap().clone()
    };
    let handle = below(&started);
    assert_eq!((&*handle.name, handle.kind), ("handle", "internal"));
    let sent = below(&handle);
    assert_eq!((&*sent.name, sent.kind), ("POST", "client"));

    let api = scene.cluster.api(0);
    for (path, status) in [
        ("/v1/modules/probe", 200),
        ("/v1/modules/none", 404),
        ("/readyz", 200),
        ("/metrics", 200),
    ] {
        let ask = api.get(path).header("traceparent", parent("01"));
        drop(ask.answer().expect(status));
    }
    let fails = api
        .invoke("probe", "none", "")
        .header("traceparent", parent("01"));
    drop(fails.answer().expect(404));
    let trap = api
        .invoke("probe", &scene.id, Probe::panic())
        .header("traceparent", parent("01"));
    drop(trap.answer().expect(500));
    let spans = scene.traces.wait(TRACE, 7);
    let of = |name: &str| -> Vec<(&str, bool)> {
        let of_name = spans.iter().filter(|span| span.name.starts_with(name));
        let told = |span| Span::says(span, "http.response.status_code");
        let mut told: Vec<_> = of_name.map(|span| (told(span), span.failed)).collect();
        told.sort_unstable();
        told
    };
    // What a caller did wrong is no failure; what a handler did is.
    assert_eq!(
        of("GET /v1/modules/{module}"),
        [("200", false), ("404", false)]
    );
    assert_eq!(of("POST "), [("404", false), ("500", true)]);
    let invoke = spans.iter().find(|span| span.name == "invoke").unwrap();
    assert_eq!((invoke.failed, invoke.says("error.type")), (true, "trap"));
    assert_eq!(spans.len(), 7, "probes and scrapes are none: {spans:?}");

    // What a node does last arrives, too.
    let stopped = scene.cluster.listening(1).node.to_string();
    assert!(scene.cluster.stop(1).success());
    let ends = scene.traces.spans();
    let ends = ends
        .iter()
        .filter(|span| span.name == "terminate" && span.node() == stopped);
    let of_moves = ends.filter(|span| span.says("holdfast.reason") == "moved");
    assert!(of_moves.count() > 0);
}

#[test]
fn the_variables_of_the_standard_say_where_traces_go_and_who_sends_them() {
    let traces = Traces::start();
    let mut cluster = Cluster::builder(BIN).start();
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*traces.url()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20key"),
        ("OTEL_SERVICE_NAME", "mine"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test"),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
    ];
    let node = cluster.add(Join {
        env: env
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        ..Join::default()
    });
    let api = cluster.api(node);
    wait_until("it has joined", LONG, || api.ready());
    let ask = || api.get("/v1/modules");
    drop(ask().answer().expect(200));
    drop(
        ask()
            .header("traceparent", parent("01"))
            .answer()
            .expect(200),
    );
    traces.wait(TRACE, 1);
    let spans = traces.spans();
    assert_eq!(spans.len(), 1, "the caller's only: {spans:?}");
    assert_eq!(spans[0].headers["authorization"], "Bearer key");
    for (key, value) in [
        ("service.name", "mine"),
        ("deployment.environment", "test"),
        ("holdfast.cluster", cluster.name()),
    ] {
        assert_eq!(spans[0].resource[key], value);
    }
}

#[test]
fn without_its_collector_a_node_works_and_ends_as_ever_and_says_what_is_lost() {
    // One that nobody listens at, and one that never answers.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone_at = gone.local_addr().unwrap();
    drop(gone);
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute_at = mute.local_addr().unwrap();
    for addr in [gone_at, mute_at] {
        let url = format!("http://{addr}");
        let args = ["--otlp-endpoint", &*url];
        let mut cluster = Cluster::builder(BIN).args(&args).start();
        let api = cluster.api(0);
        Probe::deploy(&api, "probe", cluster.collector());
        let held = api.allocate_held("probe", "a", &json!({})).answer();
        drop(held.expect(201));
        let call = || drop(api.invoke("probe", "a", "").answer().expect(200));
        call();
        if addr == gone_at {
            wait_until("lost spans are counted", SOON, || {
                let failed = value(&api, "holdfast_spans_total{result=\"failed\"}");
                (failed > 2.0).then_some(()).ok_or(failed)
            });
            // Others are lost, and not told of again so soon.
            let before = value(&api, "holdfast_spans_total{result=\"failed\"}");
            call();
            wait_until("more are counted", SOON, || {
                let failed = value(&api, "holdfast_spans_total{result=\"failed\"}");
                (failed > before).then_some(()).ok_or(failed)
            });
            let log = cluster.log(0);
            let told: Vec<_> = log
                .lines()
                .filter(|line| line.contains("takes no spans"))
                .collect();
            assert_eq!(told.len(), 1, "{told:?}");
            for part in ["WARN", &url, "refused"] {
                assert!(told[0].contains(part), "no {part}: {}", told[0]);
            }
        }
        assert_eq!(
            value(&api, "holdfast_spans_total{result=\"exported\"}"),
            0.0
        );
        call();
        assert!(cluster.stop(0).success());
        let log = cluster.log(0);
        assert_eq!(
            log.contains("before the collector"),
            addr == mute_at,
            "{log}"
        );
    }
}

#[test]
fn a_collector_that_refuses_spans_gets_those_that_end_once_it_takes_them_again() {
    let traces = Traces::start();
    traces.refuse(true);
    // What the harness asks is not kept.
    let args = ["--otlp-endpoint", &*traces.url(), "--trace-ratio", "0"];
    let cluster = Cluster::builder(BIN).args(&args).start();
    let api = cluster.api(0);
    let ask = || {
        let ask = api.get("/v1/modules").header("traceparent", parent("01"));
        drop(ask.answer().expect(200));
    };
    let logged = |what: &str, parts: &[&str]| {
        wait_until(what, SOON, || {
            let log = cluster.log(0);
            let mut lines = log.lines();
            let has = |line: &&str| parts.iter().all(|part| line.contains(part));
            lines.find(has).map(drop).ok_or(log.clone())
        })
    };
    ask();
    logged("it is told", &["WARN", "takes no spans", "503", "lost=1"]);
    traces.refuse(false);
    ask();
    traces.wait(TRACE, 1);
    logged("it is told", &["INFO", "takes spans again", "lost=0"]);
    let counted = ["exported", "failed", "dropped"].map(|result| {
        value(
            &api,
            &format!("holdfast_spans_total{{result=\"{result}\"}}"),
        )
    });
    assert_eq!(counted, [1.0, 1.0, 0.0]);
}

#[test]
fn without_traces_a_context_goes_nowhere() {
    let cluster = Cluster::builder(BIN).start();
    let api = cluster.api(0);
    Probe::deploy(&api, "probe", cluster.collector());
    let held = api.allocate_held("probe", "a", &json!({})).answer();
    drop(held.expect(201));
    let elsewhere = Elsewhere::start();
    let body = json!({
        "op": "fetch", "url": format!("http://{}/", elsewhere.addr), "timeout_ms": 10_000,
        "response_bytes_max": 64, "header": null,
    });
    let ask = api.invoke("probe", "a", body.to_string());
    let ask = ask.header("traceparent", parent("01"));
    drop(ask.answer().expect(200));
    let heads = elsewhere.heads.recv_timeout(SOON).unwrap();
    assert_eq!(heads.get("traceparent"), None);
}

fn value(api: &Api, sample: &str) -> f64 {
    let answer = api.get("/metrics").answer().expect(200);
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {sample} in\n{text}"))
        .parse()
        .unwrap()
}

type Heads = BTreeMap<String, String>;

/// A server elsewhere, which tells the headers of each request. It serves until the process ends.
struct Elsewhere {
    addr: SocketAddr,
    heads: mpsc::Receiver<Heads>,
}

impl Elsewhere {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, heads) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut reader = BufReader::new(stream.unwrap());
                let mut heads = Heads::new();
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                    if let Some((name, value)) = line.trim_end().split_once(": ") {
                        heads.insert(name.to_ascii_lowercase(), value.to_owned());
                    }
                    line.clear();
                }
                let answer =
                    b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\n12345";
                // A client that has seen enough may be gone, and so may the test.
                let _ = reader.get_mut().write_all(answer);
                let _ = tell.send(heads);
            }
        });
        Self { addr, heads }
    }
}
