//! Allocating, changing, listing and deallocating resources.

use std::collections::BTreeSet;

use holdfast_tests::{
    Cluster, LONG, Probe, SOON,
    api::resource_path,
    checker::{Event, Fact},
    probe::ids,
};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_holdfast-under-test");

fn probing(nodes: usize) -> Cluster {
    let cluster = Cluster::builder(BIN).nodes(nodes).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    cluster
}

/// `handle` and `terminate(reason)` of everything, in order.
fn life(cluster: &Cluster) -> Vec<String> {
    let word = |event: Event| match event.fact {
        Fact::Handled { .. } => "handle".to_owned(),
        Fact::Terminated { reason, .. } => format!("terminate({reason})"),
        other => format!("{other:?}"),
    };
    let events = cluster.collector().events().into_iter();
    events.map(word).collect()
}

#[test]
fn the_same_spec_changes_nothing_and_another_one_restarts_once() {
    let cluster = probing(1);
    let api = cluster.api(0);
    let put = |spec: Value| api.allocate_held("probe", "one", &spec).answer();
    let _ = put(json!({})).expect(201);
    let _ = put(json!({})).expect(200);
    assert_eq!(life(&cluster), ["handle"]);

    let _ = put(json!({"fail_handle": 0, "fatal": false})).expect(200);
    let _ = put(json!({"fatal": false, "fail_handle": 0})).expect(200);
    assert_eq!(life(&cluster), ["handle", "terminate(upgraded)", "handle"]);
    cluster.collector().findings().assert_undisturbed();
}

#[test]
fn what_is_deallocated_is_terminated_and_gone() {
    let cluster = probing(2);
    let one = vec!["one".to_owned()];
    cluster.api(0).allocate_all("probe", &one);
    cluster.collector().wait_held("probe", &one, LONG);
    for node in [0, 1] {
        let answer = cluster.api(node).deallocate("probe", "one").answer();
        let _ = answer.expect(204);
        assert_eq!(life(&cluster), ["handle", "terminate(removed)"]);
    }
    let gone = cluster
        .api(1)
        .invoke("probe", "one", Probe::echo())
        .answer();
    gone.problem(404, "unknown-resource");
}

#[test]
fn a_spec_that_is_none_is_refused() {
    let cluster = probing(1);
    let api = cluster.api(0);
    for wrong in ["[]", "1", "null", "{", "\"text\""] {
        let ask = api.ask("PUT", &resource_path("probe", "one")).body(wrong);
        ask.answer().problem(400, "invalid-request");
    }
    let path = resource_path("probe", "one");
    let long = format!(r#"{{"x":"{}"}}"#, "x".repeat(64 << 10));
    let answer = api.ask("PUT", &path).body(long).answer();
    answer.problem(413, "too-large");
    let answer = api.ask("PUT", &format!("{path}?wait=helt")).answer();
    answer.problem(400, "invalid-request").names(&["helt"]);
    let answer = api.ask("PUT", &format!("{path}?wiat=held")).answer();
    answer.problem(400, "invalid-request").names(&["wiat"]);
    let unknown = api.allocate("nothing", "one", &json!({})).answer();
    unknown.problem(404, "unknown-module");
    let untouched = api.get(&path).answer();
    untouched.problem(404, "unknown-resource");
}

#[test]
fn a_batch_answers_every_line_in_order() {
    let cluster = probing(2);
    let body = concat!(
        r#"{"op":"allocate","id":"a"}"#,
        "\n",
        r#"{"op":"allocate","id":"b","spec":{"fail_handle":0}}"#,
        "\n\n",
        r#"{"op":"allocate","id":"a"}"#,
        "\n",
        r#"{"op":"allocate","id":"c","sepc":{}}"#,
        "\n",
        "not json\n",
        r#"{"op":"deallocate","id":"b"}"#,
        "\n",
        r#"{"op":"deallocate","id":"b"}"#,
    );
    let ask = cluster
        .api(1)
        .ask("POST", "/v1/modules/probe/resources:batch");
    let answer = ask
        .header("content-type", "application/x-ndjson")
        .body(body);
    let answer = answer.answer().expect(200);
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect();
    let said: Vec<(u64, &str)> = lines
        .iter()
        .map(|line| {
            let result = line["result"].as_str().or(line["problem"]["type"].as_str());
            (
                line["line"].as_u64().expect("a number"),
                result.expect("an outcome"),
            )
        })
        .collect();
    let wrong = "urn:holdfast:problem:invalid-request";
    assert_eq!(
        said,
        [
            (1, "created"),
            (2, "created"),
            (4, "unchanged"),
            (5, wrong),
            (6, wrong),
            (7, "deallocated"),
            (8, "absent"),
        ]
    );
    assert!(lines[3].to_string().contains("sepc"), "{}", lines[3]);
    cluster
        .collector()
        .wait_held("probe", &["a".to_owned()], LONG);
}

#[test]
fn a_list_is_paged_in_order_without_holes() {
    let cluster = probing(2);
    let ids = ids("r", 250);
    cluster.api(0).allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);
    let api = cluster.api(1);
    let mut seen = Vec::new();
    let mut cursor = String::new();
    for _ in 0..10 {
        let path = format!("/v1/modules/probe/resources?limit=100{cursor}");
        let page: Value = api.get(&path).answer().expect(200).json();
        let resources = page["resources"].as_array().expect("a list");
        assert!(resources.len() <= 100);
        seen.extend(
            resources
                .iter()
                .map(|r| r["id"].as_str().expect("text").to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let expected: Vec<String> = ids
        .iter()
        .cloned()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    assert_eq!(seen, expected);

    let node = cluster.listening(0).node;
    let path = format!("/v1/modules/probe/resources?limit=1000&node={node}&status=held");
    let page: Value = api.get(&path).answer().expect(200).json();
    assert_eq!(page["resources"].as_array().expect("a list").len(), 125);
    for wrong in ["limit=0", "limit=1001", "status=hold", "cursor=%00"] {
        let answer = api.get(&format!("/v1/modules/probe/resources?{wrong}"));
        answer.answer().problem(400, "invalid-request");
    }
}

#[test]
fn what_the_api_counts_is_what_the_observer_saw() {
    let cluster = probing(2);
    let ids = ids("r", 40);
    cluster.api(0).allocate_all("probe", &ids);
    let findings = cluster.collector().wait_held("probe", &ids, LONG);
    let api = cluster.api(0);
    holdfast_tests::wait_until("the cluster counts them as held", SOON, || {
        let counts = api.cluster()?.resources;
        let all = counts.total == 40 && counts.held == 40;
        all.then_some(()).ok_or_else(|| format!("{counts:?}"))
    });
    for node in 0..2 {
        let info = api
            .node(cluster.listening(node).node)
            .expect("it is listed");
        let share = findings.spread("probe")[&cluster.pid(node)] as u64;
        assert_eq!(info.resources, share);
    }
    let module = api.module("probe");
    assert_eq!(module.resources, 40);
    assert_eq!(
        module.nodes.iter().map(|node| node.resources).sum::<u64>(),
        40
    );
}
