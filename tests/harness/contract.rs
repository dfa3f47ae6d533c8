//! What the HTTP API promises, `docs/openapi.json`: every exchange of a test is held against it.
//!
//! A path and a method that are in it are answered with a status, a media type and a body that stand
//! there too; a request that it does not allow is refused; and what is not in it is said not to be
//! there. A request that a test makes wrong on purpose is fine, as long as its answer is a promised one.
//!
//! Absent: what an answer means. That is for the test that asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use hyper::HeaderMap;
use jsonschema::Validator;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

mod request;

/// A request and its answer.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// Method of the request.
    pub method: &'a str,
    /// Path and query of the request, as they were sent.
    pub target: &'a str,
    /// Headers of the request, names in lower case.
    pub asked: &'a [(String, String)],
    /// Body of the request.
    pub sent: &'a Bytes,
    /// Status of the answer.
    pub status: u16,
    /// Headers of the answer.
    pub headers: &'a HeaderMap,
    /// Body of the answer, or, where that goes on, how it begins.
    pub body: &'a Bytes,
}

/// An API as a document describes it.
pub struct Contract {
    document: Value,
    validators: Mutex<BTreeMap<String, Arc<Validator>>>,
}

/// An operation of the document.
#[derive(Clone, Copy)]
struct Operation<'a> {
    described: &'a Value,
    /// The path with names in place of its parts.
    template: &'a str,
}

impl Contract {
    /// The API of a node.
    ///
    /// # Panics
    /// When the document in `docs` is none.
    #[must_use]
    pub fn of_nodes() -> &'static Self {
        static CONTRACT: LazyLock<Contract> = LazyLock::new(|| {
            let document = include_str!("../../docs/openapi.json");
            Contract::new(serde_json::from_str(document).expect("docs/openapi.json is JSON"))
        });
        &CONTRACT
    }

    /// The API that this OpenAPI document describes.
    #[must_use]
    pub fn new(document: Value) -> Self {
        Self {
            document,
            validators: Mutex::default(),
        }
    }

    /// The name and the promised successes of each operation.
    #[must_use]
    pub fn successes(&self) -> BTreeSet<(String, u16)> {
        let mut all = BTreeSet::new();
        let items = self.document["paths"].as_object().into_iter().flatten();
        for operation in items.flat_map(|(_, item)| item.as_object().into_iter().flatten()) {
            let name = operation.1["operationId"].as_str().unwrap_or_default();
            let responses = operation.1["responses"].as_object().into_iter().flatten();
            let statuses = responses.filter_map(|(status, _)| status.parse().ok());
            let successes = statuses.filter(|status| (200..300).contains(status));
            all.extend(successes.map(|status| (name.to_owned(), status)));
        }
        all
    }

    /// Holds an exchange against the document, and names the operation that it was.
    ///
    /// # Errors
    /// What was not promised.
    pub fn check(&self, exchange: &Exchange<'_>) -> Result<Option<String>, String> {
        let path = exchange.target.split('?').next().unwrap_or_default();
        let Some((template, item)) = self.item(path) else {
            // A part that is empty is none, or one that cannot be understood.
            let kinds = ["not-found", "invalid-request"];
            let has_gap = path.split('/').skip(1).any(str::is_empty);
            self.is_refused(exchange, if has_gap { &kinds } else { &kinds[..1] })?;
            return Ok(None);
        };
        // HEAD is a GET without the body of its answer.
        let method = match exchange.method {
            "HEAD" => "get".to_owned(),
            method => method.to_ascii_lowercase(),
        };
        let Some(described) = item.get(&method) else {
            self.is_refused(exchange, &["invalid-request"])?;
            return Ok(None);
        };
        let operation = Operation {
            described,
            template,
        };
        self.answers(&operation, exchange)?;
        if (200..300).contains(&exchange.status)
            && let Err(why) = request::allowed(self, &operation, exchange)
        {
            return Err(format!("it was answered, but is not allowed: {why}"));
        }
        Ok(described["operationId"].as_str().map(str::to_owned))
    }

    /// The path of the document that this one is, and its operations.
    fn item(&self, path: &str) -> Option<(&str, &Map<String, Value>)> {
        let paths = self.document["paths"].as_object()?.iter();
        let mut fits = paths.filter(|(template, _)| parts(template, path).is_some());
        // What is written out goes before what stands for anything.
        let first = fits.next()?;
        let best = fits.fold(first, |best, next| {
            let names = |template: &str| template.matches('{').count();
            if names(next.0) < names(best.0) {
                next
            } else {
                best
            }
        });
        Some((best.0, best.1.as_object()?))
    }

    /// Makes sure that a request that no operation takes was refused, by one of these kinds or by what
    /// is looked at before the path.
    fn is_refused(&self, exchange: &Exchange<'_>, kinds: &[&str]) -> Result<(), String> {
        let otherwise = |why: String| format!("no operation takes it, and yet: {why}");
        let body = json_of(exchange.body).map_err(otherwise)?;
        let problem = json!({"$ref": "#/components/schemas/Problem"});
        self.fits("#Problem", &problem, &body).map_err(otherwise)?;
        let before = ["unauthorized", "forbidden", "no-leader"];
        let kind = body["type"].as_str().unwrap_or_default();
        let kind = kind.rsplit(':').next().unwrap_or_default();
        match kinds.iter().chain(&before).any(|known| *known == kind) {
            true => Ok(()),
            false => Err(otherwise(format!("it was answered with {body}"))),
        }
    }

    fn answers(&self, operation: &Operation<'_>, exchange: &Exchange<'_>) -> Result<(), String> {
        let status = exchange.status.to_string();
        let response = &operation.described["responses"][&status];
        let response = self.resolved(response);
        if response.is_null() {
            return Err(format!("status {status} is not promised"));
        }
        for name in exchange.headers.keys().map(|name| name.as_str()) {
            let own = name.starts_with("holdfast-") || name == "x-request-id";
            let promised = response["headers"].as_object().into_iter().flatten();
            if own && !promised.map(|(known, _)| known).any(|known| known == name) {
                return Err(format!(
                    "header {name} is not promised with status {status}"
                ));
            }
        }
        let Some(content) = response["content"].as_object() else {
            return match exchange.body.is_empty() {
                true => Ok(()),
                false => Err(format!("status {status} is promised without a body")),
            };
        };
        let given = exchange.headers.get("content-type");
        let given = given
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let known = content
            .iter()
            .find(|(known, _)| *known == "*/*" || essence(known) == essence(given));
        let Some((promised, media)) = known else {
            let known: Vec<&String> = content.keys().collect();
            return Err(format!(
                "the media type is {given:?}, and not one of {known:?}"
            ));
        };
        if exchange.method == "HEAD" {
            return Ok(());
        }
        let key = format!("{} {} {status}", operation.template, exchange.method);
        // What a handler calls JSON need not be any.
        for part in bodies(essence(promised), exchange.body)? {
            self.fits(&key, &media["schema"], &part)?;
        }
        Ok(())
    }

    /// What a reference leads to, or the value itself.
    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        let target = value["$ref"].as_str().and_then(|to| to.strip_prefix('#'));
        match target {
            Some(pointer) => self.document.pointer(pointer).unwrap_or(&Value::Null),
            None => value,
        }
    }

    /// Whether a value is as this schema of the document has it; `key` names the schema.
    fn fits(&self, key: &str, schema: &Value, value: &Value) -> Result<(), String> {
        let validator = self.validator(key, schema);
        let wrong: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("at {:?}: {error}", error.instance_path().to_string()))
            .collect();
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(format!("{value} is not as promised: {}", wrong.join("; "))),
        }
    }

    fn validator(&self, key: &str, schema: &Value) -> Arc<Validator> {
        if let Some(known) = self.validators.lock().get(key) {
            return known.clone();
        }
        // With what it refers to.
        let whole = json!({"allOf": [schema], "components": self.document["components"]});
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .should_validate_formats(true)
            .build(&whole);
        let validator = validator.unwrap_or_else(|error| panic!("{key} is no schema: {error}"));
        let validator = Arc::new(validator);
        self.validators
            .lock()
            .insert(key.to_owned(), validator.clone());
        validator
    }
}

impl std::fmt::Debug for Contract {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contract").finish_non_exhaustive()
    }
}

/// The parts of a path that have names in this template; none when it is another path.
fn parts<'a>(template: &'a str, path: &'a str) -> Option<Vec<(&'a str, &'a str)>> {
    let (mut named, mut given) = (template.split('/'), path.split('/'));
    let mut parts = Vec::new();
    loop {
        let (part, segment) = match (named.next(), given.next()) {
            (None, None) => return Some(parts),
            (Some(part), Some(segment)) => (part, segment),
            _ => return None,
        };
        match part
            .strip_prefix('{')
            .and_then(|part| part.strip_suffix('}'))
        {
            Some(_) if segment.is_empty() => return None,
            Some(name) => parts.push((name, segment)),
            None if part == segment => {}
            None => return None,
        }
    }
}

/// A media type without its parameters.
fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

/// The JSON values in a body of this media type; none where it has no JSON.
fn bodies(essence: &str, body: &Bytes) -> Result<Vec<Value>, String> {
    let text = String::from_utf8_lossy(body);
    match essence {
        "application/json" | "application/problem+json" => Ok(vec![json_of(body)?]),
        "application/x-ndjson" => lines(&text).map(|line| json_of(line.as_bytes())).collect(),
        "text/event-stream" => text
            .split_inclusive("\n")
            .filter(|line| line.ends_with('\n'))
            .filter_map(|line| line.strip_prefix("data:"))
            .map(|data| json_of(data.as_bytes()))
            .collect(),
        _ => Ok(Vec::new()),
    }
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim().is_empty())
}

fn json_of(body: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(body)
        .map_err(|error| format!("it is no JSON ({error}): {}", String::from_utf8_lossy(body)))
}

#[cfg(test)]
mod tests;
