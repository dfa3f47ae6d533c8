use holdfast_model::api::{FailureKind, LastError, Owner};

use super::*;

pub(super) fn info(id: &str) -> ResourceInfo {
    ResourceInfo {
        module: "counter".parse().unwrap(),
        id: id.parse().unwrap(),
        slot: holdfast_model::Slot::of(id),
        spec: Spec::default(),
        allocated_at_ms: u64::MAX,
        owner: Some(Owner {
            node: "9f3a0000-0000-4000-8000-000000000000".parse().unwrap(),
            incarnation: holdfast_model::Incarnation(2),
        }),
        token: holdfast_model::Token(7),
        status: ResourceStatus::Held,
        attempt: 1,
        restarts: 0,
        held_since_ms: Some(u64::MAX),
        last_error: None,
        version: Some(1),
        in_flight: 0,
        waiting: 0,
    }
}

#[test]
fn resources_are_listed_within_80_columns() {
    let mut failed = info("resource-with-a-longer-name");
    failed.status = ResourceStatus::Quarantined;
    failed.owner = None;
    failed.held_since_ms = None;
    failed.last_error = Some(LastError {
        message: "the handler refused it because the region is not known to the cloud".to_owned(),
        at_ms: 0,
        kind: FailureKind::Fatal,
    });
    let text = rows_of(Output::plain(), &[info("a"), failed], true, false);
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    assert!(text.lines().next().unwrap().starts_with("ID "), "{text}");
    let next = rows_of(Output::plain(), &[info("a")], false, false);
    assert_eq!(
        next.split_whitespace().collect::<Vec<_>>(),
        ["a", "held", "9f3a0000", "0", "s", "0"]
    );
    let of_all = rows_of(Output::plain(), &[info("a")], true, true);
    assert!(of_all.contains("counter/a  held"), "{of_all}");
}

#[test]
fn a_resource_is_described_in_full() {
    let text = describe(Output::plain(), &info("a"));
    assert!(
        text.starts_with("resource   counter/a\nstatus     held\n"),
        "{text}"
    );
    assert!(text.contains("(incarnation 2)"), "{text}");
    assert!(text.contains("(token 7)"), "{text}");
}

#[test]
fn a_spec_comes_from_the_command_line_or_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spec.json");
    std::fs::write(&path, r#"{"a": 1}"#).unwrap();
    let given = format!("@{}", path.display());
    assert_eq!(read_spec(&given).unwrap().as_str(), r#"{"a":1}"#);
    let error = read_spec("[1]").unwrap_err().to_string();
    assert!(error.contains("must be a JSON object"), "{error}");
    let error = read_spec("@/does/not/exist").unwrap_err().to_string();
    assert!(error.contains("/does/not/exist"), "{error}");
}
