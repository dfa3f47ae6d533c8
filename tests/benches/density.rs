//! How many resources one node holds, and in what: `cargo bench --workspace --bench density`.
//!
//! A real node is given all resources in one batch. What its process takes in memory and mappings is
//! read from `/proc`; it counts everything, the node's own tables and its copy of the state included.
//! Then all are deallocated, to see what the node gives back. Nothing here fails because of a figure.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use clap::Parser;
use holdfast_tests::{Api, Cluster, LONG, Machine, component, probe::ids, wait_until};
use serde_json::json;

/// Measure how many resources one node holds
///
/// Prints a Markdown table. Takes about a minute, and as much memory as so many resources do.
#[derive(Debug, Parser)]
#[command(name = "density")]
struct Args {
    /// How many resources.
    #[arg(long, default_value_t = 100_000)]
    resources: usize,

    /// How often they are allocated and deallocated in the same process.
    #[arg(long, default_value_t = 3)]
    runs: usize,

    /// Another binary to measure, such as one of another version built as `holdfast-under-test`.
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_holdfast-under-test"))]
    program: String,

    /// Given by cargo; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What a process takes.
#[derive(Clone, Copy, Debug)]
struct Taken {
    rss_kib: f64,
    maps: usize,
}

fn main() {
    let args = Args::parse();
    let before = Machine::now();
    println!("before: {}", before.line());
    println!("vm.max_map_count: {}\n", maps_max());
    let cluster = Cluster::builder(&args.program).alone().start();
    let api = cluster.api(0);
    let deployed = api.deploy(MODULE, component::build("echo"), &json!({}));
    let _ = deployed.answer().expect(201);
    let node = Node {
        api,
        pid: cluster.pid(0),
        ids: ids("r", args.resources),
        empty: taken(cluster.pid(0)),
    };
    println!("| run | what | measured | at most | met |\n|---|---|---|---|---|");
    let empty = node.empty;
    row(0, "the node without resources", &mib(empty.rss_kib), None);
    for run in 1..=args.runs {
        node.fill(run);
        node.call_each(run);
        node.clear(run);
    }
    println!("\nafter: {}", Machine::now().line());
}

/// The node, and what it is to hold.
struct Node {
    api: Api,
    pid: u32,
    ids: Vec<String>,
    empty: Taken,
}

impl Node {
    fn fill(&self, run: usize) {
        let begun = Instant::now();
        self.api.allocate_all(MODULE, &self.ids);
        let agreed = begun.elapsed();
        self.wait_counted("all are held", self.ids.len() as u64);
        let held = begun.elapsed();
        row(
            run,
            "allocated in one batch: all are agreed on",
            &seconds(agreed),
            None,
        );
        let met = held <= HELD_MAX;
        row(
            run,
            "all are held",
            &seconds(held),
            Some((&seconds(HELD_MAX), met)),
        );
        self.memory(run, "memory of each, held", Some(EACH_KIB_MAX));
        let maps = taken(self.pid).maps;
        row(
            run,
            "mappings of the process",
            &maps.to_string(),
            Some((&maps_max().to_string(), maps <= maps_max())),
        );
    }

    /// Calls each resource once: what it touches then is its own for good.
    fn call_each(&self, run: usize) {
        let part = self.ids.len().div_ceil(CALLERS).max(1);
        thread::scope(|scope| {
            for ids in self.ids.chunks(part) {
                scope.spawn(move || {
                    for id in ids {
                        let call = self.api.invoke(MODULE, id, [b'x'; 200].as_slice());
                        let _ = call.answer().expect(200);
                    }
                });
            }
        });
        self.memory(
            run,
            "memory of each, after a call of 200 B",
            Some(EACH_KIB_MAX),
        );
    }

    fn clear(&self, run: usize) {
        let full = taken(self.pid).rss_kib;
        let begun = Instant::now();
        self.api.deallocate_all(MODULE, &self.ids);
        self.wait_counted("all are gone", 0);
        row(
            run,
            "deallocated in one batch: all are gone",
            &seconds(begun.elapsed()),
            None,
        );
        let gone = Instant::now();
        for after in LOOKS {
            thread::sleep(after.saturating_sub(gone.elapsed()));
            let now = taken(self.pid).rss_kib;
            let back = (full - now) / (full - self.empty.rss_kib) * 100.0;
            let what = format!("given back {} s later", after.as_secs());
            row(
                run,
                &what,
                &format!("{back:.0}% ({} are left)", mib(now)),
                None,
            );
        }
    }

    /// Waits until so many resources are held, and there are no others.
    fn wait_counted(&self, what: &str, count: u64) {
        wait_until(what, LONG * 5, || {
            let counts = self.api.cluster()?.resources;
            let so = counts.held == count && counts.total == count;
            so.then_some(()).ok_or(format!("{counts:?}"))
        });
    }

    fn memory(&self, run: usize, what: &str, at_most_kib: Option<f64>) {
        let each = (taken(self.pid).rss_kib - self.empty.rss_kib) / self.ids.len() as f64;
        let aim = at_most_kib.map(|max| (format!("{max:.0} KiB"), each <= max));
        let aim = aim.as_ref().map(|(text, met)| (text.as_str(), *met));
        row(run, what, &format!("{each:.1} KiB"), aim);
    }
}

fn row(run: usize, what: &str, measured: &str, aim: Option<(&str, bool)>) {
    let (aim, met) = match aim {
        None => ("", ""),
        Some((aim, true)) => (aim, "yes"),
        Some((aim, false)) => (aim, "**no**"),
    };
    println!("| {run} | {what} | {measured} | {aim} | {met} |");
}

fn taken(pid: u32) -> Taken {
    let read = |file: &str| {
        fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the process is a child of ours")
    };
    let status = read("status");
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss = rss.and_then(|rss| rss.trim().trim_end_matches(" kB").parse().ok());
    Taken {
        rss_kib: rss.expect("a number of kB"),
        maps: read("maps").lines().count(),
    }
}

/// How many mappings a process may have.
fn maps_max() -> usize {
    let text = fs::read_to_string("/proc/sys/vm/max_map_count").expect("Linux has it");
    text.trim().parse().expect("a number")
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn mib(kib: f64) -> String {
    format!("{:.0} MiB", kib / 1024.0)
}

const MODULE: &str = "echo";

/// Until when all are to be held.
const HELD_MAX: Duration = Duration::from_secs(10);

/// What each may take, all told.
const EACH_KIB_MAX: f64 = 35.0;

/// When it is looked what was given back.
const LOOKS: [Duration; 4] = [
    Duration::from_secs(0),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];

/// Enough to keep a node busy.
const CALLERS: usize = 8;
