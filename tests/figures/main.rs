//! Measures failover and planned moves on real processes: `cargo bench --workspace --bench figures`.
//!
//! What is measured, how, and what came of it: docs/PERFORMANCE.md. Judged by the checker of the
//! scenarios, from what the handlers say in the nodes' logs. Nothing here fails because of a time:
//! a figure that misses its aim is shown as one.

mod failover;
mod figure;
mod machine;
mod moves;
mod scene;
mod start;

use std::{fs, path::PathBuf};

use clap::{Parser, ValueEnum};
use serde_json::json;

use self::{
    failover::{Harm, Whom},
    figure::{Figure, HEAD},
    machine::Machine,
    scene::{Scene, progress},
};

/// Measure failover and planned moves of Holdfast on this machine
///
/// Starts nodes as processes on loopback, harms or moves them, and prints how long everything was
/// not held, as a Markdown table. Takes some minutes. Nothing else should run meanwhile.
#[derive(Debug, Parser)]
#[command(name = "figures")]
struct Args {
    /// What to measure; everything when none is named.
    #[arg(value_enum)]
    what: Vec<What>,

    /// How many resources there are; can be given several times, or with commas.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000])]
    resources: Vec<usize>,

    /// How many times each is done.
    #[arg(long, default_value_t = 5)]
    runs: usize,

    /// How many nodes.
    #[arg(long, default_value_t = 3)]
    nodes: usize,

    /// Another binary to measure, such as one of another version built as `holdfast-under-test`.
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_holdfast-under-test"))]
    program: String,

    /// A further argument of every node; can be given several times.
    #[arg(long = "node-arg", value_name = "ARG", allow_hyphen_values = true)]
    node_args: Vec<String>,

    /// Write everything to this file too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Keep the logs of the nodes in this folder.
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,

    /// Given by cargo; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Allocate all resources at once.
    Allocation,
    /// Kill a follower.
    KillFollower,
    /// Kill the leader.
    KillLeader,
    /// Stop a follower's process (SIGSTOP): it is only silent.
    StopFollower,
    /// Stop the leader's process (SIGSTOP).
    StopLeader,
    /// Drain a node, and let it in again.
    Drain,
    /// Restart a node that announces it.
    AnnouncedRestart,
    /// Kill all nodes and start them again.
    Restart,
    /// Add a node.
    Join,
}

fn main() {
    let args = Args::parse();
    let before = Machine::now();
    let mut figures = Vec::new();
    for resources in &args.resources {
        progress(&format!(
            "{resources} resources: {} nodes start",
            args.nodes
        ));
        let start = || Scene::start(&args.program, args.nodes, *resources, &args.node_args);
        let is_wanted = |what| args.what.is_empty() || args.what.contains(what);
        let first = is_wanted(&What::Allocation);
        let (mut scene, allocation) = start::allocation(start, if first { args.runs } else { 1 });
        if first {
            figures.extend(allocation);
        }
        for what in What::value_variants().iter().filter(|what| is_wanted(what)) {
            figures.extend(what.measure(&mut scene, args.runs));
        }
        if let Some(folder) = &args.logs {
            keep_logs(&scene, &folder.join(resources.to_string()));
        }
    }
    let after = Machine::now();
    println!(
        "\nbefore: {}\nafter:  {}\n\n{HEAD}",
        before.line(),
        after.line()
    );
    for figure in &figures {
        println!("{}", figure.row());
    }
    if let Some(file) = &args.json {
        let all = json!({
            "nodes": args.nodes, "before": before, "after": after, "figures": figures,
        });
        fs::write(file, format!("{all:#}\n"))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
    }
}

impl What {
    fn measure(self, scene: &mut Scene, runs: usize) -> Vec<Figure> {
        match self {
            // Every scene begins with it.
            Self::Allocation => Vec::new(),
            Self::KillFollower => failover::measure(scene, Harm::Kill, Whom::Follower, runs),
            Self::KillLeader => failover::measure(scene, Harm::Kill, Whom::Leader, runs),
            Self::StopFollower => failover::measure(scene, Harm::Stop, Whom::Follower, runs),
            Self::StopLeader => failover::measure(scene, Harm::Stop, Whom::Leader, runs),
            Self::Drain => moves::drain(scene, runs),
            Self::AnnouncedRestart => moves::announced_restart(scene, runs),
            Self::Restart => start::restart(scene, runs),
            Self::Join => moves::join(scene),
        }
    }
}

fn keep_logs(scene: &Scene, folder: &std::path::Path) {
    let kept = fs::create_dir_all(folder).and_then(|()| {
        (0..scene.cluster.nodes()).try_for_each(|node| {
            let copy = folder.join(format!("node-{node}.log"));
            fs::copy(scene.cluster.log_file(node), copy).map(drop)
        })
    });
    kept.unwrap_or_else(|error| panic!("cannot write to {}: {error}", folder.display()));
}
