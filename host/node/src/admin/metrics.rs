//! What a node counts and how it is, for Prometheus.

use std::{fs, io};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use holdfast_cluster::state::Standing;
use holdfast_model::api::ConditionKind;
use http::{HeaderMap, header};
use prometheus_client::registry::Unit;

use super::{
    Admin,
    describe::{Problems, usual},
    extract::{Asked, NoQuery},
};
use crate::{
    clock::now_ms,
    metrics::{self, Described, Reading},
    telemetry,
    traces::Span,
};

/// Read what this node counts
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "read_metrics",
    tag = "watching",
    responses(
        (status = OK, description = "Metrics, for Prometheus; docs/METRICS.md lists them. In the form of OpenMetrics for who accepts that, else in the older one of Prometheus", content(
            (String = CLASSIC),
            (String = OPENMETRICS),
        )),
        Problems<{ usual(&[]) }>,
    )
)]
pub(super) async fn metrics(
    State(admin): State<Admin>,
    Asked(NoQuery {}): Asked<NoQuery>,
    headers: HeaderMap,
) -> impl IntoResponse {
    let text = admin.metrics.encode(&readings(&admin));
    let accepted = headers.get_all(header::ACCEPT).iter();
    let mut accepted = accepted.filter_map(|value| value.to_str().ok());
    match accepted.any(|value| value.contains("application/openmetrics-text")) {
        true => ([(header::CONTENT_TYPE, OPENMETRICS)], text),
        false => ([(header::CONTENT_TYPE, CLASSIC)], metrics::classic(&text)),
    }
}

/// Counts a request by the route that takes it, and follows it.
pub(super) async fn count(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    // What no route takes has one name: others are for everybody to choose.
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    // Probes and scrapes come every few seconds, and tell nobody anything.
    let mut span = match route.starts_with("/v1/") {
        true => admin
            .traces
            .request(&method, request.uri(), request.headers(), route),
        false => Span::default(),
    };
    let response = next.run(request).await;
    span.answered(response.status());
    drop(span);
    let method = match KNOWN_METHODS.contains(&method.as_str()) {
        true => method.as_str(),
        false => "other",
    };
    admin
        .metrics
        .request(route, method, response.status().as_u16());
    response
}

fn readings(admin: &Admin) -> Vec<Reading> {
    let mut all = Vec::new();
    let mut read = |what: &'static Described, labels: &[(&'static str, &str)], value: f64| {
        let labels = labels
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        let labels = labels.collect();
        all.push(Reading {
            what,
            labels,
            value,
        });
    };
    read(&BUILD, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let lead = *admin.control.leadership().borrow();
    read(&LEADER, &[], f64::from(u8::from(lead.me)));
    read(&TERM, &[], lead.term as f64);
    read(&APPLIED, &[], *admin.control.applied().borrow() as f64);
    let heard = admin.placement.lost_quorum().is_none();
    read(&MAJORITY, &[], f64::from(u8::from(heard)));
    let conditions = admin.conditions.all();
    for kind in ConditionKind::ALL {
        let lasts = conditions.iter().any(|condition| condition.kind == *kind);
        let labels = [("kind", kind.as_str())];
        read(&CONDITION, &labels, f64::from(u8::from(lasts)));
    }
    read(&PEERS, &[], (admin.placement.live().len() - 1) as f64);
    for (module, counts) in admin.dispatch.counts_of_modules() {
        for (status, count) in counts {
            let status = status.to_string();
            let labels = [("module", module.as_str()), ("status", &status)];
            read(&RESOURCES, &labels, count as f64);
        }
    }
    let guests = admin.modules.guests().load();
    let (bytes, bytes_max) = admin.modules.guest_memory();
    read(&GUEST_MEMORY, &[], bytes as f64);
    read(&GUEST_MEMORY_MAX, &[], bytes_max as f64);
    read(&GUEST_THREADS, &[], guests.threads as f64);
    read(&GUESTS_RUNNING, &[], guests.running as f64);
    read(&GUESTS_WAITING, &[], guests.waiting as f64);
    read(&WORKERS_CAUGHT, &[], guests.caught as f64);
    let mut standings = STANDINGS.map(|(standing, name)| (standing, name, 0_u32));
    admin.control.read(|state| {
        for node in state.nodes().values() {
            for (standing, _, count) in &mut standings {
                *count += u32::from(node.standing == *standing);
            }
        }
        read(&EPOCH, &[], state.epoch().0 as f64);
        read(&MODULES, &[], state.modules().len() as f64);
    });
    for (_, name, count) in standings {
        read(&NODES, &[("standing", name)], f64::from(count));
    }
    for finding in admin.self_test.findings() {
        let labels = [("runtime", finding.runtime)];
        read(&RUNTIME_DELAY, &labels, finding.delay.as_secs_f64());
    }
    for finding in admin.self_test.findings() {
        let labels = [("runtime", finding.runtime)];
        read(&RUNTIME_STUCK, &labels, finding.stuck as f64);
    }
    for finding in admin.self_test.findings() {
        let labels = [("runtime", finding.runtime)];
        let unfit = finding.unfit_for.is_some();
        read(&RUNTIME_UNFIT, &labels, f64::from(u8::from(unfit)));
    }
    if let Some(dropped) = telemetry::dropped_lines() {
        read(&LOG_DROPPED, &[], dropped as f64);
    }
    // A system that does not say is not asked for more than it has.
    if let Ok(process) = Process::look() {
        read(&CPU, &[], process.cpu_seconds);
        read(&RSS, &[], process.resident_bytes);
        read(&FDS, &[], process.open_fds);
        read(&START, &[], process.started_seconds);
    }
    all
}

/// What the kernel says of this process, in `/proc/self`.
struct Process {
    cpu_seconds: f64,
    resident_bytes: f64,
    open_fds: f64,
    /// Since the Unix epoch.
    started_seconds: f64,
}

impl Process {
    fn look() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let odd = || io::Error::other("/proc/self/stat is not as proc(5) has it");
        // After the name, which may have anything in it.
        let (_, fields) = stat.rsplit_once(") ").ok_or_else(odd)?;
        let fields: Vec<f64> = fields
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0.0))
            .collect();
        let field = |number: usize| fields.get(number - 3).copied().ok_or_else(odd);
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let uptime = crate::clock::boot_time().as_secs_f64();
        let age = uptime - field(22)? / ticks;
        Ok(Self {
            cpu_seconds: (field(14)? + field(15)?) / ticks,
            resident_bytes: field(24)? * rustix::param::page_size() as f64,
            open_fds: fs::read_dir("/proc/self/fd")?.count() as f64,
            started_seconds: (now_ms() as f64 / 1e3 - age).floor(),
        })
    }
}

macro_rules! described {
    ($($ident:ident: $name:literal, $help:literal, $unit:expr, $grows:literal;)*) => {
        $(static $ident: Described = Described { name: $name, help: $help, unit: $unit, grows: $grows };)*
    };
}

described! {
    BUILD: "build_info", "Which version runs", None, false;
    LEADER: "leader", "Whether this node leads", None, false;
    TERM: "term", "The term of the leader that this node knows", None, false;
    APPLIED: "applied_index", "The last entry of the log that this node has applied", None, false;
    MAJORITY: "majority_heard", "Whether this node has heard a majority of the voters lately", None, false;
    CONDITION: "node_condition", "Whether this node has a condition of this kind: it is given nothing, or is not well", None, false;
    PEERS: "peers_connected", "Nodes that answer this one", None, false;
    RESOURCES: "resources", "Resources on this node, by module and status", None, false;
    GUEST_MEMORY: "guest_memory", "Linear memories and tables of all guests, as they were asked for", Some(Unit::Bytes), false;
    GUEST_MEMORY_MAX: "guest_memory_limit", "What all guests may have together", Some(Unit::Bytes), false;
    GUEST_THREADS: "guest_threads", "Threads for guests that compute, idle ones included", None, false;
    GUESTS_RUNNING: "guests_running", "Guests that have a processor on those threads", None, false;
    GUESTS_WAITING: "guests_waiting", "Guests that wait for a processor or a thread", None, false;
    WORKERS_CAUGHT: "guest_workers_caught", "Threads of connections that a guest keeps; others have taken their place", None, false;
    EPOCH: "epoch", "Version of who owns what, as this node knows it", None, false;
    MODULES: "modules", "Modules, as this node knows them", None, false;
    NODES: "nodes", "Nodes of the cluster by standing, as this node knows them", None, false;
    RUNTIME_DELAY: "runtime_delay", "How long a task waited for a thread of this runtime, at most in the last 30 s", Some(Unit::Seconds), false;
    RUNTIME_STUCK: "runtime_stuck_workers", "Threads of this runtime that have not moved for 5 s", None, false;
    RUNTIME_UNFIT: "runtime_unfit", "Whether this runtime does not answer, so that the lease is not renewed", None, false;
    LOG_DROPPED: "log_lines_dropped", "Lines of the node's own log that were dropped, because standard error was not read", None, true;
    CPU: "process_cpu", "Processor time that the process has used, by user and system together", Some(Unit::Seconds), true;
    RSS: "process_resident_memory", "Memory that the process has in RAM", Some(Unit::Bytes), false;
    FDS: "process_open_fds", "File descriptors that the process has open", None, false;
    START: "process_start_time", "When the process was started, since the Unix epoch", Some(Unit::Seconds), false;
}

const STANDINGS: [(Standing, &str); 5] = [
    (Standing::Active, "active"),
    (Standing::Draining, "draining"),
    (Standing::Restarting, "restarting"),
    (Standing::Down, "down"),
    (Standing::Removed, "removed"),
];

const KNOWN_METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"];

const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
