//! What instances and calls cost: `cargo bench -p holdfast-runtime`.
//!
//! Compare ratios, not absolute numbers, unless the machine is quiet.

#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../tests/behaviour/support.rs"]
mod support;

use std::{
    fs,
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_model::{Lane, Settings};
use holdfast_runtime::{Fence, Instance};

fn main() {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a tokio runtime");
    // As in a node, everything runs on a worker.
    let measured = tokio.spawn(measure());
    tokio.block_on(measured).expect("the bench runs to its end");
}

async fn measure() {
    println!("size of an Instance: {} bytes", size_of::<Instance>());
    fence();
    for lane in [Lane::Direct, Lane::Fiber] {
        let settings = Settings {
            lane: Some(lane),
            ..Settings::default()
        };
        calls(&settings).await;
        residents("an echo in WAT", &support::echo(), &settings).await;
        residents("the probe in Rust", &support::probe(), &settings).await;
    }
}

/// Time of one look at the clock of the lease; a call takes two.
fn fence() {
    let fence = Fence::open();
    let looks = 10_000_000;
    let begin = Instant::now();
    for _ in 0..looks {
        black_box(black_box(&fence).is_shut());
    }
    println!("one look at the fence: {:?}", begin.elapsed() / looks);
}

/// Time of one call that echoes a body.
async fn calls(settings: &Settings) {
    let runtime = support::runtime();
    let module = support::load(&runtime, &support::echo(), settings).await;
    let module = module.expect("the echo loads");
    let instance = module.instantiate(support::resource("{}")).await;
    let mut instance = instance.expect("the echo starts");
    for (size, calls) in [(200, 200_000), (64 << 10, 10_000)] {
        let request = support::request(Bytes::from(vec![b'x'; size]));
        let mut best = Duration::MAX;
        for _ in 0..5 {
            let begin = Instant::now();
            for _ in 0..calls {
                black_box(instance.invoke(&request).await).expect("an echo");
            }
            best = best.min(begin.elapsed() / calls);
        }
        println!("{:?}: echo of {size} bytes: {best:?}", settings.lane);
    }
}

/// Time and memory of an instance, with 10,000 of them resident.
async fn residents(what: &str, component: &Bytes, settings: &Settings) {
    let runtime = support::runtime();
    let module = support::load(&runtime, component, settings).await;
    let module = module.expect("the component loads");
    let before = rss_kib();
    let begin = Instant::now();
    let mut instances = Vec::with_capacity(INSTANCES);
    for _ in 0..INSTANCES {
        let instance = module.instantiate(support::resource("{}")).await;
        instances.push(instance.expect("it starts"));
    }
    let started = begin.elapsed() / INSTANCES as u32;
    for instance in &mut instances {
        instance.handle().await.expect("handle succeeds");
    }
    let kib = (rss_kib() - before) as f64 / INSTANCES as f64;
    let lane = settings.lane;
    println!("{lane:?}: {what}: {started:?} to start, {kib:.1} KiB each after `handle`");
}

fn rss_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number
        .and_then(|kib| kib.parse().ok())
        .expect("a number of KiB")
}

const INSTANCES: usize = 10_000;
