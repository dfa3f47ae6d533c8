//! `holdfast modules`: what is deployed.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use comfy_table::Cell;
use holdfast_model::{
    Lane, ModuleName, OnLostQuorum,
    api::{ModuleInfo, ModuleList, ProblemKind, RemoveModuleQuery},
};

use super::{
    failure::{Exit, Failure},
    fallback::{Nodes, is_lost},
    human,
    output::{self, Output},
};
use crate::client::{self, Client};

mod archive;
mod export;
mod import;

/// List, describe, remove, export and import modules
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ModulesArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the modules; what happens without a subcommand
    #[command(after_help = "Examples:\n  holdfast modules list --format json")]
    List,
    /// Describe a module
    #[command(after_help = "Examples:\n  holdfast modules get counter")]
    Get {
        /// The module.
        module: ModuleName,
    },
    Export(export::ExportArgs),
    Import(import::ImportArgs),
    /// Remove a module
    ///
    /// It takes no allocations any more, and vanishes with the last instance of its resources.
    #[command(after_help = "Examples:\n  holdfast modules remove counter --force --wait")]
    Remove {
        /// The module.
        module: ModuleName,
        /// Deallocate its resources too.
        #[arg(long)]
        force: bool,
        /// Wait until it is gone.
        #[arg(long)]
        wait: bool,
        /// How long to wait; only with --wait.
        #[arg(
            long,
            value_name = "DURATION",
            requires = "wait",
            default_value = "60s"
        )]
        #[arg(value_parser = humantime::parse_duration)]
        timeout: Duration,
    },
}

pub(super) async fn run(
    args: ModulesArgs,
    client: &Client,
    output: &Output,
) -> anyhow::Result<Exit> {
    match args.action.unwrap_or(Action::List) {
        Action::Export(args) => export::run(args, client, *output).await?,
        Action::Import(args) => return import::run(args, client, *output).await,
        Action::List => {
            let modules = client.modules().await?;
            output.show(&modules, |modules| list(*output, modules))?;
        }
        Action::Get { module } => {
            let info = client.module(&module).await?;
            output.show(&info, |info| describe(*output, info))?;
        }
        Action::Remove {
            module,
            force,
            wait,
            timeout,
        } => {
            let query = RemoveModuleQuery {
                force,
                ..RemoveModuleQuery::default()
            };
            // Those that can be asked in the place of this node, should it die.
            let mut nodes = Nodes::of(client).await;
            client.remove_module(&module, &query).await?;
            if wait {
                until_gone(&mut nodes, &module, timeout).await?;
            }
            // An acknowledged removal is under way; only who waited knows that it is complete.
            let removed = serde_json::json!({"module": module, "removing": !wait, "removed": wait});
            output.show(&removed, |_| match wait {
                true => format!("{module} is removed"),
                false => format!("{module} is being removed"),
            })?;
        }
    }
    Ok(Exit::Done)
}

/// Waits until a module that is being removed is gone, on this side, to be able to show how far
/// it is. Another one that has its name by then is another.
async fn until_gone(
    nodes: &mut Nodes,
    module: &ModuleName,
    timeout: Duration,
) -> anyhow::Result<()> {
    let spinner = output::spinner(format!("removing {module}"));
    let started = Instant::now();
    loop {
        let asked = nodes.ask(async |client| client.module(module).await).await;
        let how_far = match asked {
            Ok(info) if !info.removing => return Ok(()),
            Ok(info) => {
                let left = human::counted(info.slots, "slot");
                spinner.set_message(format!("removing {module}: {left} left"));
                format!("{left} of it still have instances")
            }
            Err(client::Error::Problem(problem)) if problem.kind == ProblemKind::UnknownModule => {
                return Ok(());
            }
            Err(error) if is_lost(&error) => format!("no node says how far it is: {error}"),
            Err(error) => return Err(error.into()),
        };
        if started.elapsed() >= timeout {
            let late = format!(
                "the removal of {module} is decided, and after {} {how_far}",
                human::duration(timeout)
            );
            return Err(Failure::new(late)
                .hint("it goes on by itself; `holdfast modules` shows whether it is done")
                .exit(Exit::TimedOut)
                .into());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn list(output: Output, list: &ModuleList) -> String {
    if list.modules.is_empty() {
        return "No modules. `holdfast deploy` brings one.".to_owned();
    }
    let rows = list.modules.iter().map(|info| {
        vec![
            Cell::new(&info.module),
            Cell::new(info.version.number),
            Cell::new(human::count(info.resources)),
            Cell::new(info.nodes.len()),
            Cell::new(info.version.lane.map_or("", lane)),
            Cell::new(human::bytes(info.version.size_bytes)),
            Cell::new(human::ago(info.version.deployed_at_ms)),
            Cell::new(state(info)),
        ]
    });
    let columns = [
        "MODULE",
        ">VERSION",
        ">RESOURCES",
        ">NODES",
        "LANE",
        ">SIZE",
        ">AGE",
        "STATE",
    ];
    output.table(&columns, rows)
}

fn describe(output: Output, info: &ModuleInfo) -> String {
    let version = &info.version;
    let limits = &version.settings.limits;
    let grants: Vec<String> = version
        .settings
        .grants
        .http
        .iter()
        .map(ToString::to_string)
        .collect();
    let config: Vec<&str> = version.settings.config.keys().map(String::as_str).collect();
    let or_none = |texts: String| {
        if texts.is_empty() {
            "none".to_owned()
        } else {
            texts
        }
    };
    let mut text = output.pairs([
        ("module", info.module.to_string()),
        ("state", state(info)),
        ("version", version.number.to_string()),
        ("digest", version.digest.to_string()),
        ("size", human::bytes(version.size_bytes)),
        (
            "deployed",
            format!("{} ago", human::ago(version.deployed_at_ms)),
        ),
        (
            "lane",
            version
                .lane
                .map_or("not compiled here yet", lane)
                .to_owned(),
        ),
        (
            "no quorum",
            match version.settings.on_lost_quorum {
                OnLostQuorum::Stop => "its resources stop",
                OnLostQuorum::Continue => "its resources go on, maybe twice",
            }
            .to_owned(),
        ),
        ("exports", or_none(version.exports.join(", "))),
        ("imports", or_none(version.imports.join(", "))),
        (
            "memory",
            format!("at most {}", human::bytes(limits.memory_bytes_max)),
        ),
        ("http", or_none(grants.join(", "))),
        ("config", or_none(config.join(", "))),
        (
            "resources",
            format!(
                "{} in {}",
                human::count(info.resources),
                human::counted(info.slots, "slot")
            ),
        ),
    ]);
    if !info.nodes.is_empty() {
        text.push('\n');
        let rows = info.nodes.iter().map(|share| {
            vec![
                Cell::new(human::node(share.node)),
                Cell::new(human::count(share.resources)),
            ]
        });
        text.push_str(&output.table(&["NODE", ">RESOURCES"], rows));
    }
    if let Some(failed) = &info.failed {
        text.push_str(&format!(
            "\nVersion {} failed: {}\n",
            failed.version.number, failed.error
        ));
    }
    text
}

fn state(info: &ModuleInfo) -> String {
    if info.removing {
        return "removing".to_owned();
    }
    match (&info.rollout, &info.failed) {
        (Some(rollout), _) => format!("trying {}", rollout.version.number),
        (None, Some(failed)) => format!("{} failed", failed.version.number),
        (None, None) => "serves".to_owned(),
    }
}

pub(super) fn lane(lane: Lane) -> &'static str {
    match lane {
        Lane::Direct => "direct",
        Lane::Fiber => "fiber",
    }
}

const POLL_INTERVAL: Duration = Duration::from_millis(200);

const AFTER_HELP: &str = "\
Examples:
  holdfast modules
  holdfast modules get counter
  holdfast modules remove counter --force
  holdfast modules export --output backup.tar
  holdfast modules import backup.tar";

#[cfg(test)]
pub(super) mod tests {
    use holdfast_model::api::VersionInfo;

    use super::*;

    pub(crate) fn info(module: &str) -> ModuleInfo {
        ModuleInfo {
            module: module.parse().unwrap(),
            version: VersionInfo {
                number: 3,
                digest: holdfast_model::Digest::of(b""),
                size_bytes: 100_352,
                deployed_at_ms: u64::MAX,
                settings: Default::default(),
                lane: Some(Lane::Direct),
                exports: vec!["invocation".to_owned()],
                imports: Vec::new(),
            },
            rollout: None,
            failed: None,
            removing: false,
            resources: 1_000,
            slots: 900,
            nodes: Vec::new(),
            new: None,
            deployed: None,
        }
    }

    #[test]
    fn modules_are_listed_within_80_columns() {
        let list = ModuleList {
            modules: vec![info("counter")],
        };
        let text = super::list(Output::plain(), &list);
        assert_eq!(
            text,
            "MODULE   VERSION  RESOURCES  NODES  LANE        SIZE  AGE  STATE\n\
             counter        3      1,000      0  direct  98.0 KiB  0 s  serves\n"
        );
        assert!(super::list(Output::plain(), &ModuleList::default()).contains("holdfast deploy"));
    }

    #[test]
    fn a_failed_version_is_described_with_its_error() {
        let mut info = info("counter");
        info.failed = Some(holdfast_model::api::FailedVersion {
            version: info.version.clone(),
            error: "no such region".to_owned(),
        });
        let text = describe(Output::plain(), &info);
        assert!(text.contains("state      3 failed\n"), "{text}");
        assert!(
            text.ends_with("Version 3 failed: no such region\n"),
            "{text}"
        );
    }
}
