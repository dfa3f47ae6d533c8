//! `holdfast settings`: the settings of the cluster.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use holdfast_model::api::{ChangeClusterSettings, ClusterSettings};

use super::{output::Output, target::usage};
use crate::client::Client;

/// Show the settings of the cluster, or change some
///
/// They hold for all nodes, from the moment of the change. Without an option they are shown.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct SettingsArgs {
    /// How many voters the cluster wants once it has the nodes: 1, 3, 5 or 7.
    ///
    /// More survive more losses, and each change waits for more disks.
    #[arg(long, value_name = "N")]
    voters: Option<u8>,

    /// How long a lease lasts.
    ///
    /// A node runs what it owns only under a lease. Too low: a slow disk or a busy machine costs
    /// running resources. Too high: resources of a node that falls silent wait that long. Longer
    /// leases hold at once. Shorter ones are granted at once, and count for silent nodes when the
    /// last of the longer ones is over.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    lease_ttl: Option<Duration>,

    /// How far a node and the leader stay away from the end of a lease, each on its side.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    lease_guard: Option<Duration>,

    /// How long a voter must be silent before another node votes in its place.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    replace_voters_after: Option<Duration>,

    /// Whether a node whose address refuses connections is replaced at once.
    #[arg(long, value_name = "BOOL")]
    fast_failover: Option<bool>,

    /// How long a node must have been there before it is given what others run.
    ///
    /// Twice as long for each time that it was lost lately, up to 2 min. 0s: at once. Too low:
    /// resources move to nodes that do not stay. Too high: a node that joins is of no use for that
    /// long.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    stable_after: Option<Duration>,

    /// A file with settings as `holdfast settings --format json` prints them; - is standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "voters", "lease_ttl", "lease_guard", "replace_voters_after", "fast_failover",
        "stable_after",
    ])]
    file: Option<PathBuf>,
}

pub(super) async fn run(
    args: &SettingsArgs,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let change = match &args.file {
        Some(file) => read(file)?,
        None => ChangeClusterSettings {
            voters: args.voters,
            lease_ttl_ms: args.lease_ttl.map(millis),
            lease_guard_ms: args.lease_guard.map(millis),
            replace_voters_after_ms: args.replace_voters_after.map(millis),
            fast_failover: args.fast_failover,
            stable_after_ms: args.stable_after.map(millis),
        },
    };
    let settings = match change == ChangeClusterSettings::default() {
        true => client.settings().await?,
        false => client.change_settings(&change).await?,
    };
    output.show(&settings, |settings| describe(*output, settings))
}

fn read(file: &Path) -> anyhow::Result<ChangeClusterSettings> {
    let text = match file == Path::new("-") {
        true => io::read_to_string(io::stdin().lock().take(FILE_BYTES_MAX)),
        false => std::fs::read_to_string(file),
    };
    let at = || format!("read {}", file.display());
    let text = text.with_context(at)?;
    let settings = serde_json::from_str(&text).with_context(at);
    settings.map_err(|error| usage(format!("{error:#}")))
}

fn describe(output: Output, settings: &ClusterSettings) -> String {
    // As the options take them.
    let duration = |ms| humantime::format_duration(Duration::from_millis(ms)).to_string();
    let fast = if settings.fast_failover {
        "true"
    } else {
        "false"
    };
    output.pairs([
        ("voters", settings.voters.to_string()),
        ("lease-ttl", duration(settings.lease_ttl_ms)),
        ("lease-guard", duration(settings.lease_guard_ms)),
        (
            "replace-voters-after",
            duration(settings.replace_voters_after_ms),
        ),
        ("fast-failover", fast.to_owned()),
        ("stable-after", duration(settings.stable_after_ms)),
    ])
}

/// Too long for a number is too long for the cluster, which says so.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Much more than settings have.
const FILE_BYTES_MAX: u64 = 1 << 20;

const AFTER_HELP: &str = "\
Examples:
  holdfast settings
  holdfast settings --format json > settings.json
  holdfast settings --file settings.json
  holdfast settings --voters 5
  holdfast settings --lease-ttl 5s --lease-guard 600ms";

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ClusterSettings {
        ClusterSettings {
            voters: 3,
            lease_ttl_ms: 3_000,
            lease_guard_ms: 500,
            replace_voters_after_ms: 90_000,
            fast_failover: true,
            stable_after_ms: 1_000,
        }
    }

    #[test]
    fn settings_are_shown_as_their_options_are_written() {
        let settings = settings();
        let text = describe(Output::plain(), &settings);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "voters                3",
                "lease-ttl             3s",
                "lease-guard           500ms",
                "replace-voters-after  1m 30s",
                "fast-failover         true",
                "stable-after          1s",
            ]
        );
        for line in lines {
            let (_, value) = line.split_once("  ").unwrap();
            if value.trim().ends_with('s') {
                humantime::parse_duration(value.trim()).unwrap();
            }
        }
    }

    #[test]
    fn what_is_printed_as_json_is_taken_back() {
        let settings = settings();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), serde_json::to_vec(&settings).unwrap()).unwrap();
        let change = read(file.path()).unwrap();
        let asked = serde_json::to_value(change).unwrap();
        assert_eq!(asked, serde_json::to_value(settings).unwrap());
        std::fs::write(file.path(), r#"{"colour":"red"}"#).unwrap();
        let error = read(file.path()).unwrap_err().to_string();
        assert!(error.contains("colour"), "{error}");
    }
}
