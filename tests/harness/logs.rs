//! An observer that reads the nodes' logs: the probe writes its reports there when its config has
//! `report_log`.
//!
//! A report over HTTP costs a node more than the handler that makes it, so that thousands at once
//! measure the reporting. A line in the log costs microseconds. Times are those at which the nodes
//! logged, by the clock that all processes of a machine share; what is done to processes is taken
//! from the cluster's [`Collector`](crate::Collector).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    time::{Duration, SystemTime},
};

use crate::{
    Cluster,
    checker::{self, Event, Fact, Findings, Key},
    cluster::Run,
    report::Report,
    wait::wait_until,
};

/// An observer of one cluster, by the logs of its nodes.
#[derive(Debug)]
pub struct Logs {
    /// When the collector began, by the clock of the logs.
    epoch: SystemTime,
    /// How far each log was read.
    read: Vec<u64>,
    events: Vec<Event>,
    /// Who holds each resource, if anybody does, and the largest token that was read of it.
    holders: BTreeMap<Key, (u64, Option<u32>)>,
    /// How many resources each process holds.
    held: BTreeMap<u32, usize>,
}

impl Logs {
    /// Follows the logs of this cluster.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Self {
        Self::since(SystemTime::now() - cluster.collector().now())
    }

    fn since(epoch: SystemTime) -> Self {
        Self {
            epoch,
            read: Vec::new(),
            events: Vec::new(),
            holders: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }

    /// Reads what was logged since the last time. Says whether there was any report.
    ///
    /// # Panics
    /// When a log cannot be read, or has a report in it that is none.
    pub fn read(&mut self, cluster: &Cluster) -> bool {
        let known = self.events.len();
        for node in 0..cluster.nodes() {
            if self.read.len() == node {
                self.read.push(0);
            }
            let from = self.read[node];
            let mut log = File::open(cluster.log_file(node)).expect("a node that ran has a log");
            log.seek(SeekFrom::Start(from)).expect("a log is a file");
            let mut bytes = Vec::new();
            log.read_to_end(&mut bytes).expect("a log can be read");
            // The last line may be half written.
            let whole = bytes.iter().rposition(|byte| *byte == b'\n');
            bytes.truncate(whole.map_or(0, |end| end + 1));
            let mut at = from;
            for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                let pid = || writer(cluster.runs(node), at);
                self.take(&String::from_utf8_lossy(line), pid);
                at += line.len() as u64;
            }
            self.read[node] = at;
        }
        self.events.len() > known
    }

    /// What the logs have told so far; in order for each node.
    #[must_use]
    pub fn told(&self) -> &[Event] {
        &self.events
    }

    /// Everything seen so far, in order.
    #[must_use]
    pub fn events(&self, cluster: &Cluster) -> Vec<Event> {
        let mut events = cluster.collector().events();
        events.extend(self.events.iter().cloned());
        events.sort_by_key(|event| event.at);
        events
    }

    /// Who holds a resource, as far as the logs were read.
    #[must_use]
    pub fn holder(&self, key: &Key) -> Option<u32> {
        self.holders.get(key).and_then(|(_, pid)| *pid)
    }

    /// How many resources each process holds, as far as the logs were read.
    #[must_use]
    pub fn spread(&self) -> &BTreeMap<u32, usize> {
        &self.held
    }

    /// Waits until each of these is held by one of these processes, and gives the checker's
    /// judgement of everything seen until then.
    ///
    /// # Panics
    /// When that is not so within `deadline`.
    #[track_caller]
    pub fn wait_held(
        &mut self,
        cluster: &Cluster,
        keys: &[Key],
        by: &BTreeSet<u32>,
        deadline: Duration,
    ) -> Findings {
        let what = format!("all {} resources are held", keys.len());
        wait_until(&what, deadline, || {
            self.read(cluster);
            // Counted first: looking at each one again and again would take from the nodes what is
            // measured here.
            let held: usize = by.iter().filter_map(|pid| self.held.get(pid)).sum();
            if held < keys.len() {
                return Err(format!("{} are not", keys.len() - held));
            }
            let is_held = |key: &&Key| self.holder(key).is_some_and(|pid| by.contains(&pid));
            match keys.iter().filter(|key| !is_held(key)).count() {
                0 => Ok(()),
                missing => Err(format!("{missing} are not")),
            }
        });
        self.findings(cluster)
    }

    /// Waits until nothing was reported for this long.
    ///
    /// # Panics
    /// When something goes on for minutes.
    #[track_caller]
    pub fn wait_quiet(&mut self, cluster: &Cluster, period: Duration) {
        let mut last = cluster.collector().now();
        wait_until("nothing is reported any more", QUIET_WITHIN, || {
            let now = cluster.collector().now();
            if self.read(cluster) {
                last = now;
            }
            let quiet = now.saturating_sub(last);
            (quiet >= period)
                .then_some(())
                .ok_or_else(|| format!("the last report is {quiet:?} old"))
        });
    }

    /// The checker's judgement of everything seen so far.
    #[must_use]
    pub fn findings(&self, cluster: &Cluster) -> Findings {
        checker::check(&self.events(cluster))
    }

    fn take(&mut self, line: &str, pid: impl Fn() -> u32) {
        let fact = match report(line) {
            Some(report) => report.fact(pid()),
            None if line.contains(STARTED_ANEW) => Fact::StartedAnew { pid: pid() },
            None => return,
        };
        match &fact {
            Fact::Handled {
                key, pid, token, ..
            } => self.passes(key, *token, Some(*pid)),
            Fact::Terminated {
                key, pid, token, ..
            } if self.holder(key) == Some(*pid) => self.passes(key, *token, None),
            Fact::StartedAnew { pid } => {
                for holding in self.holders.values_mut() {
                    if holding.1 == Some(*pid) {
                        holding.1 = None;
                    }
                }
                self.held.remove(pid);
            }
            _ => {}
        }
        let at = time(line).duration_since(self.epoch).unwrap_or_default();
        self.events.push(Event { at, fact });
    }

    /// A resource is held under this token by this process, or by nobody any more. Logs are read one
    /// after the other: what an older token says comes too late.
    fn passes(&mut self, key: &Key, token: u64, to: Option<u32>) {
        let holding = self.holders.entry(key.clone()).or_default();
        if token < holding.0 {
            return;
        }
        let (_, former) = std::mem::replace(holding, (token, to));
        if let Some(held) = former.and_then(|pid| self.held.get_mut(&pid)) {
            *held -= 1;
        }
        if let Some(pid) = to {
            *self.held.entry(pid).or_default() += 1;
        }
    }
}

/// The process that wrote the line at this place of a log.
fn writer(runs: &[Run], at: u64) -> u32 {
    let run = runs.iter().rev().find(|run| run.log_from <= at);
    run.expect("a log begins with a run").pid
}

/// The report in a line, if it is one of the probe.
fn report(line: &str) -> Option<Report> {
    let begin = line.find(REPORT)?;
    let mut values = serde_json::Deserializer::from_str(&line[begin..]).into_iter();
    let report = values.next()?;
    Some(report.unwrap_or_else(|error| panic!("a report in a log is damaged: {error}: {line}")))
}

/// When a line was logged.
fn time(line: &str) -> SystemTime {
    let text = line.split_whitespace().next().unwrap_or_default();
    let time = humantime::parse_rfc3339(text);
    time.unwrap_or_else(|error| panic!("a line of a log begins with its time: {error}: {line}"))
}

/// How the probe's reports begin.
const REPORT: &str = r#"{"event":""#;

/// What a node logs that begins a new run in the same process.
const STARTED_ANEW: &str = "starting anew";

const QUIET_WITHIN: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"2026-11-25T04:01:52.123456Z  INFO resource{module=m resource.id=a}: guest: {"event":"handle","module":"m","id":"a","token":7,"instance":3,"attempt":1} module=m resource.id=a source=Logging context="""#;

    #[test]
    fn a_report_is_found_in_the_line_of_a_log() {
        let expected = Fact::Handled {
            key: Key::new("m", "a"),
            pid: 5,
            token: 7,
            instance: 3,
            attempt: 1,
        };
        assert_eq!(report(LINE).map(|report| report.fact(5)), Some(expected));
        assert!(report("2026-11-25T04:01:52.123456Z  INFO holdfast: joined").is_none());
    }

    #[test]
    fn logs_that_are_read_one_after_the_other_make_one_story() {
        let line = |event: &str, token: u64| {
            LINE.replace("handle", event)
                .replace(r#""token":7"#, &format!(r#""token":{token}"#))
                .replace(r#","attempt""#, r#","reason":"moved","attempt""#)
        };
        let mut logs = Logs::since(SystemTime::UNIX_EPOCH);
        // From 1 to 2 and back to 1, the log of 1 is read first.
        for (event, token, pid) in [
            ("handle", 1, 1),
            ("terminated", 1, 1),
            ("handle", 3, 1),
            ("handle", 2, 2),
            ("terminated", 2, 2),
        ] {
            logs.take(&line(event, token), || pid);
        }
        assert_eq!(logs.holder(&Key::new("m", "a")), Some(1));
        assert_eq!(logs.spread().get(&1), Some(&1));
        assert_eq!(logs.spread().get(&2).copied().unwrap_or(0), 0);
    }

    #[test]
    fn a_line_is_dated_to_the_microsecond() {
        let at = time(LINE).duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(at.subsec_micros(), 123_456);
    }

    #[test]
    fn a_line_belongs_to_the_process_that_had_the_log_then() {
        let run = |log_from, pid| Run { log_from, pid };
        let runs = [run(0, 1), run(100, 2)];
        for (at, pid) in [(0, 1), (99, 1), (100, 2), (500, 2)] {
            assert_eq!(writer(&runs, at), pid, "at {at}");
        }
    }
}
