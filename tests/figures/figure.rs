//! One measured figure: its samples, what they are held against, and how it is shown.

use std::time::Duration;

use serde::Serialize;

/// A figure. Its samples are of several runs.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) what: String,
    /// How many resources there were.
    pub(crate) resources: usize,
    /// How many times it was done.
    pub(crate) runs: usize,
    unit: Unit,
    median: f64,
    p99: f64,
    worst: f64,
    samples: usize,
    aim: Aim,
    met: Option<bool>,
}

/// What a figure is to be, where anything is required: not above these.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Aim {
    pub(crate) median: Option<f64>,
    pub(crate) worst: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Unit {
    Ms,
    Count,
}

/// Times that were measured, on their way to be a figure.
#[derive(Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn extend(&mut self, times: impl IntoIterator<Item = Duration>) {
        self.0.extend(times);
    }

    /// The figure; none when nothing was measured.
    pub(crate) fn figure(
        self,
        what: impl Into<String>,
        resources: usize,
        runs: usize,
        aim: Aim,
    ) -> Option<Figure> {
        let samples = self.0.iter().map(|time| time.as_secs_f64() * 1e3);
        Figure::of(
            what.into(),
            resources,
            runs,
            Unit::Ms,
            samples.collect(),
            aim,
        )
    }
}

/// A figure of counts, one of each run.
pub(crate) fn counts(
    what: impl Into<String>,
    resources: usize,
    counts: &[usize],
    worst_max: Option<usize>,
) -> Option<Figure> {
    let float = |count: usize| u32::try_from(count).map_or(f64::INFINITY, f64::from);
    let aim = Aim {
        worst: worst_max.map(float),
        median: None,
    };
    let samples: Vec<f64> = counts.iter().map(|count| float(*count)).collect();
    Figure::of(
        what.into(),
        resources,
        counts.len(),
        Unit::Count,
        samples,
        aim,
    )
}

impl Aim {
    /// A median not above this many milliseconds.
    pub(crate) fn median(ms: f64) -> Self {
        Self {
            median: Some(ms),
            worst: None,
        }
    }

    /// No sample above this many milliseconds.
    pub(crate) fn worst(ms: f64) -> Self {
        Self {
            median: None,
            worst: Some(ms),
        }
    }
}

impl Figure {
    fn of(
        what: String,
        resources: usize,
        runs: usize,
        unit: Unit,
        mut samples: Vec<f64>,
        aim: Aim,
    ) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let last = samples.len().checked_sub(1)?;
        let (median, worst) = (samples[last / 2], samples[last]);
        let within = |value: f64, max: Option<f64>| max.map(|max| value <= max);
        let both = [within(median, aim.median), within(worst, aim.worst)];
        let met = both.into_iter().flatten().reduce(|a, b| a && b);
        Some(Self {
            what,
            resources,
            runs,
            unit,
            median,
            p99: samples[last * 99 / 100],
            worst,
            samples: samples.len(),
            aim,
            met,
        })
    }

    /// Its row in a table of [`HEAD`].
    pub(crate) fn row(&self) -> String {
        let many = self.samples > self.runs;
        let number = |value: f64| match self.unit {
            Unit::Ms if value < 100.0 => format!("{value:.1} ms"),
            Unit::Ms => format!("{value:.0} ms"),
            Unit::Count => format!("{value:.0}"),
        };
        let p99 = if many {
            number(self.p99)
        } else {
            String::new()
        };
        let limit = |name: &str, max: Option<f64>| max.map(|max| format!("{name} {}", number(max)));
        let limits = [
            limit("median", self.aim.median),
            limit("worst", self.aim.worst),
        ];
        let aim = limits.into_iter().flatten().collect::<Vec<_>>().join(", ");
        let met = match self.met {
            None => "",
            Some(true) => "yes",
            Some(false) => "**no**",
        };
        format!(
            "| {} | {} | {} | {} | {p99} | {} | {aim} | {met} |",
            self.what,
            self.resources,
            self.runs,
            number(self.median),
            number(self.worst),
        )
    }
}

/// The head of the table, in Markdown.
pub(crate) const HEAD: &str = "| what | resources | runs | median | p99 | worst | at most | met |\n\
    |---|---|---|---|---|---|---|---|";
