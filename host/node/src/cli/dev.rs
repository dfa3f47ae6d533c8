//! `holdfast dev`: a handler that runs while it is written.
//!
//! One node of this very binary, with its data in a temporary folder, runs the handler of a folder and
//! the resources that its manifest lists. Every change is built and deployed as it is saved; what does
//! not build or run is said, and the version before goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use holdfast_model::{
    ModuleName, ResourceId, Spec,
    api::{
        self as model, AllocateQuery, AllocateWait, DeallocateQuery, EventType, EventsQuery,
        Happening, LogLevel, LogsQuery,
    },
};
use parking_lot::Mutex;
use tempfile::TempDir;

use self::{
    tell::{Event, Teller},
    watch::Watch,
};
use super::{
    build,
    deploy::{self, Deadline},
    failure::{Exit, Failure},
    fallback::Nodes,
    interrupts::Interrupts,
    local_node::{self, Launch, Log},
    manifest::Manifest,
    output::Output,
    session::Session,
};
use crate::client::Client;

mod node_log;
mod tell;
mod watch;

/// Run a handler while you write it
///
/// Builds the handler in a folder, starts one node on this machine, deploys it, allocates what
/// `[[resources]]` in its holdfast.toml lists, and shows what it says and each call of it. Whenever
/// something changes that the build reads, in path dependencies too, it is built and deployed anew.
/// The other commands talk to the node as to any other. Ctrl-C ends it all and leaves nothing behind.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct DevArgs {
    /// The folder with Cargo.toml and holdfast.toml.
    #[arg(default_value = ".", value_name = "DIR")]
    dir: PathBuf,

    /// Address of the node's HTTP API; port 0 takes any free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7300")]
    http: SocketAddr,

    /// Show only what is at least so important of what the handler says: trace, debug, info, warn,
    /// error or critical.
    #[arg(long, value_name = "LEVEL", default_value = "debug")]
    level: LogLevel,
}

pub(super) async fn run(args: DevArgs, output: &Output) -> anyhow::Result<Exit> {
    let mut interrupts = Interrupts::listen().context("listen for signals")?;
    // Before anything is started: the manifest is what is wrong most often at first.
    let manifest = Manifest::read(&args.dir).map_err(|error| build::explain(error.into()))?;
    let folder = tempfile::Builder::new()
        .prefix("holdfast-dev-")
        .tempdir()
        .context("make a temporary folder")?;
    let teller = Teller::new(*output);
    let mut node = None;
    let ended = tokio::select! {
        ended = develop(&args, manifest.name, &folder, teller, &mut node) => ended,
        () = interrupts.next() => Ok(()),
    };
    if let Some(mut node) = node {
        // It fails for one that has ended already. Its data goes with the folder: there is nothing
        // to hand over, and nothing to wait for.
        let _ = node.child.kill().await;
    }
    let path = folder.path().to_owned();
    if let Err(error) = folder.close() {
        output.warn(&format!("{} is not removed: {error}", path.display()));
    }
    ended.map(|()| Exit::Done)
}

/// Goes on until something fails that no change of the handler mends.
async fn develop(
    args: &DevArgs,
    module: ModuleName,
    folder: &TempDir,
    teller: Teller,
    node: &mut Option<local_node::Process>,
) -> anyhow::Result<()> {
    // Before the first build: what changes while it runs is built afterwards.
    let mut watch = Watch::begin(&args.dir)?;
    let client = start(args, folder.path(), node).await?;
    teller.tell(&Event::Listening {
        server: client.server(),
    })?;
    let waited_for = Mutex::default();
    let mut handler = Handler {
        dir: &args.dir,
        module: module.clone(),
        client: &client,
        teller,
        present: None,
        allocated: BTreeMap::new(),
        waited_for: &waited_for,
        shown: None,
    };
    let node = node.as_mut().expect("it was started just now");
    let log = node.child.stderr.take().expect("its log is read");
    let work = async {
        loop {
            handler.refresh(&mut watch).await?;
            watch.changed().await?;
            teller.tell(&Event::Changed)?;
        }
    };
    let ended = tokio::select! {
        ended = work => ended,
        ended = follow(args.level, &client, teller) => ended,
        ended = follow_failures(&module, &client, teller, &waited_for) => ended,
        ended = node_log::follow(log, teller) => ended,
        _ = node.child.wait() => Ok(()),
    };
    // Whatever came of that, if the node has ended, that is what there is to know.
    match tokio::time::timeout(END_TIMEOUT, node.child.wait()).await {
        Ok(status) => {
            let status = status.context("wait for the node")?;
            Err(Failure::new(format!("the node ended with {status}")).into())
        }
        Err(_) => ended,
    }
}

async fn start(
    args: &DevArgs,
    folder: &Path,
    node: &mut Option<local_node::Process>,
) -> anyhow::Result<Client> {
    if let Err(error) = std::net::TcpListener::bind(args.http) {
        let taken = format!("cannot listen on {}: {error}", args.http);
        let hint = "give another address: `--http 127.0.0.1:0` takes any free port";
        return Err(Failure::new(taken).hint(hint).into());
    }
    let launch = Launch {
        cluster_name: "dev",
        data_dir: folder.join("node"),
        http: args.http,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        seed: None,
        log: node_log::FILTER,
    };
    let (process, announcement) = launch.spawn(Log::Read)?;
    *node = Some(process);
    let listening = announcement.listening().await.context("start the node")?;
    let client = Client::new(&listening.http.to_string())?;
    let begun = Instant::now();
    while let Err(error) = client.ready().await {
        if begun.elapsed() > READY_TIMEOUT {
            return Err(error).context("wait until the node is ready");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(client)
}

/// Shows what the handler says, from now on.
async fn follow(level: LogLevel, client: &Client, teller: Teller) -> anyhow::Result<()> {
    let query = LogsQuery {
        level: Some(level),
        limit: Some(0),
        follow: true,
        ..LogsQuery::default()
    };
    client.logs(&query, |line| teller.said(&line)).await?;
    anyhow::bail!("the node says no more what the handler says")
}

/// Shows which resources fail, and why, from now on.
async fn follow_failures(
    module: &ModuleName,
    client: &Client,
    teller: Teller,
    waited_for: &Mutex<BTreeSet<ResourceId>>,
) -> anyhow::Result<()> {
    let query = EventsQuery {
        kind: Some(EventType::InstanceFailed),
        module: Some(module.clone()),
        ..EventsQuery::default()
    };
    let told = |_: &str, event: Option<model::Event>| match event.map(|event| event.what) {
        Some(Happening::InstanceFailed {
            resource,
            error,
            quarantined,
            ..
        }) => {
            // Whoever waits for it is told by the answer.
            if quarantined && waited_for.lock().contains(&resource) {
                return Ok(());
            }
            teller.tell(&Event::ResourceFailed {
                module,
                id: &resource,
                error: &error,
                quarantined,
            })
        }
        _ => Ok(()),
    };
    client.events(&query, None, told).await?;
    anyhow::bail!("the node says no more which resources fail")
}

/// The handler that is being written, and what became of it on the node.
struct Handler<'a> {
    dir: &'a Path,
    /// Its module; another one since its name was changed is another module.
    module: ModuleName,
    client: &'a Client,
    teller: Teller,
    /// What was deployed last.
    present: Option<(Manifest, Bytes)>,
    /// What was allocated for the manifest.
    allocated: BTreeMap<ResourceId, Spec>,
    /// Resources whose answer is awaited.
    waited_for: &'a Mutex<BTreeSet<ResourceId>>,
    /// What to do next, as it was shown last.
    shown: Option<Vec<String>>,
}

impl Handler<'_> {
    /// Brings the node to what the folder has. What is wrong with that is told.
    ///
    /// # Errors
    /// When nobody can be told.
    async fn refresh(&mut self, watch: &mut Watch) -> anyhow::Result<()> {
        let refreshed = self.try_refresh(watch).await;
        match refreshed {
            Ok(()) => Ok(()),
            Err(error) => {
                let serving = self.present.is_some();
                self.teller.failed(error, serving)
            }
        }
    }

    async fn try_refresh(&mut self, watch: &mut Watch) -> anyhow::Result<()> {
        let teller = self.teller;
        watch.building();
        let built = teller.build(self.dir).await?;
        match &built {
            Ok(built) => watch.built(&built.packages, Some(&built.dep_info())),
            Err(build::Error::Cargo { packages, .. }) => watch.built(packages, None),
            Err(_) => watch.built(&BTreeSet::new(), None),
        }
        let built = built.map_err(build::explain)?;
        if built.manifest.name != self.module {
            let (was, is) = (&self.module, &built.manifest.name);
            let failure = Failure::new(format!("the module's name was changed: {was} is now {is}"));
            return Err(failure.hint("end `holdfast dev` and start it again").into());
        }
        let is_new = self.present.as_ref().is_none_or(|(manifest, bytes)| {
            manifest.settings != built.manifest.settings || *bytes != built.bytes
        });
        if is_new {
            self.deploy(&built).await?;
        } else {
            teller.tell(&Event::Unchanged)?;
        }
        let wanted = built.manifest.resources.clone();
        let can_be_called = self.present(built).await?;
        self.reconcile(wanted).await?;
        self.show_next(can_be_called)
    }

    /// Keeps what serves now; says whether it can be called.
    async fn present(&mut self, built: build::Built) -> anyhow::Result<bool> {
        self.present = Some((built.manifest, built.bytes));
        let info = self.client.module(&self.module).await?;
        Ok(info
            .version
            .exports
            .iter()
            .any(|name| name.contains("invocation")))
    }

    /// Says what to do next, with commands that can be copied as they are.
    fn show_next(&mut self, can_be_called: bool) -> anyhow::Result<()> {
        let commands = next(
            self.client.server(),
            &self.module,
            &self.allocated,
            can_be_called,
        );
        if self.shown.as_ref() == Some(&commands) {
            return Ok(());
        }
        self.teller.tell(&Event::Next {
            commands: &commands,
        })?;
        self.shown = Some(commands);
        Ok(())
    }

    async fn deploy(&self, built: &build::Built) -> anyhow::Result<()> {
        let begun = Instant::now();
        let (module, settings) = (&self.module, &built.manifest.settings);
        let component = built.bytes.clone();
        let mut nodes = Nodes::of(self.client).await;
        let deadline = Deadline::after(DEPLOY_TIMEOUT);
        let made = deploy::bring(&nodes, module, component, Some(settings), deadline).await?;
        let info = deploy::follow(&mut nodes, &made, deadline, |_| {}).await?;
        self.teller.tell(&Event::Serves {
            module,
            version: info.version.number,
            took_ms: begun.elapsed().as_millis() as u64,
        })
    }

    /// Has exactly what the manifest lists, of what was allocated for it. One that cannot be held keeps
    /// none of the others from being.
    async fn reconcile(&mut self, wanted: BTreeMap<ResourceId, Spec>) -> anyhow::Result<()> {
        let gone = self.allocated.keys().filter(|id| !wanted.contains_key(*id));
        for id in gone.cloned().collect::<Vec<_>>() {
            let query = DeallocateQuery::default();
            self.client.deallocate(&self.module, &id, &query).await?;
            self.allocated.remove(&id);
            self.teller.tell(&Event::Deallocated {
                module: &self.module,
                id: &id,
            })?;
        }
        for (id, spec) in wanted {
            if self.allocated.get(&id) == Some(&spec) {
                continue;
            }
            let query = AllocateQuery {
                wait: Some(AllocateWait::Held),
                timeout_ms: Some(HELD_TIMEOUT.as_millis() as u64),
            };
            self.waited_for.lock().insert(id.clone());
            let answer = self.client.allocate(&self.module, &id, &spec, &query).await;
            self.waited_for.lock().remove(&id);
            match answer {
                Ok(info) => self.teller.tell(&Event::Held { resource: &info })?,
                Err(error) => {
                    let what = format!("{}/{id} is not held", self.module);
                    let error = anyhow::Error::new(error).context(what);
                    self.teller.failed_resource(&self.module, &id, error)?;
                }
            }
            // Allocated it is either way: what is not in the manifest any more goes.
            self.allocated.insert(id, spec);
        }
        Ok(())
    }
}

/// What to do next with a module that serves.
fn next(
    server: &str,
    module: &ModuleName,
    allocated: &BTreeMap<ResourceId, Spec>,
    can_be_called: bool,
) -> Vec<String> {
    let holdfast = match server == Session::SERVER_DEFAULT {
        true => "holdfast".to_owned(),
        false => format!("holdfast --server {server}"),
    };
    let mut commands = Vec::new();
    let id = match allocated.keys().next() {
        Some(id) => id.to_string(),
        None => {
            commands.push(format!("{holdfast} resources allocate {module}/a --wait"));
            "a".to_owned()
        }
    };
    let target = quoted(&format!("{module}/{id}"));
    commands.push(match can_be_called {
        true => format!("{holdfast} invoke {target} hello"),
        false => format!("{holdfast} resources get {target}"),
    });
    commands
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    match word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// How long a node that was heard of last may take to have ended.
const END_TIMEOUT: Duration = Duration::from_millis(500);
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const DEPLOY_TIMEOUT: Duration = Duration::from_secs(60);
const HELD_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

const AFTER_HELP: &str = "\
Examples:
  holdfast dev                                the handler in this folder
  holdfast dev handlers/counter --level info
  holdfast dev --http 127.0.0.1:0 --format json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_next_can_be_copied_as_it_stands() {
        let module: ModuleName = "my-bot".parse().unwrap();
        let listed = |id: &str| BTreeMap::from([(id.parse().unwrap(), Spec::default())]);
        let default = Session::SERVER_DEFAULT;
        let next = |server, listed: &BTreeMap<_, _>| next(server, &module, listed, true);
        assert_eq!(
            next(default, &listed("ada")),
            ["holdfast invoke my-bot/ada hello"]
        );
        let elsewhere = next("http://127.0.0.1:4711", &BTreeMap::new());
        assert_eq!(
            elsewhere,
            [
                "holdfast --server http://127.0.0.1:4711 resources allocate my-bot/a --wait",
                "holdfast --server http://127.0.0.1:4711 invoke my-bot/a hello",
            ]
        );
        let odd = next(default, &listed("ada's room"));
        assert_eq!(odd, ["holdfast invoke 'my-bot/ada'\\''s room' hello"]);
        let silent = super::next(default, &module, &listed("ada"), false);
        assert_eq!(silent, ["holdfast resources get my-bot/ada"]);
    }
}
