//! `holdfast demo`: what Holdfast does, shown on this machine.
//!
//! Three nodes, as processes, hold a thousand resources; one is killed and comes back. What is
//! shown of it is counted from the handlers' own reports, not from what the nodes believe.

use std::path::Path;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use self::{ledger::Tally, play::Demo, story::Story};
use super::{failure::Exit, human, output::Output};

mod collector;
mod handler;
mod ledger;
mod nodes;
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

    /// How many resources.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    resources: u32,

    /// End it when all was shown, with a summary as JSON on standard output. Fails unless every
    /// resource was held exactly once before the kill, after it and after the rejoin.
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

pub(super) async fn run(args: DemoArgs, output: &Output) -> anyhow::Result<Exit> {
    let folder = tempfile::Builder::new()
        .prefix("holdfast-demo-")
        .tempdir()
        .context("make a temporary folder")?;
    let story = Story::new(args.exit || output.is_json());
    // Dropping the work kills the nodes, on every way out of here.
    let told = tokio::select! {
        told = tell(&args, folder.path(), &story, *output) => told,
        () = interrupted() => {
            story.say("\nInterrupted.")?;
            return Ok(Exit::Failed);
        }
    };
    let ended = async {
        let (mut demo, ok) = told?;
        if !args.exit {
            demo.stay().await?;
        }
        demo.end().await?;
        Ok(ok)
    };
    match ended.await {
        Ok(true) => Ok(Exit::Done),
        Ok(false) => {
            let kept = folder.keep();
            eprintln!("The nodes' data and logs are kept in {}.", kept.display());
            Ok(Exit::Failed)
        }
        Err::<_, anyhow::Error>(error) => {
            let kept = folder.keep();
            let kept = format!("the nodes' data and logs are kept in {}", kept.display());
            Err(error.context(kept))
        }
    }
}

/// The demo itself, up to where it is left to itself; whether every resource was held exactly
/// once each time.
async fn tell<'a>(
    args: &DemoArgs,
    folder: &Path,
    story: &'a Story,
    output: Output,
) -> anyhow::Result<(Demo<'a>, bool)> {
    story.say(&format!(
        "{} and {} on this machine; their data and logs are in\n{}\n",
        human::counted(u64::from(args.nodes), "node"),
        human::counted(u64::from(args.resources), "resource"),
        folder.display(),
    ))?;
    let mut demo = Demo::prepare(args, folder, story).await?;
    let summary = demo.play().await?;
    story.say(if summary.ok {
        "\nEvery resource was held exactly once: before the kill, after it and after the\n\
         rejoin, as counted from the handlers' own reports."
    } else {
        "\nNot every resource was held exactly once. This must not happen: please report it."
    })?;
    if args.exit {
        output.json(&summary)?;
    }
    Ok((demo, summary.ok))
}

/// Waits for Ctrl-C, or to be told to end.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupt = signal(SignalKind::interrupt());
    let terminate = signal(SignalKind::terminate());
    let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else {
        // They end the process as they always do.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

const AFTER_HELP: &str = "\
Examples:
  holdfast demo
  holdfast demo --nodes 5 --resources 5000
  holdfast demo --exit | jq .failover_ms";
