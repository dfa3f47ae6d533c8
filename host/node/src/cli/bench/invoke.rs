//! `holdfast bench invoke`: calls resources as fast as they answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use holdfast_model::{ModuleName, api::ProblemKind};
use serde::Serialize;
use tokio::task::JoinSet;

use super::{
    super::{
        failure::{Exit, Failure},
        human, invoke,
        output::{self, Output},
    },
    Own, Stop, millis,
    tally::{self, Tally, Told},
};
use crate::client::{self, Call, Client};

/// Measure calls of resources
///
/// Each connection calls a resource by chance, and the next one as soon as it is answered. Times are
/// those of whole exchanges, and of calls that succeeded. This command takes part of the processor
/// where it runs on the machine of a node, and then measures that too.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct InvokeArgs {
    /// The module.
    module: ModuleName,

    /// How many calls are under way at once, each on a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 32)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,

    /// How long.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = humantime::parse_duration)]
    duration: Duration,

    /// How many resources are called.
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    resources: u32,

    /// The body of each call, or @ and the file that has it.
    #[arg(
        long,
        short = 'd',
        visible_alias = "data",
        value_name = "BODY|@FILE",
        default_value = ""
    )]
    body: String,

    /// Media type of the body; application/json where it is JSON and nothing is said.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,

    /// The spec of each resource: a JSON object, or @ and the file that has it.
    #[arg(long, value_name = "JSON|@FILE", default_value = "{}")]
    spec: String,

    /// How long a call may take; the module's call_timeout_ms unless given.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Measured {
    module: ModuleName,
    server: String,
    connections: u32,
    resources: u32,
    body_bytes: usize,
    seconds: f64,
    /// It was ended before its time.
    interrupted: bool,
    calls: Told,
}

pub(super) async fn run(
    args: InvokeArgs,
    client: &Client,
    output: Output,
    stop: &Stop,
) -> anyhow::Result<Exit> {
    let body = read_body(&args.body)?;
    let call = Call {
        content_type: args.content_type.clone().or_else(|| invoke::type_of(&body)),
        body,
        timeout: args.timeout,
        ..Call::default()
    };
    let own = Own::new(client, &args.module, &args.spec, SETUP_TIME).await?;
    let measured = measure(&args, &own, call, stop).await;
    let cleared = own.clear(0..u64::from(args.resources), stop).await;
    if measured.is_err()
        && let Err(left) = &cleared
    {
        output.warn(&left.to_string());
    }
    let measured = measured?;
    output.show(&measured, |measured| describe(output, measured))?;
    cleared?;
    Ok(match measured.calls.failed {
        0 => Exit::Done,
        _ => Exit::Failed,
    })
}

async fn measure(
    args: &InvokeArgs,
    own: &Own,
    call: Call,
    stop: &Stop,
) -> anyhow::Result<Measured> {
    let resources = u64::from(args.resources);
    let body_bytes = call.body.len();
    let prepared = async {
        own.allocate_all(resources).await?;
        // One call before all others says whether it makes sense at all.
        match own
            .client
            .invoke(&own.module, &own.id(0), call.clone())
            .await
        {
            Err(client::Error::Problem(problem)) if problem.kind == ProblemKind::NotInvocable => {
                Err(client::Error::Problem(problem))
            }
            _ => Ok(()),
        }
    };
    let prepared = stop.measuring.run_until_cancelled(prepared).await;
    prepared
        .ok_or_else(|| Failure::new("interrupted before anything was measured"))?
        .with_context(|| format!("prepare {}", human::counted(resources, "resource")))?;

    let done = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let until = begun + args.duration;
    let mut callers = JoinSet::new();
    for _ in 0..args.connections {
        let (own, call, stop) = (own.clone(), call.clone(), stop.clone());
        let done = Arc::clone(&done);
        callers.spawn(async move {
            let mut tally = Tally::new();
            while Instant::now() < until && !stop.measuring.is_cancelled() {
                let id = own.id(rand::random_range(0..resources));
                let asked = Instant::now();
                let answer = own.client.invoke(&own.module, &id, call.clone()).await;
                tally.count(&answer, asked.elapsed());
                done.fetch_add(1, Ordering::Relaxed);
                if let Err(client::Error::Unreachable { .. } | client::Error::Broken { .. }) =
                    answer
                {
                    // Nobody there answers at once either.
                    tokio::time::sleep(PAUSE).await;
                }
            }
            tally
        });
    }
    let bar = output::spinner(String::new());
    let watch = async {
        let mut before = 0;
        loop {
            let now = done.load(Ordering::Relaxed);
            bar.set_message(format!(
                "calling {}: {} calls/s, {} left",
                human::counted(resources, "resource"),
                human::count((now - before) * 1_000 / millis(LOOK)),
                human::duration(until.saturating_duration_since(Instant::now())),
            ));
            before = now;
            tokio::time::sleep(LOOK).await;
        }
    };
    let mut calls = Tally::new();
    let finish = async {
        while let Some(tally) = callers.join_next().await {
            calls.add(tally?);
        }
        Ok::<_, tokio::task::JoinError>(())
    };
    tokio::select! {
        finished = finish => finished.context("a caller panicked")?,
        () = watch => {}
        // What is under way is given up.
        () = stop.everything.cancelled() => {}
    }
    bar.finish_and_clear();
    let took = begun.elapsed();
    Ok(Measured {
        module: own.module.clone(),
        server: own.client.server().to_owned(),
        connections: args.connections,
        resources: args.resources,
        body_bytes,
        seconds: took.as_secs_f64(),
        interrupted: stop.measuring.is_cancelled(),
        calls: calls.told(took),
    })
}

fn describe(output: Output, measured: &Measured) -> String {
    let Measured {
        module,
        connections,
        resources,
        body_bytes,
        seconds,
        interrupted,
        calls,
        ..
    } = measured;
    format!(
        "{} of {module}, {}, bodies of {}, {}{}\n\n{}",
        human::counted((*resources).into(), "resource"),
        human::counted((*connections).into(), "connection"),
        human::bytes(*body_bytes as u64),
        human::duration(Duration::from_secs_f64(*seconds)),
        if *interrupted { " (interrupted)" } else { "" },
        tally::table(output, &[("calls", calls)]),
    )
}

fn read_body(given: &str) -> anyhow::Result<Bytes> {
    match given.strip_prefix('@') {
        Some(path) => {
            let body = std::fs::read(path);
            Ok(body
                .with_context(|| format!("read the body from {path}"))?
                .into())
        }
        None => Ok(given.to_owned().into()),
    }
}

/// How long each resource may take to be held, and to be gone.
const SETUP_TIME: Duration = Duration::from_secs(60);

/// How often it is shown how far it is.
const LOOK: Duration = Duration::from_millis(500);

/// After a call that reached nobody.
const PAUSE: Duration = Duration::from_millis(100);

const AFTER_HELP: &str = "\
Examples:
  holdfast bench invoke counter
  holdfast bench invoke counter --duration 30s --body '{\"add\":1}'
  holdfast bench invoke echo --resources 10000 --body @body.json
  holdfast bench invoke counter --format json | jq .calls.latency_ms";
