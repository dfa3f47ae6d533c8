//! Judges a cluster in which owners fall silent: did anybody act for a resource that another held?
//!
//! Pure: events and answers in, findings out. A holder that is cut off from the others ends without a
//! word, so nobody outside can say when it did; but it must never act again once another holds. So
//! a resource has a line of holders, and each report of `handle` begins the next one, which must have
//! a larger token (or be a new instance in the same process). From then on every sign of life of an
//! earlier one is an overlap: a call that it works on, the beginning or the end of its `terminate`,
//! an answer to a call that began later.
//!
//! Allowed is what docs/GUARANTEES.md excepts, bytes that had passed the check of the lease: of a
//! process that was stopped from before the next holder began, one report of each instance, which
//! works on one call at a time, just after it went on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use crate::checker::{Event, Fact, Key};

/// What is known of all resources. Feed it events in the order of their times, and answers after
/// all events that are older than their end.
#[derive(Debug, Default)]
pub struct Ledger {
    lines: BTreeMap<Key, Line>,
    processes: BTreeMap<u32, Process>,
    /// What must not have been.
    pub wrong: Vec<Wrong>,
    /// What happened, in numbers.
    pub counts: Counts,
}

/// What happened, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Changes of holder after the end of a `terminate`.
    pub handovers: usize,
    /// Changes of holder after one that died or fell silent.
    pub takeovers: usize,
    /// New instances in the same process under the same token.
    pub restarts: usize,
    /// Calls that a holder reported.
    pub calls: usize,
    /// Bytes that had passed the check of the lease before their process was stopped.
    pub past_check: usize,
}

/// One instance, from its report of `handle`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// Its fencing token.
    pub token: u64,
    /// The number that it drew for itself.
    pub instance: u64,
    /// When it reported `handle`.
    pub since: Duration,
    /// When it reported the beginning of `terminate`.
    pub ending: Option<Duration>,
    /// When it reported the end of `terminate`.
    pub ended: Option<Duration>,
    /// Whether a report of it was late and allowed.
    excused: bool,
}

/// What an instance was seen to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It reported `handle`.
    Handled,
    /// It reported a call.
    Called,
    /// It reported the beginning of `terminate`.
    Terminating,
    /// It reported the end of `terminate`.
    Terminated,
    /// It answered a call that had begun then.
    Answered {
        /// When the call began.
        began: Duration,
    },
}

/// Something that must not have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The resource.
    pub key: Key,
    /// When it was seen.
    pub at: Duration,
    /// What was seen.
    pub deed: Deed,
    /// Of which instance of which process under which token.
    pub by: (u64, Option<u32>, u64),
    /// What is wrong with it.
    pub why: Why,
    /// All holders of the resource until then.
    pub holders: Vec<Holder>,
}

/// What is wrong with a deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Another holds the resource already.
    Overlap,
    /// Another process has held it under this token.
    SharedToken,
    /// It never reported `handle`, or under another token or from another process.
    Stranger,
    /// Its `terminate` has begun, or ended, before.
    AfterItsEnd,
}

#[derive(Debug, Default)]
struct Line {
    /// In the order of their tokens, and of their `handle` under the same one.
    holders: Vec<Holder>,
    /// The latest beginning of a call that was answered.
    answered: Option<Duration>,
}

#[derive(Debug, Default)]
struct Process {
    ended: bool,
    stopped: Option<Duration>,
    /// The last time in which it was stopped.
    pause: Option<(Duration, Duration)>,
}

/// A successful answer to a call.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The resource that was called.
    pub key: Key,
    /// The token in the answer.
    pub token: u64,
    /// The instance in the answer.
    pub instance: u64,
    /// Just before the call was sent.
    pub began: Duration,
    /// When the answer had come.
    pub ended: Duration,
}

impl Ledger {
    /// Takes the next event.
    pub fn see(&mut self, event: &Event) {
        let at = event.at;
        match &event.fact {
            Fact::Handled {
                key,
                pid,
                token,
                instance,
                ..
            } => self.handled(key, (*instance, *pid, *token), at),
            Fact::Called {
                key,
                pid,
                token,
                instance,
            } => self.did(key, (*instance, *pid, *token), Deed::Called, at),
            Fact::Terminating {
                key,
                pid,
                token,
                instance,
            } => self.did(key, (*instance, *pid, *token), Deed::Terminating, at),
            Fact::Terminated {
                key,
                pid,
                token,
                instance,
                ..
            } => self.did(key, (*instance, *pid, *token), Deed::Terminated, at),
            Fact::Ended { pid } => self.processes.entry(*pid).or_default().ended = true,
            Fact::Paused { pid } => self.processes.entry(*pid).or_default().stopped = Some(at),
            Fact::Resumed { pid } => {
                let process = self.processes.entry(*pid).or_default();
                process.pause = process.stopped.take().map(|from| (from, at));
            }
            // Only for tests that watch a node from inside. Nothing is taken on its word here.
            Fact::StartedAnew { .. } => {}
        }
    }

    /// Takes the answer to a call.
    pub fn answered(&mut self, answer: &Answered) {
        let Answered {
            key,
            token,
            instance,
            began,
            ended,
        } = answer;
        let line = self.lines.entry(key.clone()).or_default();
        line.answered = line.answered.max(Some(*began));
        let place = line.place(*instance);
        let why = match place.map(|place| (&line.holders[place], line.holders.get(place + 1))) {
            Some((holder, next)) if holder.token == *token => next
                .is_some_and(|next| next.since < *began)
                .then_some(Why::Overlap),
            _ => Some(Why::Stranger),
        };
        if let Some(why) = why {
            let deed = Deed::Answered { began: *began };
            self.accuse(key, (*instance, None, *token), deed, *ended, why);
        }
    }

    /// Which of these were not answered to any call that began after `since`.
    #[must_use]
    pub fn unanswered(&self, expected: &BTreeSet<Key>, since: Duration) -> Vec<Key> {
        let answered = |key: &Key| self.lines.get(key).and_then(|line| line.answered);
        let all = expected.iter();
        all.filter(|key| answered(key) < Some(since))
            .cloned()
            .collect()
    }

    fn handled(&mut self, key: &Key, by: (u64, u32, u64), at: Duration) {
        let (instance, pid, token) = by;
        let process = self.processes.entry(pid).or_default();
        if process.ended {
            // Its process was killed between sending and now: its `handle` never returned.
            return;
        }
        let line = self.lines.entry(key.clone()).or_default();
        if let Some(last) = line.holders.last_mut() {
            if token < last.token {
                if process.sent_before_it_was_stopped(last.since, at) {
                    self.counts.past_check += 1;
                } else {
                    let by = (instance, Some(pid), token);
                    self.accuse(key, by, Deed::Handled, at, Why::Overlap);
                }
                return;
            }
            if token == last.token && pid != last.pid {
                let by = (instance, Some(pid), token);
                self.accuse(key, by, Deed::Handled, at, Why::SharedToken);
                return;
            }
            *match (token == last.token, last.ended.is_some()) {
                (true, _) => &mut self.counts.restarts,
                (false, true) => &mut self.counts.handovers,
                (false, false) => &mut self.counts.takeovers,
            } += 1;
        }
        line.holders.push(Holder {
            pid,
            token,
            instance,
            since: at,
            ending: None,
            ended: None,
            excused: false,
        });
    }

    fn did(&mut self, key: &Key, by: (u64, u32, u64), deed: Deed, at: Duration) {
        let (instance, pid, token) = by;
        let process = self.processes.entry(pid).or_default();
        if process.ended {
            return;
        }
        if deed == Deed::Called {
            self.counts.calls += 1;
        }
        let line = self.lines.entry(key.clone()).or_default();
        let place = line.place(instance);
        let next = place.and_then(|place| line.holders.get(place + 1));
        let next = next.map(|next| next.since);
        let holder = place.map(|place| &mut line.holders[place]);
        let why = match holder.filter(|holder| holder.pid == pid && holder.token == token) {
            None => Why::Stranger,
            Some(holder) => match next {
                Some(next) if !holder.excused && process.sent_before_it_was_stopped(next, at) => {
                    holder.excused = true;
                    self.counts.past_check += 1;
                    return;
                }
                Some(_) => Why::Overlap,
                None if holder.ended.is_some()
                    || holder.ending.is_some() && deed != Deed::Terminated =>
                {
                    Why::AfterItsEnd
                }
                None => {
                    match deed {
                        Deed::Terminating => holder.ending = Some(at),
                        Deed::Terminated => holder.ended = Some(at),
                        Deed::Handled | Deed::Called | Deed::Answered { .. } => {}
                    }
                    return;
                }
            },
        };
        self.accuse(key, (instance, Some(pid), token), deed, at, why);
    }

    fn accuse(
        &mut self,
        key: &Key,
        by: (u64, Option<u32>, u64),
        deed: Deed,
        at: Duration,
        why: Why,
    ) {
        let line = self.lines.entry(key.clone()).or_default();
        let holders = line.holders.iter().rev().take(4).rev().cloned().collect();
        self.wrong.push(Wrong {
            key: key.clone(),
            at,
            deed,
            by,
            why,
            holders,
        });
    }
}

impl Line {
    fn place(&self, instance: u64) -> Option<usize> {
        let all = self.holders.iter();
        // From the end: it is nearly always the last.
        all.rev()
            .position(|holder| holder.instance == instance)
            .map(|back| self.holders.len() - 1 - back)
    }
}

impl Process {
    /// Whether what arrives now may have been on its way since before the next holder began.
    fn sent_before_it_was_stopped(&self, next: Duration, now: Duration) -> bool {
        self.pause
            .is_some_and(|(from, to)| from <= next && next <= to && now <= to + PAST_CHECK)
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |at: Duration| at.as_secs_f64();
        let (instance, pid, token) = self.by;
        writeln!(
            f,
            "{:?} of {}: {:?} at {:.3} s by instance {instance:x} under token {token}, pid {pid:?}; \
             its holders until then:",
            self.why,
            self.key,
            self.deed,
            seconds(self.at),
        )?;
        for holder in &self.holders {
            writeln!(
                f,
                "  {:.3} s: pid {}, token {}, instance {:x}, terminate {:?} to {:?}",
                seconds(holder.since),
                holder.pid,
                holder.token,
                holder.instance,
                holder.ending.map(seconds),
                holder.ended.map(seconds),
            )?;
        }
        Ok(())
    }
}

/// How long after it goes on the bytes of a process that was stopped may arrive: the time in which a
/// loaded machine gives each of its threads a turn.
const PAST_CHECK: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
