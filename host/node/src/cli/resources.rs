//! `holdfast resources`: what is to be held.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use comfy_table::Cell;
use holdfast_model::{
    ModuleName, NodeId, Spec,
    api::{
        AllocateQuery, AllocateWait, DeallocateQuery, DeallocateWait, ProblemKind, ResourceInfo,
        ResourceStatus, ResourceStatuses, ResourcesQuery,
    },
};

use super::{
    failure::Exit,
    human,
    output::{self, Output},
    target::{self, Target},
};
use crate::client::{self, Client};

pub(super) mod import;
pub(super) mod records;

/// List, describe, allocate, deallocate and import resources
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ResourcesArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List a module's resources in the order of their ids
    #[command(after_help = LIST_HELP)]
    List(ListArgs),
    /// Describe a resource
    #[command(after_help = "Examples:\n  holdfast resources get counter/a")]
    Get {
        #[command(flatten)]
        target: Target,
    },
    /// Allocate a resource, or change its spec
    #[command(after_help = ALLOCATE_HELP)]
    Allocate(AllocateArgs),
    /// Deallocate a resource; one that does not exist is no error
    #[command(after_help = "Examples:\n  holdfast resources deallocate counter/a --wait")]
    Deallocate {
        #[command(flatten)]
        target: Target,
        /// Wait until its instance is gone.
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
    /// Allocate many resources from a file
    #[command(after_help = IMPORT_HELP)]
    Import {
        /// The module.
        module: ModuleName,
        /// The file; - is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct ListArgs {
    /// The module.
    #[arg(
        required_unless_present = "all_modules",
        conflicts_with = "all_modules"
    )]
    module: Option<ModuleName>,

    /// Those of all modules, all of them; with --format json one a line.
    #[arg(long, conflicts_with_all = ["cursor", "limit"])]
    all_modules: bool,

    /// Only what this node owns: its id, or the beginning of it.
    #[arg(long, value_name = "NODE")]
    node: Option<String>,

    /// Only what has this status, like held, or one of several, like failed,quarantined.
    #[arg(long, value_name = "STATUS")]
    status: Option<ResourceStatuses>,

    /// How many at a time.
    #[arg(long, value_name = "N", default_value_t = ResourcesQuery::LIMIT_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(ResourcesQuery::LIMIT_MAX)))]
    limit: u32,

    /// Where to go on: the `next_cursor` of the page before.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,

    /// All of them; with --format json one a line.
    #[arg(long, conflicts_with = "cursor")]
    all: bool,
}

#[derive(Debug, Args)]
struct AllocateArgs {
    #[command(flatten)]
    target: Target,

    /// What it is to do: a JSON object, or @ and the file that has it.
    #[arg(long, value_name = "JSON|@FILE", default_value = "{}")]
    spec: String,

    /// Wait until it is held.
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
}

pub(super) async fn run(
    args: ResourcesArgs,
    client: &Client,
    output: &Output,
) -> anyhow::Result<Exit> {
    match args.action {
        Action::List(args) => list(args, client, *output).await?,
        Action::Get { target } => {
            let key = target.key()?;
            let info = client.resource(&key.module, &key.id).await?;
            output.show(&info, |info| describe(*output, info))?;
        }
        Action::Allocate(args) => allocate(args, client, *output).await?,
        Action::Deallocate {
            target,
            wait,
            timeout,
        } => {
            let key = target.key()?;
            let query = DeallocateQuery {
                wait: wait.then_some(DeallocateWait::Gone),
                timeout_ms: wait.then(|| millis(timeout)),
            };
            let spinner = output::spinner(format!("deallocating {key}"));
            client.deallocate(&key.module, &key.id, &query).await?;
            spinner.finish_and_clear();
            let done = serde_json::json!({"module": key.module, "id": key.id, "deallocated": true});
            output.show(&done, |_| format!("{key} is deallocated"))?;
        }
        Action::Import { module, file } => {
            return import::run(&module, &file, client, *output).await;
        }
    }
    Ok(Exit::Done)
}

async fn list(args: ListArgs, client: &Client, output: Output) -> anyhow::Result<()> {
    let node = match &args.node {
        Some(beginning) => Some(target::node(client, beginning).await?),
        None => None,
    };
    let all = args.all || args.all_modules;
    let mut query = ResourcesQuery {
        limit: Some(if all {
            ResourcesQuery::LIMIT_MAX
        } else {
            args.limit
        }),
        cursor: args.cursor,
        node,
        status: args.status,
    };
    let modules = match args.module {
        Some(module) => vec![module],
        None => names(client).await?,
    };
    let mut shown = 0;
    for module in &modules {
        query.cursor = match all {
            true => None,
            false => query.cursor,
        };
        loop {
            let page = client.resources(module, &query).await;
            let page = match page {
                // It was removed since its name was listed.
                Err(error) if args.all_modules && is_unknown(&error) => break,
                page => page?,
            };
            if output.is_json() && !all {
                return output.json(&page);
            }
            if output.is_json() {
                for info in &page.resources {
                    output.json(info)?;
                }
            } else if !page.resources.is_empty() {
                let rows = rows_of(output, &page.resources, shown == 0, args.all_modules);
                output::write(rows.as_bytes())?;
            }
            shown += page.resources.len();
            match page.next_cursor {
                Some(cursor) if all => query.cursor = Some(cursor),
                Some(cursor) => {
                    return output.say(format!(
                        "\nThere is more: --all shows everything, --cursor {cursor} the next page."
                    ));
                }
                None => break,
            }
        }
    }
    match shown {
        0 => output.say("No such resources."),
        _ => Ok(()),
    }
}

async fn names(client: &Client) -> Result<Vec<ModuleName>, client::Error> {
    let modules = client.modules().await?.modules.into_iter();
    Ok(modules.map(|info| info.module).collect())
}

fn is_unknown(error: &client::Error) -> bool {
    let problem = error.problem();
    problem.is_some_and(|problem| problem.kind == ProblemKind::UnknownModule)
}

/// What a node owns and does not hold, of all modules; as many at most.
pub(super) async fn unheld(
    client: &Client,
    node: NodeId,
    max: usize,
) -> Result<Vec<ResourceInfo>, client::Error> {
    let mut found = Vec::new();
    for module in names(client).await? {
        let mut query = ResourcesQuery {
            limit: Some(ResourcesQuery::LIMIT_MAX),
            cursor: None,
            node: Some(node),
            status: Some(ResourceStatuses::all_but(ResourceStatus::Held)),
        };
        loop {
            let page = match client.resources(&module, &query).await {
                Err(error) if is_unknown(&error) => break,
                page => page?,
            };
            found.extend(page.resources);
            if found.len() >= max {
                found.truncate(max);
                return Ok(found);
            }
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => break,
            }
        }
    }
    Ok(found)
}

fn rows_of(output: Output, resources: &[ResourceInfo], first: bool, with_module: bool) -> String {
    let rows = resources.iter().map(|info| {
        let error = info.last_error.as_ref();
        let name = match with_module {
            true => format!("{}/{}", info.module, info.id),
            false => info.id.to_string(),
        };
        vec![
            Cell::new(name),
            output::resource_status(info.status),
            Cell::new(
                info.owner
                    .map_or_else(|| "-".to_owned(), |o| human::node(o.node)),
            ),
            Cell::new(
                info.held_since_ms
                    .map_or_else(|| "-".to_owned(), human::ago),
            ),
            Cell::new(info.restarts),
            Cell::new(error.map_or_else(String::new, |e| human::short(&e.message, 60))),
        ]
    });
    let columns = [
        "ID",
        "STATUS",
        "NODE",
        ">HELD FOR",
        ">RESTARTS",
        "LAST ERROR",
    ];
    let table = output.table(&columns, rows);
    match table.split_once('\n') {
        // Every page after the first goes on without the names of the columns.
        Some((_, rest)) if !first => rest.to_owned(),
        _ => table,
    }
}

async fn allocate(args: AllocateArgs, client: &Client, output: Output) -> anyhow::Result<()> {
    let key = args.target.key()?;
    let spec = read_spec(&args.spec)?;
    let query = AllocateQuery {
        wait: args.wait.then_some(AllocateWait::Held),
        timeout_ms: args.wait.then(|| millis(args.timeout)),
    };
    let spinner = output::spinner(format!("allocating {key}"));
    let info = client.allocate(&key.module, &key.id, &spec, &query).await?;
    spinner.finish_and_clear();
    output.show(&info, |info| match info.owner {
        Some(owner) => format!("{key} is {} on {}", info.status, human::node(owner.node)),
        None => format!("{key} is {}", info.status),
    })
}

/// A spec as the command line gives it: JSON, or @ and a file.
pub(super) fn read_spec(given: &str) -> anyhow::Result<Spec> {
    let (text, from) = match given.strip_prefix('@') {
        Some(path) => {
            let text = std::fs::read(path).with_context(|| format!("read the spec from {path}"))?;
            (text, path)
        }
        None => (given.as_bytes().to_vec(), "--spec"),
    };
    let spec = Spec::from_json(&text).with_context(|| format!("{from} has no good spec"));
    spec.map_err(|error| target::usage(format!("{error:#}")))
}

fn describe(output: Output, info: &ResourceInfo) -> String {
    let owner = info.owner.map_or_else(
        || "nobody".to_owned(),
        |owner| format!("{} (incarnation {})", owner.node, owner.incarnation),
    );
    let mut pairs = vec![
        ("resource", format!("{}/{}", info.module, info.id)),
        ("status", info.status.to_string()),
        ("owner", owner),
        ("slot", format!("{} (token {})", info.slot, info.token)),
        ("spec", info.spec.as_str().to_owned()),
        (
            "allocated",
            format!("{} ago", human::ago(info.allocated_at_ms)),
        ),
    ];
    if let Some(since) = info.held_since_ms {
        pairs.push(("held for", human::ago(since)));
    }
    if let Some(version) = info.version {
        pairs.push(("version", version.to_string()));
    }
    pairs.push(("attempt", info.attempt.to_string()));
    pairs.push(("restarts", info.restarts.to_string()));
    pairs.push((
        "calls",
        format!("{} running, {} waiting", info.in_flight, info.waiting),
    ));
    if let Some(error) = &info.last_error {
        let when = human::ago(error.at_ms);
        pairs.push(("last error", format!("{when} ago: {}", error.message)));
    }
    output.pairs(pairs)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const AFTER_HELP: &str = "\
Examples:
  holdfast resources allocate counter/a --spec '{\"start\":1}' --wait
  holdfast resources list counter --status quarantined
  holdfast resources import counter ids.txt";

const LIST_HELP: &str = "\
Examples:
  holdfast resources list counter --node 9f3a --status held
  holdfast resources list --all-modules --status failed,quarantined
  holdfast resources list counter --all --format json | jq -r .id";

const ALLOCATE_HELP: &str = "\
Examples:
  holdfast resources allocate counter a
  holdfast resources allocate counter/a --spec '{\"start\":1}' --wait
  holdfast resources allocate counter/a --spec @spec.json";

const IMPORT_HELP: &str = "\
Forms of the file:
  ids, one a line                       a
  JSON, one object a line               {\"id\":\"a\",\"spec\":{\"start\":1}}
  a JSON array of ids or objects        [\"a\",{\"id\":\"b\",\"spec\":{}}]
  an object with such an array          {\"data\":[…]}
  what `resources list` and `get` print with --format json
An object without `spec` is a spec itself, its id apart. Lines that name another
module, as lists of several do, are passed over and counted. Allocating what
exists already is no error: an import can be repeated.

Examples:
  holdfast resources import counter ids.txt
  holdfast resources list counter --all --format json > counter.json
  holdfast resources import counter counter.json
  seq 1000 | holdfast resources import counter -
  curl -s https://api.example/devices | holdfast resources import devices -";

#[cfg(test)]
mod tests;
