//! The log of the node that `holdfast dev` runs: the calls that end, and what the node has to say.

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::ChildStderr,
};

use super::tell::{Event, Teller};
use crate::admin::CALLS;

/// What the node logs: what is wrong, and each call. What handlers say is shown from what the node
/// keeps.
pub(super) const FILTER: &str = "warn,guest=off,calls=debug";

/// Tells what the node logs, until it ends.
pub(super) async fn follow(log: ChildStderr, teller: Teller) -> anyhow::Result<()> {
    let mut lines = BufReader::new(log).lines();
    while let Some(line) = lines.next_line().await.context("read the node's log")? {
        match Line::read(&line) {
            Line::Called(call) => teller.tell(&Event::Called(call))?,
            Line::Other(text) => eprintln!("{text}"),
        }
    }
    Ok(())
}

/// A line of the log.
#[derive(Debug, PartialEq)]
enum Line {
    Called(Called),
    /// What it says to people.
    Other(String),
}

/// A call that has ended.
#[derive(Debug, Deserialize, serde::Serialize, PartialEq)]
pub(super) struct Called {
    pub(super) module: String,
    #[serde(rename(deserialize = "resource.id", serialize = "id"))]
    pub(super) id: String,
    pub(super) status: u16,
    pub(super) took_ms: f64,
    /// What the caller was told, unless it was an answer.
    #[serde(default)]
    pub(super) error: Option<String>,
}

impl Line {
    fn read(line: &str) -> Self {
        let Ok(mut fields) = serde_json::from_str::<Map<String, Value>>(line) else {
            return Self::Other(line.to_owned());
        };
        let mut take = |name: &str| match fields.remove(name) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let (target, level, message) = (take("target"), take("level"), take("message"));
        let at = take("timestamp");
        if target == CALLS
            && let Ok(call) = Called::deserialize(Value::Object(fields.clone()))
        {
            return Self::Called(call);
        }
        for spans in ["span", "spans"] {
            fields.remove(spans);
        }
        let fields = fields.iter().map(|(name, value)| match value {
            Value::String(text) => format!(" {name}={text}"),
            value => format!(" {name}={value}"),
        });
        Self::Other(format!(
            "{at} {level} {target}: {message}{}",
            fields.collect::<String>()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart_from_what_the_node_says() {
        let call = r#"{"timestamp":"t","level":"DEBUG","message":"called","module":"my-bot",
            "resource.id":"ada","status":400,"took_ms":0.25,"error":"no","target":"calls"}"#;
        let Line::Called(call) = Line::read(&call.replace('\n', "")) else {
            panic!("it is a call");
        };
        assert_eq!((call.module.as_str(), call.id.as_str()), ("my-bot", "ada"));
        assert_eq!((call.status, call.error.as_deref()), (400, Some("no")));
        let warning = r#"{"timestamp":"t","level":"WARN","message":"lease lost","target":"holdfast",
            "node.id":"9f3a","left":3,"span":{"name":"x"}}"#;
        let text = "t WARN holdfast: lease lost left=3 node.id=9f3a";
        assert_eq!(
            Line::read(&warning.replace('\n', "")),
            Line::Other(text.to_owned())
        );
        let panic = "thread 'main' panicked at x.rs:1:2:";
        assert_eq!(Line::read(panic), Line::Other(panic.to_owned()));
    }
}
