//! `holdfast start`: the arguments of a node. What they do is the node's business.

mod http;

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use holdfast_model::{ClusterName, Label, Weight, Zone};

pub use self::http::HttpLimits;
use crate::{
    config::OnStop,
    traces::{Endpoint, Ratio},
};

/// Run a node
///
/// The first node of a cluster is started with --bootstrap, once; the others with --seed. A node
/// remembers its peers in its data directory: started again, it finds them without --seed.
#[derive(Clone, Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct StartArgs {
    /// Where the node keeps its identity and its copy of the cluster's state.
    ///
    /// Made when absent. One process at a time may use it. Without it a node is a new node,
    /// whatever its address: never copy it to another machine, never restore it from a backup.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Name of the cluster; 1 to 63 characters of a-z, 0-9 and '-'.
    ///
    /// Nodes of another name are not let in, so that two clusters never merge by mistake.
    #[arg(long, value_name = "NAME")]
    pub cluster_name: ClusterName,

    /// Found the cluster; only for its very first node, and only the first time.
    ///
    /// With data of a cluster already there it changes nothing. Given to two nodes, it makes two
    /// clusters, and they refuse each other.
    #[arg(long)]
    pub bootstrap: bool,

    /// Address for peers, TCP and UDP; port 0 takes any free one.
    ///
    /// Beyond loopback a secret is required, for whoever reaches it could join otherwise.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7301")]
    pub listen: SocketAddr,

    /// Address of the HTTP API; port 0 takes any free one.
    ///
    /// Beyond loopback an API token is required, for whoever reaches it could deploy code.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7300")]
    pub http: SocketAddr,

    /// What the clients of the HTTP API may take.
    #[command(flatten)]
    pub http_limits: HttpLimits,

    /// Address at which peers reach this node, where it is not the one of --listen.
    ///
    /// Needed when --listen is 0.0.0.0 or behind a translation of addresses. When it is wrong,
    /// the node does not join, and its log says who cannot reach it. A name is looked up once, as the
    /// node starts; one that is not known yet is waited for, 10 seconds at most.
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    pub advertise: Option<String>,

    /// Address of a node of the cluster to join; can be given several times.
    ///
    /// One that answers is enough; a name is looked up anew at each attempt.
    #[arg(long = "seed", value_name = "HOST:PORT", value_parser = host_port)]
    pub seeds: Vec<String>,

    /// A file with the cluster's secret, the same on all nodes; or HOLDFAST_SECRET.
    ///
    /// A founder without one makes it: cluster.secret in its data directory. Peers prove that
    /// they know it, and gossip is sealed with it. At least 16 characters. A file that is not
    /// there yet is waited for, 10 seconds at most, so that nodes may be started together.
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,

    /// This node's share of the load, relative to the others: 0 to 100.
    ///
    /// 0 makes a witness: it votes, but holds nothing. Too high for its memory, and the node
    /// refuses instances. `holdfast nodes set` changes it while the node runs; that stays until the
    /// node is started with another --weight than before.
    #[arg(long, value_name = "N", default_value_t)]
    pub weight: Weight,

    /// Failure domain, like a rack or a data centre; 1 to 63 characters of A-Z, a-z, 0-9, '-',
    /// '_' and '.'.
    ///
    /// The few that get one resource of a module more than others are spread over zones.
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<Zone>,

    /// Says something of this node that others can read; can be given up to 16 times.
    ///
    /// A key is 1 to 63 characters of a-z, 0-9 and '-', a value 1 to 63 of A-Z, a-z, 0-9, '-', '_'
    /// and '.'. `holdfast nodes --format json` shows them; they change nothing.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<Label>,

    /// How many voters the cluster wants that this node founds: 1, 3, 5 or 7.
    ///
    /// It has as many once it has the nodes. More survive more losses, and each change waits for
    /// more disks. Changed later by `holdfast settings`, like the five that follow.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = voters)]
    pub voters: u8,

    /// How long a lease lasts in the cluster that this node founds.
    ///
    /// A node runs what it owns only under a lease. Too low: a slow disk or a busy machine costs
    /// running resources. Too high: resources of a node that falls silent wait that long. At least
    /// four guards and half a second, at most ten minutes.
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub lease_ttl: Duration,

    /// How far a node and the leader stay away from the end of a lease, each on its side.
    ///
    /// Two of them must be longer than an election (600 ms), the drift of clocks over a lease (1%)
    /// and 50 ms together. For the cluster that this node founds.
    #[arg(long, value_name = "DURATION", default_value = "500ms")]
    #[arg(value_parser = humantime::parse_duration)]
    pub lease_guard: Duration,

    /// How long a voter must be silent before another node votes in its place.
    ///
    /// For the cluster that this node founds; at most a day. Too low: each restart changes the voters
    /// twice. Too high: for that long another loss may end the majority.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub replace_voters_after: Duration,

    /// Whether a node whose address refuses connections is replaced at once.
    ///
    /// For the cluster that this node founds. Turn it off where something between the nodes
    /// refuses connections in their place. The resources of a dead node wait for the end of its
    /// lease then.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub fast_failover: bool,

    /// How long a node must have been there before it is given what others run.
    ///
    /// For the cluster that this node founds; at most two minutes. Twice as long for each time that the
    /// node was lost lately, up to two minutes; forgiven once it has stayed for ten. Resources that nobody holds do not wait for
    /// it. 0: at once. Too low: resources move to nodes that do not stay. Too high: a node that
    /// joins is of no use for that long.
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub stable_after: Duration,

    /// How many instances may be starting at once on this node, of all modules together.
    ///
    /// At most 64 of one module, and four of each whatever the others do. Too low: where `handle`
    /// waits for others, a failover takes long. Too high: what they all wait for is hit by all of
    /// them, and calls wait for the processor.
    #[arg(long, value_name = "N", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub starts_max: u32,

    /// How many bytes of memory all guests of this node may have together.
    ///
    /// Without it three quarters of what the process may have, by the machine's memory or the limit of
    /// its control group. Past it a guest is refused memory as at its module's own limit, and what it
    /// cannot start moves to other nodes. Too low: that happens though there is room. Too high: the
    /// kernel ends the process.
    #[arg(long, value_name = "BYTES")]
    #[arg(value_parser = clap::value_parser!(u64).range(1 << 20..))]
    pub guest_memory_bytes_max: Option<u64>,

    /// How long a stop waits for resources to move to other nodes.
    ///
    /// What has not moved by then is terminated here and starts elsewhere afterwards. Too low:
    /// resources have a gap. Too high: a supervisor may kill the process before it is done.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub drain_timeout: Duration,

    /// What becomes of resources when the process is told to stop.
    ///
    /// With `reserve` they end here and are kept for this node for 5 s: for a supervisor that
    /// starts the process again at once. Nothing moves then, and nothing is held meanwhile.
    #[arg(long, value_enum, default_value_t)]
    pub on_stop: OnStop,

    /// How the log on standard error looks.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// What is logged: a level, or `target=level` with commas between them.
    #[arg(
        long,
        value_name = "FILTER",
        env = "HOLDFAST_LOG",
        default_value = "info"
    )]
    pub log: String,

    /// The collector that gets traces, over OTLP/HTTP; none without it.
    ///
    /// The base URL of an OpenTelemetry collector: traces go to /v1/traces below it. Where the
    /// option is absent, OTEL_EXPORTER_OTLP_ENDPOINT of the OpenTelemetry standard does the same. A
    /// collector that is not there costs no call anything.
    #[arg(long, value_name = "URL", env = "HOLDFAST_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<Endpoint>,

    /// How many of the traces that callers did not begin are kept: 0 to 1.
    ///
    /// What a caller has decided is followed. Without it OTEL_TRACES_SAMPLER decides, and where
    /// that is absent too, all are kept. Too high: spans of busy nodes cost time and are dropped.
    /// Too low: what is rare is not seen.
    #[arg(long, value_name = "RATIO", env = "HOLDFAST_TRACE_RATIO")]
    pub trace_ratio: Option<Ratio>,

    /// Ends the process at once when standard input ends: nodes started by another program do not
    /// outlive it.
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,

    /// The token that clients of the HTTP API must show, where no file has it.
    #[arg(skip)]
    pub api_token: Option<String>,

    /// The file that has it.
    #[arg(skip)]
    pub token_file: Option<PathBuf>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl StartArgs {
    /// The cluster's secret that was given, if any: from `--secret-file`, else from
    /// `HOLDFAST_SECRET`. A file that is missing or empty may be about to be written: it is waited
    /// for, and `waiting` hears of that once.
    ///
    /// # Errors
    /// When the file cannot be read, or there is no secret in time.
    pub fn secret(&self, waiting: impl FnOnce(&Path)) -> anyhow::Result<Option<String>> {
        if let Some(path) = &self.secret_file {
            return wait_for_secret(path, SECRET_WAIT, waiting).map(Some);
        }
        let text = match std::env::var(SECRET_VARIABLE) {
            Err(std::env::VarError::NotPresent) => return Ok(None),
            text => text.context("read HOLDFAST_SECRET")?,
        };
        let secret = text.trim();
        anyhow::ensure!(!secret.is_empty(), "HOLDFAST_SECRET has no secret in it");
        Ok(Some(secret.to_owned()))
    }

    /// The address that peers are told, if one was given: of those that its name has, the first of
    /// the kind that the node listens at. A name that is not known yet is waited for, and `waiting`
    /// hears of that once.
    ///
    /// # Errors
    /// When the name has no such address in time.
    pub fn advertised(&self, waiting: impl FnOnce(&str)) -> anyhow::Result<Option<SocketAddr>> {
        let Some(given) = &self.advertise else {
            return Ok(None);
        };
        let look_up = || given.to_socket_addrs().map(Iterator::collect);
        let addr = wait_for_address(given, self.listen, NAME_WAIT, look_up, waiting);
        addr.map(Some)
            .with_context(|| format!("find the address of --advertise {given}"))
    }

    /// Starts to watch standard input, where that was asked for.
    pub(super) fn watch_parent(&self) {
        if !self.exit_with_stdin {
            return;
        }
        // A thread, for the read must not depend on a runtime that may be busy or gone; nothing
        // joins it, because it ends with the process, whichever way that ends.
        std::thread::spawn(|| {
            // Any end of it, an error too, means that nobody is there any more.
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            std::process::exit(1);
        });
    }
}

fn voters(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(voters @ (1 | 3 | 5 | 7)) => Ok(voters),
        _ => Err("the number of voters is 1, 3, 5 or 7".to_owned()),
    }
}

/// Reads a secret from its file, once the file has one.
fn wait_for_secret(
    path: &Path,
    patience: Duration,
    waiting: impl FnOnce(&Path),
) -> anyhow::Result<String> {
    let started = Instant::now();
    let mut waiting = Some(waiting);
    loop {
        let lacking = match std::fs::read_to_string(path) {
            Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
            Ok(_) => "it is empty",
            Err(error) if error.kind() == io::ErrorKind::NotFound => "there is no such file",
            Err(error) => {
                return Err(error).with_context(|| read_from(path));
            }
        };
        if started.elapsed() >= patience {
            let waited = humantime::format_duration(patience);
            return Err(anyhow::anyhow!("{lacking}, even after {waited}")).context(read_from(path));
        }
        if let Some(waiting) = waiting.take() {
            waiting(path);
        }
        std::thread::sleep(SECRET_POLL);
    }
}

/// The address of a name that fits the one listened at, once the name is known.
fn wait_for_address(
    name: &str,
    listen: SocketAddr,
    patience: Duration,
    look_up: impl Fn() -> io::Result<Vec<SocketAddr>>,
    waiting: impl FnOnce(&str),
) -> anyhow::Result<SocketAddr> {
    let started = Instant::now();
    let mut waiting = Some(waiting);
    // A socket on [::] takes both kinds.
    let both = listen.is_ipv6() && listen.ip().is_unspecified();
    loop {
        let failed = match look_up() {
            Ok(found) => {
                let fits = |addr: &&SocketAddr| both || addr.is_ipv4() == listen.is_ipv4();
                if let Some(addr) = found.iter().find(fits) {
                    return Ok(*addr);
                }
                let kind = if listen.is_ipv4() { "IPv4" } else { "IPv6" };
                anyhow::anyhow!(
                    "it has no {kind} address, and --listen {listen} is one: give an address of the \
                     same kind, or listen at one of the other"
                )
            }
            Err(error) => anyhow::Error::new(error),
        };
        if started.elapsed() >= patience {
            return Err(failed);
        }
        if let Some(waiting) = waiting.take() {
            waiting(name);
        }
        std::thread::sleep(SECRET_POLL);
    }
}

fn read_from(path: &Path) -> String {
    format!("read the secret from {}", path.display())
}

pub(super) fn host_port(text: &str) -> Result<String, String> {
    let wanted = || format!("{text:?} is no HOST:PORT, like 10.0.0.1:7301 or node-1:7301");
    let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
    let bare_v6 = host.contains(':') && !host.starts_with('[');
    match port.parse::<u16>() {
        Ok(1..) if !host.is_empty() && !bare_v6 => Ok(text.to_owned()),
        _ => Err(wanted()),
    }
}

/// The variable with the cluster's secret itself, where no file has it.
pub(super) const SECRET_VARIABLE: &str = "HOLDFAST_SECRET";
/// Long enough for a founder that is started at the same time on a busy machine; short enough for
/// whoever mistyped the path.
const SECRET_WAIT: Duration = Duration::from_secs(10);
/// Long enough for a name that is made together with the node, as orchestrators do.
const NAME_WAIT: Duration = Duration::from_secs(10);
const SECRET_POLL: Duration = Duration::from_millis(50);

const AFTER_HELP: &str = "\
Signals:
  SIGTERM, SIGINT  hand everything over to the other nodes (with --on-stop
                   reserve: keep it for the next run), and end the node;
                   a second one ends it at once, with exit code 130
  SIGUSR2          replaces the process by a new run of the program, which
                   gets back what this one held
  SIGHUP           reads --token-file again, and logs by --log again;
                   ends nothing

Examples:
  A cluster of one, on this machine:
    holdfast start --bootstrap --data-dir ./data --cluster-name office

  The first of several, reachable by others:
    openssl rand -hex 32 > secret; openssl rand -hex 32 > token
    holdfast start --bootstrap --data-dir ./data --cluster-name office \\
      --listen 10.0.0.1:7301 --http 10.0.0.1:7300 \\
      --secret-file secret --token-file token

  The next, with the same secret and token:
    holdfast start --data-dir ./data --cluster-name office \\
      --seed 10.0.0.1:7301 --listen 10.0.0.2:7301 --http 10.0.0.2:7300 \\
      --secret-file secret --token-file token";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_is_about_to_be_written_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        for before in [None, Some("\n")] {
            let path = folder.path().join("secret");
            match before {
                None => assert!(!path.exists()),
                Some(text) => std::fs::write(&path, text).unwrap(),
            }
            let write = |path: &Path| std::fs::write(path, " s3cret\n").unwrap();
            let secret = wait_for_secret(&path, SECRET_WAIT, write).unwrap();
            assert_eq!(secret, "s3cret", "{before:?}");
        }
    }

    #[test]
    fn a_secret_that_does_not_come_is_an_error_that_names_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let error = wait_for_secret(&path, Duration::ZERO, |_| {}).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert!(text.contains("no such file"), "{text}");
        std::fs::write(&path, "").unwrap();
        let error = wait_for_secret(&path, Duration::ZERO, |_| {}).unwrap_err();
        assert!(format!("{error:#}").contains("empty"), "{error:#}");
        // What waiting does not help is told at once.
        let error = wait_for_secret(folder.path(), SECRET_WAIT, |_| panic!("it waits"));
        assert!(error.is_err());
    }

    #[test]
    fn the_advertised_name_stands_for_an_address_of_the_kind_that_is_listened_at() {
        let listen = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (v4, v6) = (listen("10.0.0.1:7301"), listen("[fd00::1]:7301"));
        let find = |at: &str, found: &[SocketAddr]| {
            let look_up = || Ok(found.to_vec());
            wait_for_address("a:1", listen(at), Duration::ZERO, look_up, |_| {})
        };
        assert_eq!(find("0.0.0.0:7301", &[v6, v4]).unwrap(), v4);
        assert_eq!(find("[fd00::9]:7301", &[v4, v6]).unwrap(), v6);
        assert_eq!(find("[::]:7301", &[v4, v6]).unwrap(), v4);
        let error = find("0.0.0.0:7301", &[v6]).unwrap_err().to_string();
        assert!(error.contains("no IPv4 address"), "{error}");
    }

    #[test]
    fn an_advertised_name_that_is_not_known_yet_is_waited_for() {
        let addr: SocketAddr = "10.0.0.1:7301".parse().unwrap();
        let known = std::cell::Cell::new(false);
        let look_up = || match known.get() {
            true => Ok(vec![addr]),
            false => Err(io::Error::other("Name or service not known")),
        };
        let waiting = |name: &str| known.set(name == "node-1:7301");
        let found = wait_for_address("node-1:7301", addr, NAME_WAIT, look_up, waiting);
        assert_eq!(found.unwrap(), addr);
        known.set(false);
        let error = wait_for_address("a:1", addr, Duration::ZERO, look_up, |_| {}).unwrap_err();
        assert!(error.to_string().contains("not known"), "{error}");
    }
}
