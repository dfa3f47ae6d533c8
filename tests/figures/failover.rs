//! Nodes that die or fall silent: how long until everything is held again, and what comes of it
//! when they are back.

use std::time::Duration;

use holdfast_tests::{
    Findings,
    faults::{Fault, Target},
};

use crate::{
    figure::{Aim, Figure, Times, counts},
    scene::{Scene, gaps_since, progress},
};

/// What happens to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// SIGKILL: the others can prove that it is dead.
    Kill,
    /// SIGSTOP: it is only silent.
    Stop,
    /// Cut off from the other nodes: it runs, and neither hears nor is heard.
    Cut,
}

/// To which node it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    Follower,
    Leader,
}

/// What came of some runs.
#[derive(Default)]
struct Seen {
    /// Until everything was held again.
    all: Times,
    /// Until each single resource was.
    each: Times,
    /// Of what the victim did not hold, how much was started anew.
    disturbed: Vec<usize>,
    overlaps: Vec<usize>,
    /// From the victim's return until it had its share, and what came of that.
    rejoin: Times,
    rejoin_gaps: Times,
    /// How many resources moved then beyond those the victim got.
    excess: Vec<usize>,
}

/// Does this to nodes, one after the other.
pub(crate) fn measure(scene: &mut Scene, harm: Harm, whom: Whom, runs: usize) -> Vec<Figure> {
    let resources = scene.keys.len();
    let mut seen = Seen::default();
    for run in 1..=runs {
        let took = once(scene, harm, whom, &mut seen);
        progress(&format!(
            "{resources} resources, {}, run {run} of {runs}: {:.0} ms",
            what(harm, whom),
            took.as_secs_f64() * 1e3
        ));
    }
    let what = what(harm, whom);
    let per = |text: &str| format!("{what}: {text}");
    let figures = [
        seen.all.figure(
            per("all are held again"),
            resources,
            runs,
            aim(harm, whom, resources),
        ),
        seen.each
            .figure(per("each is held again"), resources, runs, Aim::default()),
        counts(
            per("others were started anew"),
            resources,
            &seen.disturbed,
            Some(0),
        ),
        counts(per("held twice"), resources, &seen.overlaps, Some(0)),
        seen.rejoin.figure(
            per("back, it has its share"),
            resources,
            runs,
            Aim::default(),
        ),
        seen.rejoin_gaps
            .figure(per("back, gap of each that moves"), resources, runs, GAP),
        counts(
            per("back, moved beyond its share"),
            resources,
            &seen.excess,
            Some(0),
        ),
    ];
    figures.into_iter().flatten().collect()
}

fn once(scene: &mut Scene, harm: Harm, whom: Whom, seen: &mut Seen) -> Duration {
    let victim = match whom {
        Whom::Leader => scene.cluster.leader(),
        Whom::Follower => scene.follower(),
    };
    let pid = scene.cluster.pid(victim);
    let lost = scene.held_by(pid);
    let mut survivors = scene.running();
    survivors.remove(&pid);
    *scene.losses.entry(victim).or_default() += 1;
    let begun = scene.cluster.collector().now();
    match harm {
        Harm::Kill => scene.cluster.kill9(victim),
        Harm::Stop => scene.cluster.pause(victim),
        Harm::Cut => {
            let cut = Fault::Isolated(Target::Node(victim));
            let network = scene.cluster.network();
            network.lose(&cut.losses(scene.cluster.nodes()));
        }
    }
    scene.wait_held(&survivors);
    let handled = scene.handled_since(begun);
    let (again, others): (Vec<_>, Vec<_>) = handled.partition(|(_, key, _)| lost.contains(*key));
    seen.disturbed.push(others.len());
    let again: Vec<Duration> = again.iter().map(|(at, ..)| *at - begun).collect();
    let took = again.iter().max().copied().unwrap_or_default();
    seen.all.add(took);
    seen.each.extend(again);

    let back = scene.cluster.collector().now();
    match harm {
        Harm::Kill => scene.cluster.restart(victim),
        Harm::Stop => scene.cluster.resume(victim),
        Harm::Cut => {
            scene.cluster.network().lose(&[]);
        }
    }
    scene.settle();
    let findings = scene.logs.findings(&scene.cluster);
    seen.returned(scene, &findings, back, scene.cluster.pid(victim));
    seen.overlaps.push(overlaps_since(&findings, begun));
    took
}

impl Seen {
    /// A node that was away has its share again.
    fn returned(&mut self, scene: &Scene, findings: &Findings, back: Duration, pid: u32) {
        self.rejoin.add(scene.last_since(back));
        self.rejoin_gaps.extend(gaps_since(findings, back));
        let moved = scene.handled_since(back).count();
        // What moved twice, or to another node, is beyond what it got.
        self.excess
            .push(moved.saturating_sub(scene.held_by(pid).len()));
    }
}

/// How many times something was held twice.
pub(crate) fn overlaps_since(findings: &Findings, since: Duration) -> usize {
    let since = |overlap: &&holdfast_tests::checker::Overlap| overlap.second.since >= since;
    findings.overlaps.iter().filter(since).count()
}

fn what(harm: Harm, whom: Whom) -> String {
    let harm = match harm {
        Harm::Kill => "kill -9",
        Harm::Stop => "SIGSTOP",
        Harm::Cut => "cut",
    };
    let whom = match whom {
        Whom::Follower => "follower",
        Whom::Leader => "leader",
    };
    format!("{harm} of the {whom}")
}

/// What is required of the time until all are held again.
fn aim(harm: Harm, whom: Whom, resources: usize) -> Aim {
    let follower = if resources <= 1_000 { 500.0 } else { 1_000.0 };
    match (harm, whom) {
        (Harm::Kill, Whom::Follower) => Aim::median(follower),
        (Harm::Kill, Whom::Leader) => Aim::median(follower + 1_000.0),
        (Harm::Stop | Harm::Cut, _) => Aim::worst(SILENCE_MS_MAX),
    }
}

/// Two election timeouts (one until silence is noticed, one for the election), TTL, guard, and a
/// second.
const SILENCE_MS_MAX: f64 = 2.0 * 600.0 + 3_000.0 + 500.0 + 1_000.0;

/// What is required of the gap in a planned move.
pub(crate) const GAP: Aim = Aim {
    median: Some(20.0),
    worst: Some(150.0),
};
