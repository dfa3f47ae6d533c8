//! Clusters on virtual time, with everything going wrong that may.
//!
//! The same code runs longer as `holdfast-sim`.

mod checker;
mod clients;
mod consensus;
mod faults;
mod leader;
mod log;
mod network;
mod node;
mod shrink;
mod story;
mod world;

use crate::{
    clients::Pool,
    faults::Faults,
    node::{Bug, TERMS},
    shrink::smaller,
    story::HAPPENS,
    world::{Config, World},
};

#[test]
fn the_terms_of_the_leases_are_safe() {
    TERMS.check().unwrap();
}

#[test]
fn all_that_is_promised_holds_whatever_goes_wrong() {
    let pool = Pool::new(SLOTS);
    let mut counts = [0; HAPPENS.len()];
    for seed in 0..SEEDS {
        let nodes = [3, 5, 5, 7][seed as usize % 4];
        let config = Config::new(seed, nodes, STEPS, Faults::all());
        let run = World::new(config.clone(), &pool).run();
        if let Some(violation) = &run.violation {
            panic!("seed {seed}: {violation}\n{}", smaller(&config, &pool));
        }
        run.story.count(&mut counts);
    }
    println!("{SEEDS} seeds of {STEPS} steps, {SLOTS} slots");
    for (words, count) in HAPPENS.iter().zip(counts) {
        println!("{count:>9} x {words}");
        assert!(
            count > 0,
            "nothing {words}: the simulation is too tame to prove anything"
        );
    }
}

#[test]
fn what_is_promised_holds_where_datagrams_are_lost_and_connections_stand() {
    let pool = Pool::new(SLOTS);
    let faults: Faults = "datagrams,crash,join,pause,restart"
        .parse()
        .expect("they are faults");
    for seed in 0..SEEDS / 3 {
        let config = Config::new(seed, 5, STEPS, faults.clone());
        let run = World::new(config.clone(), &pool).run();
        if let Some(violation) = &run.violation {
            panic!("seed {seed}: {violation}\n{}", smaller(&config, &pool));
        }
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let pool = Pool::new(SLOTS);
    let run = |seed| World::new(Config::new(seed, 5, STEPS, Faults::all()), &pool).run();
    let (first, again, other) = (run(1), run(1), run(2));
    assert_eq!(first.story.hash(), again.story.hash());
    assert_ne!(first.story.hash(), other.story.hash());
    assert!(first.committed > 50, "{} entries", first.committed);
}

/// The simulation finds a mistake within 200 seeds, where these faults happen.
fn finds(bug: Bug, faults: &str, invariants: &[&str]) {
    let pool = Pool::new(SLOTS);
    let faults: Faults = faults.parse().expect("the names are right");
    for seed in 0..200 {
        let config = Config {
            bug: Some(bug),
            ..Config::new(seed, 5, STEPS, faults.clone())
        };
        if let Some(violation) = World::new(config, &pool).run().violation {
            assert!(invariants.contains(&violation.invariant), "{violation:?}");
            println!("{bug:?} is found by seed {seed}: {}", violation.text);
            return;
        }
    }
    panic!("{bug:?} is not found within 200 seeds");
}

#[test]
fn a_node_that_runs_past_its_deadline_is_found() {
    finds(Bug::RunsPastDeadline, "all", TWO_RUN);
}

#[test]
fn a_leader_that_does_not_wait_after_its_election_is_found() {
    finds(
        Bug::NoWaitAfterElection,
        "crash,pause,partition,oneway",
        TWO_RUN,
    );
}

#[test]
fn a_release_before_the_end_of_the_slot_is_found() {
    finds(Bug::ReleasesBeforeStopped, "all", TWO_RUN);
}

#[test]
fn a_slot_that_runs_again_after_its_release_is_found() {
    finds(Bug::RunsAfterRelease, "all", TWO_RUN);
}

#[test]
fn a_release_whose_token_is_not_checked_is_found() {
    finds(Bug::TokenUnchecked, "duplicate,drain,lag", TWO_RUN);
}

#[test]
fn a_leader_that_grants_to_those_it_gives_up_is_found() {
    finds(Bug::GrantsCondemned, "restart,pause,lag", TWO_RUN);
}

#[test]
fn a_leader_that_grants_before_it_knows_earlier_decisions_is_found() {
    finds(Bug::GrantsUnknowing, "all", TWO_RUN);
}

#[test]
fn a_leader_whose_older_term_replaces_a_newer_one_is_found() {
    // It forgets whom it has given up, and also for how long somebody was silent.
    let forgets: &[&str] = &["who is given up gets no lease", "always held"];
    let invariants = [TWO_RUN, forgets].concat();
    finds(Bug::GrantsInOlderTerm, "all", &invariants);
}

#[test]
fn a_leader_that_forgets_longer_leases_of_the_past_is_found() {
    finds(Bug::OutlastsNothing, "terms,pause,drift", TWO_RUN);
}

#[test]
fn a_disk_that_promises_before_it_keeps_is_found() {
    finds(
        Bug::AcksBeforeFlush,
        "stall,reboot,crash",
        &["one history", "nothing lost"],
    );
}

#[test]
fn a_restart_that_was_announced_and_never_made_is_found() {
    finds(
        Bug::ForgetsItsRestart,
        "restart,pause,partition",
        &["no restart is forgotten"],
    );
}

#[test]
fn a_failing_run_is_told_in_a_few_lines() {
    let pool = Pool::new(SLOTS);
    let faults: Faults = "pause,crash,partition"
        .parse()
        .expect("the names are right");
    let config = |seed| Config {
        bug: Some(Bug::RunsPastDeadline),
        ..Config::new(seed, 5, STEPS, faults.clone())
    };
    let fails = |seed: &u64| World::new(config(*seed), &pool).run().violation.is_some();
    let seed = (0..200).find(fails).expect("the mistake is found");
    let story = smaller(&config(seed), &pool);
    println!("{story}");
    let lines: Vec<&str> = story.lines().collect();
    assert!(lines.len() <= 30, "{} lines:\n{story}", lines.len());
    let has = |line: &str, words: &[&str]| words.iter().all(|words| line.contains(words));
    assert!(has(
        lines[0],
        &["--seed ", "--keep ", "--bug runspastdeadline"]
    ));
    let (end, before) = lines.split_last().expect("there are lines");
    assert!(has(end, &["slot ", " runs on host ", " and on host "]));
    let told = |words: &[&str]| before.iter().any(|line| has(line, words));
    assert!(told(&["* "]), "what went wrong");
    assert!(told(&["decides that ", " is dead"]), "who decided that");
    assert!(told(&["agreed, entry "]) && told(&[" runs under token "]));
}

/// What each of the mistakes comes to.
const TWO_RUN: &[&str] = &["at most one", "tokens grow at every sink"];

const SEEDS: u64 = 60;
const STEPS: u64 = 2_000;
const SLOTS: usize = 64;
