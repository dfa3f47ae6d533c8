//! Many modules and their versions on every node: a node that works is used, an upgrade waits for the
//! compiler before it ends anything, and a node with a fault of its own keeps what it can.

use std::{fs, time::Duration};

use bytes::Bytes;
use holdfast_model::{
    NodeId,
    api::{
        ConditionKind, Happening, NodeInfo, ResourceInfo, ResourceList, ResourceStatus, StopReason,
    },
};
use holdfast_tests::{Cluster, LONG, Probe, cluster::Join, component, probe::ids, wait_until};
use serde_json::json;

use crate::{BIN, events::Watcher};

/// How long a busy machine may take to compile what these tests deploy, on every node.
const COMPILED: Duration = LONG.saturating_mul(4);

/// The probe with so many bytes more, which mean nothing: another component to a node.
fn another_probe(mark: u8) -> Bytes {
    let mut component = component::probe().to_vec();
    // A custom section: its id, its size, the length of its name, and the name.
    component.extend([0, 3, 2, b'v', mark]);
    component.into()
}

/// Waits until a node holds something and has nothing to say against itself.
#[track_caller]
fn wait_used(cluster: &Cluster, node: usize) -> NodeInfo {
    let (this, asked) = (cluster.listening(node).node, cluster.running()[0]);
    let (info, _) = wait_until("the node is used", COMPILED, || {
        let info = cluster.api(asked).node(this)?;
        let used = info.held.is_some_and(|held| held > 0) && info.conditions.is_empty();
        used.then(|| info.clone())
            .ok_or_else(|| format!("{info:?}"))
    });
    info
}

/// Waits until all nodes that run hold as many resources in all, about evenly.
#[track_caller]
fn wait_even(cluster: &Cluster, resources: u64) {
    let (asked, running) = (cluster.running()[0], cluster.running().len() as u64);
    wait_until("all is held, evenly", COMPILED, || {
        let nodes = cluster.api(asked).nodes()?;
        let held: Vec<u64> = nodes.iter().filter_map(|info| info.held).collect();
        let fair = resources / running;
        let even = held.len() as u64 == running
            && held.iter().sum::<u64>() == resources
            && held.iter().all(|held| held.abs_diff(fair) <= fair / 2);
        even.then_some(()).ok_or_else(|| format!("{nodes:?}"))
    });
}

fn deploy(cluster: &Cluster, module: &str, component: Bytes) {
    let settings = Probe::settings_logging();
    let answer = cluster.api(0).deploy(module, component, &settings).answer();
    assert!(matches!(answer.status, 200 | 201), "{answer}");
}

#[test]
fn a_killed_node_is_used_again_beside_many_modules() {
    let mut cluster = Cluster::builder(BIN).nodes(3).start();
    let modules: Vec<String> = (1..=8).map(|n| format!("m{n}")).collect();
    for module in &modules {
        deploy(&cluster, module, component::probe());
        cluster.api(0).allocate_all(module, &ids("r", 9));
    }
    wait_even(&cluster, 72);
    for _ in 0..2 {
        cluster.kill9(2);
        cluster.restart(2);
        let _ = wait_used(&cluster, 2);
        wait_even(&cluster, 72);
    }
}

#[test]
fn a_node_that_joins_a_cluster_of_many_modules_is_used() {
    let mut cluster = Cluster::builder(BIN).start();
    for (n, module) in ["a", "b", "c", "d", "e", "f"].into_iter().enumerate() {
        let component = match n % 2 {
            0 => component::probe(),
            _ => another_probe(0),
        };
        deploy(&cluster, module, component);
        cluster.api(0).allocate_all(module, &ids("r", 6));
    }
    for _ in 0..2 {
        let joined = cluster.add(Join::default());
        let _ = wait_used(&cluster, joined);
    }
    wait_even(&cluster, 36);
}

#[test]
fn an_upgrade_ends_nothing_before_the_new_version_is_compiled_there() {
    let cluster = Cluster::builder(BIN).nodes(3).start();
    deploy(&cluster, "m", component::probe());
    cluster.api(0).allocate_all("m", &ids("r", 12));
    wait_even(&cluster, 12);
    let watcher = Watcher::start(&cluster, 0, "?module=m", None);
    deploy(&cluster, "m", another_probe(2));
    let all = wait_until("every instance is an upgraded one", COMPILED, || {
        let heard = watcher.heard_at();
        let is_new = |event: &&(u64, Happening)| {
            matches!(&event.1, Happening::InstanceStarted { version: 2, .. })
        };
        let started = heard.iter().filter(is_new).count();
        (started >= 12).then_some(heard).ok_or(started)
    });
    let (heard, _) = all;
    let at = |is_it: &dyn Fn(&Happening) -> bool| {
        let found = heard.iter().find(|(_, event)| is_it(event));
        found.map(|(at_ms, _)| *at_ms)
    };
    let served = at(&|event| matches!(event, Happening::ModuleServing { version: 2, .. }));
    let served = served.expect("it serves");
    for n in 0..3 {
        let this = cluster.listening(n).node;
        let is_ready = |event: &Happening| matches!(event, Happening::ModuleReady { node, version: 2, .. } if *node == this);
        let ready = at(&is_ready).expect("it is compiled");
        assert!(
            ready <= served,
            "compiled everywhere before it serves: {heard:#?}"
        );
        // What a node tells of itself has an order.
        let told: Vec<&Happening> = heard
            .iter()
            .map(|(_, event)| event)
            .filter(|event| is_ready(event) || is_upgraded(event, this))
            .collect();
        assert!(
            told.first().is_some_and(|first| is_ready(first)),
            "node {n} ended an instance before the compiler was done: {told:#?}"
        );
    }
}

fn owner(resource: &ResourceInfo) -> Option<NodeId> {
    resource.owner.map(|owner| owner.node)
}

fn is_upgraded(event: &Happening, this: NodeId) -> bool {
    let reason = StopReason::Upgraded;
    matches!(event, Happening::InstanceStopped { node, reason: why, .. } if *node == this && *why == reason)
}

#[test]
fn a_node_that_cannot_store_a_version_keeps_the_former_one_and_gives_away_what_it_can() {
    let cluster = Cluster::builder(BIN).nodes(3).start();
    let ids = ids("r", 12);
    deploy(&cluster, "m", component::probe());
    cluster.api(0).allocate_all("m", &ids);
    wait_even(&cluster, 12);
    // A disk that takes nothing, as far as the node can tell.
    let (modules, aside) = (
        cluster.data_dir(2).join("modules"),
        cluster.data_dir(2).join("aside"),
    );
    fs::rename(&modules, &aside).unwrap();
    fs::write(&modules, b"").unwrap();

    let watcher = Watcher::start(&cluster, 0, "?module=m", None);
    let component = another_probe(3);
    let settings = Probe::settings_logging();
    let answer = cluster.api(0).deploy("m", component, &settings).answer();
    assert!(matches!(answer.status, 200 | 201), "{answer}");

    let broken = cluster.listening(2).node;
    let ready = |n: usize| cluster.api(n).get("/readyz").answer();
    wait_until("the node says so", COMPILED, || {
        let info = cluster.api(0).node(broken)?;
        let says = info
            .conditions
            .iter()
            .any(|c| c.kind == ConditionKind::Storage);
        says.then_some(()).ok_or_else(|| format!("{info:?}"))
    });
    ready(2)
        .problem(503, "unavailable")
        .names(&["storage", "m"]);
    let answer = cluster.api(0).module("m");
    let behind = answer.nodes.iter().find(|node| node.node == broken);
    if let Some(behind) = behind {
        let why = behind.behind.as_deref().unwrap_or_default();
        assert!(why.contains("modules"), "{answer:?}");
    }
    wait_until("others hold what it had", COMPILED, || {
        let list: ResourceList = cluster
            .api(0)
            .get("/v1/modules/m/resources")
            .answer()
            .json();
        let elsewhere = list.resources.iter().all(|resource| {
            resource.status == ResourceStatus::Held && owner(resource) != Some(broken)
        });
        elsewhere.then_some(()).ok_or_else(|| format!("{list:?}"))
    });
    let failed = |event: &Happening| matches!(event, Happening::InstanceFailed { .. });
    assert!(
        !watcher.heard().iter().any(failed),
        "{:#?}",
        watcher.heard()
    );
    // What it cannot run it is not given either.
    let _ = cluster
        .api(0)
        .allocate_held("m", "late", &json!({}))
        .answer()
        .expect(201);
    assert_ne!(owner(&cluster.api(0).resource("m", "late")), Some(broken));

    fs::remove_file(&modules).unwrap();
    fs::rename(&aside, &modules).unwrap();
    let _ = wait_used(&cluster, 2);
    let _ = ready(2).expect(200);
}
