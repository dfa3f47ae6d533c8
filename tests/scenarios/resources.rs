//! Allocating, changing, listing and deallocating resources.

use std::collections::BTreeSet;

use holdfast_tests::{
    Cluster, LONG, Probe, SOON,
    api::resource_path,
    checker::{Event, Fact},
    probe::ids,
};
use serde_json::{Value, json};

use crate::BIN;

fn probing(nodes: usize) -> Cluster {
    let cluster = Cluster::builder(BIN).nodes(nodes).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    cluster
}

/// `handle` and `terminate(reason)` of everything, in order.
fn life(cluster: &Cluster) -> Vec<String> {
    let word = |event: Event| match event.fact {
        Fact::Handled { .. } => Some("handle".to_owned()),
        Fact::Terminating { .. } => None,
        Fact::Terminated { reason, .. } => Some(format!("terminate({reason})")),
        other => Some(format!("{other:?}")),
    };
    let events = cluster.collector().events().into_iter();
    events.filter_map(word).collect()
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
    // The old instance is held until the new one replaces it, so it may have answered for that.
    let one = ["one".to_owned()];
    holdfast_tests::wait_until("it was replaced", SOON, || {
        let life = life(&cluster);
        (life.len() >= 3).then_some(()).ok_or(format!("{life:?}"))
    });
    cluster.collector().wait_held("probe", &one, SOON);
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
fn what_is_deallocated_is_gone_with_its_owner_too() {
    let mut cluster = probing(3);
    let ids = ids("r", 12);
    cluster.api(0).allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);
    let victim = 2;
    let survivor = cluster.api(0);
    let its = |id: &&String| {
        let owner = survivor.resource("probe", id).owner.expect("it is held");
        cluster.number_of(owner.node) == victim
    };
    let (lost, kept): (Vec<_>, Vec<_>) = ids.iter().partition(its);
    let (lost, kept): (Vec<String>, Vec<String>) = (
        lost.into_iter().cloned().collect(),
        kept.into_iter().cloned().collect(),
    );
    assert_eq!(lost.len(), 4);
    cluster.kill9(victim);
    for (i, id) in lost.iter().enumerate() {
        let _ = cluster
            .api(i % 2)
            .deallocate("probe", id)
            .answer()
            .expect(204);
    }
    cluster.collector().wait_held("probe", &kept, LONG);
}

#[test]
fn a_module_that_is_removed_is_gone_when_that_was_waited_for() {
    let cluster = probing(2);
    let ids = ids("r", 20);
    cluster.api(0).allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);
    let path = "/v1/modules/probe?force=true&wait=gone";
    let removed = cluster.api(1).ask("DELETE", path).patience(LONG).answer();
    let _ = removed.expect(204);
    let terminated = life(&cluster)
        .into_iter()
        .filter(|word| word == "terminate(removed)");
    assert_eq!(terminated.count(), ids.len());
    for node in [0, 1] {
        let gone = cluster.api(node).get("/v1/modules/probe").answer();
        gone.problem(404, "unknown-module");
    }
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
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
fn many_batches_at_once_get_an_answer_for_every_line() {
    // Nothing is held: it is about what is agreed on.
    let witness = ["--weight", "0"];
    let cluster = Cluster::builder(BIN).nodes(3).args(&witness).start();
    let settings = Probe::settings(cluster.collector());
    Probe::deploy_with(&cluster.api(0), "probe", &settings);
    let spec = json!({"note": "x".repeat(1_000)});
    let apis = [0, 1, 2].map(|node| cluster.api(node));
    let (apis, spec) = (&apis, &spec);
    let batch = |client: usize| {
        let ids = ids(&format!("c{client}-"), 1_500);
        let line = |id: &String| format!("{}\n", json!({"op": "allocate", "id": id, "spec": spec}));
        let lines: String = ids.iter().map(line).collect();
        let answer = apis[client % 3]
            .ask("POST", "/v1/modules/probe/resources:batch")
            .header("content-type", "application/x-ndjson")
            .body(lines)
            .patience(LONG * 5)
            .answer()
            .expect(200);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let answers = text.lines().filter(|line| !line.is_empty());
        let answers: Vec<Value> = answers
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(answers.len(), ids.len());
        for (answer, id) in answers.iter().zip(&ids) {
            assert_eq!(
                (&answer["id"], &answer["result"]),
                (&json!(id), &json!("created"))
            );
        }
    };
    let clients = 24;
    std::thread::scope(|scope| {
        let batches: Vec<_> = (0..clients)
            .map(|client| {
                let batch = &batch;
                scope.spawn(move || batch(client))
            })
            .collect();
        for batch in batches {
            batch.join().expect("each line is answered");
        }
    });
    let resources = cluster.api(1).module("probe").resources;
    assert_eq!(resources, clients as u64 * 1_500);
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
fn a_batch_says_of_a_spec_and_of_a_line_that_they_are_too_large() {
    let cluster = probing(1);
    let line = |id: &str, size: usize| {
        let spec = json!({"x": "x".repeat(size)});
        format!("{}\n", json!({"op": "allocate", "id": id, "spec": spec}))
    };
    let lines = |body: String| -> Vec<Value> {
        let batch = cluster
            .api(0)
            .ask("POST", "/v1/modules/probe/resources:batch");
        let answer = batch.body(body).answer().expect(200);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a line is JSON"))
            .collect()
    };
    let too_large = "urn:holdfast:problem:too-large";
    let said = lines(line("a", 64 << 10) + &line("b", 1));
    assert_eq!(said[0]["problem"]["type"], too_large, "{}", said[0]);
    assert_eq!(said[1]["result"], "created", "a long spec stops no other");
    for end in ["\n", ""] {
        let said = lines(line("c", 1) + &line("d", 128 << 10).replace('\n', end));
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!(said[0]["result"].as_str().map(|_| ()), Some(()));
        assert_eq!(said[1]["problem"]["type"], too_large, "{}", said[1]);
        assert!(said[1].to_string().contains("a line has"), "{}", said[1]);
    }
}

/// The ids of a list, gathered page by page.
fn paged(api: &holdfast_tests::Api, query: &str, limit: usize) -> Vec<String> {
    let mut seen = Vec::new();
    let mut cursor = String::new();
    for _ in 0..1_000 {
        // A cursor is put into the query as it is.
        let path = format!("/v1/modules/probe/resources?limit={limit}{query}{cursor}");
        let page: Value = api.get(&path).answer().expect(200).json();
        let resources = page["resources"].as_array().expect("a list");
        assert!(resources.len() <= limit);
        let ids = resources
            .iter()
            .map(|info| info["id"].as_str().expect("text"));
        seen.extend(ids.map(str::to_owned));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return seen,
        }
    }
    panic!("the list does not end");
}

#[test]
fn a_list_goes_on_after_any_id() {
    let cluster = probing(1);
    let ids = ["%2F", "a b", "a&limit=9", "a#b", "a+b", "日本語"].map(str::to_owned);
    cluster.api(0).allocate_all("probe", &ids);
    let mut expected = ids.to_vec();
    expected.sort();
    assert_eq!(paged(&cluster.api(0), "", 1), expected);
}

#[test]
fn a_list_is_paged_in_order_without_holes() {
    let cluster = probing(2);
    let ids = ids("r", 250);
    cluster.api(0).allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);
    let api = cluster.api(1);
    let expected: Vec<String> = ids
        .iter()
        .cloned()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    for (query, limit) in [("", 100), ("", 125), ("&status=held", 60)] {
        assert_eq!(paged(&api, query, limit), expected, "{query} by {limit}");
    }
    assert_eq!(paged(&api, "&status=failed", 1), [""; 0]);

    let node = cluster.listening(0).node;
    let path = format!("/v1/modules/probe/resources?limit=1000&node={node}&status=held");
    let page: Value = api.get(&path).answer().expect(200).json();
    assert_eq!(page["resources"].as_array().expect("a list").len(), 125);
    for wrong in [
        "limit=0",
        "limit=1001",
        "status=hold",
        "cursor=%00",
        "cursor=r1",
    ] {
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
