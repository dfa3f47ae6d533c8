//! What goes wrong, and when: chosen by chance, one kind at a time.

use std::{collections::BTreeSet, fmt, str::FromStr, time::Duration};

use rand::{RngExt, rngs::ChaCha8Rng};

use crate::{network::Weather, node::TERMS};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Messages are lost.
    Drop,
    /// Messages arrive twice, the second time much later.
    Duplicate,
    /// Messages take long.
    Delay,
    /// Messages of a link overtake one another.
    Reorder,
    /// Machines are cut off from the others.
    Partition,
    /// One direction alone is cut.
    OneWay,
    /// A process stands still while its clock goes on, as by SIGSTOP or suspend.
    Pause,
    /// A process is killed and starts again.
    Crash,
    /// A process is killed and starts again on an empty disk, as another node.
    Disk,
    /// A new machine.
    Join,
    /// A node is to give away its slots.
    Drain,
    /// Clocks run at different rates.
    Drift,
    /// What is committed is applied late.
    Lag,
}

impl Fault {
    pub(crate) const ALL: [Self; 13] = [
        Self::Drop,
        Self::Duplicate,
        Self::Delay,
        Self::Reorder,
        Self::Partition,
        Self::OneWay,
        Self::Pause,
        Self::Crash,
        Self::Disk,
        Self::Join,
        Self::Drain,
        Self::Drift,
        Self::Lag,
    ];
}

/// A set of kinds.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Faults(pub(crate) BTreeSet<Fault>);

impl Faults {
    pub(crate) fn all() -> Self {
        Self(Fault::ALL.into())
    }

    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.0.contains(&fault)
    }
}

impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut faults = BTreeSet::new();
        for name in text.split(',').filter(|name| !name.is_empty()) {
            let named = |fault: &Fault| format!("{fault:?}").eq_ignore_ascii_case(name);
            match name {
                "all" => faults.extend(Fault::ALL),
                "none" => {}
                name => {
                    let fault = Fault::ALL.into_iter().find(named);
                    faults.insert(fault.ok_or_else(|| format!("there is no fault {name:?}"))?);
                }
            }
        }
        Ok(Self(faults))
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self
            .0
            .iter()
            .map(|fault| format!("{fault:?}").to_lowercase());
        let names: Vec<String> = names.collect();
        match names.len() {
            0 => f.write_str("none"),
            n if n == Fault::ALL.len() => f.write_str("all"),
            _ => f.write_str(&names.join(",")),
        }
    }
}

/// Something that goes wrong now.
pub(crate) enum Blow {
    Weather(Weather),
    Cut(BTreeSet<(usize, usize)>, Duration),
    Pause(usize, Duration),
    /// Killed; and what happens to it soon after it has started again.
    Crash(usize, Duration, Option<(Duration, Box<Blow>)>),
    LoseDisk(usize, Duration),
    Join,
    Drain(usize, Duration),
    Lag(usize, bool),
}

/// Chooses what goes wrong.
pub(crate) struct Injector {
    rng: ChaCha8Rng,
    faults: Faults,
    next: Duration,
}

impl Injector {
    pub(crate) fn new(rng: ChaCha8Rng, faults: Faults) -> Self {
        Self {
            rng,
            faults,
            next: QUIET,
        }
    }

    /// What goes wrong now on so many machines, if anything does.
    pub(crate) fn next(&mut self, now: Duration, hosts: usize) -> Option<Blow> {
        if now < self.next || self.faults.0.is_empty() {
            return None;
        }
        self.next = now + self.millis(50, 1_200);
        let at = self.rng.random_range(0..self.faults.0.len());
        let fault = *self.faults.0.iter().nth(at)?;
        let host = self.rng.random_range(0..hosts);
        Some(match fault {
            Fault::Drop | Fault::Duplicate | Fault::Delay | Fault::Reorder => {
                Blow::Weather(self.weather())
            }
            Fault::Partition => {
                let size = self.rng.random_range(1..=hosts / 2);
                let inside: BTreeSet<usize> =
                    (0..size).map(|_| self.rng.random_range(0..hosts)).collect();
                let links = (0..hosts).flat_map(|a| (0..hosts).map(move |b| (a, b)));
                let cut = links.filter(|(a, b)| inside.contains(a) != inside.contains(b));
                Blow::Cut(cut.collect(), self.silence())
            }
            Fault::OneWay => {
                let whole = self.rng.random_bool(0.5);
                let hears = self.rng.random_bool(0.5);
                let other = (host + self.rng.random_range(1..hosts)) % hosts;
                let others = (0..hosts).filter(|b| *b != host && (whole || *b == other));
                let cut = others.map(|b| if hears { (host, b) } else { (b, host) });
                Blow::Cut(cut.collect(), self.silence())
            }
            Fault::Pause => Blow::Pause(host, self.silence()),
            Fault::Crash => self.crash(host, hosts),
            Fault::Disk => Blow::LoseDisk(host, self.millis(50, 3_000)),
            Fault::Join => Blow::Join,
            Fault::Drain => Blow::Drain(host, self.millis(500, 4_000)),
            Fault::Drift => return None,
            Fault::Lag => Blow::Lag(host, self.rng.random_bool(0.6)),
        })
    }

    fn weather(&mut self) -> Weather {
        let mut rate = |fault, most: f64| match self.faults.has(fault) && self.rng.random_bool(0.6)
        {
            true => self.rng.random_range(0.0..most),
            false => 0.0,
        };
        Weather {
            drop: rate(Fault::Drop, 0.3),
            duplicate: rate(Fault::Duplicate, 0.3),
            delay: rate(Fault::Delay, 0.3),
            reorder: rate(Fault::Reorder, 1.0) > 0.0,
        }
    }

    /// A run that has just begun, and may have joined without a grant, is the most delicate.
    fn crash(&mut self, host: usize, hosts: usize) -> Blow {
        let after = self.millis(50, 5_000);
        let then = if self.rng.random_bool(0.5) {
            None
        } else if self.faults.has(Fault::Pause) && self.rng.random_bool(0.5) {
            Some(Blow::Pause(host, self.silence()))
        } else if self.faults.has(Fault::OneWay) {
            let answers = (0..hosts).filter(|other| *other != host);
            let cut = answers.map(|other| (other, host));
            Some(Blow::Cut(cut.collect(), self.silence()))
        } else {
            None
        };
        let soon = after + self.millis(0, 900);
        Blow::Crash(host, after, then.map(|blow| (soon, Box::new(blow))))
    }

    /// How long something is silent: often about as long as a lease, where all is decided.
    fn silence(&mut self) -> Duration {
        if self.rng.random_bool(0.3) {
            let lease = TERMS.silence_max();
            lease - Duration::from_millis(300) + self.millis(0, 900)
        } else {
            self.millis(50, 6_000)
        }
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(least..most))
    }
}

/// Nothing goes wrong before the cluster stands.
const QUIET: Duration = Duration::from_secs(2);
