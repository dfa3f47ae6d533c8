//! Judges whether a connection may go on, by what it did since it was looked at last.
//!
//! Pure: time arrives as `now`.

use std::time::{Duration, Instant};

use super::state::{Phase, Snapshot, Verdict};
use crate::config::HttpOptions;

/// What was seen of a connection.
#[derive(Debug)]
pub(super) struct Patience {
    looked: Instant,
    /// The request, whether it is waited for, and whether a part of its head has come.
    doing: (u64, bool, bool),
    since: Instant,
    body: Option<Progress>,
    answer: Option<Progress>,
}

impl Patience {
    /// Of a connection that has just been made.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            looked: now,
            doing: (0, true, false),
            since: now,
            body: None,
            answer: None,
        }
    }

    /// Since when it has been doing the same.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// What is to become of a connection that is doing this.
    pub(super) fn look(
        &mut self,
        now: Instant,
        seen: &Snapshot,
        options: &HttpOptions,
    ) -> Option<Verdict> {
        let passed = now.saturating_duration_since(self.looked);
        self.looked = now;
        let waiting = seen.phase == Phase::Waiting;
        let doing = (seen.begun, waiting, seen.in_head);
        if doing != self.doing {
            if doing.0 != self.doing.0 {
                self.body = None;
            }
            self.doing = doing;
            self.since = now;
        }
        if seen.blocked {
            let answer = self
                .answer
                .get_or_insert_with(|| Progress::new(now, seen.written));
            if answer.is_too_slow(now, seen.written, options) {
                return Some(Verdict::SlowReader);
            }
        } else {
            self.answer = None;
        }
        let lasted = now.saturating_duration_since(self.since);
        match seen.phase {
            Phase::Waiting if seen.in_head => {
                (lasted >= options.head_timeout).then_some(Verdict::SlowHead)
            }
            // What is still being written is being answered.
            Phase::Waiting if seen.blocked => None,
            Phase::Waiting => (lasted >= options.idle_timeout).then_some(Verdict::Idle),
            Phase::Reading => {
                let body = self
                    .body
                    .get_or_insert_with(|| Progress::new(now, seen.read));
                body.is_too_slow(now, seen.read, options)
                    .then_some(Verdict::SlowBody)
            }
            Phase::Answering => {
                // The client is not waited for now.
                if let Some(body) = &mut self.body {
                    body.pause(passed);
                }
                None
            }
            // It has a timer of its own.
            Phase::Lingering => None,
        }
    }
}

/// How fast bytes come.
#[derive(Debug)]
struct Progress {
    since: Instant,
    from: u64,
    last: (Instant, u64),
}

impl Progress {
    fn new(now: Instant, bytes: u64) -> Self {
        Self {
            since: now,
            from: bytes,
            last: (now, bytes),
        }
    }

    /// Time that does not count.
    fn pause(&mut self, passed: Duration) {
        self.since += passed;
        self.last.0 += passed;
    }

    fn is_too_slow(&mut self, now: Instant, bytes: u64, options: &HttpOptions) -> bool {
        if bytes != self.last.1 {
            self.last = (now, bytes);
        }
        let silent = now.saturating_duration_since(self.last.0);
        let lasted = now.saturating_duration_since(self.since);
        let counted = lasted.saturating_sub(options.stall_timeout);
        let wanted = counted.as_millis() * u128::from(options.rate_min) / 1000;
        silent >= options.stall_timeout || u128::from(bytes - self.from) < wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: HttpOptions = HttpOptions {
        connections_max: 16,
        connections_per_client_max: 16,
        head_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(75),
        stall_timeout: Duration::from_secs(30),
        rate_min: 1_000,
        memory_max: 0,
    };

    const IDLE: Snapshot = Snapshot {
        phase: Phase::Waiting,
        begun: 0,
        read: 0,
        written: 0,
        blocked: false,
        in_head: false,
    };

    /// The second in which the connection is given up, when it does `at` in each second.
    fn given_up(at: impl Fn(u64) -> Snapshot) -> Option<(u64, Verdict)> {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        (0..1_000).find_map(|second| {
            let now = start + Duration::from_secs(second);
            let verdict = patience.look(now, &at(second), &OPTIONS)?;
            Some((second, verdict))
        })
    }

    #[test]
    fn who_asks_nothing_is_idle_and_who_asks_now_and_then_is_not() {
        assert_eq!(given_up(|_| IDLE), Some((75, Verdict::Idle)));
        let now_and_then = |second| Snapshot {
            begun: second / 70,
            ..IDLE
        };
        assert_eq!(given_up(now_and_then), None);
        let answered = Snapshot {
            phase: Phase::Answering,
            ..IDLE
        };
        assert_eq!(given_up(|_| answered), None);
    }

    #[test]
    fn a_head_has_a_time_from_its_first_byte_however_it_drips() {
        let drips = |second| Snapshot {
            read: second,
            in_head: second >= 5,
            ..IDLE
        };
        assert_eq!(given_up(drips), Some((15, Verdict::SlowHead)));
    }

    #[test]
    fn a_body_that_stalls_or_drips_is_given_up_and_one_that_flows_is_not() {
        let reads = |bytes: u64| Snapshot {
            phase: Phase::Reading,
            begun: 1,
            read: bytes,
            ..IDLE
        };
        assert_eq!(given_up(|_| reads(7)), Some((30, Verdict::SlowBody)));
        // After a fast beginning too.
        let stalls = |second: u64| reads(second.min(10) << 30);
        assert_eq!(given_up(stalls), Some((40, Verdict::SlowBody)));
        let drips = |second| reads(second * 10);
        let (second, verdict) = given_up(drips).unwrap();
        assert_eq!(verdict, Verdict::SlowBody);
        assert!((31..=32).contains(&second), "{second}");
        assert_eq!(given_up(|second| reads(second * 1_000)), None);
    }

    #[test]
    fn time_in_which_the_node_does_not_read_is_not_the_clients() {
        let by_turns = |second: u64| Snapshot {
            phase: match second % 4 {
                0 => Phase::Reading,
                _ => Phase::Answering,
            },
            begun: 1,
            read: second / 4 * 1_000,
            ..IDLE
        };
        assert_eq!(given_up(by_turns), None);
        // But a drip does not begin anew with each pause.
        let drips = |second| Snapshot {
            read: second,
            ..by_turns(second)
        };
        let (_, verdict) = given_up(drips).unwrap();
        assert_eq!(verdict, Verdict::SlowBody);
    }

    #[test]
    fn who_does_not_read_the_answer_is_given_up() {
        let blocked = |written| Snapshot {
            phase: Phase::Answering,
            blocked: true,
            written,
            ..IDLE
        };
        assert_eq!(given_up(|_| blocked(7)), Some((30, Verdict::SlowReader)));
        assert!(given_up(|second| blocked(second * 10)).is_some());
        assert_eq!(given_up(|second| blocked(second * 1_000)), None);
        let at_times = |second| Snapshot {
            blocked: second % 20 != 0,
            ..blocked(7)
        };
        assert_eq!(given_up(at_times), None);
    }
}
