//! `holdfast bench`: measures a cluster from outside, by what its API answers.
//!
//! Everything is done to resources of the command's own, which it deallocates in the end, however it
//! ends. Ids begin with a random prefix, so that nothing that exists is touched.

use std::time::Duration;

use clap::{Args, Subcommand};
use futures_util::{StreamExt as _, stream};
use holdfast_model::{
    ModuleName, ResourceId, Spec,
    api::{AllocateQuery, AllocateWait, DeallocateQuery, DeallocateWait},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{
    failure::{Exit, Failure},
    output::{self, Output},
    resources,
};
use crate::client::{self, Client};

mod churn;
mod invoke;
mod tally;

/// Measure calls, allocations and deallocations
///
/// Asks a node of any cluster, as every other command does. Resources are allocated for it, under
/// ids that nobody else has, and deallocated in the end, also after Ctrl-C. The exit code is 1 when
/// anything failed.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Invoke(invoke::InvokeArgs),
    Churn(churn::ChurnArgs),
}

pub(super) async fn run(args: BenchArgs, client: &Client, output: &Output) -> anyhow::Result<Exit> {
    let stop = Stop::on_signals()?;
    match args.what {
        What::Invoke(args) => invoke::run(args, client, *output, &stop).await,
        What::Churn(args) => churn::run(args, client, *output, &stop).await,
    }
}

/// What the user asks for by Ctrl-C, or a supervisor by SIGTERM: once to come to an end, twice to
/// end at once.
#[derive(Clone)]
struct Stop {
    measuring: CancellationToken,
    everything: CancellationToken,
}

impl Stop {
    fn on_signals() -> anyhow::Result<Self> {
        let (mut interrupt, mut terminate) = (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        );
        let stop = Self {
            measuring: CancellationToken::new(),
            everything: CancellationToken::new(),
        };
        let told = stop.clone();
        tokio::spawn(async move {
            for token in [&told.measuring, &told.everything] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                token.cancel();
            }
        });
        Ok(stop)
    }
}

/// The resources of the command's own.
#[derive(Clone)]
struct Own {
    client: Client,
    module: ModuleName,
    spec: Spec,
    prefix: String,
    /// How long one may take to be held, and to be gone.
    timeout: Duration,
}

impl Own {
    /// Asks for the module first: what is wrong with it or with the node is told once, and not for
    /// each resource.
    async fn new(
        client: &Client,
        module: &ModuleName,
        spec: &str,
        timeout: Duration,
    ) -> anyhow::Result<Self> {
        let spec = resources::read_spec(spec)?;
        client.module(module).await?;
        Ok(Self {
            client: client.clone(),
            module: module.clone(),
            spec,
            prefix: format!("bench-{:08x}-", rand::random::<u32>()),
            timeout,
        })
    }

    fn id(&self, number: u64) -> ResourceId {
        let id = format!("{}{number}", self.prefix);
        id.parse().expect("it is short, and of letters and digits")
    }

    /// Allocates a resource and waits until it is held.
    async fn allocate(&self, number: u64) -> Result<(), client::Error> {
        let query = AllocateQuery {
            wait: Some(AllocateWait::Held),
            timeout_ms: Some(millis(self.timeout)),
        };
        let id = self.id(number);
        let allocated = self.client.allocate(&self.module, &id, &self.spec, &query);
        allocated.await.map(drop)
    }

    /// Deallocates a resource and waits until its instance is gone.
    async fn deallocate(&self, number: u64) -> Result<(), client::Error> {
        let query = DeallocateQuery {
            wait: Some(DeallocateWait::Gone),
            timeout_ms: Some(millis(self.timeout)),
        };
        let id = self.id(number);
        self.client.deallocate(&self.module, &id, &query).await
    }

    /// Allocates so many at first; ends early, with an error, at the first that fails.
    async fn allocate_all(&self, count: u64) -> Result<(), client::Error> {
        let bar = output::progress(Some(count), format!("allocating in {}", self.module));
        let mut allocated = stream::iter(0..count)
            .map(|number| self.allocate(number))
            .buffer_unordered(AT_ONCE);
        while let Some(result) = allocated.next().await {
            result?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Deallocates all of these; those that were never allocated too, which is no error.
    async fn clear(
        &self,
        numbers: impl IntoIterator<Item = u64>,
        stop: &Stop,
    ) -> anyhow::Result<()> {
        let bar = output::progress(None, format!("deallocating in {}", self.module));
        let mut failed = None;
        let deallocate = async {
            let mut deallocated = stream::iter(numbers)
                .map(|number| self.deallocate(number))
                .buffer_unordered(AT_ONCE);
            while let Some(result) = deallocated.next().await {
                match result {
                    Ok(()) => bar.inc(1),
                    // The others may be gone all the same.
                    Err(error) => failed = Some(error),
                }
            }
        };
        let in_time = stop
            .everything
            .run_until_cancelled(deallocate)
            .await
            .is_some();
        bar.finish_and_clear();
        match failed {
            None if in_time => Ok(()),
            failed => Err(self.left_behind(failed.as_ref())),
        }
    }

    fn left_behind(&self, why: Option<&client::Error>) -> anyhow::Error {
        let why = why.map_or_else(|| "interrupted".to_owned(), ToString::to_string);
        let (module, prefix) = (&self.module, &self.prefix);
        let failure = Failure::new(format!(
            "resources of {module} whose ids begin with {prefix} may be left: {why}"
        ));
        let hint = format!(
            "deallocate them: holdfast resources list {module} --all --format json | jq -r \
             'select(.id|startswith(\"{prefix}\")).id' | xargs -n 1 holdfast resources \
             deallocate {module}"
        );
        failure.hint(hint).into()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How many requests are under way at once where nothing is measured.
const AT_ONCE: usize = 64;

const AFTER_HELP: &str = "\
Examples:
  holdfast bench invoke counter --connections 32 --duration 10s
  holdfast bench invoke counter --resources 10000 --body '{\"add\":1}'
  holdfast bench churn counter --rate 200 --format json";
