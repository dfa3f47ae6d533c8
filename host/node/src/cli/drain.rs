//! `holdfast drain`: moves everything away from a node.

use std::time::{Duration, Instant};

use clap::Args;
use holdfast_model::api::{DrainQuery, NodeInfo, NodeStatus};

use super::{
    failure::{Exit, Failure},
    fallback::{Nodes, is_lost},
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

    /// How long what runs on the node may take to end, from when the node hears of it.
    ///
    /// What has not ended by then is dropped without its `terminate`, calls that it has are
    /// answered with 503, and another node takes it at once. 0s: drop everything. Without it
    /// nothing is dropped before the limits of its module say so. Another deadline counts from when
    /// it is given; the same one again changes nothing.
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
    // Those that can be asked in the place of this node, should it be the one that ends.
    let mut nodes = Nodes::of(client).await;
    let mut info = client.drain(node, &query).await?;
    if args.wait {
        info = until_empty(&mut nodes, info, args.timeout).await?;
    }
    output.show(&info, describe)
}

/// Waits on this side, to be able to show how far it is. A node that dies meanwhile loses the rest to
/// others, and its drain is over with that.
async fn until_empty(
    nodes: &mut Nodes,
    mut info: NodeInfo,
    timeout: Duration,
) -> anyhow::Result<NodeInfo> {
    let node = info.node;
    let total = info.resources;
    let bar = output::progress(Some(total), format!("draining {}", human::node(node)));
    let started = Instant::now();
    let mut unheard = String::new();
    loop {
        bar.set_position(total.saturating_sub(info.resources));
        if let Some(ended) = ended(&info) {
            return Err(Failure::new(ended).into());
        }
        // Whether one that does not answer has ended is not known before it is down.
        let is_over = info.status != NodeStatus::Unreachable;
        if info.resources == 0 && is_over && unheard.is_empty() {
            bar.finish_and_clear();
            return Ok(info);
        }
        if started.elapsed() >= timeout {
            let late = format!(
                "node {node} is told to drain, is {}, and still owns {} after {}{unheard}",
                info.status,
                human::counted(info.resources, "resource"),
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
        match nodes.ask(async |client| client.nodes().await).await {
            Ok(list) => {
                nodes.learn(&list.nodes);
                let found = list.nodes.into_iter().find(|info| info.node == node);
                info = found.ok_or_else(|| {
                    let gone = format!("node {node} was told to drain, and was removed since");
                    Failure::new(gone)
                })?;
                unheard.clear();
            }
            Err(error) if is_lost(&error) => unheard = format!("; nobody says more: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What has ended the drain, if anything has.
fn ended(info: &NodeInfo) -> Option<String> {
    let node = info.node;
    let why = match info.status {
        NodeStatus::Draining | NodeStatus::Unreachable | NodeStatus::Down => return None,
        NodeStatus::Active => "its drain was ended since",
        NodeStatus::Restarting => "restarts, which ends its drain",
    };
    Some(format!("node {node} was told to drain, and {why}"))
}

fn describe(info: &NodeInfo) -> String {
    let node = info.node;
    match (info.status, info.resources) {
        (NodeStatus::Draining, 0) => format!("{node} is draining and owns nothing"),
        (NodeStatus::Down, 0) => format!("{node} is down and owns nothing"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_over_when_the_node_is_back_and_not_when_it_is_silent() {
        let mut info = super::super::nodes::tests::info("9f3a0000-0000-4000-8000-000000000000");
        for (status, over) in [
            (NodeStatus::Draining, false),
            (NodeStatus::Unreachable, false),
            (NodeStatus::Down, false),
            (NodeStatus::Active, true),
            (NodeStatus::Restarting, true),
        ] {
            info.status = status;
            assert_eq!(ended(&info).is_some(), over, "{status}");
        }
    }
}
