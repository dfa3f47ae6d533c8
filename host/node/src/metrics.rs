//! What a node counts, in the form that Prometheus reads (OpenMetrics).
//!
//! Counters are handed out once to where they count, so that counting is an addition and no lookup.
//! What can be looked at is not counted: it is read when somebody asks.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use holdfast_model::{ModuleName, call};
use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry, Unit},
};

use self::durations::Durations;

mod durations;

/// The metrics of a node. Clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    calls: Family<Labels<2>, Counter>,
    call_seconds: Family<Labels<1>, Durations>,
    started: Family<Labels<1>, Counter>,
    failed: Family<Labels<1>, Counter>,
    stopped: Family<Labels<1>, Counter>,
    requests: Family<Labels<3>, Counter>,
    spans: Spans,
    lease: LeaseTimes,
    connections: Connections,
    request_bytes: Gauge,
}

/// Names and values.
type Labels<const N: usize> = [(&'static str, String); N];

/// Counts the calls of a module.
#[derive(Clone, Debug)]
pub struct Calls {
    results: [Counter; RESULTS.len()],
    seconds: Durations,
}

/// Counts the spans of a node, by what became of them.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    /// The collector has them.
    pub exported: Counter,
    /// There was no room for them.
    pub dropped: Counter,
    /// The collector did not take them.
    pub failed: Counter,
}

/// How the renewals of this node's lease go.
#[derive(Clone, Debug)]
pub struct LeaseTimes {
    seconds: Histogram,
    slack: Histogram,
}

impl LeaseTimes {
    /// A leader renewed the lease: `took` from the question to the grant, `slack` before the node would
    /// have stopped without it.
    pub fn observe(&self, took: Duration, slack: Duration) {
        self.seconds.observe(took.as_secs_f64());
        self.slack.observe(slack.as_secs_f64());
    }
}

/// Counts the connections of the HTTP API.
#[derive(Clone, Debug)]
pub struct Connections {
    /// Those that are open.
    pub open: Gauge,
    ended: Family<Labels<1>, Counter>,
}

impl Connections {
    /// Counts connections that the node has ended by itself.
    pub fn ended(&self, why: &str, count: u64) {
        let label = [("reason", why.to_owned())];
        self.ended.get_or_create(&label).inc_by(count);
    }
}

/// A value that is read when somebody asks, with the labels that tell it from others of its name.
#[derive(Clone, Debug)]
pub struct Reading {
    /// What is read.
    pub what: &'static Described,
    /// Names and values.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

/// What a value means.
#[derive(Debug)]
pub struct Described {
    /// Its name, without the prefix and the unit.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// In seconds or bytes, where it is.
    pub unit: Option<Unit>,
    /// It only grows: a counter, not a gauge.
    pub grows: bool,
}

impl Metrics {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let [started, failed, stopped] = [(); 3].map(|()| Family::default());
        let calls = Family::default();
        let call_seconds = Family::<Labels<1>, Durations>::default();
        let requests = Family::default();
        registry.register(
            "calls",
            "Calls of resources that this node was asked for, by module and result",
            calls.clone(),
        );
        registry.register_with_unit(
            "call_duration",
            "How long calls of resources took that this node was asked for",
            Unit::Seconds,
            call_seconds.clone(),
        );
        registry.register(
            "instances_started",
            "Instances whose handle has returned on this node",
            Family::clone(&started),
        );
        registry.register(
            "instances_failed",
            "Instances that could not be started on this node, or died",
            Family::clone(&failed),
        );
        registry.register(
            "instances_stopped",
            "Instances that were ended on this node",
            Family::clone(&stopped),
        );
        registry.register(
            "http_requests",
            "Requests of the HTTP API other than calls, by route, method and status",
            requests.clone(),
        );
        let of_spans = Family::<Labels<1>, Counter>::default();
        let spans = |result: &str| of_spans.get_or_create_owned(&[("result", result.to_owned())]);
        let spans = Spans {
            exported: spans("exported"),
            dropped: spans("dropped"),
            failed: spans("failed"),
        };
        registry.register(
            "spans",
            "Spans of traces that ended on this node, by what became of them",
            of_spans,
        );
        let lease = LeaseTimes {
            seconds: Histogram::new(SECONDS),
            slack: Histogram::new(SLACK_SECONDS),
        };
        registry.register_with_unit(
            "lease_renewal",
            "From a question about the lease of this node to the grant that answered it",
            Unit::Seconds,
            lease.seconds.clone(),
        );
        registry.register_with_unit(
            "lease_slack",
            "How long before this node would have lost its lease the next grant came",
            Unit::Seconds,
            lease.slack.clone(),
        );
        let connections = Connections {
            open: Gauge::default(),
            ended: Family::default(),
        };
        registry.register(
            "http_connections",
            "Connections of the HTTP API that are open",
            connections.open.clone(),
        );
        registry.register(
            "http_connections_ended",
            "Connections of the HTTP API that this node has ended by itself, by reason",
            connections.ended.clone(),
        );
        let request_bytes = Gauge::default();
        registry.register_with_unit(
            "http_request_held",
            "Bodies and unfinished heads of requests in memory, each beyond 4 KiB",
            Unit::Bytes,
            request_bytes.clone(),
        );
        Self(Arc::new(Inner {
            registry,
            calls,
            call_seconds,
            started,
            failed,
            stopped,
            requests,
            spans,
            lease,
            connections,
            request_bytes,
        }))
    }

    /// Begins to count for a module, and gives what counts its calls.
    #[must_use]
    pub fn begin(&self, module: &ModuleName) -> Calls {
        // What has not happened yet is 0, and not unknown.
        for family in [&self.0.started, &self.0.failed, &self.0.stopped] {
            drop(family.get_or_create(&of(module)));
        }
        Calls {
            results: RESULTS.map(|result| self.0.calls.get_or_create_owned(&call(module, result))),
            seconds: self.0.call_seconds.get_or_create_owned(&of(module)),
        }
    }

    /// Counts an instance whose `handle` has returned.
    pub fn started(&self, module: &ModuleName) {
        self.0.started.get_or_create(&of(module)).inc();
    }

    /// Counts an instance that could not be started, or died.
    pub fn failed(&self, module: &ModuleName) {
        self.0.failed.get_or_create(&of(module)).inc();
    }

    /// Counts an instance that was ended.
    pub fn stopped(&self, module: &ModuleName) {
        self.0.stopped.get_or_create(&of(module)).inc();
    }

    /// Forgets a module that is gone.
    pub fn forget(&self, module: &ModuleName) {
        let inner = &self.0;
        for result in RESULTS {
            inner.calls.remove(&call(module, result));
        }
        let label = of(module);
        inner.call_seconds.remove(&label);
        for family in [&inner.started, &inner.failed, &inner.stopped] {
            family.remove(&label);
        }
    }

    /// Counts a request of the API.
    pub fn request(&self, route: &str, method: &str, status: u16) {
        let labels = [
            ("route", route.to_owned()),
            ("method", method.to_owned()),
            ("status", status.to_string()),
        ];
        self.0.requests.get_or_create(&labels).inc();
    }

    /// What counts spans.
    #[must_use]
    pub fn spans(&self) -> Spans {
        self.0.spans.clone()
    }

    /// What counts renewals of this node's lease.
    #[must_use]
    pub fn lease_times(&self) -> LeaseTimes {
        self.0.lease.clone()
    }

    /// What counts the connections of the HTTP API.
    #[must_use]
    pub fn connections(&self) -> Connections {
        self.0.connections.clone()
    }

    /// What shows how many bytes of requests are in memory.
    #[must_use]
    pub fn request_bytes(&self) -> Gauge {
        self.0.request_bytes.clone()
    }

    /// All that was counted, and these readings, as text. Readings of the same stand together.
    #[must_use]
    pub fn encode(&self, readings: &[Reading]) -> String {
        let mut looked_at = Registry::with_prefix(PREFIX);
        let mut process = Registry::default();
        let mut rest = readings;
        while let Some(Reading { what, .. }) = rest.first() {
            let of_this = |reading: &Reading| std::ptr::eq(reading.what, *what);
            let end = rest.iter().position(|reading| !of_this(reading));
            let (these, others) = rest.split_at(end.unwrap_or(rest.len()));
            rest = others;
            // Names of this kind are the same for all programs.
            let registry = match what.name.starts_with("process_") {
                true => &mut process,
                false => &mut looked_at,
            };
            if what.grows {
                let family: Family<Vec<_>, Counter<f64, AtomicU64>> = Family::default();
                for Reading { labels, value, .. } in these {
                    family.get_or_create(labels).inc_by(*value);
                }
                what.register(registry, family);
            } else {
                let family: Family<Vec<_>, Gauge<f64, AtomicU64>> = Family::default();
                for Reading { labels, value, .. } in these {
                    family.get_or_create(labels).set(*value);
                }
                what.register(registry, family);
            }
        }
        let mut out = String::new();
        let encoded = text::encode_registry(&mut out, &self.0.registry)
            .and_then(|()| text::encode_registry(&mut out, &looked_at))
            .and_then(|()| text::encode_registry(&mut out, &process))
            .and_then(|()| text::encode_eof(&mut out));
        encoded.expect("a text takes all");
        out
    }
}

impl Described {
    fn register(&self, registry: &mut Registry, metric: impl Metric) {
        match &self.unit {
            Some(unit) => registry.register_with_unit(self.name, self.help, unit.clone(), metric),
            None => registry.register(self.name, self.help, metric),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Calls {
    /// Counts a call.
    pub fn count(&self, result: Result<(), &call::Error>, took: Duration) {
        self.results[result_of(result)].inc();
        self.seconds.observe(took);
    }
}

/// The same in the text format that Prometheus had before OpenMetrics: there a counter is described under the name
/// that its samples have, and units and the end are not told.
#[must_use]
pub fn classic(openmetrics: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in openmetrics.lines() {
        match line.split_once(' ').map_or("", |(_, rest)| rest) {
            rest if line.starts_with('#') && (rest == "EOF" || rest.starts_with("UNIT ")) => {}
            rest if rest.starts_with("TYPE ") && rest.ends_with(" counter") => {
                let name = rest["TYPE ".len()..].trim_end_matches(" counter");
                let help = format!("# HELP {name} ");
                if let Some(last) = lines.last_mut().filter(|last| last.starts_with(&help)) {
                    *last = last.replacen(name, &format!("{name}_total"), 1);
                }
                lines.push(format!("# TYPE {name}_total counter"));
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n") + "\n"
}

fn of(module: &ModuleName) -> Labels<1> {
    [("module", module.to_string())]
}

fn call(module: &ModuleName, result: &str) -> Labels<2> {
    [
        ("module", module.to_string()),
        ("result", result.to_owned()),
    ]
}

/// The name of a failed call's result.
#[must_use]
pub fn kind(error: &call::Error) -> &'static str {
    RESULTS[result_of(Err(error))]
}

/// The place of a result in [`RESULTS`].
fn result_of(result: Result<(), &call::Error>) -> usize {
    use call::Error;
    match result {
        Ok(()) => 0,
        Err(Error::Refused { .. }) => 1,
        Err(Error::Trapped { .. }) => 2,
        Err(Error::TimedOut(_)) => 3,
        Err(Error::QueueFull { .. }) => 4,
        Err(Error::Unavailable { .. } | Error::Quarantined { .. }) => 5,
        Err(Error::Interrupted) => 6,
        Err(
            Error::UnknownModule(_)
            | Error::UnknownResource(_)
            | Error::NotInvocable(_)
            | Error::TooLarge { .. },
        ) => 7,
    }
}

/// How calls end.
const RESULTS: [&str; 8] = [
    "ok",
    "refused",
    "trap",
    "timeout",
    "queue-full",
    "unavailable",
    "interrupted",
    "invalid",
];

/// Up to half a minute, the longest leases in use; most are of some seconds.
const SLACK_SECONDS: [f64; 10] = [0.0, 0.1, 0.25, 0.5, 1.0, 1.5, 1.75, 2.0, 5.0, 30.0];

/// Of other durations than calls'.
const SECONDS: [f64; 15] = [
    0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0,
    5.0, 30.0,
];

const PREFIX: &str = "holdfast";

#[cfg(test)]
mod tests;
