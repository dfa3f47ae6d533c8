//! Judges a runtime by what was seen of it. Pure: the time that has passed comes with each look.

use std::{collections::VecDeque, time::Duration};

use super::{LOOK_EVERY, WINDOW};

/// What is known of one runtime.
pub(super) struct Judge {
    motionless_max: Duration,
    unanswered_max: Duration,
    /// For how long it has owed an answer.
    unanswered: Duration,
    workers: Vec<Known>,
    /// For how long it has been unfit.
    unfit: Option<Duration>,
    /// The delays of the last answers.
    delays: VecDeque<Duration>,
}

/// What is seen of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Worker {
    /// It waits for work.
    pub(super) idle: bool,
    /// Changes whenever it has done something.
    pub(super) motion: (u64, Duration),
}

struct Known {
    last: Option<Worker>,
    motionless: Duration,
}

impl Judge {
    pub(super) fn new(workers: usize, motionless_max: Duration, unanswered_max: Duration) -> Self {
        let unknown = || Known {
            last: None,
            motionless: Duration::ZERO,
        };
        Self {
            motionless_max,
            unanswered_max,
            unanswered: Duration::ZERO,
            workers: std::iter::repeat_with(unknown).take(workers).collect(),
            unfit: None,
            delays: VecDeque::new(),
        }
    }

    /// Takes what is seen: how long the task took to be run, if it was, and the workers.
    pub(super) fn look(
        &mut self,
        answered: Option<Duration>,
        workers: &[Worker],
        passed: Duration,
    ) {
        match answered {
            Some(delay) => {
                self.unanswered = Duration::ZERO;
                if self.delays.len() >= DELAYS {
                    self.delays.pop_front();
                }
                self.delays.push_back(delay);
            }
            None => self.unanswered += passed,
        }
        for (known, seen) in self.workers.iter_mut().zip(workers) {
            if seen.idle || known.last != Some(*seen) {
                known.motionless = Duration::ZERO;
            } else {
                known.motionless += passed;
            }
            known.last = Some(*seen);
        }
        let stuck = self.stuck() == self.workers.len() && self.unanswered >= self.motionless_max;
        let is_unfit = stuck || self.unanswered >= self.unanswered_max;
        self.unfit = is_unfit.then(|| self.unfit.map_or(Duration::ZERO, |unfit| unfit + passed));
    }

    pub(super) fn unfit_for(&self) -> Option<Duration> {
        self.unfit
    }

    pub(super) fn unanswered(&self) -> Duration {
        self.unanswered
    }

    /// The longest delay lately, that of an answer which is still owed included.
    pub(super) fn delay(&self) -> Duration {
        let longest = self.delays.iter().max().copied().unwrap_or_default();
        longest.max(self.unanswered)
    }

    /// How many workers have not moved for too long.
    pub(super) fn stuck(&self) -> usize {
        let is_stuck = |worker: &&Known| worker.motionless >= self.motionless_max;
        self.workers.iter().filter(is_stuck).count()
    }
}

const DELAYS: usize = (WINDOW.as_millis() / LOOK_EVERY.as_millis()) as usize;

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(250);
    const MOTIONLESS: Duration = Duration::from_secs(5);
    const UNANSWERED: Duration = Duration::from_secs(15);

    fn judge() -> Judge {
        Judge::new(2, MOTIONLESS, UNANSWERED)
    }

    fn works(number: u64) -> Worker {
        Worker {
            idle: false,
            motion: (number, Duration::ZERO),
        }
    }

    const IDLE: Worker = Worker {
        idle: true,
        motion: (1, Duration::ZERO),
    };

    fn looks(time: Duration) -> u64 {
        (time.as_millis() / STEP.as_millis()) as u64
    }

    #[test]
    fn a_runtime_whose_workers_are_all_stuck_is_unfit_until_it_answers() {
        let mut judge = judge();
        for look in 0..=looks(MOTIONLESS) {
            judge.look(None, &[works(0), works(0)], STEP);
            let stuck = look == looks(MOTIONLESS);
            assert_eq!(judge.unfit_for().is_some(), stuck, "after {look}");
        }
        assert_eq!(judge.stuck(), 2);
        judge.look(Some(MOTIONLESS), &[works(1), IDLE], STEP);
        assert!(judge.unfit_for().is_none());
        assert_eq!(judge.delay(), MOTIONLESS);
    }

    #[test]
    fn one_stuck_worker_beside_another_is_told_and_costs_nothing() {
        let mut judge = judge();
        for _ in 0..1000 {
            judge.look(Some(STEP), &[works(0), IDLE], STEP);
        }
        assert_eq!((judge.stuck(), judge.unfit_for()), (1, None));
    }

    #[test]
    fn an_overloaded_runtime_has_longer_than_a_stuck_one() {
        let mut judge = judge();
        for look in 1..looks(UNANSWERED) {
            judge.look(None, &[works(look), works(look)], STEP);
            assert_eq!(judge.unfit_for(), None, "after {look}");
        }
        judge.look(None, &[works(1000), works(1000)], STEP);
        assert!(judge.unfit_for().is_some());
    }

    #[test]
    fn a_runtime_that_has_nothing_to_do_is_fit() {
        let mut judge = judge();
        for _ in 0..1000 {
            judge.look(Some(Duration::ZERO), &[IDLE, IDLE], STEP);
        }
        assert_eq!((judge.stuck(), judge.unfit_for()), (0, None));
    }
}
