//! The same clusters and the same faults, on the real consensus library.

use super::Consensus;
use crate::{
    clients::Pool,
    faults::Faults,
    node::Bug,
    shrink::smaller,
    world::{Config, World},
};

fn config(seed: u64, faults: Faults) -> Config {
    let nodes = [3, 5, 5, 7][seed as usize % 4];
    Config {
        logs: |seed| Box::new(Consensus::new(seed)),
        ..Config::new(seed, nodes, STEPS, faults)
    }
}

#[test]
fn all_that_is_promised_holds_on_the_real_library() {
    let pool = Pool::new(SLOTS);
    let (mut leads, mut installs) = (0, 0);
    for seed in 0..SEEDS {
        let config = config(seed, Faults::all());
        let run = World::new(config.clone(), &pool).run();
        if let Some(violation) = &run.violation {
            panic!("seed {seed}: {violation}\n{}", smaller(&config, &pool));
        }
        leads += run.story.says("leads term");
        installs += run.story.says("takes over a state");
    }
    println!("{SEEDS} seeds: {leads} leaders, {installs} states taken over");
    assert!(leads > 2 * SEEDS as usize && installs > SEEDS as usize / 2);
}

#[test]
fn the_same_seed_is_the_same_run_on_the_real_library() {
    let pool = Pool::new(SLOTS);
    let run = |seed| World::new(config(seed, Faults::all()), &pool).run();
    let (first, again, other) = (run(1), run(1), run(2));
    assert_eq!(first.story.hash(), again.story.hash());
    assert_ne!(first.story.hash(), other.story.hash());
    assert!(first.committed > 50, "{} entries", first.committed);
}

#[test]
fn a_disk_that_promises_before_it_keeps_is_found_on_the_real_library() {
    let pool = Pool::new(SLOTS);
    let faults: Faults = "stall,reboot,crash".parse().expect("the names are right");
    let violated = (0..SEEDS).find_map(|seed| {
        let config = Config {
            bug: Some(Bug::AcksBeforeFlush),
            ..config(seed, faults.clone())
        };
        World::new(config, &pool).run().violation
    });
    let violation = violated.expect("the mistake is found");
    assert!(
        matches!(violation.invariant, "one history" | "nothing lost"),
        "{violation}"
    );
}

const SEEDS: u64 = 50;
const STEPS: u64 = 2_000;
const SLOTS: usize = 64;
