//! `holdfast plan`: what would move, before it does.

use std::str::FromStr;

use clap::Args;
use comfy_table::Cell;
use holdfast_model::{
    InvalidWeight, Weight, Zone,
    api::{ClusterPlan, JoiningNode, PlanNode, PlanRequest, PlannedModule, PlannedNode},
};

use super::{human, output::Output, target};
use crate::client::Client;

/// Show what would move if nodes joined, left or had other weights
///
/// Nothing is changed. The node that is asked computes it from its copy of the state, as a leader
/// would. How many resources move is what to go by; which ones also depends on the id that a new
/// node is going to have. Without an option it shows what moves by itself.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct PlanArgs {
    /// How many nodes join: 1 to 100.
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=JOIN_MAX))]
    join: Option<u32>,

    /// NODE=W: a node has another weight; can be given several times. W alone: the weight of those
    /// that join, 100 unless given.
    #[arg(long = "weight", value_name = "[NODE=]W")]
    weights: Vec<WeightOf>,

    /// The zone of those that join.
    #[arg(long, value_name = "ZONE", requires = "join")]
    zone: Option<Zone>,

    /// A node leaves: it is drained, stopped or dead; can be given several times.
    #[arg(long = "leave", value_name = "NODE")]
    leave: Vec<String>,
}

/// A weight, and the node that has it; none for those that join.
#[derive(Clone, Debug)]
struct WeightOf {
    node: Option<String>,
    weight: Weight,
}

impl FromStr for WeightOf {
    type Err = InvalidWeight;
    fn from_str(text: &str) -> Result<Self, InvalidWeight> {
        let (node, weight) = match text.rsplit_once('=') {
            Some((node, weight)) => (Some(node.to_owned()), weight),
            None => (None, text),
        };
        let weight = weight.parse()?;
        Ok(Self { node, weight })
    }
}

pub(super) async fn run(args: PlanArgs, client: &Client, output: &Output) -> anyhow::Result<()> {
    let request = imagined(args, client).await?;
    let plan = client.plan(&request).await?;
    output.show(&plan, |plan| describe(*output, plan))
}

async fn imagined(args: PlanArgs, client: &Client) -> anyhow::Result<PlanRequest> {
    let mut request = PlanRequest::default();
    let mut joining = JoiningNode {
        zone: args.zone,
        ..JoiningNode::default()
    };
    let mut given = None;
    for WeightOf { node, weight } in args.weights {
        match node {
            Some(node) => {
                let id = target::node(client, &node).await?;
                if request.weights.insert(id, weight).is_some() {
                    return Err(target::usage(format!("node {node} has two weights")));
                }
            }
            None if args.join.is_none() => {
                return Err(target::usage(format!(
                    "whose weight is {weight}? Give --join N, or NODE={weight}"
                )));
            }
            None if given.replace(weight).is_some() => {
                return Err(target::usage(
                    "nodes that join have one weight, not several",
                ));
            }
            None => joining.weight = weight,
        }
    }
    for node in &args.leave {
        request.leave.insert(target::node(client, node).await?);
    }
    let joins = args.join.unwrap_or(0) as usize;
    request.join = vec![joining; joins];
    Ok(request)
}

fn describe(output: Output, plan: &ClusterPlan) -> String {
    let mut text = format!("{}\n", output.paragraph(&sentence(plan)));
    text.push('\n');
    text.push_str(&nodes(output, &plan.nodes));
    if !plan.modules.is_empty() {
        text.push('\n');
        text.push_str(&modules(output, &plan.modules));
    }
    let (ways, left_out) = ways(output, &plan.modules);
    if !ways.is_empty() {
        text.push('\n');
        text.push_str(&ways);
    }
    if left_out > 0 {
        let more = human::counted(left_out as u64, "more way");
        text.push_str(&format!("… and {more}: --format json has all\n"));
    }
    text
}

fn sentence(plan: &ClusterPlan) -> String {
    let moves = match plan.moves.resources {
        0 => "Nothing would move.".to_owned(),
        resources => format!(
            "{} of {} would move, in {}.",
            human::count(resources),
            human::counted(plan.total.resources, "resource"),
            human::counted(plan.moves.slots, "slot"),
        ),
    };
    match (plan.max_mean_now, plan.max_mean_then) {
        (Some(now), Some(then)) => {
            format!("{moves} The fullest node has {now:.2} of its share now, {then:.2} then.")
        }
        (Some(_), None) => format!("{moves} No node would be left that may hold anything."),
        (None, _) => moves,
    }
}

fn nodes(output: Output, nodes: &[PlannedNode]) -> String {
    let rows = nodes.iter().map(|node| {
        let weight = match node.weight_now {
            Some(now) if now != node.weight_then => format!("{now} -> {}", node.weight_then),
            _ => node.weight_then.to_string(),
        };
        vec![
            Cell::new(name(node.node)),
            Cell::new(node.role),
            Cell::new(weight),
            Cell::new(human::count(node.now.resources)),
            Cell::new(human::count(node.then.resources)),
            Cell::new(difference(node.now.resources, node.then.resources)),
            Cell::new(node.zone.as_ref().map_or("-", Zone::as_str)),
        ]
    });
    let columns = [
        "NODE", "ROLE", ">WEIGHT", ">NOW", ">THEN", ">CHANGE", "ZONE",
    ];
    output.table(&columns, rows)
}

fn modules(output: Output, modules: &[PlannedModule]) -> String {
    let share = |of: Option<f64>| of.map_or_else(|| "-".to_owned(), |of| format!("{of:.2}"));
    let rows = modules.iter().map(|module| {
        vec![
            Cell::new(&module.module),
            Cell::new(human::count(module.total.resources)),
            Cell::new(human::count(module.moves.resources)),
            Cell::new(human::count(module.moves.slots)),
            Cell::new(share(module.max_mean_now)),
            Cell::new(share(module.max_mean_then)),
        ]
    });
    let columns = [
        "MODULE",
        ">RESOURCES",
        ">MOVE",
        ">SLOTS",
        ">MAX/MEAN",
        ">THEN",
    ];
    output.table(&columns, rows)
}

/// From where to where, the most first, and how many of them are left out.
fn ways(output: Output, modules: &[PlannedModule]) -> (String, usize) {
    let of = |module: &'_ PlannedModule| {
        let ways = module.from_to.iter().cloned();
        let name = module.module.clone();
        ways.map(move |way| (name.clone(), way)).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = modules.iter().flat_map(of).collect();
    all.sort_by_key(|(_, way)| std::cmp::Reverse(way.count.resources));
    let left_out = all.len().saturating_sub(WAYS_MAX);
    all.truncate(WAYS_MAX);
    if all.is_empty() {
        return (String::new(), 0);
    }
    let rows = all.into_iter().map(|(module, way)| {
        vec![
            Cell::new(module),
            Cell::new(way.from.map_or_else(|| "nobody".to_owned(), name)),
            Cell::new(name(way.to)),
            Cell::new(human::count(way.count.resources)),
            Cell::new(human::count(way.count.slots)),
        ]
    });
    let columns = ["MODULE", "FROM", "TO", ">RESOURCES", ">SLOTS"];
    (output.table(&columns, rows), left_out)
}

fn name(node: PlanNode) -> String {
    match node {
        PlanNode::Known(node) => human::node(node),
        new => new.to_string(),
    }
}

fn difference(now: u64, then: u64) -> String {
    match then.abs_diff(now) {
        0 => "-".to_owned(),
        more if then > now => format!("+{}", human::count(more)),
        less => format!("-{}", human::count(less)),
    }
}

const JOIN_MAX: i64 = PlanRequest::JOIN_MAX as i64;

/// Longest list of ways that somebody reads.
const WAYS_MAX: usize = 40;

const AFTER_HELP: &str = "\
Examples:
  holdfast plan --join 2
  holdfast plan --join 1 --weight 50 --zone b
  holdfast plan --leave 9f3a
  holdfast plan --weight 9f3a=50 --weight 1b07=0
  holdfast plan --join 1 --leave 9f3a --format json | jq .moves";

#[cfg(test)]
mod tests {
    use holdfast_model::api::{PlanCount, PlanRole, PlannedMove};

    use super::*;

    fn count(resources: u64, slots: u64) -> PlanCount {
        PlanCount { resources, slots }
    }

    fn node(node: &str, now: u64, then: u64) -> PlannedNode {
        let node: PlanNode = node.parse().unwrap();
        let is_new = matches!(node, PlanNode::New(_));
        PlannedNode {
            node,
            role: if is_new {
                PlanRole::Joins
            } else {
                PlanRole::Stays
            },
            zone: None,
            weight_now: (!is_new).then_some(Weight::MAX),
            weight_then: Weight::MAX,
            now: count(now, now),
            then: count(then, then),
        }
    }

    fn plan() -> ClusterPlan {
        let first = "9f3a0000-0000-4000-8000-000000000000";
        let mut lighter = node("1b070000-0000-4000-8000-000000000000", 12_345, 6_000);
        lighter.weight_then = "50".parse().unwrap();
        lighter.zone = Some("eu-west-1b".parse().unwrap());
        let way = |from: &str, to: &str, resources| PlannedMove {
            from: Some(from.parse().unwrap()),
            to: to.parse().unwrap(),
            count: count(resources, 80),
        };
        ClusterPlan {
            total: count(24_690, 4_096),
            moves: count(6_690, 900),
            max_mean_now: Some(1.0),
            max_mean_then: Some(1.004),
            modules: vec![PlannedModule {
                module: "a".repeat(24).parse().unwrap(),
                total: count(24_690, 4_096),
                moves: count(6_690, 900),
                max_mean_now: Some(1.0),
                max_mean_then: Some(1.004),
                from_to: vec![
                    way(first, "new-1", 345),
                    way("1b070000-0000-4000-8000-000000000000", "new-1", 6_345),
                ],
            }],
            nodes: vec![
                node(first, 12_345, 12_000),
                lighter,
                node("new-1", 0, 6_690),
            ],
        }
    }

    #[test]
    fn a_plan_is_told_within_80_columns() {
        let text = describe(Output::plain(), &plan());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|line| line.len() <= 80), "{text}");
        assert_eq!(
            lines,
            [
                "6,690 of 24,690 resources would move, in 900 slots. The fullest node has 1.00 of",
                "its share now, 1.00 then.",
                "",
                "NODE      ROLE      WEIGHT     NOW    THEN  CHANGE  ZONE",
                "9f3a0000  stays        100  12,345  12,000    -345  -",
                "1b070000  stays  100 -> 50  12,345   6,000  -6,345  eu-west-1b",
                "new-1     joins        100       0   6,690  +6,690  -",
                "",
                "MODULE                    RESOURCES   MOVE  SLOTS  MAX/MEAN  THEN",
                "aaaaaaaaaaaaaaaaaaaaaaaa     24,690  6,690    900      1.00  1.00",
                "",
                "MODULE                    FROM      TO     RESOURCES  SLOTS",
                "aaaaaaaaaaaaaaaaaaaaaaaa  1b070000  new-1      6,345     80",
                "aaaaaaaaaaaaaaaaaaaaaaaa  9f3a0000  new-1        345     80",
            ]
        );
    }

    #[test]
    fn what_moves_nothing_or_leaves_nobody_says_so() {
        let mut plan = plan();
        plan.moves = PlanCount::default();
        assert!(sentence(&plan).starts_with("Nothing would move. "));
        plan.max_mean_then = None;
        assert!(sentence(&plan).contains("No node would be left"));
        plan.max_mean_now = None;
        assert_eq!(sentence(&plan), "Nothing would move.");
    }

    #[test]
    fn a_long_list_of_ways_is_cut() {
        let mut plan = plan();
        let ways = &mut plan.modules[0].from_to;
        *ways = ways.iter().cycle().take(WAYS_MAX + 2).cloned().collect();
        let text = describe(Output::plain(), &plan);
        assert!(
            text.ends_with("… and 2 more ways: --format json has all\n"),
            "{text}"
        );
    }

    #[test]
    fn a_weight_is_that_of_a_node_or_of_those_that_join() {
        let of: WeightOf = "9f3a=50".parse().unwrap();
        assert_eq!((of.node.as_deref(), of.weight.get()), (Some("9f3a"), 50));
        let of: WeightOf = "0".parse().unwrap();
        assert_eq!((of.node, of.weight), (None, Weight::WITNESS));
        for bad in ["9f3a=101", "9f3a=", "=x", "x"] {
            assert!(bad.parse::<WeightOf>().is_err(), "{bad}");
        }
    }
}
