//! `holdfast demo`: what Holdfast does, shown on this machine.
//!
//! Three nodes, as processes, hold a thousand resources; one is killed and comes back. What is
//! shown of it is counted from the handlers' own reports, not from what the nodes believe.

use std::{
    io::{self, Write as _},
    path::Path,
};

use anyhow::Context as _;
use clap::Args;
use holdfast_model::{ModuleName, NodeId};
use serde::Serialize;
use tempfile::TempDir;

use self::{
    ledger::{Pid, Tally},
    nodes::Processes,
    play::Demo,
    story::Story,
};
use super::{
    failure::{Exit, is_broken_pipe},
    human,
    interrupts::Interrupts,
    output::Output,
    target::usage,
};

mod collector;
mod handler;
mod ledger;
mod nodes;
pub mod owner;
mod play;
mod story;

/// See what Holdfast does, on this machine
///
/// Builds a handler, starts nodes on loopback with their data in a temporary folder, allocates
/// resources, calls one, kills a node, starts it anew, and stays up to be played with. Nothing is
/// left behind but the build, in the user's cache folder. Needs cargo.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DemoArgs {
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u32).range(3..=9))]
    nodes: u32,

    /// How many resources; at least one for each node.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    resources: u32,

    /// End it when all was shown, with a summary as JSON on standard output. Fails unless every
    /// resource was held exactly once before the kill, after it and after the rejoin, by its exit
    /// code too where nobody reads the summary.
    #[arg(long)]
    exit: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Summary {
    /// Whether every resource was held exactly once each time.
    ok: bool,
    nodes: u32,
    resources: u64,
    /// Counted before the kill.
    before_kill: Tally,
    /// Counted when all were held again, or were not in time.
    after_kill: Option<Tally>,
    /// Counted when the node was back and all was quiet.
    after_rejoin: Option<Tally>,
    /// How many resources the killed node owned.
    killed_resources: u64,
    /// How many others were started anew because of the kill.
    moved_by_kill: u64,
    /// How many were moved because the node came back.
    moved_by_rejoin: u64,
    build_ms: u64,
    start_ms: u64,
    allocate_ms: u64,
    /// From the kill to the last report that a resource is held again.
    failover_ms: u64,
    /// From the start of the process to the last report of a move.
    rejoin_ms: u64,
}

/// What is said, with `--format json`, when all was shown and the nodes stay up.
#[derive(Debug, Serialize)]
struct Ready<'a> {
    event: &'static str,
    module: ModuleName,
    nodes: Vec<ReadyNode>,
    summary: &'a Summary,
}

#[derive(Debug, Serialize)]
struct ReadyNode {
    number: usize,
    node: NodeId,
    /// The URL of its API.
    http: String,
    pid: Pid,
}

pub(super) async fn run(args: DemoArgs, output: &Output) -> anyhow::Result<Exit> {
    if args.resources < args.nodes {
        let nodes = args.nodes;
        return Err(usage(format!(
            "--resources {} is too few: each of the {nodes} nodes is to hold one",
            args.resources
        )));
    }
    let mut interrupts = Interrupts::listen().context("listen for signals")?;
    let folder = tempfile::Builder::new()
        .prefix("holdfast-demo-")
        .tempdir()
        .context("make a temporary folder")?;
    let story = Story::new(args.exit || output.is_json());
    let mut processes = Processes::default();
    let told = tokio::select! {
        told = tell(&args, folder.path(), &story, *output, &mut processes) => Some(told),
        () = interrupts.next() => None,
    };
    if !args.exit && matches!(told, Some(Ok(_))) {
        interrupts.next().await;
    }
    // Before the folder goes, so that nothing writes to it any more.
    processes.end().await;
    match told {
        Some(Ok(true)) => {
            remove(folder);
            Ok(Exit::Done)
        }
        Some(Ok(false)) => {
            say_to_stderr(&kept(folder));
            Ok(Exit::Failed)
        }
        Some(Err(error)) if is_broken_pipe(&error) => {
            remove(folder);
            Err(error)
        }
        Some(Err(error)) => Err(error.context(kept(folder))),
        None => {
            remove(folder);
            say_to_stderr("Interrupted.");
            Ok(Exit::Failed)
        }
    }
}

/// The demo itself, up to where it is left to itself; whether every resource was held exactly
/// once each time.
async fn tell(
    args: &DemoArgs,
    folder: &Path,
    story: &Story,
    output: Output,
    processes: &mut Processes,
) -> anyhow::Result<bool> {
    story.say(&format!(
        "{} and {} on this machine; their data and logs are in\n{}\n",
        human::counted(u64::from(args.nodes), "node"),
        human::counted(u64::from(args.resources), "resource"),
        folder.display(),
    ))?;
    let mut demo = Demo::prepare(args, folder, story, processes).await?;
    let summary = demo.play().await?;
    story.say(if summary.ok {
        "\nEvery resource was held exactly once: before the kill, after it and after the\n\
         rejoin, as counted from the handlers' own reports."
    } else {
        "\nNot every resource was held exactly once. This must not happen: please report it."
    })?;
    if args.exit {
        match output.json(&summary) {
            // Nobody reads it: the exit code says it all.
            Err(error) if is_broken_pipe(&error) => {}
            written => written?,
        }
        return Ok(summary.ok);
    }
    demo.say_where()?;
    if output.is_json() {
        output.json(&demo.ready(&summary))?;
    }
    Ok(summary.ok)
}

fn remove(folder: TempDir) {
    let path = folder.path().to_owned();
    if let Err(error) = folder.close() {
        say_to_stderr(&format!("{} is not removed: {error}", path.display()));
    }
}

fn kept(folder: TempDir) -> String {
    let kept = folder.keep();
    format!("the nodes' data and logs are kept in {}", kept.display())
}

/// Says something to whoever still reads it: the terminal may be gone.
fn say_to_stderr(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

const AFTER_HELP: &str = "\
Examples:
  holdfast demo
  holdfast demo --nodes 5 --resources 5000
  holdfast demo --exit | jq .failover_ms";
