//! `holdfast invoke`: calls a resource.

use std::{io::Read as _, path::PathBuf, time::Duration};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use bytes::Bytes;
use clap::Args;
use holdfast_model::NodeId;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    output::{self, Output},
    target::{self, Target},
};
use crate::client::{Answer, Call, Client};

/// Call a resource and print its answer as it is
///
/// With --format json, the answer stands in `body` of an object that also names the node, the
/// request and the media type: as it is where it is JSON, else as a string. Where it is no text
/// either, `body_encoding` is "base64".
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct InvokeArgs {
    #[command(flatten)]
    target: Target,

    /// The body, as --data takes it.
    #[arg(value_name = "BODY", conflicts_with_all = ["data", "file"])]
    body: Option<String>,

    /// The body.
    #[arg(long, short, value_name = "BODY")]
    data: Option<String>,

    /// A file with the body; - is standard input.
    #[arg(long, short, value_name = "FILE", conflicts_with = "data")]
    file: Option<PathBuf>,

    /// Media type of the body; application/json where it is JSON and nothing is said.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,

    /// Says that the call may be repeated; the handler is to know the key again.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,

    /// How long to wait for the answer; the module's call_timeout_ms unless given.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

pub(super) async fn run(args: InvokeArgs, client: &Client, output: &Output) -> anyhow::Result<()> {
    let (key, rest) = args.target.key_and_rest()?;
    let body = match (&args.file, rest, &args.body) {
        (_, Some(body), Some(more)) => {
            return Err(target::usage(format!(
                "{more:?} is one argument too many: the body is {body:?} already"
            )));
        }
        (Some(path), None, _) => read(path)?,
        (None, None, body) => args
            .data
            .as_ref()
            .or(body.as_ref())
            .cloned()
            .unwrap_or_default()
            .into(),
        (None, Some(body), None) if args.data.is_none() => body.to_owned().into(),
        (_, Some(body), None) => {
            return Err(target::usage(format!(
                "{body:?} is one argument too many: the body is given already"
            )));
        }
    };
    let call = Call {
        content_type: args.content_type.clone().or_else(|| type_of(&body)),
        body,
        idempotency_key: args.idempotency_key.clone(),
        request_id: None,
        timeout: args.timeout,
    };
    let answer = client.invoke(&key.module, &key.id, call).await?;
    if output.is_json() {
        return output.json(&Answered::new(&answer));
    }
    output::write(&answer.body)?;
    output::end_line(&answer.body)
}

/// An answer, as a program reads it.
#[derive(Debug, Serialize)]
struct Answered<'a> {
    node: Option<NodeId>,
    request_id: Option<&'a str>,
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_encoding: Option<&'static str>,
    body: Body<'a>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Body<'a> {
    /// Kept letter by letter: numbers have all their digits.
    Json(&'a RawValue),
    Text(&'a str),
    Base64(String),
}

impl<'a> Answered<'a> {
    fn new(answer: &'a Answer) -> Self {
        let text = std::str::from_utf8(&answer.body);
        let body = match text {
            Ok(text) => serde_json::from_str(text).map_or(Body::Text(text), Body::Json),
            Err(_) => Body::Base64(BASE64.encode(&answer.body)),
        };
        Self {
            node: answer.node,
            request_id: answer.request_id.as_deref(),
            content_type: answer.content_type.as_deref(),
            body_encoding: text.is_err().then_some("base64"),
            body,
        }
    }
}

fn read(path: &PathBuf) -> anyhow::Result<Bytes> {
    if path.as_os_str() == "-" {
        let mut body = Vec::new();
        let mut stdin = std::io::stdin().lock().take(BODY_BYTES_MAX);
        stdin
            .read_to_end(&mut body)
            .context("read standard input")?;
        return Ok(body.into());
    }
    let body = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(body.into())
}

/// The media type of a body of which nothing is said.
pub(super) fn type_of(body: &[u8]) -> Option<String> {
    let json = serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok();
    json.then(|| "application/json".to_owned())
}

/// A little more than any module takes, so that the node refuses what is too large.
const BODY_BYTES_MAX: u64 = (64 << 20) + 1;

const AFTER_HELP: &str = "\
Examples:
  holdfast invoke counter/a --data '{\"add\":1}'
  holdfast invoke counter a '{\"add\":1}'
  holdfast invoke counter/a --format json | jq .body.value
  holdfast invoke counter/a --file body.json --idempotency-key 7c1e
  echo hello | holdfast invoke echo/a --file -";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_recognised() {
        assert_eq!(type_of(b"{\"a\":1}").as_deref(), Some("application/json"));
        assert_eq!(type_of(b"Ada"), None);
        assert_eq!(type_of(b""), None);
    }

    #[test]
    fn an_answer_is_told_as_json_with_its_circumstances() {
        let told = |body: &'static [u8]| {
            let answer = Answer {
                body: Bytes::from_static(body),
                content_type: Some("x/y".to_owned()),
                request_id: Some("r-1".to_owned()),
                node: None,
            };
            serde_json::to_string(&Answered::new(&answer)).unwrap()
        };
        let head = r#"{"node":null,"request_id":"r-1","content_type":"x/y","#;
        for (body, rest) in [
            (&br#"{"a":1.10}"#[..], r#""body":{"a":1.10}}"#),
            (b"hello", r#""body":"hello"}"#),
            (b"", r#""body":""}"#),
            (b"\xff\x00", r#""body_encoding":"base64","body":"/wA="}"#),
        ] {
            assert_eq!(told(body), format!("{head}{rest}"));
        }
    }
}
