//! `holdfast recover`: a cluster founded anew from the disk of one node.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    time::UNIX_EPOCH,
};

use clap::Args;
use holdfast_cluster::state::Standing;
use holdfast_model::{ClusterId, ClusterName, ModuleName, NodeId};
use serde::Serialize;

use super::{
    failure::{Exit, Failure},
    human,
    output::Output,
    target::usage,
};
use crate::{
    identity,
    recover::{Error, Founded, Survivor},
};

/// Found the cluster anew from one node's disk, when a majority is lost for good
///
/// For one case only: so many voters have lost their disks that no majority of them can ever come
/// back. If they may, wait for them, for nothing is lost then. Run it beside the data of a node
/// that does not run. It shows what that disk knows, and changes nothing unless the cluster's name
/// is typed, or given by --confirm. Then the node is the only one of a new cluster, which has the
/// name, the modules, the resources and the secret of the lost one.
///
/// Everything that was acknowledged and is not on this disk is lost. Run it without --confirm on
/// each disk that is left, and choose the one whose last entry has the highest term, and in that
/// the highest index.
///
/// All other nodes must be off and stay off: were they to run, resources would be held twice. They
/// can join the new cluster with empty data directories only.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct RecoverArgs {
    /// The data directory of the node that is left.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// The cluster's name: found it anew without asking.
    #[arg(long, value_name = "NAME")]
    confirm: Option<ClusterName>,
}

/// What is said on standard output.
#[derive(Debug, Serialize)]
struct Report {
    found: Found,
    /// Null when nothing was changed.
    founded: Option<New>,
}

/// What the disk knows.
#[derive(Debug, Serialize)]
struct Found {
    cluster: ClusterName,
    id: ClusterId,
    node: NodeId,
    voter: bool,
    /// The last entry of its log.
    last_index: u64,
    last_term: u64,
    /// The last one that it knew to be agreed on.
    agreed_index: Option<u64>,
    written_at_ms: u64,
    /// The other nodes, which are not part of the new cluster.
    others: Vec<Other>,
    modules: u64,
    resources: u64,
    /// Modules whose component is not on this disk.
    modules_without_component: Vec<ModuleName>,
}

#[derive(Debug, Serialize)]
struct Other {
    node: NodeId,
    voter: bool,
    addr: std::net::SocketAddr,
}

#[derive(Debug, Serialize)]
struct New {
    id: ClusterId,
    former_id: ClusterId,
    /// Where the files of the lost cluster are.
    backup: PathBuf,
}

pub(super) async fn run(args: &RecoverArgs, output: &Output) -> anyhow::Result<()> {
    let survivor = Survivor::open(&args.data_dir).await.map_err(failure)?;
    let found = Found::of(&survivor);
    let asks = io::stdin().is_terminal() && !output.is_json();
    if args.confirm.is_none() {
        output.say(describe(*output, &found))?;
    }
    match &args.confirm {
        Some(name) => confirm(&found, name.as_str())?,
        None if asks => confirm(&found, &ask()?)?,
        None => {
            if output.is_json() {
                let founded = None;
                output.json(&Report { found, founded })?;
            }
            return Err(Failure::new("nothing was changed: it was not confirmed")
                .hint("found the cluster anew with --confirm and the cluster's name")
                .exit(Exit::Refused)
                .into());
        }
    }
    let founded = survivor.found_anew().map_err(failure)?;
    let report = Report {
        found,
        founded: Some(founded.into()),
    };
    output.show(&report, |report| match &report.founded {
        Some(new) => next(&report.found, new),
        None => String::new(),
    })
}

fn confirm(found: &Found, given: &str) -> anyhow::Result<()> {
    if given == found.cluster.as_str() {
        return Ok(());
    }
    let message = format!(
        "nothing was changed: the cluster is called {}, not {given:?}",
        found.cluster
    );
    Err(usage(message))
}

fn ask() -> anyhow::Result<String> {
    let mut stderr = io::stderr();
    write!(stderr, "\nType the cluster's name to found it anew: ")?;
    stderr.flush()?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

fn failure(error: Error) -> anyhow::Error {
    let exit = match &error {
        Error::NoNode(_) => Exit::Usage,
        Error::DataDir(identity::Error::InUse { .. }) => Exit::Refused,
        Error::DataDir(_) | Error::Remains(_) | Error::Replace(_) => Exit::Failed,
    };
    let hint = match exit {
        Exit::Usage => "give the --data-dir of a node's `holdfast start`",
        Exit::Refused => "the node runs: stop it first; but while a majority may come back, wait",
        _ => "nothing was changed; another node's disk may be readable",
    };
    Failure::new(crate::modules::chain(&error))
        .hint(hint)
        .exit(exit)
        .into()
}

impl Found {
    fn of(survivor: &Survivor) -> Self {
        let remains = survivor.remains();
        let state = remains.state();
        let cluster = state.cluster().expect("remains are of a cluster");
        let (last_index, last_term) = remains.last();
        let written = remains.written_at().duration_since(UNIX_EPOCH);
        let present = state
            .nodes()
            .iter()
            .filter(|(id, node)| **id != survivor.node() && node.standing != Standing::Removed);
        let resources = state
            .modules()
            .values()
            .map(|module| module.resources.len());
        Self {
            cluster: cluster.name.clone(),
            id: cluster.id,
            node: survivor.node(),
            voter: remains.voters().contains(&survivor.node()),
            last_index,
            last_term,
            agreed_index: remains.known_agreed(),
            written_at_ms: written.unwrap_or_default().as_millis() as u64,
            others: present
                .map(|(id, node)| Other {
                    node: *id,
                    voter: remains.voters().contains(id),
                    addr: node.about.addr,
                })
                .collect(),
            modules: state.modules().len() as u64,
            resources: resources.sum::<usize>() as u64,
            modules_without_component: survivor.modules_without_component(),
        }
    }
}

impl From<Founded> for New {
    fn from(founded: Founded) -> Self {
        Self {
            id: founded.cluster,
            former_id: founded.former,
            backup: founded.backup,
        }
    }
}

fn describe(output: Output, found: &Found) -> String {
    let role = |voter| if voter { "voter" } else { "learner" };
    let agreed = match found.agreed_index {
        Some(agreed) if agreed < found.last_index => {
            format!("; known to be agreed on up to {agreed}, the rest counts too")
        }
        _ => String::new(),
    };
    let others: Vec<String> = found
        .others
        .iter()
        .map(|other| {
            let (id, role) = (human::node(other.node), role(other.voter));
            format!("{id} ({role}, {})", other.addr)
        })
        .collect();
    let mut text = output.pairs([
        ("cluster", format!("{} ({})", found.cluster, found.id)),
        (
            "disk of",
            format!("node {}, a {}", found.node, role(found.voter)),
        ),
        (
            "last entry",
            format!("{}, term {}{agreed}", found.last_index, found.last_term),
        ),
        (
            "written",
            format!("{} ago", human::ago(found.written_at_ms)),
        ),
        (
            "others",
            match others.is_empty() {
                true => "none".to_owned(),
                false => others.join(", "),
            },
        ),
        ("modules", human::count(found.modules)),
        ("resources", human::count(found.resources)),
    ]);
    let mut warn = |warning: String| {
        text.push('\n');
        text.push_str(&output.paragraph(&warning));
        text.push('\n');
    };
    warn(format!(
        "WARNING. Founding the cluster anew from this disk loses for good whatever was \
         acknowledged after entry {}. If a majority of the voters may come back, wait for it: \
         then nothing is lost.",
        found.last_index
    ));
    warn(
        "All other nodes must be off and stay off: were they to run, resources would be held \
         twice. Their data directories are of no use to the new cluster."
            .to_owned(),
    );
    if !found.modules_without_component.is_empty() {
        let names = found.modules_without_component.iter();
        let names: Vec<String> = names.map(ToString::to_string).collect();
        warn(format!(
            "The components of these modules are not on this disk; deploy the same ones again: {}",
            names.join(", ")
        ));
    }
    text
}

fn next(found: &Found, new: &New) -> String {
    format!(
        "Founded {} anew from entry {}: its id is {} now, it was {}.\nThe files of the lost \
         cluster are in {}.\n\nNext:\n  start this node as before\n  delete the data directories \
         of all others; each joins with --seed {}",
        found.cluster,
        found.last_index,
        new.id,
        new.former_id,
        new.backup.display(),
        "and this node's address"
    )
}

const AFTER_HELP: &str = "\
Examples:
  holdfast recover --data-dir /var/lib/holdfast
  holdfast recover --data-dir /var/lib/holdfast --format json
  holdfast recover --data-dir /var/lib/holdfast --confirm office";

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found {
        Found {
            cluster: "office".parse().unwrap(),
            id: ClusterId::random(),
            node: NodeId::random(),
            voter: false,
            last_index: 41,
            last_term: 3,
            agreed_index: Some(40),
            written_at_ms: 0,
            others: vec![Other {
                node: "1b000000-0000-4000-8000-000000000000".parse().unwrap(),
                voter: true,
                addr: "127.0.0.1:7301".parse().unwrap(),
            }],
            modules: 1,
            resources: 1_000,
            modules_without_component: vec!["bot".parse().unwrap()],
        }
    }

    #[test]
    fn what_is_left_and_what_may_be_lost_is_shown() {
        let text = describe(Output::plain(), &found());
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for says in [
            "41, term 3; known to be agreed on up to 40",
            "1b000000 (voter, 127.0.0.1:7301)",
            "a learner",
            "1,000",
            "after entry 41",
            "deploy the same ones again: bot",
        ] {
            assert!(text.contains(says), "{says}: {text}");
        }
    }

    #[test]
    fn only_the_clusters_own_name_confirms() {
        assert!(confirm(&found(), "office").is_ok());
        for other in ["", "Office", "yes", "office2"] {
            let error = confirm(&found(), other).unwrap_err().to_string();
            assert!(error.contains("nothing was changed"), "{error}");
        }
    }
}
