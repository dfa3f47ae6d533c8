use serde_json::{Value, from_value, json, to_value};

use super::*;

#[test]
fn a_problem_is_written_as_rfc_9457_says() {
    let problem = Problem::new(ProblemKind::QueueFull, "128 calls wait").with("waiting", 128);
    assert_eq!(
        to_value(&problem).unwrap(),
        json!({
            "type": "urn:holdfast:problem:queue-full",
            "title": "Too many calls wait",
            "status": 429,
            "detail": "128 calls wait",
            "waiting": 128,
        })
    );
    assert_eq!(
        from_value::<Problem>(to_value(&problem).unwrap()).unwrap(),
        problem
    );
}

#[test]
fn every_kind_of_problem_is_read_as_it_is_written() {
    for kind in ProblemKind::ALL {
        assert_eq!(kind.urn().parse(), Ok(*kind));
        assert!((400..600).contains(&kind.status()), "{kind}");
    }
}

#[test]
fn a_problem_of_a_newer_node_is_still_a_problem() {
    let problem: Problem =
        from_value(json!({"type": "urn:holdfast:problem:eclipse", "status": 503})).unwrap();
    assert_eq!(problem.kind, ProblemKind::Other);
    assert_eq!(problem.to_string(), "status 503");
    let bare: Problem = from_value(json!({})).unwrap();
    assert_eq!(bare.kind, ProblemKind::Other);
}

#[test]
fn batch_lines_have_the_documented_form() {
    let allocate: BatchRequest = from_value(json!({"op": "allocate", "id": "a"})).unwrap();
    assert_eq!(
        to_value(&allocate).unwrap(),
        json!({"op": "allocate", "id": "a", "spec": {}})
    );
    for (bad, named) in [
        (json!({"op": "allocate", "id": "a", "sepc": {}}), "sepc"),
        (json!({"op": "deallocate", "id": "a", "spec": {}}), "spec"),
        (json!({"op": "create", "id": "a"}), "create"),
        (json!({"op": "allocate", "id": ""}), "empty"),
        (json!({"op": "allocate", "id": "a", "spec": []}), "object"),
    ] {
        let error = from_value::<BatchRequest>(bad).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn batch_answers_have_the_documented_form() {
    let done = BatchAnswer {
        line: 1,
        id: Some("a".parse().unwrap()),
        outcome: BatchOutcome::Result(BatchResult::Created),
    };
    let failed = BatchAnswer {
        line: 2,
        id: None,
        outcome: BatchOutcome::Problem(Problem::new(ProblemKind::InvalidRequest, "no JSON")),
    };
    assert_eq!(
        to_value(&done).unwrap(),
        json!({"line": 1, "id": "a", "result": "created"})
    );
    assert_eq!(to_value(&failed).unwrap()["problem"]["status"], json!(400));
    for answer in [done, failed] {
        let text = serde_json::to_string(&answer).unwrap();
        assert_eq!(serde_json::from_str::<BatchAnswer>(&text).unwrap(), answer);
    }
}

#[test]
fn counts_add_up_to_their_total() {
    let mut counts = ResourceCounts::default();
    for status in ResourceStatus::ALL {
        counts.add(*status, 2);
    }
    let Value::Object(fields) = to_value(counts).unwrap() else {
        panic!("counts are an object");
    };
    let sum: u64 = fields.values().filter_map(Value::as_u64).sum();
    assert_eq!(counts.total, 16);
    assert_eq!(sum, 2 * counts.total, "each status has a field of its own");
}

#[test]
fn the_first_line_of_a_node_is_tagged() {
    let line = r#"{"event":"listening","node":"6ba7b810-9dad-41d1-80b4-00c04fd430c8",
        "incarnation":1,"http":"127.0.0.1:1","cluster":"[::1]:2","pid":3}"#;
    let NodeEvent::Listening(listening) = serde_json::from_str(line).unwrap();
    assert_eq!(listening.http.port(), 1);
    assert_eq!(
        to_value(NodeEvent::Listening(listening)).unwrap()["event"],
        "listening"
    );
}

#[test]
fn a_plan_names_nodes_by_their_id_or_as_new_ones() {
    let id = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
    let known = PlanNode::Known(id.parse().unwrap());
    for (node, text) in [(known, id), (PlanNode::New(12), "new-12")] {
        assert_eq!(to_value(node).unwrap(), json!(text));
        assert_eq!(from_value::<PlanNode>(json!(text)).unwrap(), node);
    }
    for bad in ["", "new-", "new-x", "new--1", "node"] {
        assert!(bad.parse::<PlanNode>().is_err(), "{bad}");
    }
    let request: PlanRequest =
        from_value(json!({"join": [{}, {"weight": 50}], "leave": [id], "weights": {id: 0}}))
            .unwrap();
    let weights: Vec<u64> = request.join.iter().map(|node| node.weight.get()).collect();
    assert_eq!(weights, [100, 50]);
    assert_eq!(to_value(&request).unwrap()["weights"], json!({id: 0}));
    for (bad, named) in [
        (json!({"joins": []}), "`joins`"),
        (json!({"join": [{"wait": 1}]}), "`wait`"),
        (json!({"weights": {id: 101}}), "0 to 100"),
        (json!({"leave": ["x"]}), "UUID"),
    ] {
        let error = from_value::<PlanRequest>(bad).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn queries_refuse_what_they_do_not_know() {
    let error = from_value::<DrainQuery>(json!({"cansel": true})).unwrap_err();
    assert!(error.to_string().contains("`cansel`"), "{error}");
    let error = from_value::<ResourcesQuery>(json!({"status": "happy"})).unwrap_err();
    assert!(error.to_string().contains("quarantined"), "{error}");
}
