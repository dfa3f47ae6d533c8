//! Planned moves: a node that is drained and let in again, and one that joins.

use std::time::Duration;

use holdfast_tests::{LONG, wait_until};

use crate::{
    failover::{GAP, overlaps_since},
    figure::{Aim, Figure, Times, counts},
    scene::{Scene, gaps_since, progress},
};

/// What came of some moves.
#[derive(Default)]
struct Seen {
    took: Times,
    gaps: Times,
    overlaps: Vec<usize>,
    /// Moved beyond what had to.
    excess: Vec<usize>,
}

/// Drains a node and lets it in again, some times.
pub(crate) fn drain(scene: &mut Scene, runs: usize) -> Vec<Figure> {
    let resources = scene.keys.len();
    let (mut out, mut back) = (Seen::default(), Seen::default());
    for run in 1..=runs {
        let node = scene.follower();
        let (id, pid) = (scene.cluster.listening(node).node, scene.cluster.pid(node));
        let api = scene.cluster.api(scene.cluster.leader());
        let must = scene.held_by(pid).len();
        let path = format!("/v1/cluster/nodes/{id}/drain");

        let begun = scene.cluster.collector().now();
        let _ = api.ask("POST", &path).answer().expect(200);
        let mut others = scene.running();
        others.remove(&pid);
        scene.wait_held(&others);
        let took = out.moved(scene, begun, must);
        progress(&format!(
            "{resources} resources, drain, run {run} of {runs}: {:.0} ms",
            took.as_secs_f64() * 1e3
        ));

        let begun = scene.cluster.collector().now();
        let cancel = format!("{path}?cancel=true");
        let _ = api.ask("POST", &cancel).answer().expect(200);
        scene.settle();
        let got = scene.held_by(pid).len();
        back.moved(scene, begun, got);
    }
    let mut figures = out.figures("drain", resources, runs);
    figures.extend(back.figures("end of a drain", resources, runs));
    figures
}

/// Adds a node to the cluster. It stays.
pub(crate) fn join(scene: &mut Scene) -> Vec<Figure> {
    let resources = scene.keys.len();
    let nodes = scene.cluster.nodes();
    let mut seen = Seen::default();
    let begun = scene.cluster.collector().now();
    let node = scene.cluster.add(holdfast_tests::cluster::Join::default());
    scene.settle();
    // Each has its share to within one; a module of many is as good as even to within 1%.
    let ideal = resources.div_ceil(nodes + 1);
    let must = ideal.max(scene.held_by(scene.cluster.pid(node)).len());
    let took = seen.moved(scene, begun, must);
    progress(&format!(
        "{resources} resources, join: {:.0} ms",
        took.as_secs_f64() * 1e3
    ));
    seen.figures(&format!("join as node {}", nodes + 1), resources, 1)
}

/// Restarts a node that says so before, some times: it takes back what it had.
pub(crate) fn announced_restart(scene: &mut Scene, runs: usize) -> Vec<Figure> {
    let resources = scene.keys.len();
    let (mut took, mut moved) = (Times::default(), Vec::new());
    for run in 1..=runs {
        let node = scene.follower();
        let (id, pid) = (scene.cluster.listening(node).node, scene.cluster.pid(node));
        let api = scene.cluster.api(scene.cluster.leader());
        let had = scene.held_by(pid).len();
        let begun = scene.cluster.collector().now();
        let path = format!("/v1/cluster/nodes/{id}/restart");
        let answer = api.ask("POST", &path).answer();
        assert!(matches!(answer.status, 200 | 202), "restart: {answer}");
        wait_until("what it had is held again", LONG, || {
            scene.logs.read(&scene.cluster);
            let again = scene.handled_since(begun).count();
            (again >= had)
                .then_some(())
                .ok_or(format!("{again} of {had}"))
        });
        scene.logs.wait_quiet(&scene.cluster, QUIET);
        took.add(scene.last_since(begun));
        let elsewhere = scene.handled_since(begun).filter(|(.., by)| *by != pid);
        moved.push(elsewhere.count());
        progress(&format!(
            "{resources} resources, announced restart, run {run} of {runs}: {:.0} ms",
            scene.last_since(begun).as_secs_f64() * 1e3
        ));
    }
    let per = |text: &str| format!("announced restart: {text}");
    let figures = [
        took.figure(
            per("all are held again"),
            resources,
            runs,
            Aim::worst(5_000.0),
        ),
        counts(per("moved"), resources, &moved, Some(0)),
    ];
    figures.into_iter().flatten().collect()
}

impl Seen {
    /// Notes what has moved since, of which this many had to.
    fn moved(&mut self, scene: &mut Scene, since: Duration, must: usize) -> Duration {
        scene.logs.wait_quiet(&scene.cluster, QUIET);
        let findings = scene.logs.findings(&scene.cluster);
        let took = scene.last_since(since);
        self.took.add(took);
        self.gaps.extend(gaps_since(&findings, since));
        self.overlaps.push(overlaps_since(&findings, since));
        let moved = scene.handled_since(since).count();
        self.excess.push(moved.saturating_sub(must));
        took
    }

    fn figures(self, what: &str, resources: usize, runs: usize) -> Vec<Figure> {
        let per = |text: &str| format!("{what}: {text}");
        let figures = [
            self.took
                .figure(per("all have moved"), resources, runs, Aim::default()),
            self.gaps.figure(per("gap of each"), resources, runs, GAP),
            counts(per("held twice"), resources, &self.overlaps, Some(0)),
            counts(
                per("moved beyond what must"),
                resources,
                &self.excess,
                Some(0),
            ),
        ];
        figures.into_iter().flatten().collect()
    }
}

/// Long enough that what belongs to a move is over, with the longest gaps there are.
const QUIET: Duration = Duration::from_secs(1);
