use holdfast_guest::{
    Ctx, Error, Invocation as _, InvokeError, Request, Resource, ResourceHandler as _,
    serde_json::{self, Value, json},
};

use super::{DOCUMENT_BYTES_MAX, Spec, Twin};

fn twin(spec: &Value) -> Twin {
    let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
    Twin::handle(&Ctx::test(), Resource::new("thermostat", spec)).unwrap()
}

fn ask(twin: &mut Twin, operation: &Value) -> Result<Value, InvokeError> {
    let answer = twin.invoke(&Ctx::test(), Request::new(operation.to_string()))?;
    Ok(serde_json::from_slice(&answer.body).unwrap())
}

#[test]
fn a_device_reports_until_nothing_is_left_to_do() {
    let mut twin = twin(&json!({"desired": {"t": 21, "fan": {"on": true}}}));
    let answer = ask(&mut twin, &json!("get")).unwrap();
    assert_eq!(answer["delta"], json!({"t": 21, "fan": {"on": true}}));

    let answer = ask(&mut twin, &json!({"report": {"t": 21, "rssi": -60}})).unwrap();
    assert_eq!(answer["reported"], json!({"t": 21, "rssi": -60}));
    assert_eq!(answer["delta"], json!({"fan": {"on": true}}));

    let done = json!({"report": {"fan": {"on": true}, "rssi": null}});
    let answer = ask(&mut twin, &done).unwrap();
    assert_eq!(answer["reported"], json!({"t": 21, "fan": {"on": true}}));
    assert_eq!(answer["delta"], json!({}));
}

#[test]
fn an_empty_body_asks_for_the_twin_as_it_is() {
    let mut twin = twin(&json!({}));
    let empty = twin.invoke(&Ctx::test(), Request::new("")).unwrap();
    let get = twin.invoke(&Ctx::test(), Request::new("\"get\"")).unwrap();
    assert_eq!(empty, get);
}

#[test]
fn a_change_made_from_an_old_state_is_a_conflict_and_changes_nothing() {
    let mut twin = twin(&json!({"desired": {"t": 20}}));
    let seen = ask(&mut twin, &json!("get")).unwrap()["etag"].clone();
    let patch = |t: i32, seen: &Value| json!({"patch": {"desired": {"t": t}, "if_match": seen}});

    let answer = ask(&mut twin, &patch(21, &seen)).unwrap();
    assert_ne!(answer["etag"], seen);
    let Err(InvokeError::Conflict(text)) = ask(&mut twin, &patch(22, &seen)) else {
        panic!("it overwrites what it has not seen");
    };
    assert!(text.contains(answer["etag"].as_str().unwrap()), "{text}");
    assert_eq!(ask(&mut twin, &json!("get")).unwrap(), answer);

    // Who does not ask for it is not checked; and a report is no change of what is desired.
    let _ = ask(&mut twin, &json!({"patch": {"desired": {"t": 23}}})).unwrap();
    let before = ask(&mut twin, &json!("get")).unwrap()["etag"].clone();
    let answer = ask(&mut twin, &json!({"report": {"t": 23}})).unwrap();
    assert_eq!(answer["etag"], before);
    let answer = ask(&mut twin, &patch(23, &before)).unwrap();
    assert_eq!(answer["etag"], before, "the same state has the same name");
}

#[test]
fn another_instance_names_its_states_otherwise() {
    let spec = json!({"desired": {"t": 20}});
    let etag = |twin: &mut Twin| ask(twin, &json!("get")).unwrap()["etag"].clone();
    let (mut one, mut other) = (twin(&spec), twin(&spec));
    assert_ne!(etag(&mut one), etag(&mut other));
}

#[test]
fn what_makes_no_sense_is_invalid_and_changes_nothing() {
    let mut twin = twin(&json!({"desired": {"t": 20}}));
    let before = ask(&mut twin, &json!("get")).unwrap();
    let large = json!({"t": "x".repeat(DOCUMENT_BYTES_MAX)});
    for (operation, named) in [
        (json!({"delete": {}}), "`delete`"),
        (json!({"patch": {"desired": 1}}), "patch.desired"),
        (json!({"patch": {}}), "`desired`"),
        (json!({"patch": {"desired": {}, "etag": "1"}}), "`etag`"),
        (json!({"report": [1]}), "report"),
        (
            json!({"patch": {"desired": large}}),
            "the desired state would have",
        ),
        (json!({"report": large}), "the reported state would have"),
    ] {
        match ask(&mut twin, &operation) {
            Err(InvokeError::Invalid(text)) => assert!(text.contains(named), "{text}"),
            other => panic!("{named}: {other:?}"),
        }
    }
    assert_eq!(ask(&mut twin, &json!("get")).unwrap(), before);
}

#[test]
fn a_spec_that_is_too_large_is_fatal() {
    let desired = json!({"t": "x".repeat(DOCUMENT_BYTES_MAX)});
    let spec: Spec = serde_json::from_value(json!({"desired": desired})).unwrap();
    let refused = Twin::handle(&Ctx::test(), Resource::new("a", spec)).unwrap_err();
    assert!(matches!(refused, Error::Fatal(_)), "{refused:?}");
}
