//! From the arguments of `holdfast start` to a running node.

mod inheritance;
mod opening;
mod reload;
mod signals;

use std::{
    convert::Infallible,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{self, Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use holdfast_cluster::{lease::Terms, state::ClusterSettings};
use holdfast_model::{
    Labels,
    api::{Listening, NodeEvent},
};

use self::{inheritance::Inheritance, reload::Reload};
use crate::{
    cli::{self, Format, LogFormat, StartArgs},
    config::{self, NodeConfig},
    identity::{Secret, is_open_to_others, set_umask},
    modules::chain,
    rejoin,
    server::{self, Ended, Succession, Why},
    telemetry,
    token::{self, Token},
    traces::{self, Endpoint},
};

/// Runs a node in this process until it is told to stop.
///
/// # Errors
/// When the node cannot start, or can no longer run.
pub fn run(args: StartArgs, format: Format) -> anyhow::Result<ExitCode> {
    // However this ends, its last lines are the ones that say why.
    let _flushed = Flushed;
    let began = Instant::now();
    // Before there are threads: it takes its variables out of the environment.
    let left = Inheritance::take()?;
    // As early as can be: no signal is to end the process by chance.
    let (signals, reloads) = signals::listen().context("listen for signals")?;
    let log_format = match args.log_format {
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    let log = telemetry::start(log_format, &args.log)?;
    let again = left.is_some();
    let reload = (args.token_file.clone(), args.log.clone());
    set_umask();
    server::raise_limit();
    let program = named_program().context("find this program")?;
    let config = NodeConfig {
        log: log.clone(),
        program: Some(program.clone()),
        ..config(args, left)?
    };
    if std::env::var_os(REJOIN).is_some() {
        let former = rejoin::Former::open(&config.data_dir)?;
        let rejoined = former.rejoin().context("begin as another node")?;
        tracing::warn!(
            node.id = %rejoined.node, node.former = %rejoined.former,
            backup = %rejoined.backup.display(),
            "this is another node from now on: the copy of the state that it had was wrong, and is kept \
             for you to look at. Remove the former node with `holdfast nodes remove`"
        );
    }
    let token = config.token.clone();
    opening::begins(&config, again, cli::command());
    let (token_file, filter) = reload;
    let reload = Reload {
        token_file,
        token: token.clone(),
        log,
        filter,
    };
    reload.at(reloads).context("start a thread for reloads")?;
    let ended = server::run(config, signals, move |listening| {
        announce(&listening, format);
    });
    opening::ended(&ended, began);
    let succession = match ended? {
        Ended::Stopped => return Ok(ExitCode::SUCCESS),
        Ended::Replaced(succession) => succession,
    };
    let token = token.load();
    let token = token.as_deref();
    match succession.why {
        Why::Fenced => tracing::warn!("starting anew: the lease of this run is over"),
        Why::WrongCopy => tracing::warn!("starting anew, as another node"),
        Why::Announced => {
            tracing::info!(program = %program.display(), "starting anew");
            let error = start_anew(&program, &succession, token);
            tracing::warn!(
                error = format!("{error:#}"),
                "starting the former version again"
            );
        }
    }
    // This very version: nobody asked for another, or it cannot be started.
    Err(start_anew(Path::new(THIS_PROGRAM), &succession, token))
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
fn start_anew(program: &Path, succession: &Succession, token: Option<&Token>) -> anyhow::Error {
    match replace(program, succession, token) {
        Ok(never) => match never {},
        Err(error) => error.context(format!("start {} anew", program.display())),
    }
}

fn replace(
    program: &Path,
    succession: &Succession,
    token: Option<&Token>,
) -> anyhow::Result<Infallible> {
    let mut args = std::env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    // It counts once.
    match succession.why {
        Why::WrongCopy => command.env(REJOIN, "1"),
        Why::Announced | Why::Fenced => command.env_remove(REJOIN),
    };
    command.args(args);
    inheritance::leave(&mut command, succession, token)?;
    telemetry::flush();
    Err(command.exec().into())
}

/// The cluster's secret: from where it was given; or from the run before in this process, whose files
/// may be gone. One that was told to make place for this one reads them again where it can: they may
/// have been changed for that.
fn secret(args: &StartArgs, left: Option<&Inheritance>) -> anyhow::Result<Option<Secret>> {
    let parse = |text: Option<String>| text.map(|text| text.parse()).transpose();
    let Some(left) = left else {
        let waiting = |path: &Path| {
            tracing::info!(path = %path.display(), "waiting for the file with the cluster's secret");
        };
        return Ok(parse(args.secret(waiting)?)?);
    };
    if left.announced
        && let Some(file) = &args.secret_file
    {
        match Secret::read(file) {
            Ok(secret) => return Ok(Some(secret)),
            Err(error) => tracing::warn!(
                error = chain(&error),
                "the cluster's secret stays that of the run before"
            ),
        }
    }
    Ok(left.secret.clone())
}

/// The API token, in the same way.
fn api_token(args: &StartArgs, left: Option<&Inheritance>) -> anyhow::Result<Option<Token>> {
    let given = || match &args.token_file {
        Some(file) => Token::read(file).map(Some),
        None => {
            let text = args.api_token.as_deref().map(str::trim);
            let text = text.filter(|text| !text.is_empty());
            text.map(Token::new).transpose()
        }
    };
    match left {
        None => Ok(given()?),
        Some(left) if left.announced => Ok(given().unwrap_or_else(|error| {
            tracing::warn!(
                error = chain(&error),
                "the API token stays that of the run before"
            );
            left.token.clone()
        })),
        Some(left) => Ok(left.token.clone()),
    }
}

fn config(args: StartArgs, left: Option<Inheritance>) -> anyhow::Result<NodeConfig> {
    let advertise = args.advertised(|name| {
        tracing::info!(name, "waiting for the address of the name to advertise");
    })?;
    let files = [args.secret_file.as_deref(), args.token_file.as_deref()];
    for file in files.into_iter().flatten() {
        if is_open_to_others(file) {
            tracing::warn!(
                file = %file.display(),
                "others on this machine can read a secret: take their permissions away, as with chmod 600"
            );
        }
    }
    let secret = secret(&args, left.as_ref())?;
    let token = token::Current::new(api_token(&args, left.as_ref())?);
    let (listen, http_listener) = left.map(|left| (left.cluster, left.http)).unzip();
    let port_patience = listen.map_or(Duration::ZERO, |_| FORMER_PORT_PATIENCE);
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
        http_options: args.http_limits.into(),
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
        guest_memory_bytes_max: args.guest_memory_bytes_max,
        compiler: Some(config::compiler(THIS_PROGRAM)),
        drain_timeout: args.drain_timeout,
        http_listener,
        port_patience,
        program: None,
        log: None,
        traces,
        gossip: std::env::var_os(NO_GOSSIP).is_none(),
    })
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

/// Tells a run that was started anew to be another node.
const REJOIN: &str = "HOLDFAST_REJOIN";

/// Switches gossip off, for the test that shows what it is needed for.
const NO_GOSSIP: &str = "HOLDFAST_TEST_NO_GOSSIP";

/// The program of this process, even when its file was replaced.
const THIS_PROGRAM: &str = "/proc/self/exe";
