//! `holdfast restart`: new runs of nodes, one after the other.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use holdfast_model::api::{NodeInfo, NodeList, NodeStatus};

use super::{
    failure::{Exit, Failure},
    human,
    output::{self, Output},
    target,
};
use crate::client::Client;

/// Restart a node without moving anything
///
/// The node ends what it holds, replaces its process by a new run of its program, with the same
/// options, and takes back what it had. Nothing moves as long as it is back within 5 s. To upgrade,
/// put the new program in the place of the old one before. A node that cannot tell the cluster goes
/// on as it is.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct RestartArgs {
    /// The node: its id, or the beginning of it.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    node: Option<String>,

    /// All nodes, one after the other, each when the one before holds again what it owns. The
    /// leader comes last.
    #[arg(long)]
    all: bool,

    /// Wait until the node is back and holds what it owns.
    #[arg(long, conflicts_with = "all")]
    wait: bool,

    /// How long to wait for each node; only with --wait or --all.
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    #[arg(value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub(super) async fn run(args: RestartArgs, client: &Client, output: &Output) -> anyhow::Result<()> {
    let Some(node) = &args.node else {
        return all(client, args.timeout, output).await;
    };
    let node = target::node(client, node).await?;
    let former = client.restart(node).await?;
    if !args.wait {
        return output.show(&former, |former| format!("{} restarts", former.node));
    }
    let back = until_back(client, &former, args.timeout).await?;
    output.show(&back, back_as)
}

async fn all(client: &Client, timeout: Duration, output: &Output) -> anyhow::Result<()> {
    let mut nodes = client.nodes().await?.nodes;
    let away = nodes.iter().find(|info| info.status != NodeStatus::Active);
    if let Some(away) = away {
        let why = format!(
            "node {} is {}: nothing is restarted",
            away.node, away.status
        );
        return Err(Failure::new(why)
            .hint("restart nodes one by one, or bring this one back or remove it first")
            .exit(Exit::Refused)
            .into());
    }
    nodes.sort_by_key(|info| info.leader);
    let mut back = NodeList::default();
    for info in nodes {
        let former = client.restart(info.node).await?;
        back.nodes.push(until_back(client, &former, timeout).await?);
    }
    output.show(&back, |back| {
        let lines: Vec<String> = back.nodes.iter().map(back_as).collect();
        lines.join("\n")
    })
}

/// Waits until a later run of the node holds what it owns.
async fn until_back(
    client: &Client,
    former: &NodeInfo,
    timeout: Duration,
) -> anyhow::Result<NodeInfo> {
    let bar = output::progress(None, format!("restarting {}", human::node(former.node)));
    let started = Instant::now();
    loop {
        // The node that is asked may be the one that restarts.
        let found = target::node_info(client, former.node).await;
        let is_back = |info: &NodeInfo| {
            let holds = info.held.is_some_and(|held| held >= info.resources);
            info.incarnation > former.incarnation && info.status == NodeStatus::Active && holds
        };
        match found {
            Ok(info) if is_back(&info) => {
                bar.finish_and_clear();
                return Ok(info);
            }
            _ if started.elapsed() < timeout => {}
            Ok(info) => {
                let late = format!(
                    "node {} is {} after {}, and does not hold all that it owns",
                    info.node,
                    info.status,
                    human::duration(timeout)
                );
                return Err(Failure::new(late)
                    .hint("`holdfast nodes` shows how far it is; its log says why")
                    .exit(Exit::TimedOut)
                    .into());
            }
            Err(error) => {
                return Err(error).context(format!(
                    "wait for node {} for {}",
                    former.node,
                    human::duration(timeout)
                ));
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn back_as(info: &NodeInfo) -> String {
    let holds = human::counted(info.held.unwrap_or(0), "resource");
    format!("{} is back and holds {holds}", info.node)
}

const POLL_INTERVAL: Duration = Duration::from_millis(100);

const AFTER_HELP: &str = "\
Examples:
  holdfast restart 9f3a --wait
  holdfast restart --all";
