use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use holdfast_model::api::ProblemKind;
use serde_json::Value;

use super::*;

/// The document as others read it.
fn document() -> Value {
    serde_json::from_str(&super::super::openapi()).unwrap()
}

/// Each operation by its method and path.
fn operations(document: &Value) -> BTreeMap<String, &Value> {
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let operations = item.as_object().unwrap().iter();
        operations.map(move |(method, operation)| (format!("{method} {path}"), operation))
    });
    operations.collect()
}

/// Every value of the document, itself included.
fn values(value: &Value) -> Vec<&Value> {
    let inner: Vec<&Value> = match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(members) => members.values().collect(),
        _ => Vec::new(),
    };
    let inner = inner.into_iter().flat_map(values);
    std::iter::once(value).chain(inner).collect()
}

#[test]
fn the_document_in_docs_is_the_one_that_the_code_makes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let made = super::super::openapi();
    let differs = made.lines().zip(kept.lines()).find(|(new, old)| new != old);
    assert!(
        made == kept,
        "docs/openapi.json is not what the code says, first here: {differs:?}. Look whether the change \
         is meant, and write it anew: cargo run -- openapi > docs/openapi.json"
    );
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let references = values(&document).into_iter();
    let references: BTreeSet<&str> = references
        .filter_map(|value| value["$ref"].as_str())
        .collect();
    assert!(references.len() > 50, "{references:?}");
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap_or_default();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn every_operation_is_described_and_has_a_name_of_its_own() {
    let document = document();
    let text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    let tags = document["tags"].as_array().unwrap();
    let mut names = BTreeSet::new();
    for (what, operation) in operations(&document) {
        let name = operation["operationId"].as_str().unwrap();
        assert!(names.insert(name.to_owned()), "{what}: {name} is taken");
        assert!(text(&operation["summary"]), "{what}");
        let tag = &operation["tags"][0];
        assert!(
            tags.iter().any(|known| known["name"] == *tag),
            "{what}: {tag}"
        );
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(text(&parameter["description"]), "{what}: {parameter}");
        }
        let statuses = operation["responses"].as_object().unwrap().keys();
        assert!(
            statuses.clone().any(|status| status.starts_with('2')),
            "{what}"
        );
        for status in statuses {
            assert!((200..600).contains(&status.parse().unwrap()), "{what}");
        }
    }
}

#[test]
fn the_parameters_of_a_path_are_those_that_it_names() {
    let document = document();
    for (what, operation) in operations(&document) {
        let named = what.split('{').skip(1);
        let named: BTreeSet<&str> = named
            .filter_map(|rest| Some(rest.split_once('}')?.0))
            .collect();
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let in_path = parameters.filter(|parameter| parameter["in"] == "path");
        let declared: Vec<&str> = in_path
            .inspect(|parameter| assert_eq!(parameter["required"], true, "{what}"))
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        assert_eq!(named.len(), declared.len(), "{what}: {declared:?}");
        assert_eq!(named, declared.into_iter().collect(), "{what}");
    }
}

#[test]
fn what_needs_no_token_is_what_is_answered_without_one() {
    let document = document();
    let mut open = BTreeSet::new();
    for (what, operation) in operations(&document) {
        let (_, path) = what.split_once(' ').unwrap();
        let needs_none = operation["security"].as_array().is_some_and(Vec::is_empty);
        assert_eq!(needs_none, OPEN.contains(&path), "{what}");
        assert_eq!(
            operation["responses"]["401"].is_null(),
            needs_none,
            "{what}"
        );
        open.extend(needs_none.then_some(path.to_owned()));
    }
    assert_eq!(open.len(), OPEN.len(), "{open:?}");
}

#[test]
fn calls_are_described_where_they_are_taken() {
    let document = document();
    let described = operations(&document);
    let calls = described.keys().filter_map(|what| {
        let path = what.strip_prefix("post ")?;
        super::super::invoke::path(path).map(|found| (path, found))
    });
    let calls: Vec<_> = calls.collect();
    let path = "/v1/modules/{module}/resources/{id}/invoke";
    assert_eq!(calls, [(path, ("{module}", "{id}"))]);
}

#[test]
fn every_kind_of_problem_is_one_of_some_operation() {
    let document = document();
    let all = values(&document).into_iter();
    let named: BTreeSet<&str> = all
        .filter_map(|value| value["type"]["enum"].as_array())
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for kind in ProblemKind::ALL {
        // Of no route, as it says.
        if *kind != ProblemKind::NotFound {
            assert!(named.contains(kind.urn().as_str()), "{kind}: {named:?}");
        }
    }
}

#[test]
fn limits_are_described_with_the_bounds_that_they_are_checked_by() {
    let document = document();
    let limits = &document["components"]["schemas"]["Limits"]["properties"];
    for (name, min, max) in Limits::BOUNDS {
        assert_eq!(limits[name]["minimum"], min, "{name}");
        assert_eq!(limits[name]["maximum"], max, "{name}");
    }
}

#[test]
fn requests_are_described_without_room_for_other_members() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    let mut closed = vec![
        &schemas["Settings"],
        &schemas["Limits"],
        &schemas["PlanRequest"],
    ];
    closed.extend(schemas["BatchRequest"]["oneOf"].as_array().unwrap());
    for schema in closed {
        assert_eq!(schema["additionalProperties"], false, "{schema}");
    }
}

#[test]
fn descriptions_are_for_people_who_do_not_read_the_code() {
    let document = document();
    for value in values(&document) {
        for member in ["description", "summary"] {
            let text = value[member].as_str().unwrap_or_default();
            assert!(!text.contains("[`") && !text.contains("::"), "{text}");
        }
    }
}

#[test]
fn the_table_of_problems_has_every_kind_with_its_status() {
    let page = include_str!("../../../../../docs/API.md");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let cells: Vec<Vec<&str>> = rows.map(|row| row.split('|').collect()).collect();
    for kind in ProblemKind::ALL {
        let name = format!("`{}`", kind.name());
        let status = kind.status().to_string();
        let is_row = |row: &&Vec<&str>| row[1].contains(&name) && row[2].contains(&status);
        assert!(cells.iter().any(|row| is_row(&row)), "{name} {status}");
    }
}
