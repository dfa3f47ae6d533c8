//! Deploying: what is refused and why, replacing versions, giving up bad ones, removing.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use bytes::Bytes;
use holdfast_tests::{
    Api, Cluster, LONG, Probe, SOON,
    checker::{Event, Fact},
    component::{self, trapping},
    probe::ids,
    wait_until,
};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_holdfast-under-test");

/// A component with a proper `resource-handler` and whatever else this world has.
fn handler_with(world: &str) -> Bytes {
    let handler = component::resource_handler();
    trapping(&format!(
        "{handler} world it {{ export resource-handler; {world} }}"
    ))
}

/// A component with a `resource-handler` of this body.
fn handler_of(body: &str) -> Bytes {
    trapping(&format!(
        "package holdfast:handler@0.1.0;
         interface resource-handler {{ {body} }}
         world it {{ export resource-handler; }}"
    ))
}

/// How many resources were terminated for this reason.
fn terminated(cluster: &Cluster, why: &str) -> usize {
    let events = cluster.collector().events();
    let is_one =
        |event: &&Event| matches!(&event.fact, Fact::Terminated { reason, .. } if reason == why);
    events.iter().filter(is_one).count()
}

#[test]
fn a_component_that_cannot_run_is_refused_with_what_and_where() {
    let cluster = Cluster::builder(BIN).nodes(2).start();
    let probe = component::probe();
    let cases: &[(&str, Bytes, &[&str])] = &[
        ("nothing", Bytes::new(), &["empty"]),
        ("no Wasm at all", Bytes::from_static(b"<html>"), &["offset"]),
        (
            "half a component",
            probe.slice(..probe.len() / 2),
            // The section that is cut off, by its range of bytes.
            &["section range", "out of bounds"],
        ),
        (
            "a core module",
            Bytes::from_static(b"\0asm\x01\0\0\0"),
            &["module", "component"],
        ),
        (
            "no handler",
            trapping("package some:thing; world it { export f: func(); }"),
            &["holdfast:handler/resource-handler"],
        ),
        (
            "a handler that cannot terminate",
            handler_of("handle: func();"),
            &["resource-handler", "terminate"],
        ),
        (
            "a handler of another signature",
            handler_of("handle: func(res: string) -> u32; terminate: func();"),
            &["resource-handler", "handle"],
        ),
        (
            "an invocation of another signature",
            trapping(&format!(
                "{} interface invocation {{ invoke: func(x: u32); }}
                 world it {{ export resource-handler; export invocation; }}",
                component::resource_handler()
            )),
            &["invocation", "invoke"],
        ),
        (
            "imports that nobody has",
            handler_with(
                "import first-unknown: interface { f: func(); }
                 import second-unknown: interface { g: func(); }",
            ),
            &["first-unknown", "second-unknown"],
        ),
    ];
    for (i, (what, component, words)) in cases.iter().enumerate() {
        let api = cluster.api(i % 2);
        let answer = api.deploy("bad", component.clone(), &json!({})).answer();
        println!("{what}: {answer}");
        let problem = answer.problem(422, "rejected-component");
        problem.names(words);
        let reasons = problem.members["reasons"].as_array();
        assert!(reasons.is_some_and(|reasons| !reasons.is_empty()), "{what}");
        let absent = api.get("/v1/modules/bad").answer();
        absent.problem(404, "unknown-module");
    }
}

#[test]
fn a_component_over_the_size_limit_is_refused_before_it_is_read() {
    let cluster = Cluster::builder(BIN).start();
    // Only announced: a client that sent all of it might not come to read the answer.
    let mut stream = TcpStream::connect(cluster.listening(0).http).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let head = "PUT /v1/modules/big HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                content-type: application/wasm\r\ncontent-length: 1073741824\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // The node may reset the connection after its answer, as it does not read on.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(
        answer.contains("urn:holdfast:problem:too-large"),
        "{answer}"
    );
    let absent = cluster.api(0).get("/v1/modules/big").answer();
    absent.problem(404, "unknown-module");
}

#[test]
fn settings_that_cannot_be_honoured_are_refused_by_name() {
    let cluster = Cluster::builder(BIN).start();
    let api = cluster.api(0);
    for (settings, word) in [
        (json!({"limits": {"memory": 1}}), "memory"),
        (json!({"limtis": {}}), "limtis"),
        (json!({"limits": {"queue_calls_max": 0}}), "queue_calls_max"),
        (json!({"grants": {"http": ["everywhere"]}}), "everywhere"),
        (json!({"lane": "fast"}), "fast"),
        (json!({"config": {"key": 1}}), "config"),
        (json!("text"), "settings"),
    ] {
        let answer = api.deploy("probe", component::probe(), &settings).answer();
        let problem = answer.problem(400, "invalid-request");
        problem.names(&[word]);
    }
    for name in ["Probe", "a_b", "-a", "a.b"] {
        let answer = api.deploy(name, component::probe(), &json!({})).answer();
        let problem = answer.problem(400, "invalid-request");
        problem.names(&[name]);
    }
    let list: Value = api.get("/v1/modules").answer().expect(200).json();
    assert_eq!(list["modules"], json!([]));
}

#[test]
fn a_refusal_before_the_body_was_read_does_not_harm_the_next_request() {
    let cluster = Cluster::builder(BIN).start();
    let api = cluster.api(0);
    // The client keeps connections open and uses them again, where the answer lets it.
    for _ in 0..50 {
        let refused = api
            .deploy("a_b", component::probe(), &json!({}))
            .answer()
            .expect(400);
        assert_eq!(refused.header("connection"), Some("close"));
        let listed = api.get("/v1/modules").answer().expect(200);
        assert_eq!(listed.header("connection"), None);
    }
}

#[test]
fn a_module_is_described_as_it_was_deployed() {
    let cluster = Cluster::builder(BIN).nodes(2).start();
    let settings = Probe::settings(cluster.collector());
    let answer = Probe::deploy_with(&cluster.api(0), "probe", &settings).expect(201);
    assert_eq!(answer.json::<Value>()["new"], true);
    for node in 0..2 {
        let api = cluster.api(node);
        let (info, _) = wait_until("the node has compiled the module", SOON, || {
            let info: Value = api.get("/v1/modules/probe").answer().is(200)?.json();
            let compiled = !info["version"]["lane"].is_null();
            if compiled {
                Ok(info)
            } else {
                Err(info.to_string())
            }
        });
        let version = &info["version"];
        assert_eq!(version["number"], 1);
        assert_eq!(version["size_bytes"], component::probe().len());
        assert_eq!(version["settings"]["config"], settings["config"]);
        assert_eq!(version["settings"]["limits"]["queue_calls_max"], 8);
        assert_eq!(version["lane"], "fiber", "it is granted outgoing HTTP");
        let exports = version["exports"].to_string();
        for export in ["resource-handler", "invocation"] {
            assert!(exports.contains(export), "{exports}");
        }
    }
}

#[test]
fn a_redeploy_replaces_every_instance_and_the_same_version_none() {
    let cluster = Cluster::builder(BIN).nodes(3).start();
    let collector = cluster.collector();
    let mut settings = Probe::settings(collector);
    Probe::deploy_with(&cluster.api(0), "probe", &settings);
    let ids = ids("r", 30);
    cluster.api(0).allocate_all("probe", &ids);
    collector.wait_held("probe", &ids, LONG);

    let same = Probe::deploy_with(&cluster.api(1), "probe", &settings).expect(200);
    assert_eq!(same.json::<Value>()["new"], false);
    assert_eq!(terminated(&cluster, "upgraded"), 0);

    settings["config"]["colour"] = json!("blue");
    let other = Probe::deploy_with(&cluster.api(2), "probe", &settings);
    assert_eq!(other.json::<Value>()["new"], true);
    assert_eq!(other.json::<Value>()["version"]["number"], 2);
    wait_until("every instance was replaced", LONG, || {
        let replaced = terminated(&cluster, "upgraded");
        (replaced == ids.len()).then_some(()).ok_or(replaced)
    });
    let findings = collector.wait_held("probe", &ids, LONG);
    findings.assert_undisturbed();
    assert_eq!(findings.gaps.len(), ids.len(), "each was replaced once");
    for id in &ids {
        // The handler reports that it holds before the host has heard so.
        wait_until(&format!("{id} is known to run version 2"), SOON, || {
            let version = cluster.api(0).resource("probe", id).version;
            (version == Some(2))
                .then_some(())
                .ok_or(format!("{version:?}"))
        });
    }
}

#[test]
fn a_version_that_can_hold_nothing_leaves_the_old_one_serving() {
    let cluster = Cluster::builder(BIN).nodes(3).start();
    let api = cluster.api(0);
    Probe::deploy(&api, "probe", cluster.collector());
    let ids = ids("r", 30);
    api.allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);

    let settings = Probe::settings(cluster.collector());
    let answer = api.deploy("probe", handler_with(""), &settings).answer();
    println!("the answer to a deployment that fails: {answer}");
    for node in 0..3 {
        wait_until("the bad version is given up", LONG, || {
            let module = cluster.api(node).module("probe");
            let failed = module.failed.as_ref().map(|failed| failed.version.number);
            let over = failed == Some(2) && module.rollout.is_none();
            over.then_some(()).ok_or_else(|| format!("{module:?}"))
        });
        let module = cluster.api(node).module("probe");
        assert_eq!(module.version.number, 1);
        let error = module.failed.expect("seen above").error;
        assert!(!error.is_empty());
    }
    let findings = cluster.collector().wait_held("probe", &ids, LONG);
    findings.assert_sound();
    for id in &ids {
        echoes(&api, id);
    }

    // A good version afterwards serves, and the failure is forgotten.
    let mut settings = Probe::settings(cluster.collector());
    settings["config"]["colour"] = json!("green");
    Probe::deploy_with(&api, "probe", &settings);
    let module = api.module("probe");
    assert_eq!((module.version.number, module.failed), (3, None));
}

fn echoes(api: &Api, id: &str) {
    wait_until("the resource answers", SOON, || {
        api.invoke("probe", id, Probe::echo()).answer().is(200)
    });
}

#[test]
fn a_module_with_resources_is_removed_by_force_only() {
    let cluster = Cluster::builder(BIN).nodes(2).start();
    let api = cluster.api(0);
    Probe::deploy(&api, "probe", cluster.collector());
    let ids = ids("r", 10);
    api.allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);

    let refused = api.ask("DELETE", "/v1/modules/probe").answer();
    refused.problem(409, "conflict").names(&["10", "force"]);
    cluster.collector().wait_held("probe", &ids, SOON);

    let removed = api.ask("DELETE", "/v1/modules/probe?force=true").answer();
    let _ = removed.expect(204);
    cluster.collector().wait_held("probe", &[], LONG);
    cluster.collector().findings().assert_undisturbed();
    assert_eq!(terminated(&cluster, "removed"), ids.len());
    for node in 0..2 {
        wait_until("the module is gone", SOON, || {
            cluster.api(node).get("/v1/modules/probe").answer().is(404)
        });
    }

    // The name is free again, and nothing of old comes back.
    let _ = Probe::deploy(&api, "probe", cluster.collector()).expect(201);
    assert_eq!(api.module("probe").resources, 0);
    api.allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);
}

#[test]
fn a_module_without_resources_is_simply_removed() {
    let cluster = Cluster::builder(BIN).start();
    let api = cluster.api(0);
    Probe::deploy(&api, "probe", cluster.collector());
    let removed = api.ask("DELETE", "/v1/modules/probe").answer();
    let _ = removed.expect(204);
    let unknown = api.ask("DELETE", "/v1/modules/probe").answer();
    unknown.problem(404, "unknown-module");
}
