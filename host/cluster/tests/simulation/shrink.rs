//! Makes a failing run smaller, and tells it.

use std::{collections::BTreeSet, fmt, time::Duration};

use crate::{
    clients::Pool,
    world::{CALM, Config, Run, STEP, World},
};

/// What a person needs to see of a run that failed: how to run it again, and what happened, in the
/// smallest run that was found to fail like it.
pub(crate) fn smaller(config: &Config, pool: &Pool) -> String {
    let run = World::new(config.clone(), pool).run();
    let Some(violation) = &run.violation else {
        return format!("seed {} holds all promises", config.seed);
    };
    let mut case = Case {
        invariant: violation.invariant,
        config: config.clone(),
        slots: pool.slots(),
        run,
    };
    case.shrink();
    case.to_string()
}

/// A run that violates an invariant.
struct Case {
    config: Config,
    slots: usize,
    run: Run,
    invariant: &'static str,
}

impl Case {
    fn shrink(&mut self) {
        let slots = self.slots;
        for slots in [1, 4, 16].into_iter().filter(|fewer| *fewer < slots) {
            if self.try_near(|_| {}, slots) {
                break;
            }
        }
        for nodes in 3..self.config.nodes {
            if self.try_near(|config| config.nodes = nodes, self.slots) {
                break;
            }
        }
        for fault in self.config.faults.0.clone() {
            let without = |config: &mut Config| {
                config.faults.0.remove(&fault);
            };
            self.try_near(without, self.slots);
        }
        self.drop_blows();
        self.stop_early();
    }

    /// Whether a change of the run violates the same invariant; then it takes its place.
    fn try_one(&mut self, config: Config, slots: usize) -> bool {
        let run = World::new(config.clone(), &Pool::new(slots)).run();
        let same = run
            .violation
            .as_ref()
            .is_some_and(|violation| violation.invariant == self.invariant);
        if same {
            (self.config, self.slots, self.run) = (config, slots, run);
        }
        same
    }

    /// The same under a seed nearby: a change of this kind makes everything else happen differently.
    fn try_near(&mut self, change: impl Fn(&mut Config), slots: usize) -> bool {
        (0..TRIES).any(|further| {
            let mut config = self.config.clone();
            config.seed += further;
            change(&mut config);
            self.try_one(config, slots)
        })
    }

    /// Leaves out all that goes wrong and does not matter: large pieces first (delta debugging,
    /// Zeller and Hildebrandt 2002, by complements alone).
    fn drop_blows(&mut self) {
        let mut piece = self.run.blows.len().div_ceil(2);
        while piece > 0 {
            let mut from = 0;
            while from < self.run.blows.len() {
                let blows = self.run.blows.iter().enumerate();
                let rest = blows.filter(|(at, _)| !(from..from + piece).contains(at));
                let rest: BTreeSet<u64> = rest.map(|(_, (number, _))| *number).collect();
                let config = Config {
                    keep: Some(rest),
                    ..self.config.clone()
                };
                if !self.try_one(config, self.slots) {
                    from += piece;
                }
            }
            piece /= 2;
        }
    }

    /// Lets the calm part begin as soon as it may.
    fn stop_early(&mut self) {
        let steps = |at: &(u64, Duration)| at.1.div_duration_f64(STEP) as u64;
        let last = self.run.blows.last().map_or(0, steps);
        for calm_from in [last + 1, self.run.steps] {
            let config = Config {
                steps: calm_from + CALM,
                calm_from,
                ..self.config.clone()
            };
            if config.steps < self.config.steps && self.try_one(config, self.slots) {
                return;
            }
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config {
            seed,
            nodes,
            steps,
            faults,
            bug,
            ..
        } = &self.config;
        let Some(violation) = &self.run.violation else {
            return Ok(());
        };
        let blows = self.run.blows.iter().map(|(number, _)| number.to_string());
        let keep: Vec<String> = blows.collect();
        let keep = match keep.is_empty() {
            true => "none".to_owned(),
            false => keep.join(","),
        };
        write!(
            f,
            "smaller: --seed {seed} --nodes {nodes} --slots {} --steps {steps} --faults {faults} --keep {keep}",
            self.slots
        )?;
        if let Some(bug) = bug {
            write!(f, " --bug {}", format!("{bug:?}").to_lowercase())?;
        }
        writeln!(f)?;
        f.write_str(&self.run.story.tell(violation.slot, &violation.hosts))?;
        let at = STEP.as_secs_f64() * self.run.steps as f64;
        writeln!(f, "  {at:>8.3} s           {}", violation.text)
    }
}

/// Seeds that are tried for each change.
const TRIES: u64 = 6;
