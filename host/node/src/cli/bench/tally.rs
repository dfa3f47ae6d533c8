//! What is counted while a bench runs: times of what succeeded, and failures by kind.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};

use comfy_table::Cell;
use hdrhistogram::Histogram;
use holdfast_model::api::ProblemKind;
use serde::Serialize;

use super::super::{human, output::Output};
use crate::client;

/// Times of one kind of request, and how it failed.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// In microseconds.
    times: Histogram<u64>,
    failures: BTreeMap<String, Failed>,
}

/// A kind of failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Failed {
    count: u64,
    /// What the first of them said.
    first: String,
}

/// A tally as it is told.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    /// How many succeeded.
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    /// Successes each second.
    pub(super) per_second: f64,
    /// None when nothing succeeded.
    latency_ms: Option<Latency>,
    failures: BTreeMap<String, Failed>,
}

#[derive(Debug, Serialize)]
struct Latency {
    min: f64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    #[serde(rename = "p99.9")]
    p999: f64,
    max: f64,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            times: Histogram::new_with_bounds(1, MICROS_MAX, 3)
                .expect("the bounds are constants that it takes"),
            failures: BTreeMap::new(),
        }
    }

    /// Counts what came of a request that took so long.
    pub(super) fn count<T>(&mut self, result: &Result<T, client::Error>, took: Duration) {
        let Err(error) = result else {
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.times.saturating_record(micros.max(1));
            return;
        };
        let failed = Failed {
            count: 1,
            first: error.to_string(),
        };
        self.fail(kind_of(error), failed);
    }

    /// Adds what another one counted.
    pub(super) fn add(&mut self, other: Self) {
        self.times
            .add(other.times)
            .expect("all of them have the same bounds");
        for (kind, failed) in other.failures {
            self.fail(kind, failed);
        }
    }

    fn fail(&mut self, kind: String, failed: Failed) {
        match self.failures.entry(kind) {
            Entry::Occupied(mut known) => known.get_mut().count += failed.count,
            Entry::Vacant(place) => drop(place.insert(failed)),
        }
    }

    /// What it comes to over so long.
    pub(super) fn told(self, over: Duration) -> Told {
        let times = &self.times;
        let ms = |micros: u64| micros as f64 / 1e3;
        let at = |quantile| ms(times.value_at_quantile(quantile));
        let latency = (!times.is_empty()).then(|| Latency {
            min: ms(times.min()),
            mean: times.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: ms(times.max()),
        });
        Told {
            succeeded: times.len(),
            failed: self.failures.values().map(|failed| failed.count).sum(),
            per_second: times.len() as f64 / over.as_secs_f64().max(f64::MIN_POSITIVE),
            latency_ms: latency,
            failures: self.failures,
        }
    }
}

/// A table with a row for each kind of request, and below it what failed.
pub(super) fn table(output: Output, rows: &[(&str, &Told)]) -> String {
    let columns = [
        "", ">OK", ">FAILED", ">OK/S", ">P50", ">P90", ">P99", ">P99.9", ">MAX",
    ];
    let cells = rows.iter().map(|(name, told)| {
        let mut row = vec![
            Cell::new(name),
            Cell::new(human::count(told.succeeded)),
            Cell::new(human::count(told.failed)),
            Cell::new(human::count(told.per_second.round() as u64)),
        ];
        let latency = told.latency_ms.as_ref();
        let times = latency.map(|l| [l.p50, l.p90, l.p99, l.p999, l.max].map(milliseconds));
        row.extend(times.unwrap_or([const { String::new() }; 5]).map(Cell::new));
        row
    });
    let mut text = output.table(&columns, cells);
    for (name, told) in rows {
        for (kind, Failed { count, first }) in &told.failures {
            let count = human::count(*count);
            text.push_str(&format!(
                "{name}: {count} failed ({kind}), the first with: {first}\n"
            ));
        }
    }
    text
}

fn milliseconds(ms: f64) -> String {
    match ms {
        ..10.0 => format!("{ms:.2} ms"),
        10.0..1_000.0 => format!("{ms:.0} ms"),
        _ => human::duration(Duration::from_secs_f64(ms / 1e3)),
    }
}

/// The kind of a failure: the node's own word for a problem, or what became of the connection.
fn kind_of(error: &client::Error) -> String {
    use client::Error;
    match error {
        Error::Problem(problem) if problem.kind == ProblemKind::Other => {
            format!("status-{}", problem.status)
        }
        Error::Problem(problem) => problem.kind.name().to_owned(),
        Error::Unreachable { .. } => "unreachable".to_owned(),
        Error::Broken { .. } => "broken-connection".to_owned(),
        Error::TimedOut { .. } => "no-answer".to_owned(),
        Error::Malformed { .. } => "malformed-answer".to_owned(),
        Error::InvalidServer { .. } | Error::InvalidToken | Error::InvalidHeader { .. } => {
            "not-sent".to_owned()
        }
    }
}

/// Longer times count as an hour.
const MICROS_MAX: u64 = 3_600_000_000;

#[cfg(test)]
mod tests {
    use holdfast_model::api::Problem;

    use super::*;

    fn problem(kind: ProblemKind, detail: &str) -> Result<(), client::Error> {
        Err(client::Error::Problem(Problem::new(kind, detail)))
    }

    fn tally() -> Tally {
        let (mut one, mut other) = (Tally::new(), Tally::new());
        for ms in 1..=99 {
            one.count(&Ok(()), Duration::from_millis(ms));
        }
        other.count(&Ok(()), Duration::from_secs(4));
        for detail in ["first", "second"] {
            other.count(&problem(ProblemKind::Trap, detail), Duration::ZERO);
        }
        one.count(&problem(ProblemKind::QueueFull, "full"), Duration::ZERO);
        one.count(&problem(ProblemKind::Trap, "earlier"), Duration::ZERO);
        one.add(other);
        one
    }

    #[test]
    fn times_and_failures_of_all_connections_are_added_up() {
        let told = tally().told(Duration::from_secs(10));
        assert_eq!((told.succeeded, told.failed), (100, 4));
        assert!((told.per_second - 10.0).abs() < 1e-9);
        let latency = told.latency_ms.unwrap();
        // Three digits are kept.
        let near = |value: f64, ms: f64| (value / ms - 1.0).abs() < 0.002;
        assert!(
            near(latency.min, 1.0) && near(latency.p50, 50.0),
            "{latency:?}"
        );
        assert!(
            near(latency.p99, 99.0) && near(latency.max, 4_000.0),
            "{latency:?}"
        );
        let trap = &told.failures["trap"];
        assert_eq!(
            (trap.count, trap.first.as_str()),
            (3, "The handler trapped: earlier")
        );
    }

    #[test]
    fn nothing_but_failures_has_no_latency() {
        let mut tally = Tally::new();
        tally.count(&problem(ProblemKind::Trap, "no"), Duration::ZERO);
        let told = tally.told(Duration::ZERO);
        assert!(told.latency_ms.is_none() && told.per_second.is_finite());
        let text = table(Output::plain(), &[("calls", &told)]);
        assert!(
            text.contains("calls: 1 failed (trap), the first with: The handler trapped: no"),
            "{text}"
        );
    }

    #[test]
    fn the_table_fits_80_columns() {
        let told = tally().told(Duration::from_millis(1));
        let text = table(Output::plain(), &[("until held", &told)]);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert!(text.contains("100,000") && text.contains("4.0 s"), "{text}");
    }

    #[test]
    fn longer_than_an_hour_counts_as_one() {
        let mut tally = Tally::new();
        tally.count(&Ok(()), Duration::from_secs(100_000));
        tally.count(&Ok(()), Duration::ZERO);
        let latency = tally.told(Duration::from_secs(1)).latency_ms.unwrap();
        assert!(
            (latency.max / 3_600_000.0 - 1.0).abs() < 0.002,
            "{latency:?}"
        );
    }
}
