//! `holdfast status`: the cluster on one screen.

use std::time::Duration;

use holdfast_model::api::{ClusterInfo, NodeList};
use serde::Serialize;

use super::{human, nodes, output::Output};
use crate::client::Client;

#[derive(Serialize)]
struct Status {
    #[serde(flatten)]
    cluster: ClusterInfo,
    /// Each node; in `nodes` they are counted.
    members: NodeList,
}

pub(super) async fn run(client: &Client, output: &Output) -> anyhow::Result<()> {
    let (cluster, members) = tokio::try_join!(client.cluster(), client.nodes())?;
    output.show(&Status { cluster, members }, |status| {
        describe(*output, status)
    })
}

fn describe(output: Output, Status { cluster, members }: &Status) -> String {
    let leader = cluster
        .leader
        .map_or_else(|| "none".to_owned(), human::node);
    let survived = match cluster.losses_survived {
        0 => "none can be lost".to_owned(),
        n => format!("{n} can be lost"),
    };
    let voters = human::counted(cluster.voters.len() as u64, "voter");
    let mut text = output.pairs([
        ("cluster", format!("{} ({})", cluster.name, cluster.id)),
        (
            "leader",
            format!("{leader}, term {}; {voters}, {survived}", cluster.term),
        ),
        ("failover", failover_of(cluster)),
        ("nodes", nodes_of(cluster)),
        ("modules", human::count(cluster.modules)),
        ("resources", resources_of(cluster)),
    ]);
    text.push('\n');
    text.push_str(&nodes::table(output, members));
    text.push_str(&nodes::conditions(output, members));
    if let Some(lost) = &members.no_majority {
        text.push_str(&format!(
            "\n{}\n",
            output.paragraph(&nodes::no_majority(lost))
        ));
    }
    for warning in warnings(cluster) {
        text.push_str(&format!("\n{}\n", output.paragraph(&warning)));
    }
    text
}

fn failover_of(cluster: &ClusterInfo) -> String {
    let silent = Duration::from_millis(cluster.failover_ms_max);
    let silent = human::duration(silent);
    format!("at once on proof of death, {silent} after silence")
}

fn nodes_of(cluster: &ClusterInfo) -> String {
    let n = &cluster.nodes;
    let all = [
        (n.active, "active"),
        (n.draining, "draining"),
        (n.restarting, "restarting"),
        (n.unreachable, "unreachable"),
        (n.down, "down"),
    ];
    format!("{}: {}", human::count(n.total), parts(&all))
}

fn resources_of(cluster: &ClusterInfo) -> String {
    let r = &cluster.resources;
    let all = [
        (r.held, "held"),
        (r.starting, "starting"),
        (r.moving, "moving"),
        (r.stopping, "stopping"),
        (r.failed, "failed"),
        (r.quarantined, "quarantined"),
        (r.unowned, "unowned"),
        (r.unreachable, "unreachable"),
    ];
    match r.total {
        0 => "none".to_owned(),
        total => format!("{}: {}", human::count(total), parts(&all)),
    }
}

fn parts(all: &[(u64, &str)]) -> String {
    let counted = all.iter().filter(|(n, _)| *n > 0);
    let texts: Vec<String> = counted
        .map(|(n, name)| format!("{} {name}", human::count(*n)))
        .collect();
    texts.join(", ")
}

fn warnings(cluster: &ClusterInfo) -> Vec<String> {
    let mut warnings = Vec::new();
    if cluster.resources.quarantined > 0 {
        warnings.push(
            "Quarantined resources wait for a change of their spec or a new version: \
             `holdfast resources list MODULE --status quarantined` tells why."
                .to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
pub(super) mod tests {
    use holdfast_model::{
        ClusterId, Epoch,
        api::{NodeCounts, ResourceCounts, ResourceStatus},
    };

    use super::*;

    const NODE: &str = "9f3a0000-0000-4000-8000-000000000000";

    pub(crate) fn cluster() -> ClusterInfo {
        let mut resources = ResourceCounts::default();
        resources.add(ResourceStatus::Held, 999);
        resources.add(ResourceStatus::Quarantined, 1);
        ClusterInfo {
            id: ClusterId::random(),
            name: "office".parse().unwrap(),
            epoch: Epoch(12),
            leader: Some(NODE.parse().unwrap()),
            term: 3,
            voters: vec![NODE.parse().unwrap(); 3],
            losses_survived: 1,
            failover_ms_max: 4_700,
            nodes: NodeCounts {
                total: 3,
                active: 3,
                ..NodeCounts::default()
            },
            modules: 1,
            resources,
            stale: false,
            no_majority: None,
        }
    }

    #[test]
    fn the_cluster_fits_on_one_screen() {
        let cluster = cluster();
        let members = NodeList {
            nodes: vec![nodes::tests::info(NODE); 3],
            no_majority: None,
        };
        let text = describe(Output::plain(), &Status { cluster, members });
        assert!(
            text.contains("leader     9f3a0000, term 3; 3 voters, 1 can be lost\n"),
            "{text}"
        );
        assert!(
            text.contains("failover   at once on proof of death, 4.7 s after silence\n"),
            "{text}"
        );
        assert!(text.contains("nodes      3: 3 active\n"), "{text}");
        assert!(
            text.contains("resources  1,000: 999 held, 1 quarantined\n"),
            "{text}"
        );
        assert!(text.contains("--status quarantined"), "{text}");
        assert!(text.lines().count() < 24, "{text}");
    }
}
