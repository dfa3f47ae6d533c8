//! `holdfast logs`: what handlers say.

use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, builder::styling::AnsiColor};
use holdfast_model::api::{LogEntry, LogLevel, LogLine, LogsQuery};

use super::{
    fallback::{Nodes, is_lost},
    human,
    output::{self, Output},
    subject::Subject,
    target,
};
use crate::client::{self, Client};

/// Show what handlers say, on all nodes
///
/// That is what they write to stdout and stderr, and what they log through `wasi:logging`. Each node
/// keeps the newest lines of each module, about 1 MiB of each and 32 MiB of all, until it ends; its own log
/// has those that --log lets through.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct LogsArgs {
    /// Only of this module, or of this resource; everything unless given.
    #[arg(value_name = "MODULE[/ID]")]
    subject: Option<Subject>,

    /// Go on with what is said from now on, until interrupted; through another node when the one that
    /// is asked ends.
    #[arg(long, short)]
    follow: bool,

    /// How many lines of the past, the newest ones; at most 10,000.
    #[arg(long, short = 'n', value_name = "N", default_value_t = LogsQuery::LIMIT_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=i64::from(LogsQuery::LIMIT_MAX)))]
    lines: u32,

    /// Only what is at least so important: trace, debug, info, warn, error or critical.
    ///
    /// What is written to stdout is info, and to stderr warn.
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "trace",
        hide_default_value = true
    )]
    level: LogLevel,

    /// Only what is said on this node: its id, or the beginning of it.
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
}

pub(super) async fn run(args: LogsArgs, client: &Client, output: &Output) -> anyhow::Result<()> {
    let node = match &args.node {
        Some(beginning) => Some(target::node(client, beginning).await?),
        None => None,
    };
    let (module, resource) = Subject::parts(args.subject);
    let query = LogsQuery {
        module,
        resource,
        node,
        level: Some(args.level),
        limit: Some(args.lines),
        follow: args.follow,
        after: None,
    };
    if !args.follow {
        return client.logs(&query, |line| tell(*output, line)).await;
    }
    follow(query, client, *output).await
}

/// Goes on through any node, until interrupted.
async fn follow(mut query: LogsQuery, client: &Client, output: Output) -> anyhow::Result<()> {
    let mut nodes = Nodes::of(client).await;
    loop {
        let present = nodes.present().clone();
        // Told when it is known from where to go on after them: none is told twice.
        let mut untold = Vec::new();
        let mut after = query.after.clone();
        let followed = present.logs(&query, |line| {
            match line {
                LogLine::Cursor(cursor) => after = Some(cursor.cursor),
                line => {
                    untold.push(line);
                    return anyhow::Ok(());
                }
            }
            untold.drain(..).try_for_each(|line| tell(output, line))
        });
        let lost = match followed.await {
            Ok(()) => "the node ends".to_owned(),
            Err(error) => match error.downcast_ref::<client::Error>() {
                Some(lost) if is_lost(lost) && after.is_some() => lost.to_string(),
                _ => return Err(error),
            },
        };
        query.after = after;
        output.warn(&format!("{lost}; going on through any node that answers"));
        nodes.again().await?;
    }
}

fn tell(output: Output, line: LogLine) -> anyhow::Result<()> {
    match line {
        LogLine::Cursor(_) => Ok(()),
        line if output.is_json() => output.json(&line),
        LogLine::Entry(entry) => output::write(text(output, &entry).as_bytes()),
        LogLine::Missing(missing) => {
            let node = human::node(missing.node);
            output.warn(&format!(
                "lines of node {node} are missing: {}",
                missing.missing
            ));
            Ok(())
        }
    }
}

/// A line for people.
pub(super) fn text(output: Output, entry: &LogEntry) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(entry.at_ms);
    let level = output.coloured(format!("{:8}", entry.level), colour(entry.level));
    let context = match entry.context.is_empty() {
        true => String::new(),
        false => format!("{}: ", output::printable(&entry.context)),
    };
    format!(
        "{} {level} {}/{} {context}{}\n",
        humantime::format_rfc3339_millis(at),
        entry.module,
        entry.resource,
        output::printable(&entry.message),
    )
}

fn colour(level: LogLevel) -> AnsiColor {
    match level {
        LogLevel::Trace | LogLevel::Debug => AnsiColor::BrightBlack,
        LogLevel::Info => AnsiColor::Green,
        LogLevel::Warn => AnsiColor::Yellow,
        LogLevel::Error | LogLevel::Critical => AnsiColor::Red,
    }
}

const AFTER_HELP: &str = "\
Examples:
  holdfast logs                       the last 100 lines, of all handlers
  holdfast logs counter -f            one module, and go on
  holdfast logs counter/a --level warn
  holdfast logs counter --format json | jq -r .message";
