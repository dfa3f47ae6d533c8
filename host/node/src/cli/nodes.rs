//! `holdfast nodes`: the members of the cluster.

use clap::{Args, Subcommand};
use comfy_table::Cell;
use holdfast_model::{
    Weight, Zone,
    api::{ChangeNode, NoMajority, NodeInfo, NodeList, NodeLog, ProblemKind, RemoveNodeQuery},
};

use super::{
    failure::Failure,
    human,
    output::{self, Output},
    target,
};
use crate::client::{self, Client};

/// List nodes, change what they hold and log, and remove dead ones
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct NodesArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the nodes; what happens without a subcommand
    #[command(after_help = "Examples:\n  holdfast nodes list --format json")]
    List,
    /// Remove a node for good
    ///
    /// One that is drained and empty, or that is down and owns nothing, is removed as it is. Of any
    /// other make sure that its process has ended, and say so with --confirm-dead: its resources
    /// start elsewhere once its lease is over, within 4 seconds of its last sign of life. One that
    /// still answers is not removed: drain it first.
    #[command(after_help = REMOVE_HELP)]
    Remove {
        /// The node: its id, or the beginning of it.
        node: String,
        /// You have made sure that its process has ended; needed where it owns resources, or is neither
        /// down nor drained.
        #[arg(long)]
        confirm_dead: bool,
    },
    /// Change a node while it runs
    ///
    /// A weight holds at once, and resources move by it. It stays, over restarts too, until it is
    /// set again or the node is started with another --weight than before. What would move is shown
    /// by `holdfast plan`.
    #[command(after_help = SET_HELP)]
    Set {
        /// The node: its id, or the beginning of it.
        node: String,
        /// Its share of the load, relative to the others: 0 to 100. 0 makes a witness: it votes, but
        /// holds nothing.
        #[arg(long, value_name = "N")]
        weight: Weight,
    },
    /// Show what a node's own log has, or change it
    ///
    /// The log is what the node writes to its standard error. A change holds until the node ends,
    /// begins anew or gets SIGHUP; then its --log counts again.
    #[command(after_help = LOG_HELP)]
    Log {
        /// The node: its id, or the beginning of it.
        node: String,
        /// A level, or `target=level` with commas between them; shown unless given.
        #[arg(value_name = "FILTER")]
        filter: Option<String>,
    },
}

pub(super) async fn run(args: NodesArgs, client: &Client, output: &Output) -> anyhow::Result<()> {
    match args.action.unwrap_or(Action::List) {
        Action::List => {
            let nodes = client.nodes().await?;
            output.show(&nodes, |nodes| {
                let mut text = table(*output, nodes);
                text.push_str(&conditions(*output, nodes));
                if let Some(lost) = &nodes.no_majority {
                    text.push_str(&format!("\n{}\n", output.paragraph(&no_majority(lost))));
                }
                text
            })
        }
        Action::Remove { node, confirm_dead } => {
            let node = target::node(client, &node).await?;
            let query = RemoveNodeQuery { confirm_dead };
            client.remove_node(node, &query).await.map_err(refusal)?;
            let removed = serde_json::json!({"node": node, "removed": true});
            output.show(&removed, |_| format!("{node} is removed"))
        }
        Action::Set { node, weight } => {
            let node = target::node(client, &node).await?;
            let change = ChangeNode {
                weight: Some(weight),
            };
            let info = client.change_node(node, &change).await?;
            output.show(&info, |info| format!("{node} has weight {}", info.weight))
        }
        Action::Log { node, filter } => {
            let node = target::node(client, &node).await?;
            let log = match filter {
                None => client.node_log(node).await?,
                Some(filter) => client.change_node_log(node, &NodeLog { filter }).await?,
            };
            output.show(&log, |log| log.filter.clone())
        }
    }
}

/// What the node says when it does not remove another, with this command's words for the remedy.
fn refusal(error: client::Error) -> anyhow::Error {
    match error.problem() {
        Some(problem) if problem.kind == ProblemKind::InvalidRequest => {
            let hint = "`holdfast drain NODE --wait` empties it; if its process is gone and stays \
                        so, add --confirm-dead";
            Failure::of(&error).hint(hint).into()
        }
        _ => error.into(),
    }
}

pub(super) fn table(output: Output, list: &NodeList) -> String {
    let rows = list.nodes.iter().map(|info| {
        vec![
            Cell::new(human::node(info.node)),
            output::node_status(info.status),
            Cell::new(info.http),
            Cell::new(human::count(info.resources)),
            Cell::new(info.held.map_or_else(|| "?".to_owned(), human::count)),
            Cell::new(role(info)),
            Cell::new(info.weight),
            Cell::new(info.zone.as_ref().map_or("-", Zone::as_str)),
        ]
    });
    let columns = [
        "NODE", "STATUS", "HTTP", ">OWNS", ">HOLDS", "ROLE", ">WEIGHT", "ZONE",
    ];
    output.table(&columns, rows)
}

/// Why nodes are given nothing, or are not well: a paragraph for each that has something to say.
pub(super) fn conditions(output: Output, list: &NodeList) -> String {
    let told = list.nodes.iter().flat_map(|info| {
        let node = human::node(info.node);
        let told = info.conditions.iter();
        told.map(move |condition| {
            let since = human::ago(condition.since_ms);
            format!("{node} {condition} (for {since})")
        })
    });
    let lines: Vec<String> = told.map(|line| output.paragraph(&line)).collect();
    match lines.is_empty() {
        true => String::new(),
        false => format!("\n{}\n", lines.join("\n")),
    }
}

/// What it means that a node hears no majority, and what to do.
pub(super) fn no_majority(lost: &NoMajority) -> String {
    let missing: Vec<String> = lost.missing.iter().map(|id| human::node(*id)).collect();
    let missing = match missing.is_empty() {
        true => "All of them answer, but they agree on no leader".to_owned(),
        false => format!("It does not reach {}", missing.join(", ")),
    };
    format!(
        "No majority: this node has heard none of the voters' for {}. {missing}. Nothing can be \
         changed, and resources stop, until enough voters are back. If they are lost for good: \
         `holdfast recover --help`.",
        human::ago(lost.since_ms)
    )
}

fn role(info: &NodeInfo) -> &'static str {
    match (info.leader, info.voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "learner",
    }
}

const REMOVE_HELP: &str = "\
Examples:
  holdfast nodes remove 9f3a
  holdfast nodes remove 9f3a --confirm-dead";

const SET_HELP: &str = "\
Examples:
  holdfast nodes set 9f3a --weight 50
  holdfast nodes set 9f3a --weight 0";

const LOG_HELP: &str = "\
Examples:
  holdfast nodes log 9f3a
  holdfast nodes log 9f3a info,holdfast::peer=debug
  holdfast nodes log 9f3a info,guest=warn";

const AFTER_HELP: &str = "\
Examples:
  holdfast nodes
  holdfast nodes --format json | jq -r '.nodes[].http'
  holdfast nodes --format json | jq '.nodes[] | {node, labels}'";

#[cfg(test)]
pub(super) mod tests {
    use holdfast_model::{
        Labels,
        api::{ConditionKind, NodeCondition, NodeStatus},
    };

    use super::*;

    pub(crate) fn info(node: &str) -> NodeInfo {
        NodeInfo {
            node: node.parse().unwrap(),
            incarnation: holdfast_model::Incarnation(1),
            status: NodeStatus::Active,
            addr: "127.0.0.1:7301".parse().unwrap(),
            http: "127.0.0.1:7300".parse().unwrap(),
            weight: Weight::MAX,
            zone: None,
            labels: Labels::default(),
            version: "0.1.0".to_owned(),
            voter: true,
            leader: true,
            this: true,
            resources: 1_234,
            held: Some(1_234),
            joined_at_ms: 0,
            conditions: Vec::new(),
        }
    }

    #[test]
    fn a_node_says_why_it_is_given_nothing() {
        let mut waiting = info("1b000000-0000-4000-8000-000000000000");
        let condition = |kind, text: &str| NodeCondition::new(kind, text.to_owned(), 0);
        waiting.conditions = vec![
            condition(ConditionKind::Compiling, "compiling m6"),
            condition(ConditionKind::Storage, "cannot store m7: no space left"),
        ];
        let well = info("9f3a0000-0000-4000-8000-000000000000");
        let list = NodeList {
            nodes: vec![well, waiting],
            no_majority: None,
        };
        let text = conditions(Output::plain(), &list);
        assert!(
            text.contains("1b000000 waiting: compiling m6 (for "),
            "{text}"
        );
        assert!(
            text.contains("1b000000 storage: cannot store m7: no"),
            "{text}"
        );
        assert!(!text.contains("9f3a0000"), "{text}");
    }

    #[test]
    fn a_lost_majority_is_told_with_who_is_missing() {
        let lost = NoMajority {
            since_ms: 0,
            missing: vec![info("1b000000-0000-4000-8000-000000000000").node],
        };
        let text = no_majority(&lost);
        assert!(text.contains("It does not reach 1b000000. "), "{text}");
        let lost = NoMajority {
            missing: Vec::new(),
            ..lost
        };
        assert!(no_majority(&lost).contains("agree on no leader"));
    }

    #[test]
    fn nodes_are_listed_within_80_columns() {
        let mut gone = info("1b000000-0000-4000-8000-000000000000");
        gone.status = NodeStatus::Unreachable;
        gone.http = "192.168.100.100:17300".parse().unwrap();
        gone.held = None;
        gone.leader = false;
        gone.zone = Some("eu-1".parse().unwrap());
        let list = NodeList {
            nodes: vec![info("9f3a0000-0000-4000-8000-000000000000"), gone],
            no_majority: None,
        };
        let text = table(Output::plain(), &list);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|line| line.len() <= 80), "{text}");
        assert_eq!(
            lines,
            [
                "NODE      STATUS       HTTP                    OWNS  HOLDS  ROLE    WEIGHT  ZONE",
                "9f3a0000  active       127.0.0.1:7300         1,234  1,234  leader     100  -",
                "1b000000  unreachable  192.168.100.100:17300  1,234      ?  voter      100  eu-1",
            ]
        );
    }
}
