//! A node that cannot start all that it is given, for reasons of its own.

use holdfast_model::api::{ConditionKind, NodeInfo};
use holdfast_tests::{Cluster, LONG, Probe, cluster::Join, probe::ids, wait_until};

use crate::BIN;

const RESOURCES: u64 = 120;

#[test]
fn what_a_node_has_no_memory_for_goes_to_one_that_has_and_does_not_come_back() {
    let mut cluster = Cluster::builder(BIN).nodes(1).start();
    // Room for some ten of the sixty that would be its share.
    let small = cluster.add(Join {
        args: vec!["--guest-memory-bytes-max".to_owned(), (2 << 20).to_string()],
        ..Join::default()
    });
    cluster.wait_formed();
    let api = cluster.api(0);
    Probe::deploy_with(&api, "probe", &Probe::settings_logging());
    api.allocate_all("probe", &ids("r", RESOURCES as usize));
    let this = cluster.listening(small).node;
    // How many it holds, once both of them hold all there are.
    let held = |resources: u64| {
        let all_held = || {
            let nodes = api.nodes()?;
            let here = |info: &&NodeInfo| info.node == this;
            let held = |info: &NodeInfo| info.held.unwrap_or_default();
            let own = nodes.iter().find(here).map_or(0, held);
            let all = nodes.iter().map(held).sum::<u64>() == resources && own > 0;
            all.then_some(own).ok_or_else(|| format!("{nodes:?}"))
        };
        wait_until("all is held", LONG, all_held).0
    };
    let before = held(RESOURCES);
    assert!(before < RESOURCES / 3, "{before} in so little memory");
    // It says so, and serves what it has.
    let info = api.node(this).expect("the cluster answers");
    let says = |kind| info.conditions.iter().any(|c| c.kind == kind);
    assert!(says(ConditionKind::Full), "{:?}", info.conditions);
    let ready = cluster.api(small).get("/readyz").answer().expect(200);
    let text = String::from_utf8_lossy(&ready.body).into_owned();
    assert!(text.contains("full: probe"), "{text}");
    assert!(text.contains("--guest-memory-bytes-max"), "{text}");
    // What is new goes to the other as well.
    api.allocate_all("probe", &ids("s", RESOURCES as usize));
    let after = held(2 * RESOURCES);
    assert!(after <= before + 2, "{after} after {before}");
}
