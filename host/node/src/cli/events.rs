//! `holdfast events`: what happens in the cluster.

use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, builder::styling::AnsiColor};
use holdfast_model::api::{Event, EventType, EventsQuery};

use super::{
    fallback::{Nodes, is_lost},
    output::{self, Output},
    subject::Subject,
    suggest,
};
use crate::client::{Client, Error};

/// Watch what happens in the cluster
///
/// Nodes that come and go, deployments, allocations, moves, instances that start, fail and stop; until
/// interrupted. docs/EVENTS.md lists them. When the node that is asked ends, it goes on through another
/// one; what was missed by then is an event too.
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
    let mut nodes = Nodes::of(client).await;
    let mut seen: Option<String> = None;
    loop {
        let present = nodes.present().clone();
        let after = seen.clone();
        let watched = present.events(&query, after.as_deref(), |id, event| {
            if let Some(event) = event {
                output.show(&event, |event| text(*output, event))?;
            }
            seen = Some(id.to_owned());
            anyhow::Ok(())
        });
        let lost = match watched.await {
            Ok(()) => "the node ends".to_owned(),
            Err(error) => match error.downcast_ref::<Error>() {
                // It goes on where it stopped.
                Some(lost) if is_lost(lost) && seen.is_some() => lost.to_string(),
                _ => return Err(error),
            },
        };
        query.replay &= seen.is_none();
        output.warn(&format!("{lost}; going on through any node that answers"));
        nodes.again().await?;
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

const AFTER_HELP: &str = "\
Examples:
  holdfast events                          the whole, as it happens
  holdfast events counter/a --replay
  holdfast events --type instance-failed --format json | jq -r .error";
