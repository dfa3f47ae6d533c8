//! What goes wrong, and when: a schedule that chance draws up, one kind after the other.
//!
//! Invariant: the same seed and kinds give the same schedule, however much of it is used.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    time::Duration,
};

use holdfast_model::Weight;
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
    /// Datagrams are lost between machines whose connections stand. Not one of `all`: what needs them
    /// is little, and has tests of its own.
    Datagrams,
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
    /// A disk takes long to write.
    Stall,
    /// A machine, or all of them, are switched off and on again: nothing refuses connections
    /// meanwhile, and the kernel boots anew.
    Reboot,
    /// The leadership is handed over.
    Handover,
    /// An operator takes a node out of the cluster, drained or as it is.
    Remove,
    /// A process says that it restarts, and does.
    Restart,
    /// An operator changes how long leases last.
    Terms,
    /// An operator gives a node another share of the load.
    Weigh,
}

impl Fault {
    pub(crate) const ALL: [Self; 20] = [
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
        Self::Stall,
        Self::Reboot,
        Self::Handover,
        Self::Remove,
        Self::Restart,
        Self::Terms,
        Self::Weigh,
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
                    let mut faults_by_name = Fault::ALL.into_iter().chain([Fault::Datagrams]);
                    let fault = faults_by_name.find(named);
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

/// Something that goes wrong, most of it for a while.
#[derive(Clone)]
pub(crate) enum Blow {
    Weather(Weather),
    Cut(BTreeSet<(usize, usize)>, Duration),
    /// The same, of datagrams alone.
    CutDatagrams(BTreeSet<(usize, usize)>, Duration),
    Pause(Who, Duration),
    Crash(Who, Duration),
    Reboot(usize, Duration),
    LoseDisk(usize, Duration),
    Join,
    Drain(usize, Duration),
    Lag(Who, Duration),
    Stall(Who, Duration),
    Handover(usize),
    /// Whether it is drained first.
    Remove(usize, bool),
    Restart(usize, Duration),
    /// Time to live and guard of leases, in milliseconds.
    Terms((u64, u64)),
    Weigh(usize, Weight),
    Silence(Silence),
}

impl Blow {
    /// The machine that it strikes, if it is a certain one.
    pub(crate) fn host(&self) -> Option<usize> {
        match self {
            Self::Weather(_)
            | Self::Cut(..)
            | Self::CutDatagrams(..)
            | Self::Join
            | Self::Terms(_) => None,
            Self::Pause(who, _) | Self::Crash(who, _) | Self::Lag(who, _) | Self::Stall(who, _) => {
                match who {
                    Who::Host(host) => Some(*host),
                    Who::Leader => None,
                }
            }
            Self::Reboot(host, _)
            | Self::LoseDisk(host, _)
            | Self::Drain(host, _)
            | Self::Handover(host)
            | Self::Remove(host, _)
            | Self::Restart(host, _)
            | Self::Weigh(host, _) => Some(*host),
            Self::Silence(silence) => Some(silence.host),
        }
    }
}

/// A process stands still from when it has joined, before it has a lease, until a leader gives it
/// up.
#[derive(Clone, Copy)]
pub(crate) struct Silence {
    pub(crate) host: usize,
    /// How long after that it goes on.
    pub(crate) goes_on: Duration,
    /// How long after that the leader's process is killed, if it is.
    pub(crate) leader_ends: Option<Duration>,
    /// Whether what is committed is applied late then, here and there.
    pub(crate) lags: bool,
}

/// Whom it strikes.
#[derive(Clone, Copy)]
pub(crate) enum Who {
    Host(usize),
    /// The machine whose process leads, if there is one.
    Leader,
}

/// What goes wrong when, in order.
pub(crate) struct Schedule {
    rng: ChaCha8Rng,
    faults: Faults,
    hosts: usize,
    hosts_max: usize,
    next: Duration,
    /// Drawn up, but later than what was drawn up after it may be.
    later: BTreeMap<(Duration, u64), Blow>,
    drawn: u64,
}

impl Schedule {
    pub(crate) fn new(rng: ChaCha8Rng, faults: Faults, hosts: usize, hosts_max: usize) -> Self {
        Self {
            rng,
            faults,
            hosts,
            hosts_max,
            next: QUIET,
            later: BTreeMap::new(),
            drawn: 0,
        }
    }

    /// What goes wrong by now: each with its number.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<(u64, Blow)> {
        while !self.faults.0.is_empty() && self.next <= now {
            let at = self.next;
            self.next = at + self.millis(50, 900);
            self.draw(at);
        }
        let later = self.later.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut self.later, later);
        due.into_iter()
            .map(|((_, number), blow)| (number, blow))
            .collect()
    }

    fn add(&mut self, at: Duration, blow: Blow) {
        self.later.insert((at, self.drawn), blow);
        self.drawn += 1;
    }

    fn draw(&mut self, now: Duration) {
        let at = self.rng.random_range(0..self.faults.0.len());
        let Some(fault) = self.faults.0.iter().nth(at).copied() else {
            return;
        };
        let hosts = self.hosts;
        let host = self.rng.random_range(0..hosts);
        let blow = match fault {
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
            Fault::Datagrams => {
                let whole = self.rng.random_bool(0.5);
                let links = (0..hosts).flat_map(|a| (0..hosts).map(move |b| (a, b)));
                let cut = links.filter(|(a, b)| a != b && (whole || *a == host));
                Blow::CutDatagrams(cut.collect(), self.millis(5_000, 20_000))
            }
            Fault::Pause => Blow::Pause(self.one_or_leader(host), self.silence()),
            Fault::Crash => return self.crash(now, host),
            Fault::Disk => Blow::LoseDisk(host, self.millis(50, 3_000)),
            Fault::Join => {
                self.hosts = self.hosts_max.min(hosts + 1);
                Blow::Join
            }
            Fault::Drain => Blow::Drain(host, self.millis(500, 4_000)),
            Fault::Drift => return,
            Fault::Lag => Blow::Lag(self.one_or_leader(host), self.millis(500, 5_000)),
            Fault::Stall => Blow::Stall(self.one_or_leader(host), self.millis(500, 5_000)),
            Fault::Reboot => return self.reboot(now, host),
            Fault::Handover => Blow::Handover(host),
            Fault::Remove => Blow::Remove(host, self.rng.random_bool(0.5)),
            Fault::Restart => return self.restart(now, host),
            Fault::Terms => {
                // Who falls silent just then has a lease of the former ones.
                if self.faults.has(Fault::Pause) {
                    let (soon, silence) = (self.millis(0, 80), self.millis(3_000, 5_000));
                    let pause = Blow::Pause(Who::Host(host), silence);
                    self.add(now + soon, pause);
                }
                Blow::Terms(LEASES[self.rng.random_range(0..LEASES.len())])
            }
            Fault::Weigh => Blow::Weigh(host, self.weight()),
        };
        self.add(now, blow);
    }

    fn reboot(&mut self, now: Duration, host: usize) {
        if self.rng.random_bool(0.8) {
            let after = self.millis(200, 5_000);
            return self.add(now, Blow::Reboot(host, after));
        }
        let off = now + self.millis(50, 700);
        for host in 0..self.hosts {
            if self.faults.has(Fault::Stall) {
                self.add(now, Blow::Stall(Who::Host(host), Duration::from_secs(1)));
            }
            let after = self.millis(200, 2_000);
            self.add(off, Blow::Reboot(host, after));
        }
    }

    fn one_or_leader(&mut self, host: usize) -> Who {
        match self.rng.random_bool(0.25) {
            true => Who::Leader,
            false => Who::Host(host),
        }
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

    fn crash(&mut self, now: Duration, host: usize) {
        if self.newcomer_falls_silent() {
            let after = self.millis(50, 400);
            self.add(now, Blow::Crash(Who::Host(host), after));
            return self.newcomer(now + after, host);
        }
        let (who, after) = (self.one_or_leader(host), self.millis(50, 5_000));
        self.add(now, Blow::Crash(who, after));
        if self.faults.has(Fault::OneWay) && self.rng.random_bool(0.5) {
            let answers = (0..self.hosts).filter(|other| *other != host);
            let cut = answers.map(|other| (other, host)).collect();
            let soon = now + after + self.millis(0, 900);
            let blow = Blow::Cut(cut, self.silence());
            self.add(soon, blow);
        }
    }

    fn restart(&mut self, now: Duration, host: usize) {
        if self.newcomer_falls_silent() {
            // What its former run had is kept for it: it owns that before it has a lease.
            let after = self.millis(50, 400);
            self.add(now, Blow::Restart(host, after));
            return self.newcomer(now + after, host);
        }
        let after = self.millis(50, 6_000);
        self.add(now, Blow::Restart(host, after));
    }

    /// A run that has just begun, and may have joined without a grant, is the most delicate.
    fn newcomer_falls_silent(&mut self) -> bool {
        self.faults.has(Fault::Pause) && self.rng.random_bool(0.5)
    }

    /// The next run falls silent until a leader gives it up, and that leader may not live for long.
    fn newcomer(&mut self, now: Duration, host: usize) {
        let ends = self.rng.random_bool(0.6);
        let silence = Silence {
            host,
            goes_on: self.soon(),
            leader_ends: ends.then(|| self.soon()),
            lags: self.faults.has(Fault::Lag),
        };
        self.add(now, Blow::Silence(silence));
        // Nothing else, or no leader would last until then.
        self.next = now + TERMS.silence_max() + Duration::from_secs(1);
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

    /// Never nothing: a node that may hold nothing is like one that drains, and there must be others.
    fn weight(&mut self) -> Weight {
        let least = u32::from(Weight::WITNESS) + 1;
        let weight = self.rng.random_range(least..=Weight::MAX.into());
        Weight::try_from(weight).expect("it is within the range")
    }

    /// About when a decision is agreed on, or somewhat later.
    fn soon(&mut self) -> Duration {
        let most = if self.rng.random_bool(0.5) { 60 } else { 300 };
        self.millis(0, most)
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(least..most))
    }
}

/// Leases that are safe, the usual ones among them.
const LEASES: [(u64, u64); 3] = [(2_200, 400), (3_000, 500), (4_500, 500)];

/// Nothing goes wrong before the cluster stands.
const QUIET: Duration = Duration::from_secs(2);
