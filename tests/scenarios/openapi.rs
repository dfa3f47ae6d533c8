//! The document that describes the HTTP API, and the API beside it.

use std::{collections::BTreeSet, process::Command};

use holdfast_model::{NodeId, api::NodeStatus};
use holdfast_tests::{
    Answer, Api, Ask, Cluster, Contract, LONG, Probe, api::resource_path, cluster::Join, component,
    wait_until,
};
use serde_json::{Value, json};

use crate::BIN;

/// Asks, and keeps which promises were seen kept.
#[derive(Default)]
struct Tour {
    seen: BTreeSet<(String, u16)>,
}

impl Tour {
    /// An operation that is answered with this status. That the answer is as promised, it would not get
    /// here otherwise.
    #[track_caller]
    fn ask(&mut self, ask: Ask, operation: &str, status: u16) -> Answer {
        let answer = ask.answer().expect(status);
        assert_eq!(answer.operation.as_deref(), Some(operation), "{answer}");
        self.seen.insert((operation.to_owned(), status));
        answer
    }
}

#[test]
fn every_operation_does_what_the_document_says() {
    let mut cluster = Cluster::builder(BIN).nodes(2).start();
    let api = cluster.api(0);
    let mut tour = Tour::default();
    modules_and_resources(&mut tour, &api, &Probe::settings(cluster.collector()));
    tour.ask(api.get("/v1/modules"), "list_modules", 200);
    tour.ask(
        api.ask("DELETE", "/v1/modules/probe?force=true&wait=gone"),
        "remove_module",
        204,
    );
    the_cluster(&mut tour, &api);
    what_can_be_watched(&mut tour, &api);
    let gone = cluster.listening(1).node;
    a_node(&mut tour, &api, gone);
    let _ = cluster.ended(1);
    let missing: BTreeSet<_> = Contract::of_nodes().successes();
    let missing: Vec<_> = missing.difference(&tour.seen).collect();
    assert!(
        missing.is_empty(),
        "the tour leaves out {missing:?}: take them in"
    );
}

fn modules_and_resources(tour: &mut Tour, api: &Api, settings: &Value) {
    let deploy = || api.deploy("probe", component::probe(), settings);
    tour.ask(deploy(), "deploy_module", 201);
    tour.ask(deploy(), "deploy_module", 200);
    let component = api.get("/v1/modules/probe/component");
    tour.ask(component, "download_component", 200);
    tour.ask(api.get("/v1/modules/probe"), "describe_module", 200);
    let held = || api.allocate_held("probe", "a/b", &json!({}));
    tour.ask(held(), "allocate_resource", 201);
    tour.ask(held(), "allocate_resource", 200);
    let path = resource_path("probe", "a/b");
    // Nothing is a spec too.
    tour.ask(api.ask("PUT", &path), "allocate_resource", 200);
    tour.ask(api.get(&path), "describe_resource", 200);
    let list = "/v1/modules/probe/resources?limit=10&status=held";
    let list = tour.ask(api.get(list), "list_resources", 200);
    assert_eq!(list.json::<Value>()["resources"][0]["id"], "a/b");
    let invoke = api
        .invoke("probe", "a/b", Probe::echo())
        .header("idempotency-key", "once");
    tour.ask(invoke, "invoke_resource", 200);
    let lines = [
        json!({"op": "allocate", "id": "c", "spec": {"x": 1}}),
        json!({"op": "deallocate", "id": "c"}),
        json!({"op": "dance"}),
    ];
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let batch = api
        .ask("POST", "/v1/modules/probe/resources:batch")
        .body(lines);
    let batch = tour.ask(batch, "change_resources", 200);
    assert_eq!(
        batch.body.iter().filter(|byte| **byte == b'\n').count(),
        3,
        "{batch}"
    );
    let slots = api.get("/v1/cluster/slots?module=probe");
    tour.ask(slots, "list_slots", 200);
    tour.ask(api.deallocate("probe", "a/b"), "deallocate_resource", 204);
}

fn the_cluster(tour: &mut Tour, api: &Api) {
    tour.ask(api.get("/v1/cluster"), "describe_cluster", 200);
    tour.ask(api.get("/v1/cluster/nodes"), "list_nodes", 200);
    tour.ask(api.get("/v1/cluster/settings"), "describe_settings", 200);
    let change = json!({"stable_after_ms": 0});
    let change = api.ask("PATCH", "/v1/cluster/settings").json(&change);
    tour.ask(change, "change_settings", 200);
    let imagined = json!({"join": [{"weight": 50, "zone": "b"}]});
    let plan = api.ask("POST", "/v1/cluster/plan").json(&imagined);
    tour.ask(plan, "plan", 200);
}

fn what_can_be_watched(tour: &mut Tour, api: &Api) {
    let events = api.get("/v1/events?replay=true").until("}\n\n");
    let events = tour.ask(events, "watch_events", 200);
    let id = String::from_utf8_lossy(&events.body).into_owned();
    let id = id.lines().find_map(|line| line.strip_prefix("id: "));
    let on = api
        .get("/v1/events")
        .header("last-event-id", id.expect("it has an id"));
    tour.ask(on.until("}\n\n"), "watch_events", 200);
    tour.ask(api.get("/v1/logs?limit=5&level=debug"), "read_logs", 200);
    tour.ask(api.get("/metrics"), "read_metrics", 200);
    tour.ask(api.get("/healthz"), "is_alive", 200);
    tour.ask(api.get("/readyz"), "is_ready", 200);
    tour.ask(api.get("/v1/openapi.json"), "describe_api", 200);
}

/// Changes a node, restarts it, drains it, and removes it for good.
fn a_node(tour: &mut Tour, api: &Api, node: NodeId) {
    let path = format!("/v1/cluster/nodes/{node}");
    let weight = api.ask("PATCH", &path).json(&json!({"weight": 10}));
    tour.ask(weight, "change_node", 200);
    let log = format!("{path}/log");
    let filter = tour.ask(api.get(&log), "describe_node_log", 200).json();
    tour.ask(api.ask("PUT", &log).json(&filter), "change_node_log", 200);
    let former = api.node(node).expect("it is listed").incarnation;
    tour.ask(
        api.ask("POST", &format!("{path}/restart")),
        "restart_node",
        202,
    );
    wait_until("the node is back", LONG, || {
        let info = api.node(node)?;
        let back = info.incarnation > former && info.status == NodeStatus::Active;
        back.then_some(()).ok_or(info.status.to_string())
    });
    let drain = format!("{path}/drain?wait=empty&deadline_ms=1000");
    tour.ask(api.ask("POST", &drain), "drain_node", 200);
    tour.ask(api.ask("DELETE", &path), "remove_node", 204);
}

#[test]
fn the_document_is_the_same_wherever_it_is_asked_for_and_needs_no_token() {
    let mut cluster = Cluster::builder(BIN).start();
    let guarded = cluster.add(Join {
        args: vec!["--token".to_owned(), "0123456789abcdef".to_owned()],
        ..Join::default()
    });
    let api = cluster.api(guarded);
    let served = api.get("/v1/openapi.json").answer().expect(200);
    let served: Value = served.json();
    let printed = Command::new(BIN)
        .arg("openapi")
        .output()
        .expect("it can be run");
    assert!(printed.status.success(), "{printed:?}");
    let printed: Value = serde_json::from_slice(&printed.stdout).expect("it is JSON");
    let kept = include_str!("../../docs/openapi.json");
    let kept: Value = serde_json::from_str(kept).expect("it is JSON");
    assert_eq!(served, printed);
    assert_eq!(served, kept);
    // Everything else does need it.
    let other = api.get("/v1/cluster").answer();
    other.problem(401, "unauthorized");
}

#[test]
fn what_is_not_in_the_document_is_not_there() {
    let cluster = Cluster::builder(BIN).start();
    let api = cluster.api(0);
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v1/"),
        ("GET", "/v1/openapi.yaml"),
        ("GET", "/v1/cluster/nodes/"),
        ("PUT", "/v1/modules/a/b/c"),
        ("DELETE", "/v2/modules/probe"),
    ] {
        let answer = api.ask(method, path).answer();
        answer.problem(404, "not-found").names(&[path]);
        assert_eq!(answer.operation, None, "{answer}");
    }
}
