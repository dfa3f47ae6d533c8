//! Calls of resources over HTTP: every way in which one can end, through every node.

use std::{thread, time::Duration};

use holdfast_tests::{
    Answer, Cluster, LONG, Probe, SOON, api::resource_path, component, probe::ids, wait_until,
};
use serde_json::{Value, json};

use crate::BIN;

/// A cluster that holds these resources of the probe.
fn holding(nodes: usize, ids: &[String]) -> Cluster {
    let cluster = Cluster::builder(BIN).nodes(nodes).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    cluster.api(0).allocate_all("probe", ids);
    cluster.collector().wait_held("probe", ids, LONG);
    cluster
}

fn one() -> Vec<String> {
    vec!["one".to_owned()]
}

#[test]
fn through_any_node_the_answer_is_the_owners() {
    let ids = ids("r", 9);
    let cluster = holding(3, &ids);
    let findings = cluster.collector().findings();
    for id in &ids {
        let holder = findings.holder("probe", id).expect("it is held").pid;
        let owner = (0..3).find(|node| cluster.pid(*node) == holder);
        let owner = cluster.listening(owner.expect("it is one of them")).node;
        let owner = owner.to_string();
        let mut token = None;
        for node in 0..3 {
            let answer = cluster.api(node).invoke("probe", id, Probe::echo());
            let answer = answer.header("x-request-id", "id-7").answer().expect(200);
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert_eq!(answer.header("x-request-id"), Some("id-7"));
            assert_eq!(answer.header("holdfast-node"), Some(owner.as_str()));
            let body: Value = answer.json();
            assert_eq!(body["id"], id.as_str());
            assert_eq!(body["calls"], node + 1, "each call is handled once");
            let token = token.get_or_insert_with(|| body["token"].clone());
            assert_eq!(*token, body["token"]);
        }
        let refusals: Vec<Value> = (0..3)
            .map(|node| {
                let call = Probe::error("conflict");
                let answer = cluster.api(node).invoke("probe", id, call).answer();
                answer.problem(409, "handler-refused").members
            })
            .collect();
        assert!(refusals.iter().all(|refusal| *refusal == refusals[0]));
    }
}

#[test]
fn a_request_id_is_made_when_the_caller_gives_none() {
    let cluster = holding(1, &one());
    let call = || {
        let answer = cluster
            .api(0)
            .invoke("probe", "one", Probe::echo())
            .answer();
        answer.header("x-request-id").map(str::to_owned)
    };
    let (first, second) = (call().expect("an id"), call().expect("an id"));
    assert_ne!(first, second);
}

#[test]
fn what_does_not_exist_is_not_found_on_any_node() {
    let cluster = holding(2, &one());
    for node in 0..2 {
        let api = cluster.api(node);
        let unknown = api.invoke("nothing", "one", Probe::echo()).answer();
        unknown.problem(404, "unknown-module").names(&["nothing"]);
        let unknown = api.invoke("probe", "nobody", Probe::echo()).answer();
        unknown.problem(404, "unknown-resource").names(&["nobody"]);
        let unknown = api.get(&resource_path("probe", "nobody")).answer();
        unknown.problem(404, "unknown-resource");
        let unknown = api.get("/v1/modules/nothing").answer();
        unknown.problem(404, "unknown-module");
        let unknown = api.get("/v1/nowhere").answer();
        unknown.problem(404, "not-found");
    }
}

#[test]
fn a_handlers_error_has_the_status_of_its_kind() {
    let cluster = holding(2, &one());
    for (kind, status) in [
        ("invalid", 400),
        ("not_found", 404),
        ("conflict", 409),
        ("unavailable", 503),
        ("failed", 500),
    ] {
        for node in 0..2 {
            let api = cluster.api(node);
            let answer = api.invoke("probe", "one", Probe::error(kind)).answer();
            let problem = answer.problem(status, "handler-refused");
            assert!(problem.detail.contains("told to fail"), "{kind}: {answer}");
            if status == 503 {
                answer.retry_after();
            }
        }
    }
    let healthy = cluster.api(0).resource("probe", "one");
    assert_eq!(healthy.restarts, 0, "an error is an answer, not a failure");
}

#[test]
fn a_trap_is_told_with_the_functions_name_and_what_the_panic_said() {
    let cluster = holding(2, &one());
    for node in 0..2 {
        let api = cluster.api(node);
        wait_until("the resource is held", SOON, || {
            let status = api.resource("probe", "one").status;
            (status.as_str() == "held").then_some(()).ok_or(status)
        });
        let answer = api.invoke("probe", "one", Probe::panic()).answer();
        let problem = answer.problem(500, "trap");
        let function = problem.members["function"].as_str().unwrap_or_default();
        assert!(function.ends_with("invoke"), "{function:?} in {answer}");
        assert!(problem.detail.contains("told to panic"), "{answer}");
    }
}

#[test]
fn a_call_ends_at_its_deadline() {
    let cluster = holding(2, &one());
    for node in 0..2 {
        for call in [Probe::spin(), Probe::sleep_ms(60_000)] {
            let api = cluster.api(node);
            wait_until("the resource answers", SOON, || {
                api.invoke("probe", "one", Probe::echo()).answer().is(200)
            });
            let ask = api.invoke("probe", "one", call);
            let answer = ask.header("holdfast-timeout-ms", 3_000).answer();
            answer.problem(504, "timeout");
            let took = answer.took;
            let allowed = Duration::from_secs(3)..Duration::from_secs(20);
            assert!(allowed.contains(&took), "{took:?}");
        }
    }
}

#[test]
fn a_caller_without_patience_costs_a_resource_nothing() {
    let cluster = holding(2, &one());
    for node in 0..2 {
        let api = cluster.api(node);
        let ask = api.invoke("probe", "one", Probe::sleep_ms(1_000));
        let answer = ask.header("holdfast-timeout-ms", 200).answer();
        answer.problem(504, "timeout");
        // In the queue behind that call the time runs out too, and nothing is done.
        let ask = api.invoke("probe", "one", Probe::echo());
        let answer = ask.header("holdfast-timeout-ms", 100).answer();
        answer.problem(503, "unavailable");
        answer.retry_after();
        let answer = api.invoke("probe", "one", Probe::echo()).answer();
        let answer: Value = answer.expect(200).json();
        assert_eq!(answer["calls"], 2 * node + 2, "the instance is still there");
    }
    assert_eq!(cluster.api(0).resource("probe", "one").restarts, 0);
}

#[test]
fn a_timeout_that_is_none_is_refused() {
    let cluster = holding(1, &one());
    for wrong in ["soon", "-1", "1.5", ""] {
        let ask = cluster.api(0).invoke("probe", "one", Probe::echo());
        let answer = ask.header("holdfast-timeout-ms", wrong).answer();
        let problem = answer.problem(400, "invalid-request");
        problem.names(&["holdfast-timeout-ms"]);
    }
}

#[test]
fn a_full_queue_turns_further_calls_away() {
    let cluster = holding(2, &one());
    let waiting_max = 8; // of `Probe::settings`
    let call = |node: usize, body: String| -> thread::JoinHandle<Answer> {
        let ask = cluster.api(node).invoke("probe", "one", body);
        thread::spawn(move || ask.patience(LONG).answer())
    };
    let queue = |in_flight: u32, waiting: u32| {
        let what = format!("{in_flight} call runs and {waiting} wait");
        wait_until(&what, SOON, || {
            let info = cluster.api(0).resource("probe", "one");
            let is_so = (info.in_flight, info.waiting) == (in_flight, waiting);
            is_so
                .then_some(())
                .ok_or_else(|| format!("{} run, {} wait", info.in_flight, info.waiting))
        });
    };
    let running = call(0, Probe::sleep_ms(20_000));
    queue(1, 0);
    let waiting: Vec<_> = (0..waiting_max)
        .map(|i| call(i % 2, Probe::echo()))
        .collect();
    queue(1, 8);
    for node in 0..2 {
        let answer = cluster
            .api(node)
            .invoke("probe", "one", Probe::echo())
            .answer();
        answer.problem(429, "queue-full");
        answer.retry_after();
    }
    for call in std::iter::once(running).chain(waiting) {
        let _ = call.join().expect("the caller does not panic").expect(200);
    }
}

#[test]
fn any_text_of_up_to_512_bytes_is_an_id() {
    let ids = [
        "a/b/c",
        "..",
        ".",
        "100%",
        "%2F",
        "with space",
        "a?b=c#d",
        "日本語",
        "🦀",
        "a+b&c;d",
        "\"quoted\" \\ <tag>",
        &"x".repeat(512),
        &"é".repeat(256),
    ]
    .map(str::to_owned);
    let cluster = holding(2, &[]);
    for (i, id) in ids.iter().enumerate() {
        let api = cluster.api(i % 2);
        let _ = api
            .allocate_held("probe", id, &json!({}))
            .answer()
            .expect(201);
        let api = cluster.api((i + 1) % 2);
        assert_eq!(api.resource("probe", id).id.as_str(), id);
        let answer: Value = api
            .invoke("probe", id, Probe::echo())
            .answer()
            .expect(200)
            .json();
        assert_eq!(answer["id"], id.as_str());
    }
    cluster.collector().wait_held("probe", &ids, SOON);
    let list: Value = cluster
        .api(0)
        .get("/v1/modules/probe/resources")
        .answer()
        .json();
    let listed = list["resources"].as_array().expect("a list").len();
    assert_eq!(listed, ids.len());
    for id in &ids {
        let _ = cluster.api(0).deallocate("probe", id).answer().expect(204);
    }
    cluster.collector().wait_held("probe", &[], SOON);
}

#[test]
fn what_is_no_id_is_refused_with_the_reason() {
    let cluster = holding(1, &[]);
    let api = cluster.api(0);
    let long = "x".repeat(513);
    for (segment, word) in [
        ("a%00b", "control"),
        ("%0A", "control"),
        ("%7F", "control"),
        ("%C2%85", "control"),
        ("%FF", "UTF-8"),
        ("", "empty"),
        (long.as_str(), "512"),
    ] {
        let path = format!("/v1/modules/probe/resources/{segment}");
        for (method, path) in [("PUT", path.clone()), ("POST", format!("{path}/invoke"))] {
            let answer = api.ask(method, &path).json(&json!({})).answer();
            let problem = answer.problem(400, "invalid-request");
            problem.names(&[word]);
        }
    }
    let lines = ["", "a\u{0}b", long.as_str()].map(|id| {
        let line = json!({"op": "allocate", "id": id});
        format!("{line}\n")
    });
    let batch = api.ask("POST", "/v1/modules/probe/resources:batch");
    let batch = batch.header("content-type", "application/x-ndjson");
    let answer = batch.body(lines.concat()).answer().expect(200);
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(text.lines().count(), lines.len(), "{text}");
    for line in text.lines() {
        assert!(
            line.contains("urn:holdfast:problem:invalid-request"),
            "{line}"
        );
    }
    // Had any of them been taken, it would be held beside this one.
    let valid = api.allocate_held("probe", "valid", &json!({})).answer();
    let _ = valid.expect(201);
    let valid = vec!["valid".to_owned()];
    cluster.collector().wait_held("probe", &valid, SOON);
    let list = api.get("/v1/modules/probe/resources").answer();
    let list: Value = list.expect(200).json();
    assert_eq!(list["resources"].as_array().expect("a list").len(), 1);
}

#[test]
fn a_body_has_the_modules_limit() {
    let cluster = holding(2, &one());
    let limit = 64 << 10; // of `Probe::settings`
    let mut body = Probe::error("conflict");
    body.push_str(&" ".repeat(limit - body.len()));
    for node in 0..2 {
        let api = cluster.api(node);
        let fits = api.invoke("probe", "one", body.clone()).answer();
        fits.problem(409, "handler-refused");
        let too_long = api.invoke("probe", "one", format!("{body} ")).answer();
        let problem = too_long.problem(413, "too-large");
        problem.names(&["65536"]);
    }
}

#[test]
fn a_module_without_invocation_cannot_be_invoked() {
    let cluster = Cluster::builder(BIN).start();
    let api = cluster.api(0);
    let wit = component::resource_handler() + "world it { export resource-handler; }";
    let deployed = api
        .deploy("mute", component::trapping(&wit), &json!({}))
        .answer();
    let _ = deployed.expect(201);
    let _ = api.allocate("mute", "one", &json!({})).answer().expect(201);
    let answer = api.invoke("mute", "one", "{}").answer();
    answer.problem(501, "not-invocable").names(&["invocation"]);
}

#[test]
fn a_token_is_asked_for_where_one_is_set() {
    let mut cluster = Cluster::builder(BIN).start();
    let guarded = cluster.add(holdfast_tests::cluster::Join {
        env: vec![(
            "HOLDFAST_TOKEN".to_owned(),
            "the-api-token-of-this-test".to_owned(),
        )],
        ..Default::default()
    });
    let api = cluster.api(guarded);
    wait_until("the guarded node is ready", SOON, || api.ready());
    let ask = || api.get("/v1/cluster");
    ask().answer().problem(401, "unauthorized");
    let wrong = ask().header("authorization", "Bearer another-token");
    wrong.answer().problem(401, "unauthorized");
    let right = ask().header("authorization", "Bearer the-api-token-of-this-test");
    let _ = right.answer().expect(200);
    let _ = api.get("/healthz").answer().expect(200);
}
