//! `holdfast-sim`: clusters on virtual time, seed after seed, until a promise is broken.

use std::{collections::BTreeSet, process::ExitCode};

mod checker;
mod clients;
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
    faults::{Fault, Faults},
    node::Bug,
    story::HAPPENS,
    world::{CALM, Config, HOSTS_MAX, World},
};

fn main() -> ExitCode {
    if std::env::args().any(|word| matches!(word.as_str(), "--help" | "-h")) {
        println!("{}", usage());
        return ExitCode::SUCCESS;
    }
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\n\n{}", usage());
            return ExitCode::from(2);
        }
    };
    let pool = Pool::new(options.slots);
    let (mut events, mut committed, mut counts) = (0, 0, [0; HAPPENS.len()]);
    for seed in (options.seed..).take(options.seeds) {
        let config = Config {
            keep: options.keep.clone(),
            bug: options.bug,
            ..Config::new(seed, options.nodes, options.steps, options.faults.clone())
        };
        let run = World::new(config.clone(), &pool).run();
        events += run.story.events;
        committed += run.committed;
        run.story.count(&mut counts);
        if options.seeds == 1 {
            println!("seed {seed}: trace {:016x}", run.story.hash());
        }
        if let Some(violation) = &run.violation {
            println!("seed {seed}: {violation}");
            println!("{}", shrink::smaller(&config, &pool));
            return ExitCode::FAILURE;
        }
    }
    let Options { seeds, steps, .. } = options;
    println!(
        "{seeds} seeds of {steps} steps hold all promises: {committed} entries, {events} events"
    );
    for (words, count) in HAPPENS.iter().zip(counts) {
        println!("{count:>9} x {words}");
    }
    ExitCode::SUCCESS
}

struct Options {
    seed: u64,
    seeds: usize,
    nodes: usize,
    steps: u64,
    slots: usize,
    faults: Faults,
    keep: Option<BTreeSet<u64>>,
    bug: Option<Bug>,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            seed: 0,
            seeds: 1,
            nodes: 5,
            steps: 2_000,
            slots: 64,
            faults: Faults::all(),
            keep: None,
            bug: None,
        };
        while let Some(name) = words.next() {
            let value = words
                .next()
                .ok_or_else(|| format!("{name} needs a value"))?;
            let wrong = || format!("{name} cannot be {value:?}");
            let number = || value.parse::<u64>().map_err(|_| wrong());
            match name.as_str() {
                "--seed" => options.seed = number()?,
                "--seeds" => options.seeds = number()? as usize,
                "--nodes" => options.nodes = number()? as usize,
                "--steps" => options.steps = number()?,
                "--slots" => options.slots = number()? as usize,
                "--faults" => options.faults = value.parse()?,
                "--keep" => {
                    let numbers = value.split(',').filter(|number| *number != "none");
                    let numbers: Result<_, _> = numbers.map(str::parse).collect();
                    options.keep = Some(numbers.map_err(|_| wrong())?);
                }
                "--bug" => {
                    let named = |bug: &Bug| format!("{bug:?}").eq_ignore_ascii_case(&value);
                    let bug = BUGS.into_iter().find(named);
                    options.bug = Some(bug.ok_or_else(wrong)?);
                }
                _ => return Err(format!("{name} is no option")),
            }
        }
        if !(2..=HOSTS_MAX).contains(&options.nodes) || !(1..=64).contains(&options.slots) {
            return Err(format!("nodes must be 2 to {HOSTS_MAX}, slots 1 to 64"));
        }
        if options.steps <= CALM {
            return Err(format!(
                "the last {CALM} steps are without faults: more are needed"
            ));
        }
        Ok(options)
    }
}

fn usage() -> String {
    let names = |names: Vec<String>| names.join(", ").to_lowercase();
    let faults = names(Fault::ALL.map(|fault| format!("{fault:?}")).into());
    let bugs = names(BUGS.map(|bug| format!("{bug:?}")).into());
    format!(
        "usage: holdfast-sim [--seed N] [--seeds N] [--nodes N] [--steps N] [--slots N] [--faults LIST] [--keep LIST] [--bug NAME]\n\
         faults, separated by commas: all, none, {faults}\n\
         what goes wrong is numbered by its time: keep leaves out all but those numbers\n\
         bugs, to see one found: {bugs}"
    )
}

const BUGS: [Bug; 11] = [
    Bug::RunsPastDeadline,
    Bug::NoWaitAfterElection,
    Bug::ReleasesBeforeStopped,
    Bug::RunsAfterRelease,
    Bug::TokenUnchecked,
    Bug::GrantsCondemned,
    Bug::GrantsUnknowing,
    Bug::GrantsInOlderTerm,
    Bug::OutlastsNothing,
    Bug::AcksBeforeFlush,
    Bug::ForgetsItsRestart,
];
