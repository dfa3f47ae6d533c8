//! `holdfast rejoin`: a node whose files cannot be used any more begins anew.

use std::path::PathBuf;

use clap::Args;
use holdfast_model::{ClusterId, NodeId};
use serde::Serialize;

use super::{
    failure::{Exit, Failure},
    output::Output,
};
use crate::{
    identity,
    rejoin::{Error, Former, Rejoined},
};

/// Let a node whose log or state is damaged begin anew, as another node of its cluster
///
/// For a node that does not start any more because its log has a hole, or a stored value was altered.
/// Its files are put aside, and it gets another id and an empty copy of the state, which the cluster
/// fills once it is started as before. The secret, the cluster's id and the components are kept.
///
/// The others must have a majority of the voters: what only this disk has is lost to them. Where it is
/// the disk of the last of them, see `holdfast recover`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct RejoinArgs {
    /// The data directory of the node, which does not run.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// Do it. Without it, only what would be done is said.
    #[arg(long)]
    yes: bool,
}

/// What is said on standard output.
#[derive(Debug, Serialize)]
struct Report {
    cluster: ClusterId,
    former: NodeId,
    /// Null when nothing was changed.
    node: Option<NodeId>,
    /// Where the former files are.
    backup: Option<PathBuf>,
}

pub(super) fn run(args: &RejoinArgs, output: &Output) -> anyhow::Result<()> {
    let former = Former::open(&args.data_dir).map_err(failure)?;
    if !args.yes {
        let report = Report {
            cluster: former.cluster(),
            former: former.node(),
            node: None,
            backup: None,
        };
        output.show(&report, |report| {
            format!(
                "Node {} of cluster {} would begin anew under another id.",
                report.former, report.cluster
            )
        })?;
        return Err(Failure::new("nothing was changed: it was not confirmed")
            .hint("if the other nodes have a majority of the voters, add --yes")
            .exit(Exit::Refused)
            .into());
    }
    let rejoined = former.rejoin().map_err(failure)?;
    output.show(&Report::from(rejoined), next)
}

impl From<Rejoined> for Report {
    fn from(rejoined: Rejoined) -> Self {
        Self {
            cluster: rejoined.cluster,
            former: rejoined.former,
            node: Some(rejoined.node),
            backup: Some(rejoined.backup),
        }
    }
}

fn next(report: &Report) -> String {
    let node = report.node.map(|node| node.to_string());
    let backup = report
        .backup
        .as_ref()
        .map(|path| path.display().to_string());
    format!(
        "Node {former} is node {} from now on. Its former files are in {}.\n\nNext:\n  start it as \
         before; a founder needs --seed ADDRESS of another node\n  holdfast nodes remove {former}\n  \
         delete the former files once it is ready",
        node.unwrap_or_default(),
        backup.unwrap_or_default(),
        former = report.former,
    )
}

fn failure(error: Error) -> anyhow::Error {
    let (exit, hint) = match &error {
        Error::NoNode(_) => (
            Exit::Usage,
            "give the --data-dir of a node's `holdfast start`",
        ),
        Error::NoCluster(_) => (Exit::Refused, "delete the directory, and start the node"),
        Error::DataDir(identity::Error::InUse { .. }) => (
            Exit::Refused,
            "the node runs: it needs this only when it cannot",
        ),
        Error::DataDir(_) | Error::Make(_) | Error::Replace(_) => {
            (Exit::Failed, "nothing was changed")
        }
    };
    Failure::new(crate::modules::chain(&error))
        .hint(hint)
        .exit(exit)
        .into()
}

const AFTER_HELP: &str = "\
Examples:
  holdfast rejoin --data-dir /var/lib/holdfast
  holdfast rejoin --data-dir /var/lib/holdfast --yes";
