//! `holdfast deploy`: brings a component into the cluster.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use holdfast_model::{
    ModuleName, Settings,
    api::{DeployQuery, ModuleInfo, ProblemKind, VersionInfo},
};

use super::{
    build,
    failure::{Exit, Failure},
    fallback::{Nodes, is_lost},
    human,
    manifest::Manifest,
    output::{self, Output},
    target::usage,
};
use crate::client::{self, Client};

mod change;

use change::Change;

/// Deploy a handler: build it and bring it to all nodes
///
/// Of a folder, its manifest says name and settings. Of a component file alone, the name is the
/// file's, and the module keeps the settings that it has. The new version is tried on a few
/// resources first and takes over when it holds one and the nodes that have some have compiled it.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct DeployArgs {
    /// A handler's folder, or a component.
    #[arg(default_value = ".", value_name = "DIR|FILE.wasm")]
    what: PathBuf,

    /// Name of the module, instead of the manifest's or the file's.
    #[arg(long, value_name = "NAME")]
    name: Option<ModuleName>,

    /// Change a setting, like limits.memory_bytes_max=1048576; can be given several times.
    #[arg(long = "set", value_name = "SETTING=VALUE")]
    changes: Vec<Change>,

    /// Take the component of this folder as it was built last.
    #[arg(long)]
    no_build: bool,

    /// Wait until the version serves, or has failed.
    #[arg(long)]
    wait: bool,

    /// How long all of it may take once the component is built: to send, check, compile and spread
    /// it, and to wait.
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    #[arg(value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub(super) async fn run(args: DeployArgs, client: &Client, output: &Output) -> anyhow::Result<()> {
    let (name, component, settings) = gather(&args, client).await?;
    let spinner = output::spinner(format!("deploying {name}"));
    let mut nodes = Nodes::of(client).await;
    let deadline = Deadline::after(args.timeout);
    let info = bring(&nodes, &name, component, settings.as_ref(), deadline).await?;
    let info = match args.wait {
        true => {
            let tell = |info: &ModuleInfo| spinner.set_message(waiting(info));
            follow(&mut nodes, &info, deadline, tell).await?
        }
        false => info,
    };
    spinner.finish_and_clear();
    output.show(&info, |info| describe(*output, info))
}

/// When somebody stops waiting, and how long that is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Instant,
    after: Duration,
}

impl Deadline {
    pub(super) fn after(after: Duration) -> Self {
        Self {
            at: Instant::now() + after,
            after,
        }
    }

    fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

/// Has a component deployed; it may still have to be tried.
pub(super) async fn bring(
    nodes: &Nodes,
    name: &ModuleName,
    component: Bytes,
    settings: Option<&Settings>,
    deadline: Deadline,
) -> anyhow::Result<ModuleInfo> {
    let query = DeployQuery {
        wait: None,
        timeout_ms: Some(u64::try_from(deadline.left().as_millis()).unwrap_or(u64::MAX)),
    };
    let client = nodes.present();
    Ok(client.deploy(name, component, settings, &query).await?)
}

/// Waits until the version of a deployment serves.
///
/// # Errors
/// When it failed, with the handler's words; when another version took its place, or the module is
/// gone; or when it takes too long.
pub(super) async fn follow(
    nodes: &mut Nodes,
    made: &ModuleInfo,
    deadline: Deadline,
    mut tell: impl FnMut(&ModuleInfo),
) -> anyhow::Result<ModuleInfo> {
    let name = &made.module;
    let number = made.deployed.unwrap_or_else(|| newest(made).number);
    loop {
        let asked = nodes.ask(async |client| client.module(name).await).await;
        let why = match asked {
            Ok(info) => match fate(&info, number) {
                Fate::Serves => {
                    let (new, deployed) = (made.new, made.deployed);
                    return Ok(ModuleInfo {
                        new,
                        deployed,
                        ..info
                    });
                }
                Fate::Failed(why) => {
                    let failure = format!("version {number} of {name} failed: {why}");
                    return Err(Failure::new(failure)
                        .hint(format!("version {} still serves", info.version.number))
                        .into());
                }
                Fate::Replaced(later) => {
                    let failure = format!(
                        "version {number} of {name} is deployed, and another version has taken its \
                         place: {} ({})",
                        later.number, later.digest
                    );
                    return Err(Failure::new(failure)
                        .hint(format!("somebody else deployed {name} too; `holdfast modules get {name}` shows what serves"))
                        .into());
                }
                Fate::Removed => return Err(removed(name, number)),
                Fate::Open => {
                    tell(&info);
                    String::new()
                }
            },
            Err(client::Error::Problem(problem)) if problem.kind == ProblemKind::UnknownModule => {
                return Err(removed(name, number));
            }
            // The cluster may be without a leader, or all nodes restart.
            Err(error) if is_lost(&error) => format!(": {error}"),
            Err(error) => return Err(error.into()),
        };
        if deadline.left().is_zero() {
            let late = format!(
                "version {number} of {name} does not serve after {}{why}",
                human::duration(deadline.after)
            );
            return Err(Failure::new(late)
                .hint("it goes on by itself; `holdfast modules get` shows how far it is")
                .exit(Exit::TimedOut)
                .into());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn removed(name: &ModuleName, number: u64) -> anyhow::Error {
    let failure =
        format!("version {number} of {name} was deployed, and the module was removed since");
    Failure::new(failure).into()
}

/// What has become of a version.
#[derive(Debug, PartialEq, Eq)]
enum Fate<'a> {
    Open,
    Serves,
    Failed(&'a str),
    /// Another one has taken its place, whether it served before or not.
    Replaced(&'a VersionInfo),
    /// The module is gone, or about to be.
    Removed,
}

fn fate(info: &ModuleInfo, number: u64) -> Fate<'_> {
    let failed = info.failed.as_ref();
    let tried = info.rollout.as_ref();
    if info.removing {
        return Fate::Removed;
    }
    if info.version.number == number {
        return Fate::Serves;
    }
    if let Some(failed) = failed.filter(|failed| failed.version.number == number) {
        return Fate::Failed(&failed.error);
    }
    let known = [
        Some(&info.version),
        tried.map(|tried| &tried.version),
        failed.map(|failed| &failed.version),
    ];
    let later = known.into_iter().flatten();
    match later
        .filter(|version| version.number > number)
        .max_by_key(|version| version.number)
    {
        Some(later) => Fate::Replaced(later),
        // The node that answers may not have heard of it yet.
        None => Fate::Open,
    }
}

/// The component, its name and its settings; no settings where the module's own are to stay.
async fn gather(
    args: &DeployArgs,
    client: &Client,
) -> anyhow::Result<(ModuleName, Bytes, Option<Settings>)> {
    let (name, component, mut settings) = if args.what.is_dir() {
        let (manifest, component) = of_folder(args).await?;
        let name = args.name.clone().unwrap_or(manifest.name);
        (name, component, Some(manifest.settings))
    } else {
        let component = read(&args.what)?;
        let name = args.name.clone().map_or_else(|| name_of(&args.what), Ok)?;
        let settings = if args.changes.is_empty() {
            None
        } else {
            Some(present_settings(client, &name).await?)
        };
        (name, component, settings)
    };
    if let Some(settings) = &mut settings {
        *settings =
            change::apply(settings, &args.changes).map_err(|error| usage(error.to_string()))?;
    }
    Ok((name, component, settings))
}

async fn of_folder(args: &DeployArgs) -> anyhow::Result<(Manifest, Bytes)> {
    if !args.no_build {
        let built = build::with_spinner(&args.what).await?;
        return Ok((built.manifest, built.bytes));
    }
    let manifest = Manifest::read(&args.what)?;
    let path = build::last(&args.what).await.map_err(build::explain)?;
    Ok((manifest, read(&path)?))
}

fn read(path: &Path) -> anyhow::Result<Bytes> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    if bytes.starts_with(b"\0asm") {
        return Ok(bytes.into());
    }
    Err(
        Failure::new(format!("{} is no WebAssembly component", path.display()))
            .hint("give a folder with holdfast.toml, or the .wasm file that `holdfast build` made")
            .into(),
    )
}

/// The name that a file suggests: cargo writes `my-counter` as `my_counter.wasm`.
fn name_of(path: &Path) -> anyhow::Result<ModuleName> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.replace('_', "-")
        .parse()
        .map_err(|error| usage(format!("{error}; give one with --name")))
}

async fn present_settings(client: &Client, name: &ModuleName) -> anyhow::Result<Settings> {
    match client.module(name).await {
        Ok(info) => Ok(newest(&info).settings.clone()),
        Err(client::Error::Problem(problem)) if problem.kind == ProblemKind::UnknownModule => {
            Ok(Settings::default())
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) fn newest(info: &ModuleInfo) -> &VersionInfo {
    info.rollout
        .as_ref()
        .map_or(&info.version, |rollout| &rollout.version)
}

fn waiting(info: &ModuleInfo) -> String {
    let Some(rollout) = &info.rollout else {
        return format!("deploying {}", info.module);
    };
    let failed = rollout.failed_on.len();
    let number = rollout.version.number;
    match failed {
        0 => format!("version {number} is being tried"),
        _ => format!(
            "version {number} is being tried; it failed on {}",
            human::counted(failed as u64, "node")
        ),
    }
}

fn describe(output: Output, info: &ModuleInfo) -> String {
    let version = newest(info);
    let made = info.deployed.unwrap_or(version.number);
    let state = match (&info.rollout, info.new) {
        _ if made != version.number => format!("deployed after version {made}, which was yours"),
        (Some(_), _) => format!(
            "being tried; version {} serves until then",
            info.version.number
        ),
        (None, Some(false)) => "serves; it did already".to_owned(),
        (None, _) => "serves".to_owned(),
    };
    let mut pairs = vec![
        ("module", info.module.to_string()),
        ("version", format!("{} ({state})", version.number)),
        ("digest", version.digest.to_string()),
        ("size", human::bytes(version.size_bytes)),
    ];
    if let Some(lane) = version.lane {
        pairs.push(("lane", super::modules::lane(lane).to_owned()));
    }
    if info.resources > 0 {
        pairs.push(("resources", human::count(info.resources)));
    }
    for node in &info.nodes {
        if let Some(why) = &node.behind {
            let node = human::node(node.node);
            pairs.push(("behind", format!("{node} keeps the former version: {why}")));
        }
    }
    output.pairs(pairs)
}

const POLL_INTERVAL: Duration = Duration::from_millis(200);

const AFTER_HELP: &str = "\
Examples:
  holdfast deploy                            the handler in this folder
  holdfast deploy handlers/counter --wait
  holdfast deploy counter.wasm --name counter --set config.region=eu
  holdfast deploy --set lane=fiber --set grants.http=api.example.com:443";

#[cfg(test)]
mod tests;
