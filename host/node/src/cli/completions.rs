//! `holdfast completions`: scripts for shells, and the answers that those ask this program for.
//!
//! A script calls this program with the line so far, and that says what fits. The names of modules,
//! resources and nodes come from the node that the line talks to. One that does not answer, or not
//! soon, costs nothing but its names: nothing is ever said on standard error.

use std::{
    ffi::{OsStr, OsString},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Arg, Command};
use clap_complete::{
    CompleteEnv,
    engine::{ArgValueCompleter, CompletionCandidate},
    env::Shells,
};
use holdfast_model::{
    ModuleName,
    api::{NodeInfo, ResourcesQuery},
};

pub(super) use clap_complete::Shell;

use super::{session::Session, suggest};
use crate::client::Client;

/// Answers a shell that asks how a line goes on, and ends the process; does nothing when none asks.
pub(super) fn answer() {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// The script that makes a shell ask.
pub(super) fn script(shell: Shell) -> anyhow::Result<Vec<u8>> {
    let shells = Shells::builtins();
    let shell = shells.completer(&shell.to_string());
    let shell = shell.context("this version of clap_complete does not know the shell")?;
    // Under a name it is looked for on the PATH, whichever version is there by then.
    let program = std::env::args_os().next().unwrap_or_default();
    let program = match program.to_string_lossy().contains('/') {
        true => std::path::absolute(program)?.to_string_lossy().into_owned(),
        false => NAME.to_owned(),
    };
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, NAME, NAME, &program, &mut script)?;
    Ok(script)
}

/// The command line, with what completes its arguments.
fn command() -> Command {
    completed(super::command_named())
}

fn completed(command: Command) -> Command {
    let with = |arg: Arg| match arg.get_id().as_str() {
        "module" => arg.add(ArgValueCompleter::new(modules)),
        "node" | "leave" => arg.add(ArgValueCompleter::new(nodes)),
        "target" => arg.add(ArgValueCompleter::new(resources)),
        "subject" => arg.add(ArgValueCompleter::new(subjects)),
        "id" => arg.add(ArgValueCompleter::new(ids)),
        _ => arg,
    };
    command.mut_args(with).mut_subcommands(completed)
}

fn modules(begin: &OsStr) -> Vec<CompletionCandidate> {
    let names = ask(async |client| suggest::modules(&client).await);
    beginning(begin, names, "")
}

fn nodes(begin: &OsStr) -> Vec<CompletionCandidate> {
    let nodes = ask(async |client| Some(client.nodes().await.ok()?.nodes));
    let begin = begin.to_string_lossy();
    let fits = |info: &&NodeInfo| info.node.to_string().starts_with(&*begin);
    let nodes = nodes.unwrap_or_default();
    let fitting = nodes.iter().filter(fits);
    fitting
        .map(|info| {
            let about = format!("{}, HTTP at {}", info.status, info.http);
            CompletionCandidate::new(info.node.to_string()).help(Some(about.into()))
        })
        .collect()
}

/// `MODULE/`, and then `MODULE/ID`.
fn resources(begin: &OsStr) -> Vec<CompletionCandidate> {
    match begin.to_str().and_then(|begin| begin.split_once('/')) {
        Some((module, _)) => beginning(begin, keys(module), ""),
        None => {
            let names = ask(async |client| suggest::modules(&client).await);
            beginning(begin, names, "/")
        }
    }
}

/// A module alone, or one of its resources.
fn subjects(begin: &OsStr) -> Vec<CompletionCandidate> {
    match begin.to_str().and_then(|begin| begin.split_once('/')) {
        Some((module, _)) => beginning(begin, keys(module), ""),
        None => modules(begin),
    }
}

/// An id in the module that is the word before.
fn ids(begin: &OsStr) -> Vec<CompletionCandidate> {
    let words = words();
    let at = std::env::var("_CLAP_COMPLETE_INDEX").ok();
    let at = at.and_then(|at| at.parse().ok());
    let at: usize = at.unwrap_or(words.len().saturating_sub(1));
    let before = at.checked_sub(1).and_then(|before| words.get(before));
    let Some(module) = before.and_then(|word| word.to_str()?.parse().ok()) else {
        return Vec::new();
    };
    beginning(begin, ids_of(module), "")
}

fn keys(module: &str) -> Option<Vec<String>> {
    let ids = ids_of(module.parse().ok()?)?;
    Some(ids.iter().map(|id| format!("{module}/{id}")).collect())
}

/// The first ids of a module: a shell shows no thousands.
fn ids_of(module: ModuleName) -> Option<Vec<String>> {
    ask(async move |client| {
        let query = ResourcesQuery {
            limit: Some(ResourcesQuery::LIMIT_MAX),
            ..ResourcesQuery::default()
        };
        let page = client.resources(&module, &query).await.ok()?;
        let ids = page.resources.into_iter().map(|info| info.id.to_string());
        Some(ids.collect())
    })
}

fn beginning(begin: &OsStr, names: Option<Vec<String>>, end: &str) -> Vec<CompletionCandidate> {
    let begin = begin.to_string_lossy();
    let names = names.unwrap_or_default().into_iter();
    names
        .filter(|name| name.starts_with(&*begin))
        .map(|name| CompletionCandidate::new(name + end))
        .collect()
}

/// Asks the node that the line talks to; none where it does not answer in time.
fn ask<T, F: Future<Output = Option<T>>>(question: impl FnOnce(Client) -> F) -> Option<T> {
    let client = session(&words()).client().ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let answer = runtime.block_on(async {
        let question = question(client);
        tokio::time::timeout(PATIENCE, question).await
    });
    runtime.shutdown_background();
    answer.ok().flatten()
}

/// The words of the line so far, as the shell gave them: those after the first `--`.
fn words() -> Vec<OsString> {
    std::env::args_os()
        .skip_while(|word| word != "--")
        .skip(1)
        .collect()
}

/// What the line says of the node to talk to, and what the environment says where it says nothing.
fn session(words: &[OsString]) -> Session {
    let given = |option: &str| -> Option<String> {
        let mut words = words.iter().filter_map(|word| word.to_str());
        while let Some(word) = words.next() {
            match word.strip_prefix(option) {
                Some("") => return words.next().map(str::to_owned),
                Some(rest) if rest.starts_with('=') => return Some(rest[1..].to_owned()),
                Some(_) | None => {}
            }
        }
        None
    };
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    Session {
        server: given("--server")
            .or_else(|| variable("HOLDFAST_SERVER"))
            .unwrap_or_else(|| Session::SERVER_DEFAULT.to_owned()),
        token: given("--token").or_else(|| variable("HOLDFAST_TOKEN")),
        token_file: given("--token-file").map(Into::into),
        format: Default::default(),
    }
}

const NAME: &str = "holdfast";
/// Set by the scripts to the name of the shell that asks.
const VARIABLE: &str = "HOLDFAST_COMPLETE";
/// How long somebody who has pressed a key waits for names.
const PATIENCE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn words_of(line: &str) -> Vec<OsString> {
        line.split(' ').map(Into::into).collect()
    }

    #[test]
    fn the_node_that_a_line_names_is_asked() {
        for (line, server, token) in [
            ("holdfast --server http://a:1 invoke ", "http://a:1", None),
            ("holdfast invoke --server=b:2 --token x ", "b:2", Some("x")),
            (
                "holdfast invoke --token-file f --token=x ",
                Session::SERVER_DEFAULT,
                Some("x"),
            ),
        ] {
            let session = session(&words_of(line));
            // What the environment of a test says is not asked for here.
            if line.contains("--server") || std::env::var_os("HOLDFAST_SERVER").is_none() {
                assert_eq!(session.server, server, "{line}");
            }
            assert_eq!(session.token.as_deref(), token, "{line}");
            assert_eq!(session.token_file.is_some(), line.contains("--token-file"));
        }
    }

    #[test]
    fn every_argument_that_names_something_of_a_cluster_is_completed() {
        let mut completed = Vec::new();
        fn walk(path: &str, command: &Command, completed: &mut Vec<String>) {
            for arg in command.get_arguments() {
                if arg.get::<ArgValueCompleter>().is_some() {
                    completed.push(format!("{path} {}", arg.get_id()));
                }
            }
            for below in command.get_subcommands() {
                walk(&format!("{path} {}", below.get_name()), below, completed);
            }
        }
        walk("", &command(), &mut completed);
        for arg in [
            " invoke target",
            " invoke id",
            " modules get module",
            " modules remove module",
            " resources list module",
            " resources list node",
            " resources get target",
            " resources import module",
            " bench invoke module",
            " logs subject",
            " logs node",
            " events subject",
            " nodes remove node",
            " drain node",
            " restart node",
            " plan leave",
        ] {
            assert!(
                completed.iter().any(|found| found == arg),
                "{arg}: {completed:?}"
            );
        }
    }

    #[test]
    fn there_is_a_script_for_every_shell() {
        for shell in <Shell as clap::ValueEnum>::value_variants() {
            let script = String::from_utf8(script(*shell).unwrap()).unwrap();
            assert!(script.contains(VARIABLE), "{shell}: {script}");
        }
    }
}
