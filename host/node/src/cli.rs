//! The command line `holdfast`.
//!
//! A front of the HTTP API: commands that talk to a node know no more than any other client. Others work on this
//! machine alone, such as `start`, `recover`, `doctor`, `new` and `build`. Results go to standard output, everything else to
//! standard error; with `--format json` standard output has exactly one JSON document, or one a
//! line where a list streams. Each command is a file of its own with its arguments and `run`.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};

mod bench;
pub mod build;
mod completions;
mod config;
pub mod demo;
mod deploy;
mod dev;
mod doctor;
mod drain;
mod events;
mod failure;
mod fallback;
mod human;
mod interrupts;
mod invoke;
mod local_node;
mod logs;
mod man;
pub mod manifest;
mod modules;
mod new;
mod nodes;
mod output;
mod plan;
mod recover;
mod rejoin;
mod resources;
mod restart;
mod scaffold;
mod session;
mod settings;
mod start;
mod status;
mod subject;
mod suggest;
mod target;

use self::output::Output;
use crate::client::Client;

pub use failure::Exit;
pub use output::Format;
pub use session::Session;
pub use start::{HttpLimits, LogFormat, StartArgs};

/// Runs a node until it ends; what `holdfast start` does. Given to [`main`], so that the command
/// line does not depend on the node.
pub type RunNode = fn(StartArgs, Format) -> anyhow::Result<ExitCode>;

/// Parses the process's arguments and does what they say.
#[must_use]
pub fn main(run_node: RunNode) -> ExitCode {
    // Asked by a shell: answers it, and exits.
    completions::answer();
    // Exits with status 2 on a mistake, and with 0 after --help and --version.
    let line = Line::parse();
    let format = line.session.format;
    match dispatch(line, run_node) {
        Ok(code) => code,
        Err(error) => failure::report(&error, format).into(),
    }
}

/// The whole command line, as `holdfast --help` shows it.
#[must_use]
pub fn command() -> clap::Command {
    Line::command()
}

fn dispatch(line: Line, run_node: RunNode) -> anyhow::Result<ExitCode> {
    let Line { session, command } = line;
    match command {
        Command::Start(mut args) => {
            args.api_token = session.token;
            args.token_file = session.token_file;
            args.watch_parent();
            return run_node(*args, session.format);
        }
        Command::Config => {
            let mut command = command_named();
            command.build();
            let start = command.find_subcommand("start");
            config::run(start.expect("it is a command"))?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Openapi => {
            output::write(crate::admin::openapi().as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Man(args) => {
            man::run(&args, command_named(), &session.output())?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Completions { shell } => {
            output::write(&completions::script(shell)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let exit = runtime.block_on(talk(session, command));
    // A thread may still read standard input, which cannot be interrupted.
    runtime.shutdown_background();
    exit.map(ExitCode::from)
}

async fn talk(session: Session, command: Command) -> anyhow::Result<Exit> {
    let output = session.output();
    let done = match command {
        Command::Demo(args) => return demo::run(args, &output).await,
        Command::Dev(args) => return dev::run(args, &output).await,
        Command::New(args) => new::run(&args, &output),
        Command::Build(args) => build::run(&args, &output).await,
        Command::Recover(args) => recover::run(&args, &output).await,
        Command::Rejoin(args) => rejoin::run(&args, &output),
        Command::Doctor(args) => return doctor::run(&args, &session, &output).await,
        command => {
            let client = session.client()?;
            let exit = match ask(command, &client, &output).await {
                Err(error) => Err(suggest::what_was_meant(error, &client).await),
                exit => exit,
            };
            if let Some(age) = client.take_stale() {
                output.warn(&format!(
                    "this may be out of date: the node has had no contact with a majority of the \
                     voters for {}",
                    human::duration(age)
                ));
            }
            return exit;
        }
    };
    done.map(|()| Exit::Done)
}

/// Does what only a node can.
async fn ask(command: Command, client: &Client, output: &Output) -> anyhow::Result<Exit> {
    let done = match command {
        Command::Deploy(args) => deploy::run(args, client, output).await,
        Command::Modules(args) => return modules::run(args, client, output).await,
        Command::Resources(args) => return resources::run(args, client, output).await,
        Command::Invoke(args) => invoke::run(args, client, output).await,
        Command::Bench(args) => return bench::run(args, client, output).await,
        Command::Events(args) => events::run(args, client, output).await,
        Command::Logs(args) => logs::run(args, client, output).await,
        Command::Nodes(args) => nodes::run(args, client, output).await,
        Command::Status => status::run(client, output).await,
        Command::Plan(args) => plan::run(args, client, output).await,
        Command::Drain(args) => drain::run(args, client, output).await,
        Command::Restart(args) => restart::run(args, client, output).await,
        Command::Settings(args) => settings::run(&args, client, output).await,
        Command::Demo(_)
        | Command::Dev(_)
        | Command::New(_)
        | Command::Build(_)
        | Command::Recover(_)
        | Command::Rejoin(_)
        | Command::Doctor(_)
        | Command::Start(_)
        | Command::Man(_)
        | Command::Config
        | Command::Openapi
        | Command::Completions { .. } => Ok(()),
    };
    done.map(|()| Exit::Done)
}

fn command_named() -> clap::Command {
    Line::command().name("holdfast")
}

/// Holds resources on exactly one node of a cluster.
///
/// The logic of a resource is a WebAssembly component, its handler. Holdfast runs one instance of
/// it for each resource, on one node, and moves it when nodes come, go or die.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, bin_name = "holdfast", max_term_width = 80, after_help = AFTER_HELP)]
struct Line {
    #[command(flatten)]
    session: Session,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Start(Box<StartArgs>),
    New(new::NewArgs),
    Build(build::BuildArgs),
    Dev(dev::DevArgs),
    Deploy(deploy::DeployArgs),
    Modules(modules::ModulesArgs),
    Resources(resources::ResourcesArgs),
    Invoke(invoke::InvokeArgs),
    Bench(bench::BenchArgs),
    Events(events::EventsArgs),
    Logs(logs::LogsArgs),
    Nodes(nodes::NodesArgs),
    /// Show the cluster on one screen
    #[command(after_help = STATUS_HELP)]
    Status,
    Plan(plan::PlanArgs),
    Drain(drain::DrainArgs),
    Restart(restart::RestartArgs),
    Settings(settings::SettingsArgs),
    Recover(recover::RecoverArgs),
    Rejoin(rejoin::RejoinArgs),
    Doctor(doctor::DoctorArgs),
    /// Print the reference of the configuration, in Markdown
    ///
    /// The options of `holdfast start` with their variables and defaults, and the fields of
    /// holdfast.toml: what each means, and what it does when it is too low or too high.
    #[command(after_help = CONFIG_HELP)]
    Config,
    /// Print the description of the HTTP API, as OpenAPI 3.1
    ///
    /// Made from the code that answers; each node gives it at `/v1/openapi.json`. For generators of
    /// clients, and for pages that show an API.
    #[command(after_help = OPENAPI_HELP)]
    Openapi,
    Man(man::ManArgs),
    /// Print a script that completes this command line in a shell
    ///
    /// Commands and options, and the names of modules, resources and nodes: those are asked of the node
    /// that the line names with --server, or of HOLDFAST_SERVER. One that does not answer within half a
    /// second completes nothing.
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// The shell.
        shell: completions::Shell,
    },
}

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line makes no sense
  3  there is no such module, resource or node
  4  the node, or the handler, refused the request
  5  the node cannot be reached, or cannot do it now: try again
  6  it took too long
  7  another process runs as this node: its data directory was copied
  130  a second signal ended a node at once

Examples:
  holdfast demo                        see what it does, on this machine
  holdfast new counter                 begin a handler
  holdfast start --bootstrap --data-dir ./data --cluster-name office
  holdfast deploy counter --wait       build it and deploy it
  holdfast resources allocate counter a --wait
  holdfast invoke counter/a --data '{\"add\":1}'";

const STATUS_HELP: &str = "\
Examples:
  holdfast status
  holdfast status --format json | jq .resources.held";

const CONFIG_HELP: &str = "\
Examples:
  holdfast config | less
  holdfast config > CONFIGURATION.md";

const OPENAPI_HELP: &str = "\
Examples:
  holdfast openapi > openapi.json
  holdfast openapi | jq '.paths | keys'";

const COMPLETIONS_HELP: &str = "\
Examples:
  holdfast completions bash > /etc/bash_completion.d/holdfast
  holdfast completions fish > ~/.config/fish/completions/holdfast.fish
  holdfast completions zsh > ~/.zfunc/_holdfast";

#[cfg(test)]
mod tests;
