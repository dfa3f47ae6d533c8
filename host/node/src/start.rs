//! From the arguments of `holdfast start` to a running node.

use std::{io::Write as _, path::Path, process::ExitCode};

use anyhow::Context as _;
use holdfast_model::api::{Listening, NodeEvent};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::{Format, LogFormat, StartArgs},
    config::NodeConfig,
    server, telemetry,
    token::Token,
};

/// Runs a node in this process until it is told to stop.
///
/// # Errors
/// When the node cannot start, or can no longer run.
pub fn run(args: StartArgs, format: Format) -> anyhow::Result<ExitCode> {
    let log_format = match args.log_format {
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    telemetry::start(log_format, &args.log)?;
    let config = config(args)?;
    server::run(config, stop(), move |listening| {
        announce(&listening, format)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn config(args: StartArgs) -> anyhow::Result<NodeConfig> {
    let waiting = |path: &Path| {
        tracing::info!(path = %path.display(), "waiting for the file with the cluster's secret");
    };
    let secret = args.secret(waiting)?;
    let secret = secret.map(|secret| secret.parse()).transpose()?;
    let token = args.api_token.as_deref().map(Token::new).transpose()?;
    Ok(NodeConfig {
        data_dir: args.data_dir,
        cluster: args.cluster_name,
        bootstrap: args.bootstrap,
        listen: args.listen,
        http: args.http,
        advertise: args.advertise,
        seeds: args.seeds,
        secret,
        token,
        weight: args.weight,
        zone: args.zone,
        voters: args.voters,
        replace_voters_after: args.replace_voters_after,
        fast_failover: args.fast_failover,
        drain_timeout: args.drain_timeout,
        gossip: std::env::var_os(NO_GOSSIP).is_none(),
    })
}

/// Resolves at the first signal that asks the process to end; the second ends it at once.
async fn stop() {
    let first = async {
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("told to stop a second time: ending at once");
            std::process::exit(SIGNALLED);
        });
        anyhow::Ok(())
    };
    if let Err(error) = first.await {
        tracing::error!(
            error = format!("{error:#}"),
            "the node cannot be stopped by a signal"
        );
        std::future::pending::<()>().await;
    }
}

/// Says on standard output where the node listens.
fn announce(listening: &Listening, format: Format) {
    let line = match format {
        Format::Json => serde_json::to_string(&NodeEvent::Listening(listening.clone()))
            .expect("ids and addresses, which can always be written"),
        Format::Table => format!(
            "node {} listens: HTTP API on http://{}, peers on {}",
            listening.node, listening.http, listening.cluster
        ),
    };
    // Whoever reads it may have closed the pipe; the node runs all the same.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Switches gossip off, for the test that shows what it is needed for.
const NO_GOSSIP: &str = "HOLDFAST_TEST_NO_GOSSIP";

/// Exit code of a process that a second signal ended.
const SIGNALLED: i32 = 130;
