//! What holds for every route of the HTTP API.

use std::net::TcpListener;

use holdfast_tests::{Cluster, Probe, api::resource_path, cluster::Join, component};
use serde_json::json;

use crate::BIN;

#[test]
fn what_one_node_has_deployed_every_node_knows() {
    let cluster = Cluster::builder(BIN).nodes(2).start();
    let wit = component::resource_handler() + "world it { export resource-handler; }";
    let component = component::trapping(&wit);
    // The node that is asked learns of each deployment only after it was acknowledged.
    for i in 0..8 {
        for (n, route) in [
            "/v1/modules/{module}",
            "/v1/modules/{module}/resources",
            "/v1/cluster/slots?module={module}",
        ]
        .iter()
        .enumerate()
        {
            let name = format!("m-{i}-{n}");
            let path = format!("/v1/modules/{name}");
            let deploy = cluster.api(0).ask("PUT", &path).body(component.clone());
            let _ = deploy.answer().expect(201);
            let path = route.replace("{module}", &name);
            let _ = cluster.api(1).get(&path).answer().expect(200);
        }
    }
}

#[test]
fn a_node_that_has_not_joined_says_so() {
    let mut cluster = Cluster::builder(BIN).start();
    // Nobody answers there: the listener is never accepted from.
    let nobody = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let seed = nobody.local_addr().expect("it is bound");
    let alone = cluster.add(Join {
        seeds: vec![seed],
        ..Join::default()
    });
    let api = cluster.api(alone);
    for path in [
        "/v1/modules",
        "/v1/modules/probe",
        "/v1/modules/probe/resources",
        "/v1/modules/probe/resources/one",
        "/v1/cluster",
        "/v1/cluster/nodes",
        "/v1/cluster/slots?module=probe",
        "/readyz",
    ] {
        let answer = api.get(path).answer();
        answer.problem(503, "unavailable").names(&["not joined"]);
        answer.retry_after();
    }
    let plan = api.ask("POST", "/v1/cluster/plan").json(&json!({}));
    plan.answer()
        .problem(503, "unavailable")
        .names(&["not joined"]);
}

#[test]
fn a_query_that_a_route_does_not_know_is_refused_by_name() {
    let cluster = Cluster::builder(BIN).start();
    let api = cluster.api(0);
    Probe::deploy(&api, "probe", cluster.collector());
    let node = cluster.listening(0).node;
    for (method, path) in [
        ("PUT", "/v1/modules/probe"),
        ("GET", "/v1/modules"),
        ("GET", "/v1/modules/probe"),
        ("DELETE", "/v1/modules/probe"),
        ("PUT", "/v1/modules/probe/resources/one"),
        ("GET", "/v1/modules/probe/resources/one"),
        ("DELETE", "/v1/modules/probe/resources/one"),
        ("GET", "/v1/modules/probe/resources"),
        ("POST", "/v1/modules/probe/resources:batch"),
        ("POST", "/v1/modules/probe/resources/one/invoke"),
        ("GET", "/v1/cluster"),
        ("GET", "/v1/cluster/nodes"),
        ("GET", "/v1/cluster/slots"),
        ("POST", &format!("/v1/cluster/nodes/{node}/drain")),
        ("DELETE", &format!("/v1/cluster/nodes/{node}")),
        ("PATCH", &format!("/v1/cluster/nodes/{node}")),
        ("POST", "/v1/cluster/plan"),
    ] {
        let ask = api.ask(method, &format!("{path}?timeout=100"));
        let problem = ask.answer().problem(400, "invalid-request");
        problem.names(&["`timeout`"]);
    }
}

#[test]
fn a_method_that_a_route_does_not_take_is_answered_with_those_it_does() {
    let cluster = Cluster::builder(BIN).start();
    let invoke = format!("{}/invoke", resource_path("probe", "one"));
    for (path, allowed) in [
        (invoke.as_str(), "POST"),
        ("/v1/modules/probe/resources:batch", "POST"),
        ("/v1/cluster", "GET,HEAD"),
    ] {
        let answer = cluster.api(0).ask("PATCH", path).answer();
        answer.problem(405, "invalid-request");
        assert_eq!(answer.header("allow"), Some(allowed), "{answer}");
    }
}

#[test]
fn a_path_is_read_alike_on_every_route() {
    let cluster = Cluster::builder(BIN).start();
    let api = cluster.api(0);
    Probe::deploy(&api, "probe", cluster.collector());
    for (method, path) in [
        ("PUT", "/v1/modules/probe/resources/"),
        ("GET", "/v1/modules/probe/resources/"),
        ("DELETE", "/v1/modules/probe/resources/"),
        ("POST", "/v1/modules/probe/resources//invoke"),
    ] {
        let answer = api.ask(method, path).answer();
        answer
            .problem(400, "invalid-request")
            .names(&["resource id", "empty"]);
    }
    let one = "/v1/modules/%70robe/resources/%6Fne";
    let held = api.ask("PUT", &format!("{one}?wait=held")).json(&json!({}));
    let _ = held.answer().expect(201);
    let _ = api.get(one).answer().expect(200);
    let invoke = api.ask("POST", &format!("{one}/invoke"));
    let _ = invoke.body(Probe::echo()).answer().expect(200);
    let _ = api.ask("DELETE", one).answer().expect(204);
}

#[test]
fn a_web_page_of_another_origin_is_turned_away() {
    let cluster = Cluster::builder(BIN).start();
    let api = cluster.api(0);
    let node = cluster.listening(0).node;
    let own = cluster.listening(0).http;
    let drain = format!("/v1/cluster/nodes/{node}/drain");
    let page = api.ask("POST", &drain).header("host", own);
    let page = page.header("origin", "https://evil.example").answer();
    page.problem(403, "forbidden").names(&["evil.example"]);
    let rebound = format!("evil.example:{}", own.port());
    let rebound = api.ask("POST", &drain).header("host", rebound).answer();
    rebound.problem(403, "forbidden").names(&["evil.example"]);
    for host in ["localhost", "[::1]", "127.0.0.1"] {
        let host = format!("{host}:{}", own.port());
        let ask = api.get("/v1/cluster").header("host", &host);
        let ask = ask.header("origin", format!("http://{host}"));
        let _ = ask.answer().expect(200);
    }
    let status = api.node(node).expect("it is listed").status;
    assert_eq!(status.to_string(), "active");
}
