//! `holdfast bench churn`: allocates resources at a steady rate, and deallocates each once it is held.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use holdfast_model::ModuleName;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::{
    super::{
        failure::Exit,
        human,
        output::{self, Output},
    },
    Own, Stop,
    tally::{self, Tally, Told},
};
use crate::client::Client;

/// Measure how long allocations and deallocations take
///
/// Begins so many allocations each second, waits until each is held, deallocates it and waits until
/// its instance is gone. The beginnings do not wait for one another: where the cluster is slower than
/// they come, times grow, for each counts from when its allocation was due.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ChurnArgs {
    /// The module.
    module: ModuleName,

    /// How many allocations begin each second.
    #[arg(long, value_name = "N", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,

    /// How long.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = humantime::parse_duration)]
    duration: Duration,

    /// The spec of each resource: a JSON object, or @ and the file that has it.
    #[arg(long, value_name = "JSON|@FILE", default_value = "{}")]
    spec: String,

    /// How long each may take to be held, and to be gone.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Measured {
    module: ModuleName,
    server: String,
    rate: u32,
    seconds: f64,
    /// It was ended before its time.
    interrupted: bool,
    held: Told,
    gone: Told,
}

/// What is known so far.
struct Seen {
    held: Tally,
    gone: Tally,
    /// Numbers of the resources that may exist.
    left: BTreeSet<u64>,
    begun: u64,
}

pub(super) async fn run(
    args: ChurnArgs,
    client: &Client,
    output: Output,
    stop: &Stop,
) -> anyhow::Result<Exit> {
    let own = Own::new(client, &args.module, &args.spec, args.timeout).await?;
    let seen = Arc::new(Mutex::new(Seen {
        held: Tally::new(),
        gone: Tally::new(),
        left: BTreeSet::new(),
        begun: 0,
    }));
    let begun = Instant::now();
    let bar = output::spinner(String::new());
    let under_way = TaskTracker::new();
    let places = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let end = async {
        let begin = begin_all(&args, &own, &seen, &under_way, &places);
        stop.measuring.run_until_cancelled(begin).await;
        under_way.close();
        under_way.wait().await;
    };
    tokio::select! {
        () = end => {}
        () = watch(&bar, &args, &seen, begun) => {}
        // What is under way is left to `clear`, which says so.
        () = stop.everything.cancelled() => {}
    }
    bar.finish_and_clear();
    let took = begun.elapsed();
    let (held, gone, left) = {
        let seen = seen.lock();
        (seen.held.clone(), seen.gone.clone(), seen.left.clone())
    };
    let measured = Measured {
        module: args.module,
        server: client.server().to_owned(),
        rate: args.rate,
        seconds: took.as_secs_f64(),
        interrupted: stop.measuring.is_cancelled(),
        held: held.told(took),
        gone: gone.told(took),
    };
    let cleared = own.clear(left, stop).await;
    output.show(&measured, |measured| describe(output, measured))?;
    cleared?;
    Ok(match measured.held.failed + measured.gone.failed {
        0 => Exit::Done,
        _ => Exit::Failed,
    })
}

/// Begins one resource after the other, each when it is due.
async fn begin_all(
    args: &ChurnArgs,
    own: &Own,
    seen: &Arc<Mutex<Seen>>,
    under_way: &TaskTracker,
    places: &Arc<Semaphore>,
) {
    let begun = Instant::now();
    for number in 0.. {
        let due = Duration::from_secs(number) / args.rate;
        if due >= args.duration {
            return;
        }
        tokio::time::sleep_until((begun + due).into()).await;
        let place = Arc::clone(places).acquire_owned().await;
        let place = place.expect("places are never closed");
        {
            let mut seen = seen.lock();
            seen.left.insert(number);
            seen.begun += 1;
        }
        let (own, seen) = (own.clone(), Arc::clone(seen));
        under_way.spawn(async move {
            one(&own, number, begun + due, &seen).await;
            drop(place);
        });
    }
}

/// The life of one resource.
async fn one(own: &Own, number: u64, due: Instant, seen: &Mutex<Seen>) {
    let allocated = own.allocate(number).await;
    seen.lock().held.count(&allocated, due.elapsed());
    let asked = Instant::now();
    // Even what was not held may be allocated.
    let gone = own.deallocate(number).await;
    let mut seen = seen.lock();
    if gone.is_ok() {
        seen.left.remove(&number);
    }
    if allocated.is_ok() || gone.is_err() {
        seen.gone.count(&gone, asked.elapsed());
    }
}

async fn watch(bar: &indicatif::ProgressBar, args: &ChurnArgs, seen: &Mutex<Seen>, begun: Instant) {
    loop {
        let (total, left) = {
            let seen = seen.lock();
            (seen.begun, seen.left.len() as u64)
        };
        bar.set_message(format!(
            "{} begun, {} under way, {} left",
            human::counted(total, "resource"),
            human::count(left),
            human::duration(args.duration.saturating_sub(begun.elapsed())),
        ));
        tokio::time::sleep(LOOK).await;
    }
}

fn describe(output: Output, measured: &Measured) -> String {
    let Measured {
        module,
        rate,
        seconds,
        interrupted,
        held,
        gone,
        ..
    } = measured;
    format!(
        "{} of {module} each second, {}{}\n\n{}",
        human::counted((*rate).into(), "resource"),
        human::duration(Duration::from_secs_f64(*seconds)),
        if *interrupted { " (interrupted)" } else { "" },
        tally::table(output, &[("until held", held), ("until gone", gone)]),
    )
}

/// How many resources are between their beginning and their end at once. More of them wait, and their
/// times count on.
const UNDER_WAY_MAX: usize = 1_000;

/// How often it is shown how far it is.
const LOOK: Duration = Duration::from_millis(500);

const AFTER_HELP: &str = "\
Examples:
  holdfast bench churn counter
  holdfast bench churn counter --duration 30s --spec '{\"start\":1}'
  holdfast bench churn counter --format json | jq .held.latency_ms.p99";
