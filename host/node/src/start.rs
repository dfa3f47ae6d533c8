//! From the arguments of `holdfast start` to a running node.

use std::{
    convert::Infallible,
    io::{self, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt as _,
    path::{self, Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use command_fds::{CommandFdExt as _, FdMapping};
use futures_util::{Stream, StreamExt as _, stream};
use holdfast_cluster::{lease::Terms, state::ClusterSettings};
use holdfast_model::{
    Labels,
    api::{Listening, NodeEvent},
};
use listenfd::ListenFd;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{
    cli::{Format, LogFormat, StartArgs},
    config::NodeConfig,
    restart::Ending,
    server::{self, Ended, Succession, Why},
    telemetry,
    token::Token,
    traces::{self, Endpoint},
};

/// Runs a node in this process until it is told to stop.
///
/// # Errors
/// When the node cannot start, or can no longer run.
pub fn run(args: StartArgs, format: Format) -> anyhow::Result<ExitCode> {
    // However this ends, its last lines are the ones that say why.
    let _flushed = Flushed;
    let log_format = match args.log_format {
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    let log = telemetry::start(log_format, &args.log)?;
    let program = named_program().context("find this program")?;
    let config = NodeConfig {
        log,
        program: Some(program.clone()),
        ..config(args)?
    };
    let ended = server::run(config, signals(), move |listening| {
        announce(&listening, format);
    });
    let succession = match ended? {
        Ended::Stopped => return Ok(ExitCode::SUCCESS),
        Ended::Replaced(succession) => succession,
    };
    match succession.why {
        Why::Fenced => tracing::warn!("starting anew: the lease of this run is over"),
        Why::Announced => {
            tracing::info!(program = %program.display(), "starting anew");
            let error = start_anew(&program, &succession);
            tracing::warn!(
                error = format!("{error:#}"),
                "starting the former version again"
            );
        }
    }
    // This very version: nobody asked for another, or it cannot be started.
    Err(start_anew(Path::new(THIS_PROGRAM), &succession))
}

/// Writes what was logged when it goes out of scope.
struct Flushed;

impl Drop for Flushed {
    fn drop(&mut self) {
        telemetry::flush();
    }
}

/// The program that the command line named, by the path by which it did: a link stays one, so that what
/// it leads to when the time comes is started. Where the name leads nowhere now, the file of this process.
fn named_program() -> io::Result<PathBuf> {
    let named = std::env::args_os().next().map(PathBuf::from);
    let named = named.unwrap_or_default();
    let found = match named.parent() {
        // Found by the shell, like this.
        Some(folder) if folder == Path::new("") => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let mut places = std::env::split_paths(&path).map(|folder| folder.join(&named));
            places.find(|place| place.is_file())
        }
        Some(_) => Some(named).filter(|named| named.is_file()),
        None => None,
    };
    match found {
        Some(found) => path::absolute(found),
        None => std::env::current_exe(),
    }
}

/// Puts a run of the program, on the same ports, in the place of this process. Whatever still
/// runs in it ends with that, and its sockets close, all but the listener of the HTTP API. Returns
/// only when it cannot be done.
fn start_anew(program: &Path, succession: &Succession) -> anyhow::Error {
    match replace(program, succession) {
        Ok(never) => match never {},
        Err(error) => error.context(format!("start {} anew", program.display())),
    }
}

fn replace(program: &Path, succession: &Succession) -> anyhow::Result<Infallible> {
    let mut args = std::env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    let listener = FdMapping {
        parent_fd: succession.http.try_clone()?.into(),
        child_fd: FIRST_PASSED_FD,
    };
    command
        .args(args)
        .env(FORMER, succession.cluster.to_string())
        .env("LISTEN_FDS", "1")
        .env("LISTEN_PID", std::process::id().to_string())
        .fd_mappings(vec![listener])?;
    telemetry::flush();
    Err(command.exec().into())
}

/// What the run before has left: the address for peers, which may have been any that was free, and
/// the listener of the HTTP API.
fn former() -> anyhow::Result<Option<(SocketAddr, Arc<TcpListener>)>> {
    let Ok(listen) = std::env::var(FORMER) else {
        return Ok(None);
    };
    let listen = listen.parse().with_context(|| format!("read {FORMER}"))?;
    let listener = ListenFd::from_env().take_tcp_listener(0);
    let listener = listener.context("take the listener that the run before has left")?;
    let listener =
        listener.with_context(|| format!("{FORMER} is set, and no listener was left"))?;
    Ok(Some((listen, Arc::new(listener))))
}

fn config(args: StartArgs) -> anyhow::Result<NodeConfig> {
    let waiting = |path: &Path| {
        tracing::info!(path = %path.display(), "waiting for the file with the cluster's secret");
    };
    let advertise = args.advertised(|name| {
        tracing::info!(name, "waiting for the address of the name to advertise");
    })?;
    let secret = args.secret(waiting)?;
    let secret = secret.map(|secret| secret.parse()).transpose()?;
    let (listen, http_listener) = former()?.unzip();
    let port_patience = listen.map_or(Duration::ZERO, |_| FORMER_PORT_PATIENCE);
    let token = args.api_token.as_deref().map(Token::new).transpose()?;
    let variable = |name: &str| std::env::var(name).ok();
    let endpoint = Endpoint::given_or_standard(args.otlp_endpoint, variable)
        .context("read where traces go from the variables OTEL_EXPORTER_OTLP_…")?;
    let traces = endpoint.map(|endpoint| traces::Options {
        endpoint,
        ratio: args.trace_ratio,
    });
    Ok(NodeConfig {
        data_dir: args.data_dir,
        cluster: args.cluster_name,
        bootstrap: args.bootstrap,
        listen: listen.unwrap_or(args.listen),
        http: args.http,
        advertise,
        seeds: args.seeds,
        secret,
        token,
        weight: args.weight,
        zone: args.zone,
        labels: Labels::new(args.labels)?,
        founding: ClusterSettings {
            voters_wanted: args.voters,
            lease: Terms {
                ttl: args.lease_ttl,
                guard: args.lease_guard,
                ..Terms::DEFAULT
            },
            replace_voters_after: args.replace_voters_after,
            fast_failover: args.fast_failover,
            stable_after: args.stable_after,
        },
        on_stop: args.on_stop,
        starts_max: args.starts_max,
        drain_timeout: args.drain_timeout,
        http_listener,
        port_patience,
        program: None,
        log: None,
        traces,
        gossip: std::env::var_os(NO_GOSSIP).is_none(),
    })
}

/// The signals that ask the process to end. The second one to stop ends it at once.
fn signals() -> impl Stream<Item = Ending> {
    // Listened for by a task, so that the second one counts whatever the node does.
    let (tell, told) = mpsc::channel(SIGNALS_MAX);
    let heard = stream::once(async move {
        // Ends with the process.
        tokio::spawn(async move {
            if let Err(error) = listen(tell).await {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the node cannot be stopped by a signal"
                );
            }
        });
    });
    let told = stream::unfold(told, async |mut told| Some((told.recv().await?, told)));
    // Without signals the node can still be ended through the API.
    heard
        .filter_map(async |()| None)
        .chain(told)
        .chain(stream::pending())
}

async fn listen(tell: mpsc::Sender<Ending>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut restart = signal(SignalKind::user_defined2()).context("listen for SIGUSR2")?;
    let mut stopping = false;
    loop {
        let ending = tokio::select! {
            _ = terminate.recv() => Ending::Stop,
            _ = interrupt.recv() => Ending::Stop,
            _ = restart.recv() => Ending::Restart,
        };
        if ending == Ending::Stop && stopping {
            tracing::warn!("told to stop a second time: ending at once");
            telemetry::flush();
            std::process::exit(SIGNALLED);
        }
        stopping |= ending == Ending::Stop;
        // Full: it is about to look at as many.
        let _ = tell.try_send(ending);
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
    // Whoever reads it may have closed the pipe, or not read it: the node runs all the same. The
    // thread ends with the process at the latest.
    std::thread::spawn(move || {
        let _ = writeln!(std::io::stdout(), "{line}");
    });
}

/// How long a run that was started anew waits for its port for peers.
const FORMER_PORT_PATIENCE: Duration = Duration::from_secs(30);

/// Tells a run that was started anew the address for peers of the one before.
const FORMER: &str = "HOLDFAST_FORMER_RUN";

/// Where the protocol of `sd_listen_fds(3)` has what is passed on.
const FIRST_PASSED_FD: i32 = 3;

/// Switches gossip off, for the test that shows what it is needed for.
const NO_GOSSIP: &str = "HOLDFAST_TEST_NO_GOSSIP";

/// Signals that may wait for the node; it looks at one while it announces a restart.
const SIGNALS_MAX: usize = 4;

/// The program of this process, even when its file was replaced.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Exit code of a process that a second signal ended.
const SIGNALLED: i32 = 130;
