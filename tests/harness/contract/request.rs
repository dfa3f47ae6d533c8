//! Whether a request is one that the document allows.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Contract, Exchange, Operation, json_of, lines, parts};

/// Whether this request of an operation is allowed; else why it is not.
pub(super) fn allowed(
    contract: &Contract,
    operation: &Operation<'_>,
    exchange: &Exchange<'_>,
) -> Result<(), String> {
    let (path, query) = exchange
        .target
        .split_once('?')
        .unwrap_or((exchange.target, ""));
    let mut given: Vec<(&str, String, String)> = Vec::new();
    for (name, segment) in parts(operation.template, path).unwrap_or_default() {
        given.push(("path", name.to_owned(), decoded(segment)));
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        given.push(("query", decoded(name), decoded(value)));
    }
    for (name, value) in exchange.asked {
        given.push(("header", name.to_ascii_lowercase(), value.clone()));
    }
    let known: Vec<&Value> = operation.described["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    let is = |parameter: &Value, place: &str, name: &str| {
        let known = parameter["name"].as_str().unwrap_or_default();
        parameter["in"] == place && known.eq_ignore_ascii_case(name)
    };
    for (place, name, value) in &given {
        let parameter = known.iter().find(|parameter| is(parameter, place, name));
        match parameter {
            Some(parameter) => fits(contract, operation, parameter, value)
                .map_err(|why| format!("{name} in {place}: {why}"))?,
            None if *place == "query" => return Err(format!("there is no {name} in its query")),
            None if name.starts_with("holdfast-") => {
                return Err(format!("there is no header {name}"));
            }
            None => {}
        }
    }
    for parameter in known
        .iter()
        .filter(|parameter| parameter["required"] == true)
    {
        let (place, name) = (&parameter["in"], &parameter["name"]);
        let is_given = |(at, by, _): &(&str, String, String)| is(parameter, at, by);
        if !given.iter().any(is_given) {
            return Err(format!("{name} is missing in {place}"));
        }
    }
    body(contract, operation, exchange)
}

fn fits(
    contract: &Contract,
    operation: &Operation<'_>,
    parameter: &Value,
    text: &str,
) -> Result<(), String> {
    let key = format!(
        "{} {} {parameter}",
        operation.template, operation.described["operationId"]
    );
    if let Some(json) = parameter["content"].get("application/json") {
        return contract.fits(&key, &json["schema"], &json_of(text.as_bytes())?);
    }
    let schema = &parameter["schema"];
    let kind = &contract.resolved(schema)["type"];
    let value = match kind.as_str() {
        Some("integer" | "number" | "boolean") => json_of(text.as_bytes())?,
        _ => Value::from(text),
    };
    contract.fits(&key, schema, &value)
}

fn body(
    contract: &Contract,
    operation: &Operation<'_>,
    exchange: &Exchange<'_>,
) -> Result<(), String> {
    let described = &operation.described["requestBody"];
    let Some((media_type, media)) = described["content"]
        .as_object()
        .and_then(|all| all.iter().next())
    else {
        return match exchange.sent.is_empty() {
            true => Ok(()),
            false => Err("it has no body".to_owned()),
        };
    };
    if exchange.sent.is_empty() {
        return match described["required"] == true {
            false => Ok(()),
            true => Err("its body is missing".to_owned()),
        };
    }
    let key = format!("{} {} body", operation.template, exchange.method);
    let schema = &media["schema"];
    match media_type.as_str() {
        "application/json" => contract.fits(&key, schema, &json_of(exchange.sent)?),
        "application/x-ndjson" => {
            let refused = refused(exchange);
            let text = String::from_utf8_lossy(exchange.sent);
            for (number, line) in (1..).zip(text.lines()) {
                if !line.trim().is_empty() && !refused.contains(&number) {
                    contract.fits(&key, schema, &json_of(line.as_bytes())?)?;
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The lines of a batch that were answered with a problem.
fn refused(exchange: &Exchange<'_>) -> BTreeSet<u64> {
    let text = String::from_utf8_lossy(exchange.body);
    let answers = lines(&text).filter_map(|line| json_of(line.as_bytes()).ok());
    answers
        .filter(|answer| answer["problem"].is_object())
        .filter_map(|answer| answer["line"].as_u64())
        .collect()
}

/// Percent-decoded; no test sends a `+` for a space.
fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text)
        .decode_utf8_lossy()
        .into_owned()
}
