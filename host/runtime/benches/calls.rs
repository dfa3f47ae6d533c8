//! What instances and calls cost: `cargo bench --workspace --bench calls`.
//!
//! Prints a Markdown table of medians and what they are to be at most; docs/PERFORMANCE.md has one
//! of a quiet machine. On a busy one compare ratios.

#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../tests/behaviour/support.rs"]
mod support;

use std::{
    env, fs,
    hint::black_box,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_model::{Lane, Settings, call::Request};
use holdfast_runtime::{Fence, Instance};
use holdfast_test_components::build;
use tokio::sync::Mutex;

/// The product's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a tokio runtime");
    let args: Vec<String> = env::args().collect();
    // As in a node, everything runs on a worker.
    let measured = match args.iter().position(|arg| arg == RESIDENTS) {
        None => tokio.spawn(measure()),
        Some(at) => {
            let number: usize = args[at + 1].parse().expect("it is given by this program");
            let (written, component) = [IN_WAT, IN_RUST][number / 2];
            let lane = in_lane(LANES[number % 2]);
            tokio.spawn(async move { residents(written, &component(), &lane).await })
        }
    };
    tokio.block_on(measured).expect("the bench runs to its end");
}

async fn measure() {
    println!("| what | median | at most | met |\n|---|---|---|---|");
    fence();
    for (written, component) in [IN_WAT, IN_RUST] {
        for lane in LANES {
            calls(written, &component(), &in_lane(lane)).await;
        }
    }
    // Each in a process of its own, for what one has freed the next one would not count.
    for number in 0..4 {
        let program = env::current_exe().expect("a running program has a file");
        let ended = Command::new(program)
            .args([RESIDENTS, &number.to_string()])
            .status();
        assert!(
            ended.is_ok_and(|status| status.success()),
            "a process measures"
        );
    }
    println!("\nAn `Instance` has {} bytes.", size_of::<Instance>());
}

/// Time of one look at the clock of the lease; a call takes two.
fn fence() {
    let fence = Fence::open();
    let looks = 1_000_000;
    let rounds = (0..ROUNDS).map(|_| {
        let begin = Instant::now();
        for _ in 0..looks {
            black_box(black_box(&fence).is_shut());
        }
        begin.elapsed() / looks
    });
    row("one look at the fence", median(rounds), None);
}

/// Time of one call that echoes a body: of an instance at hand, and of one behind the lock that each
/// resource of a node has.
async fn calls(written: &str, component: &Bytes, settings: &Settings) {
    let lane = lane(settings);
    let runtime = support::runtime();
    let module = support::load(&runtime, component, settings).await;
    let module = module.expect("the echo loads");
    let instance = module.instantiate(support::resource("{}")).await;
    let mut instance = instance.expect("the echo starts");
    instance.handle().await.expect("handle succeeds");
    for (size, named, calls) in [(200, "200 B", 50_000), (64 << 10, "64 KiB", 2_000)] {
        let request = support::request(Bytes::from(vec![b'x'; size]));
        let what = format!("echo of {named}, {written}, {lane} lane");
        let (alone, behind);
        (alone, instance) = alone_call(instance, &request, calls).await;
        row(&what, alone, None);
        (behind, instance) = locked_call(instance, &request, calls).await;
        let aim = (settings.lane == Some(Lane::Direct) && size == 200).then_some(CALL_MAX);
        row(&format!("{what}, behind its lock"), behind, aim);
    }
}

async fn alone_call(mut instance: Instance, request: &Request, calls: u32) -> (Duration, Instance) {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for _ in 0..calls {
            black_box(instance.invoke(request).await).expect("an echo");
        }
        rounds.push(begin.elapsed() / calls);
    }
    (median(rounds), instance)
}

/// The lock is that of `dispatch::entry`: shared, of tokio, taken as an owned guard.
async fn locked_call(instance: Instance, request: &Request, calls: u32) -> (Duration, Instance) {
    let cell = Arc::new(Mutex::new(Some(instance)));
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for _ in 0..calls {
            let mut held = black_box(&cell)
                .clone()
                .try_lock_owned()
                .expect("it is idle");
            let instance = held.as_mut().expect("it was put there");
            black_box(instance.invoke(request).await).expect("an echo");
        }
        rounds.push(begin.elapsed() / calls);
    }
    let instance = cell.lock().await.take();
    (median(rounds), instance.expect("it was put there"))
}

/// Time and memory of an instance, with 10,000 of them resident.
async fn residents(written: &str, component: &Bytes, settings: &Settings) {
    let runtime = support::runtime();
    let module = support::load(&runtime, component, settings).await;
    let module = module.expect("the component loads");
    let before = rss_kib();
    let mut instances = Vec::with_capacity(INSTANCES);
    let (mut starts, mut handles) = (Vec::new(), Vec::new());
    for _ in 0..INSTANCES {
        let begin = Instant::now();
        let instance = module.instantiate(support::resource("{}")).await;
        let mut instance = instance.expect("it starts");
        starts.push(begin.elapsed());
        let begin = Instant::now();
        instance.handle().await.expect("handle succeeds");
        handles.push(begin.elapsed());
        instances.push(instance);
    }
    let kib = rss_kib().saturating_sub(before) as f64 / INSTANCES as f64;
    let what = format!("{written}, {} lane", lane(settings));
    row(&format!("instantiate, {what}"), median(starts), None);
    row(
        &format!("`handle`, the first call, {what}"),
        median(handles),
        None,
    );
    println!("| memory of each of 10,000, {what} | {kib:.1} KiB | | |");
}

fn row(what: &str, median: Duration, at_most: Option<Duration>) {
    let (aim, met) = match at_most {
        None => (String::new(), ""),
        Some(max) if median <= max => (format!("{max:?}"), "yes"),
        Some(max) => (format!("{max:?}"), "**no**"),
    };
    println!("| {what} | {median:.3?} | {aim} | {met} |");
}

fn median(times: impl IntoIterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.into_iter().collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn in_lane(lane: Lane) -> Settings {
    Settings {
        lane: Some(lane),
        ..Settings::default()
    }
}

fn lane(settings: &Settings) -> &'static str {
    match settings.lane {
        Some(Lane::Fiber) => "fiber",
        _ => "direct",
    }
}

fn rss_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number
        .and_then(|kib| kib.parse().ok())
        .expect("a number of KiB")
}

type Named = (&'static str, fn() -> Bytes);

const IN_WAT: Named = ("in WAT", support::echo);
const IN_RUST: Named = ("in Rust, with the SDK", || build("echo"));

const LANES: [Lane; 2] = [Lane::Direct, Lane::Fiber];

/// Has this program measure what so many resident instances take.
const RESIDENTS: &str = "--residents";

/// What a call of 200 bytes in the direct lane is to take at most.
const CALL_MAX: Duration = Duration::from_nanos(400);

const INSTANCES: usize = 10_000;

/// Odd, so that the middle one is the median.
const ROUNDS: usize = 21;
