use holdfast_model::{Digest, Labels, ModuleName, NodeId, ResourceId, Spec, Weight, Zone};
use serde_json::{Value, json};

use super::*;

/// A small API: a thing by its name, and one that is written out.
fn contract() -> Contract {
    let problem = |kind: &str| {
        let schema = json!({"allOf": [
            {"$ref": "#/components/schemas/Problem"},
            {"properties": {"type": {"enum": [format!("urn:holdfast:problem:{kind}")]}}},
        ]});
        json!({"content": {"application/problem+json": {"schema": schema}}})
    };
    let integer = json!({"type": "integer", "minimum": 1});
    let thing = json!({"type": "object", "required": ["size"], "properties": {"size": integer}});
    let json = json!({"content": {"application/json": {"schema": thing}}});
    Contract::new(json!({
        "paths": {
            "/things/{name}": {
                "put": {
                    "operationId": "put_thing",
                    "parameters": [
                        {"name": "name", "in": "path", "required": true, "schema": {"pattern": "^[a-z/]+$"}},
                        {"name": "wait", "in": "query", "schema": integer},
                    ],
                    "requestBody": json,
                    "responses": {
                        "200": json,
                        "204": {"headers": {"holdfast-node": {}}},
                        "404": {"$ref": "#/components/responses/Unknown"},
                    },
                },
            },
            "/things/{name}/call": {
                "post": {
                    "operationId": "call_thing",
                    "parameters": [{"name": "name", "in": "path", "required": true, "schema": {}}],
                    "requestBody": {"content": {"*/*": {}}},
                    "responses": {"200": {"content": {"*/*": {"schema": {}}}}},
                },
            },
            "/things/all": {
                "post": {
                    "operationId": "change_things",
                    "requestBody": {"content": {"application/x-ndjson": {"schema": thing}}},
                    "responses": {"200": {"content": {"application/x-ndjson": {"schema": {"type": "object"}}}}},
                },
            },
        },
        "components": {
            "schemas": {"Problem": {"type": "object", "required": ["type", "status"]}},
            "responses": {"Unknown": problem("unknown-module")},
        },
    }))
}

/// What is wrong with an exchange; `Ok` names the operation.
fn check(request: (&str, &str, &str), answer: (u16, &str, &str)) -> Result<Option<String>, String> {
    let (method, target, sent) = request;
    let (status, kind, body) = answer;
    let mut headers = HeaderMap::new();
    for header in kind.split(' ').filter(|header| !header.is_empty()) {
        let (name, value) = header.split_once('=').unwrap_or(("content-type", header));
        let name: hyper::header::HeaderName = name.parse().unwrap();
        headers.insert(name, value.parse().unwrap());
    }
    contract().check(&Exchange {
        method,
        target,
        asked: &[],
        sent: &Bytes::copy_from_slice(sent.as_bytes()),
        status,
        headers: &headers,
        body: &Bytes::copy_from_slice(body.as_bytes()),
    })
}

fn problem(kind: &str) -> String {
    let kind = format!("urn:holdfast:problem:{kind}");
    Value::to_string(&json!({"type": kind, "status": 400}))
}

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";
const NDJSON: &str = "application/x-ndjson";
const THING: &str = r#"{"size":1}"#;

#[test]
fn what_the_document_promises_is_fine_and_named() {
    for (request, answer, operation) in [
        (
            ("PUT", "/things/a", THING),
            (200, JSON, THING),
            Some("put_thing"),
        ),
        (
            ("PUT", "/things/a%2Fb?wait=3", ""),
            (204, "holdfast-node=x", ""),
            Some("put_thing"),
        ),
        (
            ("PUT", "/things/a", "nonsense"),
            (404, PROBLEM, &*problem("unknown-module")),
            Some("put_thing"),
        ),
        (
            ("POST", "/things/all", "\n{\"size\":0}\n"),
            (200, NDJSON, r#"{"line":2,"problem":{}}"#),
            Some("change_things"),
        ),
        (
            ("POST", "/things/a/call", "nonsense"),
            (200, JSON, "nonsense"),
            Some("call_thing"),
        ),
        (
            ("GET", "/nothing", ""),
            (404, PROBLEM, &*problem("not-found")),
            None,
        ),
        (
            ("GET", "/things/a", ""),
            (405, PROBLEM, &*problem("invalid-request")),
            None,
        ),
        (
            ("PUT", "/things/", ""),
            (400, PROBLEM, &*problem("invalid-request")),
            None,
        ),
        (
            ("GET", "/nothing", ""),
            (401, PROBLEM, &*problem("unauthorized")),
            None,
        ),
    ] {
        let found = check(request, answer).unwrap_or_else(|why| panic!("{request:?}: {why}"));
        assert_eq!(found.as_deref(), operation, "{request:?}");
    }
}

#[test]
fn what_it_does_not_promise_is_told() {
    for (request, answer, told) in [
        (
            ("PUT", "/things/a", THING),
            (201, JSON, THING),
            "status 201",
        ),
        (
            ("PUT", "/things/a", THING),
            (200, "text/plain", THING),
            "text/plain",
        ),
        (
            ("PUT", "/things/a", THING),
            (200, JSON, r#"{"size":0}"#),
            "/size",
        ),
        (("PUT", "/things/a", THING), (200, JSON, "{}"), "size"),
        (("PUT", "/things/a", THING), (200, JSON, "{"), "no JSON"),
        (
            ("PUT", "/things/a", ""),
            (204, "", "more"),
            "without a body",
        ),
        (
            ("PUT", "/things/a", ""),
            (204, "holdfast-other=x", ""),
            "holdfast-other",
        ),
        (
            ("PUT", "/things/a", ""),
            (404, PROBLEM, &*problem("conflict")),
            "conflict",
        ),
        (("POST", "/things/all", ""), (200, NDJSON, "{}\n[]\n"), "[]"),
        (("GET", "/nothing", ""), (200, JSON, THING), "no operation"),
        (
            ("GET", "/things/a", ""),
            (404, PROBLEM, &*problem("not-found")),
            "no operation",
        ),
    ] {
        let why = check(request, answer).expect_err(told);
        assert!(why.contains(told), "{request:?}: {why}");
    }
}

#[test]
fn a_request_that_it_does_not_allow_is_not_to_be_answered() {
    for (request, told) in [
        (("PUT", "/things/A", ""), "name in path"),
        (("PUT", "/things/a?wait=0", ""), "wait in query"),
        (("PUT", "/things/a?wait=soon", ""), "wait in query"),
        (("PUT", "/things/a?other=1", ""), "no other"),
        (("PUT", "/things/a", r#"{"size":0}"#), "/size"),
    ] {
        let why = check(request, (204, "", "")).expect_err(told);
        assert!(
            why.contains(told) && why.contains("not allowed"),
            "{request:?}: {why}"
        );
    }
    let answer = (200, NDJSON, r#"{"line":1,"result":"created"}"#);
    let why = check(("POST", "/things/all", r#"{"size":0}"#), answer).expect_err("it is too small");
    assert!(why.contains("/size"), "{why}");
}

#[test]
fn every_schema_of_the_nodes_is_one() {
    let contract = Contract::of_nodes();
    for (name, schema) in contract.document["components"]["schemas"]
        .as_object()
        .unwrap()
    {
        let _ = contract.validator(name, schema);
    }
    assert!(
        contract.successes().len() > 20,
        "{:?}",
        contract.successes()
    );
}

/// Whether the nodes' document takes this value for one of this name.
fn is_described(name: &str, value: &Value) -> bool {
    let schema = json!({"$ref": format!("#/components/schemas/{name}")});
    Contract::of_nodes().fits(name, &schema, value).is_ok()
}

#[test]
fn what_is_parsed_is_what_is_described() {
    let long = |text: &str, times: usize| text.repeat(times);
    let labels = |count: usize| -> Value {
        let labels = (0..count).map(|n| (format!("k{n}"), json!("v")));
        labels.collect::<Map<_, _>>().into()
    };
    let digest = format!("sha256:{}", "0a".repeat(32));
    for value in [
        json!("a"),
        json!("a-1"),
        json!("-a"),
        json!("a-"),
        json!("A"),
        json!("a_b"),
        json!("a_b.C"),
        json!(""),
        json!("a/b ä"),
        json!("a\u{7f}"),
        json!("a\u{85}b"),
        json!("a\nb"),
        json!(long("a", 63)),
        json!(long("a", 64)),
        json!(long("a", 512)),
        json!(long("a", 513)),
        json!(digest),
        json!(digest[1..]),
        json!("076e5cf8-463d-4add-81a9-cdc537df0e55"),
        json!("076e5cf8"),
        json!(0),
        json!(100),
        json!(101),
        json!(-1),
        json!(1.5),
        labels(0),
        labels(16),
        labels(17),
        json!({"Disk": "ssd"}),
        json!({"disk": "big one"}),
        json!({"anything": ["goes", null]}),
        json!([]),
        Value::Null,
    ] {
        let parses = |name: &str, parsed: bool| {
            assert_eq!(is_described(name, &value), parsed, "{name}: {value}");
        };
        fn is<T: serde::de::DeserializeOwned>(value: &Value) -> bool {
            serde_json::from_value::<T>(value.clone()).is_ok()
        }
        parses("ModuleName", is::<ModuleName>(&value));
        parses("Zone", is::<Zone>(&value));
        parses("ResourceId", is::<ResourceId>(&value));
        parses("Digest", is::<Digest>(&value));
        parses("NodeId", is::<NodeId>(&value));
        parses("Weight", is::<Weight>(&value));
        parses("Labels", is::<Labels>(&value));
        parses("Spec", is::<Spec>(&value));
    }
}
