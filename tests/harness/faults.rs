//! What goes wrong and when: a schedule drawn from a seed.
//!
//! Pure: the same seed is the same schedule. Who leads, and what of it finds its node already down,
//! is known only to the test that carries it out.

use std::{collections::BTreeSet, fmt, time::Duration};

use rand::{RngExt, rngs::ChaCha8Rng, seq::IteratorRandom as _};

use crate::netns::Loss;

/// One thing that goes wrong, and is made good after a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When it begins, from the beginning of its schedule.
    pub from: Duration,
    /// When it is made good.
    pub until: Duration,
    /// What it is.
    pub fault: Fault,
}

/// What can go wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// These and the others do not reach each other.
    Cut(BTreeSet<usize>),
    /// The node does not reach anybody and nobody it.
    Isolated(Target),
    /// What others send to the node is lost; what it sends arrives.
    Deaf(Target),
    /// What the node sends is lost; what others send to it arrives.
    Mute(Target),
    /// So many of a thousand packets are lost, between all.
    Lossy(u32),
    /// The process of the node stands still (SIGSTOP, SIGCONT).
    Stopped(Target),
    /// The process of the node is killed (SIGKILL), and started again with its data.
    Killed(Target),
}

/// Whom it befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The node of this number.
    Node(usize),
    /// Whoever leads then.
    Leader,
}

/// Draws a schedule of `length` in which every fault has been made good at the end, for a cluster of
/// so many nodes.
#[must_use]
pub fn schedule(chance: &mut ChaCha8Rng, nodes: usize, length: Duration) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut from = Duration::ZERO;
    while from + DURATION_MIN < length {
        let fault = draw(chance, nodes);
        let lasts = if chance.random_bool(0.5) {
            // Mostly too short for anybody to lose a lease.
            between(chance, DURATION_MIN, Duration::from_millis(2_400))
        } else {
            between(chance, Duration::from_millis(2_400), DURATION_MAX)
        };
        let until = (from + lasts).min(length);
        steps.push(Step { from, until, fault });
        // Less than most of them last: what goes wrong meets what has gone wrong.
        from += between(chance, Duration::from_millis(200), Duration::from_secs(4));
    }
    steps
}

fn draw(chance: &mut ChaCha8Rng, nodes: usize) -> Fault {
    let target = match chance.random_ratio(2, 5) {
        true => Target::Leader,
        false => Target::Node(chance.random_range(0..nodes)),
    };
    match chance.random_range(0..9) {
        0 | 1 => {
            let some = chance.random_range(2..nodes.max(3));
            Fault::Cut((0..nodes).sample(chance, some).into_iter().collect())
        }
        2 => Fault::Isolated(target),
        3 => Fault::Deaf(target),
        4 => Fault::Mute(target),
        5 => Fault::Lossy(chance.random_range(20..400)),
        6 => Fault::Stopped(target),
        _ if chance.random_bool(0.5) => Fault::Killed(target),
        _ => Fault::Stopped(target),
    }
}

fn between(chance: &mut ChaCha8Rng, least: Duration, most: Duration) -> Duration {
    let ms = |time: Duration| u64::try_from(time.as_millis()).expect("schedules are short");
    Duration::from_millis(chance.random_range(ms(least)..ms(most)))
}

impl Fault {
    /// Whom it befalls alone, if it does.
    #[must_use]
    pub fn target(&self) -> Option<Target> {
        match self {
            Self::Cut(_) | Self::Lossy(_) => None,
            Self::Isolated(target)
            | Self::Deaf(target)
            | Self::Mute(target)
            | Self::Stopped(target)
            | Self::Killed(target) => Some(*target),
        }
    }

    /// The same of a known node.
    #[must_use]
    pub fn of(&self, node: usize) -> Self {
        let target = Target::Node(node);
        match self {
            Self::Cut(_) | Self::Lossy(_) => self.clone(),
            Self::Isolated(_) => Self::Isolated(target),
            Self::Deaf(_) => Self::Deaf(target),
            Self::Mute(_) => Self::Mute(target),
            Self::Stopped(_) => Self::Stopped(target),
            Self::Killed(_) => Self::Killed(target),
        }
    }

    /// A word for its kind, to count by.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cut(_) => "cut",
            Self::Isolated(_) => "isolated",
            Self::Deaf(_) => "deaf",
            Self::Mute(_) => "mute",
            Self::Lossy(_) => "lossy",
            Self::Stopped(_) => "stopped",
            Self::Killed(_) => "killed",
        }
    }

    /// What is lost between so many nodes while it lasts. Nothing for what befalls a process.
    #[must_use]
    pub fn losses(&self, nodes: usize) -> Vec<Loss> {
        let is = |target: &Target, node| *target == Target::Node(node);
        let permille = |from: usize, to: usize| match self {
            Self::Cut(side) if side.contains(&from) != side.contains(&to) => 1000,
            Self::Isolated(node) if is(node, from) || is(node, to) => 1000,
            Self::Deaf(node) if is(node, to) => 1000,
            Self::Mute(node) if is(node, from) => 1000,
            Self::Lossy(permille) => *permille,
            _ => 0,
        };
        let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
        pairs
            .filter(|(from, to)| from != to)
            .map(|(from, to)| Loss {
                from,
                to,
                permille: permille(from, to),
            })
            .filter(|loss| loss.permille > 0)
            .collect()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(side) => write!(f, "cut {side:?} from the others"),
            Self::Lossy(permille) => write!(f, "lossy: {permille} of 1000"),
            _ => match self.target() {
                Some(Target::Node(node)) => write!(f, "{} node {node}", self.kind()),
                _ => write!(f, "{} leader", self.kind()),
            },
        }
    }
}

const DURATION_MIN: Duration = Duration::from_millis(300);
/// Well beyond the end of a lease, and what follows from it.
const DURATION_MAX: Duration = Duration::from_secs(9);

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn drawn(seed: u64) -> Vec<Step> {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        schedule(&mut chance, 5, Duration::from_secs(1_000))
    }

    #[test]
    fn the_same_seed_is_the_same_schedule() {
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }

    #[test]
    fn a_schedule_has_every_kind_of_fault_and_ends_in_time() {
        let steps = drawn(7);
        let kinds: BTreeSet<&str> = steps.iter().map(|step| step.fault.kind()).collect();
        assert_eq!(kinds.len(), 7, "{kinds:?}");
        let length = Duration::from_secs(1_000);
        assert!(
            steps
                .iter()
                .all(|step| step.from < step.until && step.until <= length)
        );
    }

    #[test]
    fn what_is_lost_is_what_the_fault_says() {
        let pairs = |fault: Fault| -> Vec<_> {
            let losses = fault.losses(3).into_iter();
            losses.map(|loss| (loss.from, loss.to)).collect()
        };
        let one = Target::Node(1);
        assert_eq!(pairs(Fault::Deaf(one)), [(0, 1), (2, 1)]);
        assert_eq!(pairs(Fault::Mute(one)), [(1, 0), (1, 2)]);
        let both = [(0, 1), (1, 0), (1, 2), (2, 1)];
        assert_eq!(pairs(Fault::Isolated(one)), both);
        assert_eq!(pairs(Fault::Cut(BTreeSet::from([1]))), both);
        assert_eq!(pairs(Fault::Lossy(5)).len(), 6);
        assert_eq!(pairs(Fault::Killed(one)), []);
    }
}
