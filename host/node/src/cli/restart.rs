//! `holdfast restart`: new runs of nodes, one after the other.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use clap::Args;
use holdfast_model::{
    NodeId, ResourceKey,
    api::{NodeInfo, NodeStatus, ResourceInfo, RestartQuery},
};
use serde::Serialize;

use super::{
    failure::{self, Exit, Failure},
    fallback::{Nodes, is_lost},
    human,
    output::{self, Output},
    resources, target,
};
use crate::client::{self, Client};

/// Restart a node without moving anything
///
/// The node ends what it holds, replaces its process by a new run of its program, with the same
/// options, and takes back what it had. Nothing moves as long as it is back within 5 s. To upgrade,
/// put the new program in the place of the old one before: what runs is the file that the node's
/// command line named, as it is then; a link is followed anew. A node that cannot tell the cluster
/// goes on as it is, and so does one whose program is gone or does not say its version.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct RestartArgs {
    /// The node: its id, or the beginning of it.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    node: Option<String>,

    /// All nodes, one after the other, each when the one before holds again what it held. The
    /// leader comes last.
    #[arg(long)]
    all: bool,

    /// Wait until the node is back and holds again what it held.
    #[arg(long, conflicts_with = "all")]
    wait: bool,

    /// How long to wait for each node; without --wait or --all it does nothing.
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    #[arg(value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// Go on with the next node where one is back, and does not hold again in time what it held
    /// or does not run the version asked for.
    /// Without it the rest is left as it is.
    #[arg(long, requires = "all")]
    keep_going: bool,

    /// Restart only what becomes this version or a later one, like 1.2.0.
    ///
    /// A node whose program is an older one refuses, and goes on as it is.
    #[arg(long, value_name = "VERSION")]
    expect_version: Option<String>,
}

/// What came of the restart of one node.
#[derive(Debug, Serialize)]
struct Restarted {
    #[serde(flatten)]
    info: NodeInfo,
    /// The version that ran before.
    former_version: String,
    /// What the node held before, or might have, and does not hold now.
    not_held: Vec<NotHeld>,
}

/// A resource that is not held.
#[derive(Clone, Debug, Serialize)]
struct NotHeld {
    resource: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(super) async fn run(args: RestartArgs, client: &Client, output: &Output) -> anyhow::Result<()> {
    let Some(node) = &args.node else {
        return all(client, &args, *output).await;
    };
    let node = target::node(client, node).await?;
    if !args.wait {
        let former = client.restart(node, &query(&args)).await?;
        return output.show(&former, |former| format!("{} restarts", former.node));
    }
    let mut nodes = Nodes::of(client).await;
    let back = restart(&mut nodes, node, &args).await?;
    late(&back, &args)?;
    output.show(&back, back_as)
}

async fn all(client: &Client, args: &RestartArgs, output: Output) -> anyhow::Result<()> {
    let mut found = client.nodes().await?.nodes;
    let away = found.iter().find(|info| info.status != NodeStatus::Active);
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
    found.sort_by_key(|info| info.leader);
    let mut nodes = Nodes::of(client).await;
    let mut done: Vec<Restarted> = Vec::new();
    let mut late_ones = Vec::new();
    for (at, info) in found.iter().enumerate() {
        let restarted = restart(&mut nodes, info.node, args).await;
        let failed = match restarted {
            Ok(back) => {
                let failed = late(&back, args);
                if !output.is_json() {
                    // As it goes: a restart of many nodes takes long.
                    output.say(back_as(&back))?;
                }
                done.push(back);
                failed
            }
            Err(error) => return Err(stopped(error, &done, &found[at..])),
        };
        if let Err(error) = failed {
            if !args.keep_going {
                return Err(stopped(error, &done, &found[at + 1..]));
            }
            output.warn(&failure::in_line(&error));
            late_ones.push(info.node);
        }
    }
    if output.is_json() {
        output.json(&serde_json::json!({"nodes": done}))?;
    }
    if late_ones.is_empty() {
        return Ok(());
    }
    let which = names(late_ones.into_iter());
    let late = format!(
        "all nodes are back, and these do not hold what they held, or do not run the version asked for: {which}"
    );
    Err(Failure::new(late).exit(Exit::Failed).into())
}

/// The failure that ends a restart of all nodes, with what is done and what is not begun.
fn stopped(error: anyhow::Error, done: &[Restarted], rest: &[NodeInfo]) -> anyhow::Error {
    let back = match done.is_empty() {
        true => "no node is restarted".to_owned(),
        false => format!("restarted: {}", names(done.iter().map(|one| one.info.node))),
    };
    let left = match rest.is_empty() {
        true => String::new(),
        false => format!(
            "; not restarted: {}",
            names(rest.iter().map(|info| info.node))
        ),
    };
    error.context(format!("{back}{left}"))
}

fn names(nodes: impl Iterator<Item = NodeId>) -> String {
    let names: Vec<String> = nodes.map(human::node).collect();
    names.join(", ")
}

fn query(args: &RestartArgs) -> RestartQuery {
    RestartQuery {
        expect_version: args.expect_version.clone(),
    }
}

/// Restarts a node, and waits until a later run of it holds what this one held, or for as long as the
/// caller says.
async fn restart(nodes: &mut Nodes, node: NodeId, args: &RestartArgs) -> anyhow::Result<Restarted> {
    let bar = output::progress(None, format!("restarting {}", human::node(node)));
    let before = node_info(nodes, node).await?;
    // What was not held before is not waited for.
    let unheld_before: BTreeSet<ResourceKey> = unheld(nodes, &before)
        .await?
        .into_iter()
        .map(|info| key(&info))
        .collect();
    let former = nodes.present().restart(node, &query(args)).await?;
    let deadline = Instant::now() + args.timeout;
    let back = until_back(nodes, &former, deadline, args.timeout).await?;
    let mut restarted = Restarted {
        former_version: former.version,
        info: back,
        not_held: Vec::new(),
    };
    loop {
        let lacking = lacking(nodes, &restarted.info, &unheld_before).await;
        let is_late = Instant::now() >= deadline;
        match lacking {
            Ok(lacking) if lacking.is_empty() || is_late => {
                restarted.not_held = lacking;
                bar.finish_and_clear();
                return Ok(restarted);
            }
            Err(error) if is_late => return Err(error),
            _ => {}
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        if let Ok(info) = node_info(nodes, node).await {
            restarted.info = info;
        }
    }
}

/// What the node owns, does not hold, and is not known not to have held before.
async fn lacking(
    nodes: &mut Nodes,
    info: &NodeInfo,
    unheld_before: &BTreeSet<ResourceKey>,
) -> anyhow::Result<Vec<NotHeld>> {
    let unheld = unheld(nodes, info).await?;
    let lacking = unheld.into_iter();
    let lacking = lacking.filter(|info| !unheld_before.contains(&key(info)));
    let lacking = lacking.map(|info| NotHeld {
        resource: format!("{}/{}", info.module, info.id),
        status: info.status.as_str(),
        error: info.last_error.map(|error| error.message),
    });
    Ok(lacking.collect())
}

/// What a node owns and does not hold: as many as are worth a look.
async fn unheld(nodes: &mut Nodes, info: &NodeInfo) -> anyhow::Result<Vec<ResourceInfo>> {
    if info.held.is_some_and(|held| held >= info.resources) {
        return Ok(Vec::new());
    }
    let node = info.node;
    let found = nodes
        .ask(async |client| resources::unheld(client, node, UNHELD_MAX).await)
        .await;
    Ok(found?)
}

fn key(info: &ResourceInfo) -> ResourceKey {
    ResourceKey {
        module: info.module.clone(),
        id: info.id.clone(),
    }
}

async fn node_info(nodes: &mut Nodes, node: NodeId) -> anyhow::Result<NodeInfo> {
    let list = nodes.ask(async |client| client.nodes().await).await?;
    nodes.learn(&list.nodes);
    let info = list.nodes.into_iter().find(|info| info.node == node);
    info.ok_or_else(|| {
        Failure::new(format!("node {node} was removed from the cluster"))
            .exit(Exit::NotFound)
            .into()
    })
}

/// Waits until a later run of the node is an active member.
async fn until_back(
    nodes: &mut Nodes,
    former: &NodeInfo,
    deadline: Instant,
    patience: Duration,
) -> anyhow::Result<NodeInfo> {
    loop {
        let waited = human::duration(patience);
        // The node that is asked may be the one that restarts, and all others may have gone too.
        let why = match node_info(nodes, former.node).await {
            Ok(info)
                if info.incarnation > former.incarnation && info.status == NodeStatus::Active =>
            {
                return Ok(info);
            }
            Ok(info) if info.incarnation > former.incarnation => {
                format!("node {} is {} after {waited}", info.node, info.status)
            }
            Ok(info) => format!("node {} has not come back after {waited}", info.node),
            Err(error) => match error.downcast_ref::<client::Error>() {
                Some(lost) if is_lost(lost) => {
                    let node = former.node;
                    format!("nobody says after {waited} whether node {node} is back: {lost}")
                }
                _ => return Err(error),
            },
        };
        if Instant::now() >= deadline {
            return Err(Failure::new(why)
                .hint("`holdfast nodes` shows how far it is; its log says why")
                .exit(Exit::TimedOut)
                .into());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// What is wrong with a node that is back.
fn late(back: &Restarted, args: &RestartArgs) -> anyhow::Result<()> {
    let node = human::node(back.info.node);
    if let Some(expected) = &args.expect_version
        && semver::Version::parse(expected).ok() > semver::Version::parse(&back.info.version).ok()
    {
        let runs = &back.info.version;
        return Err(Failure::new(format!(
            "node {node} is back and runs version {runs}, not {expected}: the new program could not be started"
        ))
        .hint("its log says why")
        .into());
    }
    if back.not_held.is_empty() {
        return Ok(());
    }
    let mut text = format!(
        "node {node} is back, and after {} does not hold {} that it held:",
        human::duration(args.timeout),
        human::counted(back.not_held.len() as u64, "resource"),
    );
    for one in back.not_held.iter().take(SHOWN_MAX) {
        let error = one.error.as_deref().map(|text| human::short(text, 100));
        let error = error.map(|error| format!(", {error}")).unwrap_or_default();
        text.push_str(&format!(" {} ({}{error})", one.resource, one.status));
    }
    if back.not_held.len() > SHOWN_MAX {
        text.push_str(" …");
    }
    Err(Failure::new(text)
        .hint("`holdfast resources list --all-modules --status failed,quarantined` shows them")
        .exit(Exit::TimedOut)
        .into())
}

fn back_as(back: &Restarted) -> String {
    let Restarted {
        info,
        former_version,
        ..
    } = back;
    let holds = human::counted(info.held.unwrap_or(0), "resource");
    let version = match info.version == *former_version {
        true => format!("version {former_version} as before"),
        false => format!("version {}, before {former_version}", info.version),
    };
    format!("{} is back, {version}, and holds {holds}", info.node)
}

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Resources that are not held and looked at one by one.
const UNHELD_MAX: usize = 10_000;

/// Resources that are named in a failure; --format json has all of them.
const SHOWN_MAX: usize = 10;

const AFTER_HELP: &str = "\
Examples:
  holdfast restart 9f3a --wait
  holdfast restart --all
  holdfast restart --all --expect-version 0.2.0
  holdfast restart --all --keep-going --timeout 5m";

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> RestartArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: RestartArgs,
        }
        <Line as clap::Parser>::parse_from(line.split(' ')).args
    }

    fn back(version: &str, not_held: usize) -> Restarted {
        let mut info = super::super::nodes::tests::info("9f3a0000-0000-4000-8000-000000000000");
        info.version = version.to_owned();
        let unheld = |n| NotHeld {
            resource: format!("m/r{n}"),
            status: "failed",
            error: Some("no such region".to_owned()),
        };
        Restarted {
            info,
            former_version: "1.0.0".to_owned(),
            not_held: (0..not_held).map(unheld).collect(),
        }
    }

    #[test]
    fn what_is_back_says_its_version_and_what_it_lacks() {
        let all = args("restart --all");
        late(&back("1.0.0", 0), &all).unwrap();
        assert!(back_as(&back("1.0.0", 0)).contains("version 1.0.0 as before"));
        assert!(back_as(&back("2.0.0", 0)).contains("version 2.0.0, before 1.0.0"));
        let error = late(&back("1.0.0", 12), &all).unwrap_err().to_string();
        assert!(
            error.contains("does not hold 12 resources that it held"),
            "{error}"
        );
        assert!(error.contains("m/r0 (failed, no such region)"), "{error}");
        assert!(
            error.ends_with("m/r9 (failed, no such region) …"),
            "{error}"
        );
    }

    #[test]
    fn an_older_version_than_asked_for_is_none() {
        for (asked, runs, well) in [
            ("1.2.0", "1.2.0", true),
            ("1.2.0", "1.10.0", true),
            ("1.2.0", "1.1.9", false),
            ("1.2.0", "1.2.0-rc.1", false),
        ] {
            let args = args(&format!("restart --all --expect-version {asked}"));
            assert_eq!(late(&back(runs, 0), &args).is_ok(), well, "{asked} {runs}");
        }
    }

    #[test]
    fn what_ends_a_restart_of_all_nodes_names_what_is_done_and_what_is_left() {
        let one = back("1.0.0", 1);
        let rest = [one.info.clone()];
        let error = late(&one, &args("restart --all")).unwrap_err();
        let text = failure::in_line(&stopped(error, &[one], &rest));
        let begins =
            "restarted: 9f3a0000; not restarted: 9f3a0000: node 9f3a0000 is back, and after";
        assert!(text.starts_with(begins), "{text}");
    }
}
