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

use crate::BIN;

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
    // Each reason by how it begins and ends.
    type Reasons<'a> = &'a [(&'a str, &'a str)];
    let cases: &[(&str, Bytes, Reasons<'_>)] = &[
        (
            "nothing",
            Bytes::new(),
            &[("this is no WebAssembly", ": it is empty")],
        ),
        (
            "no Wasm at all",
            Bytes::from_static(b"<html>"),
            &[("this is no WebAssembly: at offset 0 it has ", "")],
        ),
        (
            "half a component",
            probe.slice(..probe.len() / 2),
            &[(
                "the component is not valid at byte ",
                ": unexpected end-of-file",
            )],
        ),
        (
            "a core module",
            Bytes::from_static(b"\0asm\x01\0\0\0"),
            &[("this is a core module, not a component", "")],
        ),
        (
            "no handler",
            trapping("package some:thing; world it { export f: func(); }"),
            &[(
                "the component does not export `holdfast:handler/resource-handler@0.1.0`",
                "it exports f",
            )],
        ),
        (
            "a handler that cannot terminate",
            handler_of("handle: func();"),
            &[(
                "`terminate` of `holdfast:handler/resource-handler@0.1.0` must be `func(res: ",
                "the component has `nothing`",
            )],
        ),
        (
            "a handler of another signature",
            handler_of("handle: func(res: string) -> u32; terminate: func();"),
            &[(
                "`handle` of `holdfast:handler/resource-handler@0.1.0` must be `func(res: ",
                "the component has `func(res: string) -> u32`",
            )],
        ),
        (
            "an invocation of another signature",
            trapping(&format!(
                "{} interface invocation {{ invoke: func(x: u32); }}
                 world it {{ export resource-handler; export invocation; }}",
                component::resource_handler()
            )),
            &[(
                "`invoke` of `holdfast:handler/invocation@0.1.0` must be `func(req: ",
                "the component has `func(x: u32)`",
            )],
        ),
        (
            "imports that nobody has",
            handler_with(
                "import first-unknown: interface { f: func(); }
                 import second-unknown: interface { g: func(); }",
            ),
            &[
                ("unknown import ", "first-unknown"),
                ("unknown import ", "second-unknown"),
            ],
        ),
    ];
    for (i, (what, component, expected)) in cases.iter().enumerate() {
        let api = cluster.api(i % 2);
        let answer = api.deploy("bad", component.clone(), &json!({})).answer();
        let problem = answer.problem(422, "rejected-component");
        let reasons = problem.members["reasons"].as_array();
        let reasons = reasons.unwrap_or_else(|| panic!("{what}: {answer}"));
        assert_eq!(reasons.len(), expected.len(), "{what}: {answer}");
        for (reason, (begins, ends)) in reasons.iter().zip(*expected) {
            let reason = reason.as_str().unwrap_or_default();
            let is_it = reason.starts_with(begins) && reason.ends_with(ends);
            assert!(is_it, "{what}: {begins:?} … {ends:?} is not {reason:?}");
        }
        let absent = api.get("/v1/modules/bad").answer();
        absent.problem(404, "unknown-module");
    }
}

/// The largest component that a node takes.
const COMPONENT_BYTES_MAX: usize = 32 << 20;

/// The answer to an upload of this header and body, in which the body ends or breaks off.
fn upload(cluster: &Cluster, length: &str, body: &[u8]) -> String {
    let stream = TcpStream::connect(cluster.listening(0).http);
    let mut stream = stream.expect("the node listens");
    let limited = stream.set_read_timeout(Some(LONG));
    limited.expect("a minute is a timeout");
    let head = format!(
        "PUT /v1/modules/big HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/wasm\r\n{length}\r\n\r\n"
    );
    let sent = stream.write_all(head.as_bytes());
    sent.expect("the head is small");
    // The node may refuse what comes before it has all of it, and reset the connection after its
    // answer.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_component_over_the_size_limit_is_refused() {
    let cluster = Cluster::builder(BIN).start();
    let chunked = |bytes: usize| {
        let size = format!("{bytes:x}\r\n").into_bytes();
        [size, vec![0; bytes], b"\r\n0\r\n\r\n".to_vec()].concat()
    };
    let announced = |bytes: usize| format!("content-length: {bytes}");
    let encoded = "transfer-encoding: chunked".to_owned();
    let over = COMPONENT_BYTES_MAX + 1;
    for (what, length, body) in [
        ("only announced, much too long", announced(1 << 30), vec![]),
        ("only announced, one byte too long", announced(over), vec![]),
        ("of unknown length", encoded.clone(), chunked(over)),
    ] {
        let answer = upload(&cluster, &length, &body);
        assert!(answer.starts_with("HTTP/1.1 413 "), "{what}: {answer}");
        let problem = "urn:holdfast:problem:too-large";
        assert!(answer.contains(problem), "{what}: {answer}");
        assert!(answer.contains("33554432"), "{what}: {answer}");
    }
    // What is just small enough is read, and refused for what it is.
    let largest = vec![0; COMPONENT_BYTES_MAX];
    for (length, body) in [
        (announced(COMPONENT_BYTES_MAX), largest),
        (encoded, chunked(COMPONENT_BYTES_MAX)),
    ] {
        let answer = upload(&cluster, &length, &body);
        assert!(answer.starts_with("HTTP/1.1 422 "), "{length}: {answer}");
        assert!(answer.contains("this is no WebAssembly"), "{answer}");
    }
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
    findings.assert_undisturbed();
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
