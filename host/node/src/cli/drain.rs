//! `holdfast drain`: moves everything away from a node.

use std::time::{Duration, Instant};

use clap::Args;
use holdfast_model::api::{DrainQuery, NodeInfo, NodeStatus};

use super::{
    failure::{Exit, Failure},
    human,
    output::{self, Output},
    target,
};
use crate::client::Client;

/// Move everything away from a node, and keep it empty
///
/// It stays a member. It may own resources again after --cancel, or when its process starts anew.
/// Each resource ends on the node before it starts elsewhere: calls that run come to their end, and
/// `terminate` too, within the limits of the module.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct DrainArgs {
    /// The node: its id, or the beginning of it.
    node: String,

    /// End the drain instead.
    #[arg(long)]
    cancel: bool,

    /// How long what runs on the node may take to end, from now.
    ///
    /// What has not ended by then is dropped without its `terminate`, calls that it has are
    /// answered with 503, and another node takes it at once. 0s: drop everything. Without it
    /// nothing is dropped before the limits of its module say so. What was said last counts.
    #[arg(long, value_name = "DURATION", conflicts_with = "cancel")]
    #[arg(value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,

    /// Wait until the node owns nothing more.
    #[arg(long, conflicts_with = "cancel")]
    wait: bool,

    /// How long to wait; only with --wait. The exit code is 6 when it still owns something then.
    #[arg(long, value_name = "DURATION", requires = "wait", default_value = "5m")]
    #[arg(value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub(super) async fn run(args: DrainArgs, client: &Client, output: &Output) -> anyhow::Result<()> {
    let node = target::node(client, &args.node).await?;
    let query = DrainQuery {
        cancel: args.cancel,
        deadline_ms: args
            .deadline
            .map(|deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX)),
        ..DrainQuery::default()
    };
    let mut info = client.drain(node, &query).await?;
    if args.wait {
        info = until_empty(client, info, args.timeout).await?;
    }
    output.show(&info, describe)
}

/// Waits on this side, to be able to show how far it is.
async fn until_empty(
    client: &Client,
    mut info: NodeInfo,
    timeout: Duration,
) -> anyhow::Result<NodeInfo> {
    let node = info.node;
    let total = info.resources;
    let bar = output::progress(Some(total), format!("draining {}", human::node(node)));
    let started = Instant::now();
    while info.resources > 0 {
        bar.set_position(total.saturating_sub(info.resources));
        if info.status != NodeStatus::Draining {
            let ended = format!("node {node} is {}, no longer draining", info.status);
            return Err(Failure::new(ended).into());
        }
        if started.elapsed() >= timeout {
            let left = human::counted(info.resources, "resource");
            let late = format!(
                "node {node} still owns {left} after {}",
                human::duration(timeout)
            );
            return Err(Failure::new(late)
                .hint(
                    "it goes on by itself; `holdfast nodes` shows how far it is, and `holdfast \
                     drain NODE --deadline 0s` drops what does not end",
                )
                .exit(Exit::TimedOut)
                .into());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        info = target::node_info(client, node).await?;
    }
    bar.finish_and_clear();
    Ok(info)
}

fn describe(info: &NodeInfo) -> String {
    let node = info.node;
    match (info.status, info.resources) {
        (NodeStatus::Draining, 0) => format!("{node} is draining and owns nothing"),
        (status, owns) => {
            format!(
                "{node} is {status} and owns {}",
                human::counted(owns, "resource")
            )
        }
    }
}

const POLL_INTERVAL: Duration = Duration::from_millis(250);

const AFTER_HELP: &str = "\
Examples:
  holdfast drain 9f3a --wait
  holdfast drain 9f3a --wait --deadline 2m
  holdfast drain 9f3a --cancel";
