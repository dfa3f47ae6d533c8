//! Judges what an observer saw: who held what, when, and whether that is as promised.
//!
//! Pure: events in, findings out. A resource is held by a process from the report of its `handle`
//! to the end of its `terminate`, or of the process. A `terminate` that the host cut off never
//! reports its end, so it counts as going on. While a process is stopped by a
//! signal it executes nothing, so it holds nothing; when it goes on it holds again what nobody
//! took meanwhile. A process that loses its lease tells nobody at that moment, only that it has begun anew a
//! little later: what it held had ended by then, and before somebody else held it unless it gave a
//! sign of life since.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// Identity of a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its module.
    pub module: String,
    /// Its id.
    pub id: String,
}

impl Key {
    /// The resource `id` of `module`.
    #[must_use]
    pub fn new(module: &str, id: &str) -> Self {
        Self {
            module: module.to_owned(),
            id: id.to_owned(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.module, self.id)
    }
}

/// Something that was seen, or done by the test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, since the observer began.
    pub at: Duration,
    /// What.
    pub fact: Fact,
}

/// What can be seen of processes and resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A process reported `handle`: it holds the resource from here.
    Handled {
        /// The resource.
        key: Key,
        /// The process.
        pid: u32,
        /// The fencing token it was given.
        token: u64,
        /// The number that the instance drew for itself.
        instance: u64,
        /// The number of the attempt it was given.
        attempt: u32,
    },
    /// A process reported that an instance has begun to work on a call.
    Called {
        /// The resource.
        key: Key,
        /// The process.
        pid: u32,
        /// The fencing token it was given.
        token: u64,
        /// The number that the instance drew for itself.
        instance: u64,
    },
    /// A process reported the beginning of `terminate`: it still holds the resource, but takes no
    /// more calls of it.
    Terminating {
        /// The resource.
        key: Key,
        /// The process.
        pid: u32,
        /// The fencing token it was given.
        token: u64,
        /// The number that the instance drew for itself.
        instance: u64,
    },
    /// A process reported the end of `terminate`: it no longer holds the resource.
    Terminated {
        /// The resource.
        key: Key,
        /// The process.
        pid: u32,
        /// The fencing token it was given.
        token: u64,
        /// The number that the instance drew for itself.
        instance: u64,
        /// The reason it was given.
        reason: String,
    },
    /// A process is dead, or as good as: it has been sent SIGKILL.
    Ended {
        /// The process.
        pid: u32,
    },
    /// A process has begun anew: what it held has ended, and it goes on.
    StartedAnew {
        /// The process.
        pid: u32,
    },
    /// A process was stopped (SIGSTOP).
    Paused {
        /// The process.
        pid: u32,
    },
    /// A stopped process goes on (SIGCONT).
    Resumed {
        /// The process.
        pid: u32,
    },
}

/// A process that holds a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The process.
    pub pid: u32,
    /// Its fencing token.
    pub token: u64,
    /// Since when.
    pub since: Duration,
    /// Since when it is ending, if it is.
    pub ending: Option<Duration>,
}

/// Two processes held one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The resource.
    pub key: Key,
    /// Who held it.
    pub first: Holding,
    /// Who held it too.
    pub second: Holding,
}

/// A change of owner without a larger token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regression {
    /// The resource.
    pub key: Key,
    /// The largest token before.
    pub before: u64,
    /// The new owner.
    pub after: Holding,
}

/// A time in which nobody served a resource that was held before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The resource.
    pub key: Key,
    /// When its `terminate` began, or its process ended.
    pub from: Duration,
    /// When it was held again.
    pub to: Duration,
}

/// Gaps in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GapStatistics {
    /// How many there were.
    pub count: usize,
    /// Half of them were shorter.
    pub median: Duration,
    /// The longest.
    pub worst: Duration,
}

/// What the checker found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Who holds what at the end. More than one holder only where there was an overlap.
    pub holders: BTreeMap<Key, Vec<Holding>>,
    /// Two at a time.
    pub overlaps: Vec<Overlap>,
    /// Changes of owner that a third party could not tell from an old owner.
    pub regressions: Vec<Regression>,
    /// `terminate` of what the process did not hold.
    pub strays: Vec<(Key, u32)>,
    /// `handle` again in the same process before `terminate` had ended: the instance was lost in
    /// between, or there are two.
    pub restarts: Vec<(Key, u32)>,
    /// Every time in which a resource was not served, except after it was removed.
    pub gaps: Vec<Gap>,
}

/// Judges events, which must be in the order of their times.
#[must_use]
pub fn check(events: &[Event]) -> Findings {
    let mut judge = Judge::default();
    for event in events {
        judge.see(event);
    }
    let holders = judge.resources.into_iter();
    judge.findings.holders = holders
        .filter(|(_, resource)| !resource.holders.is_empty())
        .map(|(key, resource)| (key, resource.holders))
        .collect();
    judge.findings
}

impl Findings {
    /// Makes sure that nothing was held twice, by two processes or in one, and that tokens grew.
    ///
    /// # Panics
    /// With all that is wrong.
    #[track_caller]
    pub fn assert_undisturbed(&self) {
        self.assert_undisturbed_but_for(&[]);
    }

    /// The same, where the test itself makes instances of these resources fail.
    ///
    /// # Panics
    /// With all that is wrong.
    #[track_caller]
    pub fn assert_undisturbed_but_for(&self, failing: &[Key]) {
        let mut restarts = self.restarts.iter();
        let unexpected = restarts.find(|(key, _)| !failing.contains(key));
        assert!(
            unexpected.is_none(),
            "an instance was lost without a terminate, or there were two in one process: {:?}",
            self.restarts
        );
        assert!(self.overlaps.is_empty(), "overlaps: {:#?}", self.overlaps);
        assert!(
            self.regressions.is_empty(),
            "tokens did not grow: {:#?}",
            self.regressions
        );
        assert!(
            self.strays.is_empty(),
            "terminated by processes that did not hold them: {:?}",
            self.strays
        );
    }

    /// Which of these nobody holds at the end.
    pub fn lost<'a>(&self, expected: impl IntoIterator<Item = &'a Key>) -> Vec<&'a Key> {
        let expected = expected.into_iter();
        expected
            .filter(|key| !self.holders.contains_key(*key))
            .collect()
    }

    /// Whether exactly these resources of a module are held, each once.
    ///
    /// # Errors
    /// What is different, in words.
    pub fn holds_exactly(&self, module: &str, expected: &BTreeSet<Key>) -> Result<(), String> {
        let lost = self.lost(expected);
        let held = || self.holders.iter().filter(|(key, _)| key.module == module);
        let strange = held().filter(|(key, _)| !expected.contains(key));
        let twice = held().filter(|(_, holders)| holders.len() > 1);
        let ending = held().filter(|(_, holders)| holders.iter().any(|h| h.ending.is_some()));
        let (strange, twice, ending) = (strange.count(), twice.count(), ending.count());
        if lost.is_empty() && strange + twice + ending == 0 {
            return Ok(());
        }
        let some: Vec<String> = lost.iter().take(5).map(|key| key.to_string()).collect();
        Err(format!(
            "{} are held by nobody ({}), {strange} should not be held, {twice} are held twice, \
             {ending} are ending",
            lost.len(),
            some.join(", ")
        ))
    }

    /// The only holder of a resource.
    #[must_use]
    pub fn holder(&self, module: &str, id: &str) -> Option<Holding> {
        match self.holders.get(&Key::new(module, id))?.as_slice() {
            [only] => Some(*only),
            _ => None,
        }
    }

    /// How many resources of a module each process holds.
    #[must_use]
    pub fn spread(&self, module: &str) -> BTreeMap<u32, usize> {
        let mut spread = BTreeMap::new();
        for (key, holders) in &self.holders {
            for holding in holders.iter().filter(|_| key.module == module) {
                *spread.entry(holding.pid).or_default() += 1;
            }
        }
        spread
    }

    /// Statistics of the gaps that ended at or after `from`; none without any.
    #[must_use]
    pub fn gaps_since(&self, from: Duration) -> Option<GapStatistics> {
        let gaps = self.gaps.iter().filter(|gap| gap.to >= from);
        let mut lengths: Vec<Duration> = gaps.map(|gap| gap.to - gap.from).collect();
        lengths.sort_unstable();
        Some(GapStatistics {
            count: lengths.len(),
            median: *lengths.get(lengths.len() / 2)?,
            worst: *lengths.last()?,
        })
    }
}

impl fmt::Display for GapStatistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} gaps: median {:.0} ms, worst {:.0} ms",
            self.count,
            self.median.as_secs_f64() * 1e3,
            self.worst.as_secs_f64() * 1e3
        )
    }
}

#[derive(Default)]
struct Judge {
    resources: BTreeMap<Key, Resource>,
    ended: BTreeSet<u32>,
    paused: BTreeSet<u32>,
    /// When each process was last seen to do something for a resource.
    signs: BTreeMap<(Key, u32), Duration>,
    findings: Findings,
}

#[derive(Default)]
struct Resource {
    holders: Vec<Holding>,
    /// What stopped processes held.
    suspended: Vec<Holding>,
    /// The last owner.
    last: Option<Holding>,
    /// The largest token seen.
    token: u64,
    /// Since when nobody holds it, once somebody did.
    free_since: Option<Duration>,
}

impl Judge {
    fn see(&mut self, event: &Event) {
        let at = event.at;
        match &event.fact {
            Fact::Handled {
                key, pid, token, ..
            } => self.handled(
                key,
                Holding {
                    pid: *pid,
                    token: *token,
                    since: at,
                    ending: None,
                },
            ),
            // Says nothing about who began or ended to hold.
            Fact::Called { key, pid, .. } => self.sign(key, *pid, at),
            Fact::Terminating { key, pid, .. } => self.terminating(key, *pid, at),
            Fact::Terminated {
                key, pid, reason, ..
            } => self.terminated(key, *pid, reason, at),
            Fact::Ended { pid } => {
                self.ended.insert(*pid);
                self.let_go(*pid, at);
            }
            Fact::StartedAnew { pid } => {
                self.lost_its_lease(*pid, at);
                self.let_go(*pid, at);
            }
            Fact::Paused { pid } => {
                self.paused.insert(*pid);
                for resource in self.resources.values_mut() {
                    let holding = resource.release(*pid, at);
                    resource.suspended.extend(holding);
                }
            }
            Fact::Resumed { pid } => {
                self.paused.remove(pid);
                for (key, resource) in &mut self.resources {
                    let gap = resource.resume(key, *pid, at);
                    self.findings.gaps.extend(gap);
                }
            }
        }
    }

    fn handled(&mut self, key: &Key, holding: Holding) {
        if self.ended.contains(&holding.pid) {
            // Sent by a process that never saw the answer: `handle` did not return.
            return;
        }
        self.sign(key, holding.pid, holding.since);
        let resource = self.resources.entry(key.clone()).or_default();
        let same_owner = resource.last.is_some_and(|last| last.pid == holding.pid);
        if let Some(last) = resource.last
            && (holding.token < resource.token || !same_owner && holding.token == resource.token)
        {
            self.findings.regressions.push(Regression {
                key: key.clone(),
                before: resource.token.max(last.token),
                after: holding,
            });
        }
        if resource.release(holding.pid, holding.since).is_some() {
            self.findings.restarts.push((key.clone(), holding.pid));
        }
        for first in &resource.holders {
            self.findings.overlaps.push(Overlap {
                key: key.clone(),
                first: *first,
                second: holding,
            });
        }
        resource.token = resource.token.max(holding.token);
        resource.last = Some(holding);
        if self.paused.contains(&holding.pid) {
            resource.suspended.push(holding);
        } else {
            let gap = resource.hold(key, holding, holding.since);
            self.findings.gaps.extend(gap);
        }
    }

    fn sign(&mut self, key: &Key, pid: u32, at: Duration) {
        self.signs.insert((key.clone(), pid), at);
    }

    /// What others took from the process lately, and it did nothing for since, it held no more by then.
    fn lost_its_lease(&mut self, pid: u32, at: Duration) {
        let signs = &self.signs;
        self.findings.overlaps.retain(|overlap| {
            let taken = overlap.second.since;
            let sign = signs.get(&(overlap.key.clone(), pid));
            let silent = sign.is_none_or(|sign| *sign <= taken);
            overlap.first.pid != pid || !silent || at > taken + TOLD_WITHIN
        });
    }

    /// Nothing that the process held goes on.
    fn let_go(&mut self, pid: u32, at: Duration) {
        for resource in self.resources.values_mut() {
            resource.suspended.retain(|holding| holding.pid != pid);
            resource.release(pid, at);
        }
    }

    fn terminating(&mut self, key: &Key, pid: u32, at: Duration) {
        self.sign(key, pid, at);
        let resource = self.resources.entry(key.clone()).or_default();
        let all = resource.holders.iter_mut().chain(&mut resource.suspended);
        match all.into_iter().find(|holding| holding.pid == pid) {
            Some(holding) => holding.ending = Some(at),
            None if self.ended.contains(&pid) => {}
            None => self.findings.strays.push((key.clone(), pid)),
        }
    }

    fn terminated(&mut self, key: &Key, pid: u32, reason: &str, at: Duration) {
        if self.ended.contains(&pid) {
            return;
        }
        self.sign(key, pid, at);
        let resource = self.resources.entry(key.clone()).or_default();
        let suspended = resource.suspended.len();
        resource.suspended.retain(|holding| holding.pid != pid);
        let was_suspended = resource.suspended.len() < suspended;
        if resource.release(pid, at).is_none() && !was_suspended {
            self.findings.strays.push((key.clone(), pid));
        }
        if reason == "removed" {
            resource.free_since = None;
        }
    }
}

impl Resource {
    fn hold(&mut self, key: &Key, holding: Holding, at: Duration) -> Option<Gap> {
        self.holders.push(holding);
        self.free_since.take().map(|from| Gap {
            key: key.clone(),
            from,
            to: at,
        })
    }

    fn release(&mut self, pid: u32, at: Duration) -> Option<Holding> {
        let index = self.holders.iter().position(|h| h.pid == pid)?;
        let holding = self.holders.remove(index);
        if self.holders.is_empty() {
            self.free_since = Some(holding.ending.unwrap_or(at));
        }
        Some(holding)
    }

    fn resume(&mut self, key: &Key, pid: u32, at: Duration) -> Option<Gap> {
        let index = self.suspended.iter().position(|h| h.pid == pid)?;
        let holding = self.suspended.remove(index);
        let still_its_own = holding.token == self.token && self.holders.is_empty();
        still_its_own.then(|| self.hold(key, holding, at)).flatten()
    }
}

/// How long after the end of its lease a process says at the latest that it has begun anew.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
