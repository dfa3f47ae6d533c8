//! Beginnings: resources that are allocated at once, and a cluster that starts again.

use crate::{
    figure::{Aim, Figure, Times},
    scene::{Scene, progress},
};

/// Kills all nodes and starts them again, some times.
pub(crate) fn restart(scene: &mut Scene, runs: usize) -> Vec<Figure> {
    let resources = scene.keys.len();
    let mut times = Times::default();
    for run in 1..=runs {
        let nodes = scene.cluster.running();
        for node in &nodes {
            scene.cluster.kill9(*node);
        }
        let begun = scene.cluster.collector().now();
        for node in &nodes {
            scene.cluster.restart(*node);
        }
        let by = scene.running();
        scene.wait_held(&by);
        let took = scene.last_since(begun);
        times.add(took);
        progress(&format!(
            "{resources} resources, all nodes killed and started, run {run} of {runs}: {:.0} ms",
            took.as_secs_f64() * 1e3
        ));
        scene.settle();
    }
    let what = "all nodes killed and started: all are held";
    let figure = times.figure(what, resources, runs, Aim::default());
    figure.into_iter().collect()
}

/// Deploys and allocates all resources on clusters that were just formed, some times: the last
/// one, and what it took.
pub(crate) fn allocation(start: impl Fn() -> Scene, runs: usize) -> (Scene, Vec<Figure>) {
    let (mut deployed, mut allocated) = (Times::default(), Times::default());
    let mut scene = start();
    for run in 1..=runs {
        deployed.add(scene.deployed_in);
        allocated.add(scene.allocated_in);
        progress(&format!(
            "{} resources, deployed and allocated, run {run} of {runs}: {:.0} ms and {:.0} ms",
            scene.keys.len(),
            scene.deployed_in.as_secs_f64() * 1e3,
            scene.allocated_in.as_secs_f64() * 1e3
        ));
        if run < runs {
            // Two at once would be in each other's way.
            drop(scene);
            scene = start();
        }
    }
    let resources = scene.keys.len();
    let aim = if resources <= 1_000 {
        Aim::median(1_000.0)
    } else {
        Aim::default()
    };
    let figures = [
        deployed.figure("deployed: it serves", resources, runs, Aim::default()),
        allocated.figure("allocated in one batch: all are held", resources, runs, aim),
    ];
    (scene, figures.into_iter().flatten().collect())
}
