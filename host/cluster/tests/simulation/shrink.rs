//! Makes a failing run smaller, and tells it.

use std::fmt::Write as _;

use crate::{
    clients::Pool,
    world::{Config, Run, World},
};

/// What a person needs to see of a run that failed: the seed, what did not hold, how to run it
/// again, and the smallest story that was found.
pub(crate) fn report(config: &Config, pool: &Pool) -> String {
    let run = World::new(config.clone(), pool).run();
    let Some(violation) = &run.violation else {
        return format!("seed {} holds all promises", config.seed);
    };
    let (invariant, text) = (violation.invariant, &violation.text);
    let mut report = format!(
        "seed {}: \"{invariant}\" does not hold: {text}\n",
        config.seed
    );
    let (small, run) = shrink(config, pool, invariant, run);
    let told = run.violation.as_ref().map(|violation| {
        let story = run.story.tell(violation.slot, &violation.hosts);
        format!("{}\n{story}", violation.text)
    });
    // Writing to a string cannot fail.
    let _ = writeln!(
        report,
        "shrunk: --seed {} --nodes {} --steps {} --faults {} after {} steps: {}",
        small.seed,
        small.nodes,
        small.steps,
        small.faults,
        run.steps,
        told.unwrap_or_default(),
    );
    report
}

/// Leaves out kinds of faults while the same invariant is violated, under a seed nearby.
fn shrink(config: &Config, pool: &Pool, invariant: &str, run: Run) -> (Config, Run) {
    let mut best = (config.clone(), run);
    for fault in config.faults.0.clone() {
        let mut fewer = best.0.clone();
        fewer.faults.0.remove(&fault);
        for seed in (0..TRIES).map(|n| config.seed + n) {
            let smaller = Config {
                seed,
                ..fewer.clone()
            };
            let run = World::new(smaller.clone(), pool).run();
            let same = run
                .violation
                .as_ref()
                .is_some_and(|v| v.invariant == invariant);
            if same {
                best = (smaller, run);
                break;
            }
        }
    }
    best
}

/// Seeds that are tried for each kind of fault.
const TRIES: u64 = 6;
