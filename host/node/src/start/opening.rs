//! The first and the last lines of a node's log.
//!
//! A reader of the log alone sees where each run begins and how it ended. One without a last line was
//! killed, or crashed; the next run says so too.

use std::{ffi::OsString, time::Instant};

use clap::{ArgMatches, parser::ValueSource};
use tracing::{error, info};

use crate::{
    config::NodeConfig,
    server::{self, Ended, Why},
};

/// Says what begins here.
pub(super) fn begins(config: &NodeConfig, again: bool, command: clap::Command) {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        cluster.name = %config.cluster,
        data_dir = %config.data_dir.display(),
        same_process = again,
        settings = settings(command, std::env::args_os()),
        "holdfast begins"
    );
}

/// Says how it ended.
pub(super) fn ended(ended: &Result<Ended, server::Error>, began: Instant) {
    let ran_s = began.elapsed().as_secs();
    let version = env!("CARGO_PKG_VERSION");
    let pid = std::process::id();
    let reason = match ended {
        Ok(Ended::Stopped) => "told to stop",
        Ok(Ended::Replaced(succession)) => match succession.why {
            Why::Announced => "restart",
            Why::Fenced => "lease lost",
            Why::WrongCopy => "wrong copy of the state",
        },
        Err(failed) => {
            let error = crate::modules::chain(failed);
            error!(version, pid, ran_s, error, "holdfast ends: it failed");
            return;
        }
    };
    info!(version, pid, ran_s, reason, "holdfast ends");
}

/// The options that were given, on the command line or by variables; all others are as the
/// documentation says.
fn settings(command: clap::Command, args: impl IntoIterator<Item = OsString>) -> String {
    let Ok(matches) = command.try_get_matches_from(args) else {
        return "unknown".to_owned();
    };
    let Some(start) = matches.subcommand_matches("start") else {
        return "unknown".to_owned();
    };
    let given = start
        .ids()
        .filter_map(|id| given(start, id.as_str()))
        .collect::<Vec<_>>();
    given.join(" ")
}

fn given(matches: &ArgMatches, id: &str) -> Option<String> {
    let source = matches.value_source(id)?;
    // Groups of options have the names of types.
    if source == ValueSource::DefaultValue || id.starts_with(char::is_uppercase) {
        return None;
    }
    let name = id.replace('_', "-");
    if id == "token" {
        return Some(format!("--{name}=(not shown)"));
    }
    let values: Vec<_> = matches
        .get_raw(id)?
        .map(|value| value.to_string_lossy().into_owned())
        .collect();
    let from = match source {
        ValueSource::EnvVariable => " (from its variable)",
        _ => "",
    };
    Some(format!("--{name}={}{from}", values.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_is_told_and_no_token() {
        let args = [
            "holdfast",
            "--token",
            "a-token-that-nobody-sees",
            "start",
            "--data-dir",
            "/data",
            "--cluster-name",
            "office",
            "--bootstrap",
            "--seed",
            "a:1",
            "--seed",
            "b:2",
        ];
        let text = settings(crate::cli::command(), args.map(OsString::from));
        for part in [
            "--data-dir=/data",
            "--cluster-name=office",
            "--bootstrap=true",
            "a:1,b:2",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        for hidden in ["nobody-sees", "voters", "lease"] {
            assert!(!text.contains(hidden), "{hidden} is in {text}");
        }
    }
}
