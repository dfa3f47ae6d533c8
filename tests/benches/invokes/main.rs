//! What a call over HTTP costs beside a bare echo server: `cargo bench --workspace --bench invokes`.
//!
//! Two real nodes and the bare server are processes on loopback. The same clients ask all of them,
//! one after the other in short rounds, so that what else the machine does hits all of them; what counts
//! is the ratio to the bare server in the same round. Nothing here fails because of a figure.

mod bare;
mod load;
mod loops;

use std::{fs, net::SocketAddr, time::Duration};

use clap::Parser;
use holdfast_model::{NodeId, api::ResourceList};
use holdfast_tests::{Cluster, LONG, Machine, component, probe::ids, wait_until};
use serde_json::json;

use self::{
    bare::Bare,
    load::{Load, Requests, Round},
    loops::Loops,
};

/// The product's, for the bare server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measure calls over HTTP beside a bare hyper server
///
/// Prints a Markdown table. Takes about two minutes. Nothing else should run meanwhile.
#[derive(Debug, Parser)]
#[command(name = "invokes")]
struct Args {
    /// How many rounds.
    #[arg(long, default_value_t = 15)]
    rounds: usize,

    /// How long each server is asked in a round, in milliseconds.
    #[arg(long, default_value_t = 1_000)]
    round_ms: u64,

    /// How many connections ask at once.
    #[arg(long, default_value_t = 32)]
    connections: usize,

    /// How many resources are called by chance where many are.
    #[arg(long, default_value_t = 10_000)]
    many: usize,

    /// How many resources of another module loop on each node for the last rows; 0 leaves them out.
    #[arg(long, default_value_t = 1_000)]
    loops: usize,

    /// Size of a body.
    #[arg(long, default_value_t = 200)]
    body_bytes: usize,

    /// Another binary to measure, such as one of another version built as `holdfast-under-test`.
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_holdfast-under-test"))]
    program: String,

    /// Be the bare server.
    #[arg(long, hide = true)]
    serve_bare: bool,

    /// Given by cargo; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One way to be answered, and what came of it.
struct Way {
    what: String,
    load: Load,
    /// The processes whose work it is.
    pids: Vec<u32>,
    /// The least ratio that it is to have.
    aim: Option<f64>,
    seen: Vec<Seen>,
}

struct Seen {
    round: Round,
    /// Processor time of the servers for each call.
    busy: Duration,
    /// To the bare server in the same round.
    ratio: f64,
}

fn main() {
    let args = Args::parse();
    if args.serve_bare {
        return bare::serve();
    }
    let before = Machine::now();
    let bare = Bare::start();
    let cluster = Cluster::builder(&args.program).nodes(2).alone().start();
    let mut ways = ways(&args, &cluster, &bare);
    for way in &mut ways {
        // Caches fill and connections settle.
        way.load.round(Duration::from_secs(1));
    }
    for number in 1..=args.rounds {
        let mut ceiling = None;
        for way in &mut ways {
            let seen = way.measure(Duration::from_millis(args.round_ms), ceiling);
            ceiling.get_or_insert(seen);
        }
        eprint!("\rround {number} of {}", args.rounds);
    }
    eprintln!();
    println!(
        "before: {}\nafter:  {}\n",
        before.line(),
        Machine::now().line()
    );
    println!(
        "| {} connections, bodies of {} B | calls/s | of the bare server | at least | p50 | p99 | p99 at most | CPU a call | met |",
        args.connections, args.body_bytes
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for way in &ways {
        println!("{}", way.row());
    }
    if args.loops > 0 {
        beside_loops(&args, &cluster, &mut ways);
    }
}

/// Measures what is called on the first node again, while another module's resources loop there.
fn beside_loops(args: &Args, cluster: &Cluster, ways: &mut [Way]) {
    let loops = Loops::start(cluster, args.loops);
    let [_, local, ..] = ways else {
        unreachable!("the second is local");
    };
    local.seen.clear();
    local.what = format!("{}, beside {} loops", local.what, args.loops);
    local.aim = None;
    for _ in 0..args.rounds {
        local.measure(Duration::from_millis(args.round_ms), None);
    }
    println!("{}", local.row());
    let health = loops.health(Duration::from_millis(args.round_ms) * 5);
    println!("\nbeside {} loops, `healthz`: {health}", args.loops);
}

/// The ways to measure, the bare server first.
fn ways(args: &Args, cluster: &Cluster, bare: &Bare) -> Vec<Way> {
    let api = cluster.api(0);
    let deployed = api.deploy(MODULE, component::build("echo"), &json!({}));
    let _ = deployed.answer().expect(201);
    // Each node gets about a half; somewhat more, so that each surely has enough.
    let all = ids("r", args.many * 5 / 2);
    api.allocate_all(MODULE, &all);
    wait_until("all are held", LONG, || {
        let counts = api.cluster()?.resources;
        let so = counts.held == all.len() as u64;
        so.then_some(()).ok_or(format!("{counts:?}"))
    });
    let node = |node: usize| cluster.listening(node).http;
    let owned = |by: usize| {
        let mut ids = owned_by(cluster, cluster.listening(by).node);
        assert!(ids.len() >= args.many, "node {by} owns {} only", ids.len());
        ids.truncate(args.many);
        ids
    };
    let (here, there) = (owned(0), owned(1));
    let way = |what: String, server: SocketAddr, ids: &[String], pids: Vec<u32>, aim| Way {
        what,
        load: Load::open(
            server,
            args.connections,
            &Requests::new(MODULE, ids, args.body_bytes),
        ),
        pids,
        aim,
        seen: Vec::new(),
    };
    let (one, both) = (vec![cluster.pid(0)], vec![cluster.pid(0), cluster.pid(1)]);
    let many = args.many;
    vec![
        way(
            "bare hyper echo server".to_owned(),
            bare.addr,
            &here[..HOT],
            vec![bare.pid()],
            None,
        ),
        way(
            format!("local, {HOT} resources"),
            node(0),
            &here[..HOT],
            one.clone(),
            Some(0.95),
        ),
        way(
            format!("local, {many} resources by chance"),
            node(0),
            &here,
            one,
            Some(0.8),
        ),
        way(
            format!("one hop, {HOT} resources"),
            node(0),
            &there[..HOT],
            both.clone(),
            Some(0.6),
        ),
        way(
            format!("one hop, {many} resources by chance"),
            node(0),
            &there,
            both,
            Some(0.6),
        ),
    ]
}

fn owned_by(cluster: &Cluster, node: NodeId) -> Vec<String> {
    let mut ids = Vec::new();
    let mut cursor = None;
    loop {
        let mut path = format!("/v1/modules/{MODULE}/resources?limit=1000&node={node}");
        if let Some(cursor) = cursor {
            path.push_str(&format!("&cursor={cursor}"));
        }
        let page: ResourceList = cluster.api(0).get(&path).answer().expect(200).json();
        ids.extend(page.resources.iter().map(|info| info.id.to_string()));
        cursor = page.next_cursor;
        if cursor.is_none() {
            return ids;
        }
    }
}

impl Way {
    /// Measures a round; gives its rate.
    fn measure(&mut self, time: Duration, ceiling: Option<f64>) -> f64 {
        let busy = |pids: &[u32]| {
            pids.iter()
                .map(|pid| processor_time(*pid))
                .sum::<Duration>()
        };
        let before = busy(&self.pids);
        let round = self.load.round(time);
        let worked = busy(&self.pids).saturating_sub(before);
        let rate = round.calls_per_second;
        self.seen.push(Seen {
            busy: worked.div_f64(round.calls as f64),
            ratio: rate / ceiling.unwrap_or(rate),
            round,
        });
        rate
    }

    /// Its row, of medians over the rounds.
    fn row(&self) -> String {
        let of = |value: fn(&Seen) -> f64| {
            let mut values: Vec<f64> = self.seen.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let ratio = of(|seen| seen.ratio);
        let p99 = of(|seen| seen.round.p99.as_secs_f64() * 1e3);
        let (aim, p99_aim, met) = match self.aim {
            None => (String::new(), "", ""),
            Some(aim) => {
                let met = ratio >= aim && p99 <= P99_MS_MAX;
                (
                    format!("{aim:.2}"),
                    "2 ms",
                    if met { "yes" } else { "**no**" },
                )
            }
        };
        format!(
            "| {} | {:.0} | {ratio:.2} | {aim} | {:.2} ms | {p99:.2} ms | {p99_aim} | {:.1} µs | {met} |",
            self.what,
            of(|seen| seen.round.calls_per_second),
            of(|seen| seen.round.p50.as_secs_f64() * 1e3),
            of(|seen| seen.busy.as_secs_f64() * 1e6),
        )
    }
}

/// How long a process has worked on the processors.
fn processor_time(pid: u32) -> Duration {
    // In nanoseconds, of the threads that there are now; `stat` counts in hundredths of a second.
    let threads =
        fs::read_dir(format!("/proc/{pid}/task")).expect("the process is a child of ours");
    let of_each = threads.flatten().map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        text.split(' ')
            .next()
            .and_then(|nanos| nanos.parse().ok())
            .unwrap_or(0)
    });
    Duration::from_nanos(of_each.sum())
}

const MODULE: &str = "echo";

/// So few that all of what a call touches stays in the caches.
const HOT: usize = 64;

const P99_MS_MAX: f64 = 2.0;
