//! `holdfast events`: what happens in the cluster.

use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, builder::styling::AnsiColor};
use holdfast_model::api::{Event, EventType, EventsQuery};

use super::{
    output::{self, Output},
    subject::Subject,
    suggest,
};
use crate::client::{Client, Error};

/// Watch what happens in the cluster
///
/// Nodes that come and go, deployments, allocations, moves, instances that start, fail and stop; until
/// interrupted. docs/EVENTS.md lists them.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct EventsArgs {
    /// Only of this module, or of this resource; everything unless given.
    #[arg(value_name = "MODULE[/ID]")]
    subject: Option<Subject>,

    /// Only events of this type, like node-down or instance-failed.
    #[arg(long = "type", value_name = "TYPE", value_parser = event_type)]
    kind: Option<EventType>,

    /// Begin with all that the nodes still know of the past.
    #[arg(long)]
    replay: bool,
}

pub(super) async fn run(args: EventsArgs, client: &Client, output: &Output) -> anyhow::Result<()> {
    let (module, resource) = Subject::parts(args.subject);
    suggest::warn_of_unknown(module.as_ref(), client, *output).await;
    let mut query = EventsQuery {
        kind: args.kind,
        module,
        resource,
        replay: args.replay,
    };
    let mut seen: Option<String> = None;
    loop {
        let mut last = seen.clone();
        let watched = client.events(&query, seen.as_deref(), |id, event| {
            last = Some(id.to_owned());
            output.show(&event, |event| text(*output, event))
        });
        let watched = watched.await;
        let lost = match watched {
            Ok(()) => "the node ends".to_owned(),
            Err(error) => match error.downcast_ref::<Error>() {
                // It goes on where it stopped, as long as something was seen: nothing is missed.
                Some(error @ (Error::Broken { .. } | Error::Unreachable { .. }))
                    if seen.is_some() || last.is_some() =>
                {
                    error.to_string()
                }
                _ => return Err(error),
            },
        };
        output.warn(&format!("{lost}; asking again"));
        (seen, query.replay) = (last, false);
        tokio::time::sleep(AGAIN).await;
    }
}

fn event_type(text: &str) -> Result<EventType, String> {
    text.parse().map_err(|error| {
        let known = EventType::ALL.iter().map(|kind| kind.to_string());
        match suggest::did_you_mean(&suggest::alike(text, known)) {
            Some(question) => format!("{error}; {question}"),
            None => format!("{error}"),
        }
    })
}

/// An event for people: when, its type, and what else it has.
fn text(output: Output, event: &Event) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(event.at_ms);
    let kind = event.what.kind();
    let mut text = format!(
        "{} {}",
        humantime::format_rfc3339_millis(at),
        output.coloured(format!("{kind:20}"), colour(kind)),
    );
    let value = serde_json::to_value(&event.what).unwrap_or_default();
    for (name, value) in value.as_object().into_iter().flatten() {
        if name != "type" && !value.is_null() {
            let value = match value {
                serde_json::Value::String(value) => output::printable(value),
                serde_json::Value::Object(owner) => owner
                    .get("node")
                    .and_then(|node| node.as_str())
                    .unwrap_or_default()
                    .to_owned(),
                value => value.to_string(),
            };
            let value = match name.as_str() {
                "node" | "from" | "to" => value.get(..8).unwrap_or(&value).to_owned(),
                _ => value,
            };
            text.push_str(&format!(" {name}={value}"));
        }
    }
    text
}

fn colour(kind: EventType) -> AnsiColor {
    match kind {
        EventType::NodeDown
        | EventType::NodeRemoved
        | EventType::ModuleFailed
        | EventType::InstanceFailed => AnsiColor::Red,
        EventType::NodeDraining
        | EventType::NodeRestarting
        | EventType::ModuleRemoving
        | EventType::ModuleRemoved
        | EventType::ResourceDeallocated
        | EventType::InstanceStopped
        | EventType::Missed => AnsiColor::Yellow,
        _ => AnsiColor::Green,
    }
}

/// How soon a node is asked again whose answer broke off.
const AGAIN: Duration = Duration::from_secs(1);

const AFTER_HELP: &str = "\
Examples:
  holdfast events                          the whole, as it happens
  holdfast events counter/a --replay
  holdfast events --type instance-failed --format json | jq -r .error";
