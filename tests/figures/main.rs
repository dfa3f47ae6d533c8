//! Measures failover and planned moves on real processes: `cargo bench --workspace --bench figures`.
//!
//! What is measured, how, and what came of it: docs/PERFORMANCE.md. Judged by the checker of the
//! scenarios, from what the handlers say in the nodes' logs. Nothing here fails because of a time:
//! a figure that misses its aim is shown as one.

mod failover;
mod figure;
mod moves;
mod scene;
mod start;

use std::{fs, path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use holdfast_tests::{
    Machine,
    netns::{self, Network},
};
use serde_json::json;

use self::{
    failover::{Harm, Whom},
    figure::{Figure, HEAD},
    scene::{Scene, progress},
};

/// Measure failover and planned moves of Holdfast on this machine
///
/// Starts nodes as processes on loopback, harms or moves them, and prints how long everything was
/// not held, as a Markdown table. Takes some minutes. Nothing else should run meanwhile. Nodes that
/// are cut off are in network namespaces, which take iproute2, nftables and root or a kernel that
/// gives them to users; their figures come last, and in a JSON file of their own.
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
    /// Cut a follower off from the other nodes.
    CutFollower,
    /// Cut the leader off.
    CutLeader,
    /// Drain a node, and let it in again.
    Drain,
    /// Restart a node that announces it.
    AnnouncedRestart,
    /// Kill all nodes and start them again.
    Restart,
    /// Add a node.
    Join,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let all = What::value_variants().iter().copied();
    let wanted = all.filter(|what| args.what.is_empty() || args.what.contains(what));
    let (cuts, others): (Vec<_>, Vec<_>) = wanted.partition(|what| what.is_cut());
    if !others.is_empty() {
        args.measure(&others, None);
    }
    if !cuts.is_empty() {
        for resources in &args.resources {
            let child = args.in_a_network(&cuts, *resources);
            let measured = netns::inside(child, args.nodes, |network| {
                args.measure(&cuts, Some(network));
            });
            if let Err(reason) = measured {
                // What was asked for is not there: whoever reads only the figures would not know.
                eprintln!("cuts are not measured: {reason}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

impl Args {
    /// What a process is told that measures these on nodes which have a network.
    fn in_a_network(&self, what: &[What], resources: usize) -> Vec<String> {
        let mut args: Vec<String> = what
            .iter()
            .filter_map(|what| Some(what.to_possible_value()?.get_name().to_owned()))
            .collect();
        args.push(format!("--resources={resources}"));
        args.push(format!("--runs={}", self.runs));
        args.push(format!("--nodes={}", self.nodes));
        args.push(format!("--program={}", self.program));
        args.extend(self.node_args.iter().map(|arg| format!("--node-arg={arg}")));
        if let Some(file) = &self.json {
            let file = file.with_extension(format!("cut-{resources}.json"));
            args.push(format!("--json={}", file.display()));
        }
        if let Some(folder) = &self.logs {
            args.push(format!("--logs={}", folder.join("cut").display()));
        }
        args
    }

    fn measure(&self, what: &[What], mut network: Option<Network>) {
        let before = Machine::now();
        let mut figures = Vec::new();
        for resources in &self.resources {
            progress(&format!(
                "{resources} resources: {} nodes start",
                self.nodes
            ));
            let start = |network| {
                let Self {
                    nodes,
                    program,
                    node_args,
                    ..
                } = self;
                Scene::start(program, *nodes, *resources, node_args, network)
            };
            let mut scene = match network.take() {
                Some(network) => start(Some(network)),
                None if what.contains(&What::Allocation) => {
                    let (scene, allocation) = start::allocation(|| start(None), self.runs);
                    figures.extend(allocation);
                    scene
                }
                None => start(None),
            };
            for what in what {
                figures.extend(what.measure(&mut scene, self.runs));
            }
            if let Some(folder) = &self.logs {
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
        if let Some(file) = &self.json {
            let all = json!({
                "nodes": self.nodes, "before": before, "after": after, "figures": figures,
            });
            fs::write(file, format!("{all:#}\n"))
                .unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
        }
    }
}

impl What {
    /// Its nodes need hosts of their own, so that they can be cut off from one another.
    fn is_cut(self) -> bool {
        matches!(self, Self::CutFollower | Self::CutLeader)
    }

    fn measure(self, scene: &mut Scene, runs: usize) -> Vec<Figure> {
        match self {
            // Every scene begins with it.
            Self::Allocation => Vec::new(),
            Self::KillFollower => failover::measure(scene, Harm::Kill, Whom::Follower, runs),
            Self::KillLeader => failover::measure(scene, Harm::Kill, Whom::Leader, runs),
            Self::StopFollower => failover::measure(scene, Harm::Stop, Whom::Follower, runs),
            Self::StopLeader => failover::measure(scene, Harm::Stop, Whom::Leader, runs),
            Self::CutFollower => failover::measure(scene, Harm::Cut, Whom::Follower, runs),
            Self::CutLeader => failover::measure(scene, Harm::Cut, Whom::Leader, runs),
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
