//! Every resource is held exactly once, every module is even by itself, and a join moves little.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use holdfast_model::api::{ClusterPlan, NodeInfo};
use holdfast_tests::{
    Callers, Cluster, Findings, Key, LONG, Probe, callers::Due, cluster::Join, probe::ids,
    wait_until,
};
use serde_json::json;

use crate::BIN;

/// How long nothing is reported when nothing moves any more.
const QUIET: Duration = Duration::from_secs(3);

/// How many each running node holds, least first; nodes without any count as zero.
fn shares(cluster: &Cluster, findings: &Findings, module: &str) -> Vec<usize> {
    let spread = findings.spread(module);
    let pids = cluster.running().into_iter().map(|node| cluster.pid(node));
    let mut shares: Vec<usize> = pids
        .map(|pid| spread.get(&pid).copied().unwrap_or(0))
        .collect();
    shares.sort_unstable();
    shares
}

fn hold(cluster: &Cluster, module: &str, count: usize) -> (Vec<String>, Findings) {
    let ids = ids("r", count);
    let last = *cluster.running().last().expect("a node runs");
    let slow = Probe::slow_to_terminate();
    cluster.api(last).allocate_all_as(module, &ids, &slow);
    let findings = held_where_it_began(cluster, module, &ids);
    (ids, findings)
}

/// Waits until exactly these are held and all is still; nothing was moved or begun anew on the way.
fn held_where_it_began(cluster: &Cluster, module: &str, ids: &[String]) -> Findings {
    cluster.collector().wait_held(module, ids, LONG * 4);
    cluster.collector().wait_quiet(QUIET);
    let findings = cluster.collector().wait_held(module, ids, LONG);
    findings.assert_undisturbed();
    assert!(findings.gaps.is_empty(), "moved: {:?}", findings.gaps);
    findings
}

/// A node that joins with this option.
fn with(option: &str, value: &str) -> Join {
    Join {
        args: vec![option.to_owned(), value.to_owned()],
        ..Join::default()
    }
}

/// No share is more than 1% away from an even one.
fn assert_within_one_percent(shares: &[usize], count: usize) {
    assert_eq!(shares.iter().sum::<usize>(), count);
    for share in shares {
        // In parts of a resource, so that an even share need not be a whole number.
        let away = (share * shares.len()).abs_diff(count);
        assert!(away * 100 <= count, "{shares:?} of {count}");
    }
}

#[test]
fn three_nodes_hold_a_thousand_resources_exactly_once_and_evenly() {
    let cluster = Cluster::builder(BIN).nodes(3).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let (_, findings) = hold(&cluster, "probe", 1_000);
    assert_within_one_percent(&shares(&cluster, &findings, "probe"), 1_000);
}

#[test]
fn three_nodes_hold_ten_thousand_resources_exactly_once_and_evenly() {
    let cluster = Cluster::builder(BIN).nodes(3).alone().start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let begun = cluster.collector().now();
    let (_, findings) = hold(&cluster, "probe", 10_000);
    let took = cluster.collector().now() - begun;
    println!(
        "10,000 resources were held after {:.1} s",
        took.as_secs_f64()
    );
    assert_within_one_percent(&shares(&cluster, &findings, "probe"), 10_000);
}

#[test]
fn every_module_is_even_by_itself() {
    let cluster = Cluster::builder(BIN).nodes(2).start();
    for module in ["many", "few"] {
        Probe::deploy(&cluster.api(0), module, cluster.collector());
    }
    let (_, findings) = hold(&cluster, "many", 1_000);
    assert_eq!(shares(&cluster, &findings, "many"), [500, 500]);
    let (_, findings) = hold(&cluster, "few", 4);
    assert_eq!(shares(&cluster, &findings, "few"), [2, 2]);
    // The second module did not disturb the first.
    assert_eq!(shares(&cluster, &findings, "many"), [500, 500]);
}

#[test]
fn resources_allocated_one_by_one_are_even_too() {
    let cluster = Cluster::builder(BIN).nodes(2).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let ids = ids("single-", 4);
    for (i, id) in ids.iter().enumerate() {
        let api = cluster.api(i % 2);
        let answer = api.allocate("probe", id, &serde_json::json!({})).answer();
        let _ = answer.expect(201);
    }
    let findings = held_where_it_began(&cluster, "probe", &ids);
    assert_eq!(shares(&cluster, &findings, "probe"), [2, 2]);
}

#[test]
fn every_module_is_divided_by_weight() {
    let mut cluster = Cluster::builder(BIN).start();
    let light = cluster.add(with("--weight", "50"));
    cluster.wait_formed();
    for (module, count) in [("few", 3), ("many", 1_500)] {
        Probe::deploy(&cluster.api(0), module, cluster.collector());
        let (_, findings) = hold(&cluster, module, count);
        let spread = findings.spread(module);
        let held = spread.get(&cluster.pid(light)).copied().unwrap_or(0);
        // A third of it.
        let off = held.abs_diff(count / 3);
        assert!(off * 100 <= count / 3, "{module}: {held} of {count}");
    }
}

#[test]
fn the_few_of_a_module_are_in_different_zones() {
    let mut cluster = Cluster::builder(BIN)
        .nodes(2)
        .args(&["--zone", "a"])
        .start();
    let other = cluster.add(with("--zone", "b"));
    cluster.wait_formed();
    // Of two resources on three nodes the ring alone would give both to zone a one time in three.
    let modules = ids("m", 8);
    for module in &modules {
        Probe::deploy(&cluster.api(0), module, cluster.collector());
        cluster.api(0).allocate_all(module, &ids("r", 2));
    }
    for module in &modules {
        let findings = cluster.collector().wait_held(module, &ids("r", 2), LONG);
        let spread = findings.spread(module);
        let held = spread.get(&cluster.pid(other));
        assert_eq!(held, Some(&1), "{module}: {spread:?}");
    }
}

/// Waits until a process holds about so many of these, within 1%, and nothing moves any more.
fn wait_share(cluster: &Cluster, module: &str, ids: &[String], pid: u32, fair: usize) -> Findings {
    wait_until(&format!("it holds {fair}"), LONG, || {
        let spread = cluster.collector().findings().spread(module);
        let share = spread.get(&pid).copied().unwrap_or(0);
        let all_held = spread.values().sum::<usize>() == ids.len();
        let near = share.abs_diff(fair) * 100 <= fair && all_held;
        near.then_some(()).ok_or(format!("it holds {share}"))
    });
    cluster.collector().wait_quiet(QUIET);
    let findings = cluster.collector().wait_held(module, ids, LONG);
    findings.assert_undisturbed();
    findings
}

#[test]
fn a_weight_changes_while_the_node_runs_and_stays_over_its_restarts() {
    let mut cluster = Cluster::builder(BIN).nodes(2).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let (ids, _) = hold(&cluster, "probe", 300);
    let node = cluster.listening(1).node;
    let set = |cluster: &Cluster, weight: u32| {
        let ask = cluster
            .api(1)
            .ask("PATCH", &format!("/v1/cluster/nodes/{node}"));
        let info: NodeInfo = ask
            .json(&json!({"weight": weight}))
            .answer()
            .expect(200)
            .json();
        assert_eq!(info.weight.get(), u64::from(weight));
    };
    let weight = |cluster: &Cluster| cluster.api(0).node(node).map(|info| info.weight.get());

    set(&cluster, 50);
    let findings = wait_share(&cluster, "probe", &ids, cluster.pid(1), 100);
    let moved = findings.gaps.len();
    assert!(moved <= 51, "{moved} moved, 50 would do");
    set(&cluster, 0);
    wait_share(&cluster, "probe", &ids, cluster.pid(1), 0);

    assert_eq!(cluster.stop(1).code(), Some(0));
    cluster.restart(1);
    cluster.wait_formed();
    assert_eq!(
        weight(&cluster),
        Ok(0),
        "it was started with what it had been started with"
    );
    assert_eq!(cluster.stop(1).code(), Some(0));
    cluster.set_args(1, &["--weight", "99"]);
    cluster.restart(1);
    cluster.wait_formed();
    assert_eq!(weight(&cluster), Ok(99), "the option says something new");
    wait_share(&cluster, "probe", &ids, cluster.pid(1), 149);
}

#[test]
fn a_change_of_a_node_that_makes_no_sense_is_refused() {
    let cluster = Cluster::builder(BIN).start();
    let node = cluster.listening(0).node.to_string();
    let nobody = "00000000-0000-4000-8000-000000000000";
    for (node, body, status, kind, named) in [
        (
            node.as_str(),
            json!({"weight": 101}),
            400,
            "invalid-request",
            "0 to 100",
        ),
        (
            &node,
            json!({"weight": -1}),
            400,
            "invalid-request",
            "weight",
        ),
        (&node, json!({"wait": 1}), 400, "invalid-request", "`wait`"),
        (&node, json!([1]), 400, "invalid-request", "object"),
        (nobody, json!({"weight": 1}), 404, "unknown-node", nobody),
        (nobody, json!({}), 404, "unknown-node", nobody),
    ] {
        let ask = cluster
            .api(0)
            .ask("PATCH", &format!("/v1/cluster/nodes/{node}"));
        ask.json(&body)
            .answer()
            .problem(status, kind)
            .names(&[named]);
    }
}

#[test]
fn a_join_moves_no_more_than_its_fair_share_and_nothing_overlaps() {
    let mut cluster = Cluster::builder(BIN).nodes(2).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let (ids, before) = hold(&cluster, "probe", 1_000);
    let owners = |findings: &Findings| -> BTreeMap<String, u32> {
        let holder = |id: &String| findings.holder("probe", id).map(|h| (id.clone(), h.pid));
        ids.iter().filter_map(holder).collect()
    };

    let mut callers = Callers::default();
    for through in 0..2 {
        callers.add(&cluster.api(through), &ids, Due::Success);
    }
    callers.wait_answered(30);
    let joiner = cluster.add(Join::default());
    let newcomer = cluster.pid(joiner);
    let fair = ids.len().div_ceil(3);
    wait_until("the new node holds its share", LONG, || {
        let findings = cluster.collector().findings();
        let share = findings
            .spread("probe")
            .get(&newcomer)
            .copied()
            .unwrap_or(0);
        // Within 1% of the fair share, as evenness asks for; in parts of a resource.
        let near = (share * 3).abs_diff(ids.len()) * 100 <= ids.len();
        if near && findings.holders.len() == ids.len() {
            return Ok(());
        }
        Err(format!("it holds {share} of {fair}"))
    });
    cluster.collector().wait_quiet(QUIET);
    callers.stop();
    let after = cluster.collector().wait_held("probe", &ids, LONG);
    after.assert_undisturbed();
    assert_within_one_percent(&shares(&cluster, &after, "probe"), ids.len());

    let (before, after_owners) = (owners(&before), owners(&after));
    let moved: BTreeSet<&String> = ids
        .iter()
        .filter(|id| before[*id] != after_owners[*id])
        .collect();
    let elsewhere = moved
        .iter()
        .filter(|id| after_owners[**id] != newcomer)
        .count();
    assert_eq!(elsewhere, 0, "moved between nodes that were there before");
    assert!(
        moved.len() <= fair,
        "{} moved, {fair} would do",
        moved.len()
    );
    assert_eq!(after.gaps.len(), moved.len(), "nothing moved twice");
    let gaps = after.gaps_since(Duration::ZERO);
    println!("{} moved; {}", moved.len(), gaps.expect("something moved"));
}

/// What `holdfast plan` tells with these arguments.
fn planned(cluster: &Cluster, args: &[&str]) -> ClusterPlan {
    let server = format!("http://{}", cluster.listening(0).http);
    let mut command = std::process::Command::new(BIN);
    command.args(["plan", "--server", &server, "--format", "json"]);
    let output = command.args(args).output().expect("the command runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    serde_json::from_slice(&output.stdout).expect("it is a plan")
}

#[test]
fn what_a_plan_tells_is_what_then_moves() {
    let mut cluster = Cluster::builder(BIN).nodes(2).start();
    let modules = [("many", 600), ("few", 30)];
    for (module, count) in modules {
        Probe::deploy(&cluster.api(0), module, cluster.collector());
        hold(&cluster, module, count);
    }
    let moved_since = |cluster: &Cluster, before: usize| -> Vec<String> {
        let gaps = cluster.collector().findings().gaps;
        gaps[before..]
            .iter()
            .map(|gap| gap.key.module.clone())
            .collect()
    };
    let of = |moved: &[String], module: &str| moved.iter().filter(|of| *of == module).count();

    assert_eq!(planned(&cluster, &[]).moves.resources, 0);
    let told = planned(&cluster, &["--join", "1"]);
    let joiner = cluster.add(Join::default());
    for (module, count) in modules {
        wait_share(
            &cluster,
            module,
            &ids("r", count),
            cluster.pid(joiner),
            count / 3,
        );
    }
    let moved = moved_since(&cluster, 0);
    for module in &told.modules {
        let (name, told) = (module.module.as_str(), module.moves.resources as usize);
        let moved = of(&moved, name);
        // Within one, or 1% of what there is for each node.
        let near = (module.total.resources as usize / 300).max(1);
        assert!(
            moved.abs_diff(told) <= near,
            "{name}: {moved} moved, not {told}"
        );
    }

    // Of a node that leaves, just what it has.
    let leaver = cluster.listening(1).node.to_string();
    let told = planned(&cluster, &["--leave", &leaver[..8]]);
    let drain = format!("/v1/cluster/nodes/{leaver}/drain?wait=empty&timeout_ms=180000");
    let _ = cluster
        .api(0)
        .ask("POST", &drain)
        .patience(LONG * 2)
        .answer()
        .expect(200);
    cluster.collector().wait_quiet(QUIET);
    let drained = moved_since(&cluster, moved.len());
    for module in &told.modules {
        let moved = of(&drained, module.module.as_str());
        assert_eq!(moved as u64, module.moves.resources, "{}", module.module);
    }
    cluster.collector().findings().assert_undisturbed();
    assert_eq!(planned(&cluster, &[]).moves.resources, 0);
}

#[test]
fn a_plan_that_makes_no_sense_is_refused() {
    let cluster = Cluster::builder(BIN).start();
    let node = cluster.listening(0).node.to_string();
    let nobody = "00000000-0000-4000-8000-000000000000";
    let too_many = vec![json!({}); 101];
    let both = json!({"leave": [node], "weights": {&node: 1}});
    for (body, status, kind, named) in [
        (json!({"leave": [nobody]}), 404, "unknown-node", nobody),
        (json!({"weights": {nobody: 1}}), 404, "unknown-node", nobody),
        (
            json!({"weights": {&node: 101}}),
            400,
            "invalid-request",
            "0 to 100",
        ),
        (
            json!({"join": too_many}),
            400,
            "invalid-request",
            "at most 100",
        ),
        (
            json!({"join": [{"zone": "a b"}]}),
            400,
            "invalid-request",
            "1 to 63 characters",
        ),
        (json!({"leaves": []}), 400, "invalid-request", "`leaves`"),
        (both, 400, "invalid-request", "it has no weight then"),
    ] {
        let ask = cluster.api(0).ask("POST", "/v1/cluster/plan").json(&body);
        ask.answer().problem(status, kind).names(&[named]);
    }
}

#[test]
fn a_planted_overlap_and_a_planted_loss_are_seen_by_the_observer() {
    // Two clusters that know nothing of each other hold a resource of the same name.
    let mut first = Cluster::builder(BIN).start();
    let second = Cluster::builder(BIN).beside(&first).start();
    let (all, common) = (ids("r", 5), ids("r", 1));
    for (cluster, held) in [(&first, &all), (&second, &common)] {
        Probe::deploy(&cluster.api(0), "probe", first.collector());
        cluster.api(0).allocate_all("probe", held);
        wait_until("its resources are held", LONG, || {
            let spread = first.collector().findings().spread("probe");
            let share = spread.get(&cluster.pid(0)).copied();
            let is_all = share.filter(|share| *share == held.len());
            is_all.ok_or(format!("{share:?}"))
        });
    }
    let findings = first.collector().findings();
    let [overlap] = findings.overlaps.as_slice() else {
        panic!("one resource has two holders: {findings:#?}");
    };
    assert_eq!(overlap.key, Key::new("probe", "r0"));
    let pids = (overlap.first.pid, overlap.second.pid);
    assert_eq!(pids, (first.pid(0), second.pid(0)));

    // Nobody takes over what the first held alone.
    first.kill9(0);
    let expected: Vec<Key> = all.iter().map(|id| Key::new("probe", id)).collect();
    let findings = first.collector().wait_quiet(QUIET);
    let lost = findings.lost(&expected);
    assert_eq!(lost, expected[1..].iter().collect::<Vec<_>>());
}
