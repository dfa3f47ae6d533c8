//! `holdfast settings`: the settings of the cluster.

use std::time::Duration;

use clap::Args;
use holdfast_model::api::{ChangeClusterSettings, ClusterSettings};

use super::{human, output::Output};
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
}

pub(super) async fn run(
    args: &SettingsArgs,
    client: &Client,
    output: &Output,
) -> anyhow::Result<()> {
    let change = ChangeClusterSettings {
        voters: args.voters,
        lease_ttl_ms: args.lease_ttl.map(millis),
        lease_guard_ms: args.lease_guard.map(millis),
        replace_voters_after_ms: args.replace_voters_after.map(millis),
        fast_failover: args.fast_failover,
        stable_after_ms: args.stable_after.map(millis),
    };
    let settings = match change == ChangeClusterSettings::default() {
        true => client.settings().await?,
        false => client.change_settings(&change).await?,
    };
    output.show(&settings, |settings| describe(*output, settings))
}

fn describe(output: Output, settings: &ClusterSettings) -> String {
    let duration = |ms| human::duration(Duration::from_millis(ms));
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

const AFTER_HELP: &str = "\
Examples:
  holdfast settings
  holdfast settings --voters 5
  holdfast settings --lease-ttl 5s --lease-guard 600ms";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_shown_as_their_options_are_written() {
        let settings = ClusterSettings {
            voters: 3,
            lease_ttl_ms: 3_000,
            lease_guard_ms: 500,
            replace_voters_after_ms: 30_000,
            fast_failover: true,
            stable_after_ms: 1_000,
        };
        let text = describe(Output::plain(), &settings);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "voters                3",
                "lease-ttl             3.0 s",
                "lease-guard           500 ms",
                "replace-voters-after  30.0 s",
                "fast-failover         true",
                "stable-after          1.0 s",
            ]
        );
    }
}
