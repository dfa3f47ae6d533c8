//! What was acknowledged is there after every restart.

use holdfast_tests::{Ask, Cluster, LONG, Probe, SOON, probe::ids, wait_until};
use serde_json::json;

use crate::BIN;

#[test]
fn a_founder_restarts_with_the_command_line_that_founded() {
    let mut cluster = Cluster::builder(BIN).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let ids = ids("r", 50);
    cluster.api(0).allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);
    let before = cluster.api(0).cluster().expect("it answers");
    for _ in 0..3 {
        cluster.kill9(0);
        cluster.restart(0);
        let findings = cluster.collector().wait_held("probe", &ids, LONG);
        findings.assert_undisturbed();
    }
    cluster.wait_formed();
    let after = cluster.api(0).cluster().expect("it answers");
    assert_eq!((before.id, before.name), (after.id, after.name));
    assert!(before.epoch < after.epoch);
}

#[test]
fn an_acknowledged_change_is_there_after_a_kill_that_follows_at_once() {
    let mut cluster = Cluster::builder(BIN).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let mut kept = Vec::new();
    for round in 0..5 {
        let id = format!("round-{round}");
        let gone = format!("gone-{round}");
        let api = cluster.api(0);
        for id in [&gone, &id] {
            let _ = api.allocate("probe", id, &json!({})).answer().expect(201);
        }
        let path = holdfast_tests::api::resource_path("probe", &gone);
        let _ = api.ask("DELETE", &path).answer().expect(204);
        kept.push(id);
        cluster.kill9(0);
        cluster.restart(0);
        cluster.wait_formed();
    }
    let findings = cluster.collector().wait_held("probe", &kept, LONG);
    findings.assert_undisturbed();
}

#[test]
fn all_nodes_stop_and_start_and_everything_is_as_before() {
    let mut cluster = Cluster::builder(BIN).nodes(3).start();
    for module in ["probe", "removed"] {
        Probe::deploy(&cluster.api(0), module, cluster.collector());
    }
    let ids = ids("r", 60);
    cluster.api(1).allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);
    let (gone, kept) = ids.split_at(20);
    for id in gone {
        let _ = cluster.api(2).deallocate("probe", id).answer().expect(204);
    }
    let removed = cluster.api(2).ask("DELETE", "/v1/modules/removed").answer();
    let _ = removed.expect(204);

    for node in 0..3 {
        let status = cluster.stop(node);
        assert_eq!(status.code(), Some(0), "exit of node {node}");
    }
    for node in 0..3 {
        cluster.restart(node);
    }
    cluster.wait_formed();
    let findings = cluster.collector().wait_held("probe", kept, LONG);
    findings.assert_undisturbed();
    for node in 0..3 {
        let api = cluster.api(node);
        assert_eq!(api.module("probe").resources, 40);
        let removed = api.get("/v1/modules/removed").answer();
        removed.problem(404, "unknown-module");
    }
}

#[test]
fn without_a_majority_nothing_changes_nothing_runs_and_nothing_is_lost() {
    let mut cluster = Cluster::builder(BIN).nodes(3).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let ids = ids("r", 30);
    cluster.api(0).allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);

    let (last, others) = (2, [0, 1]);
    for node in others {
        cluster.kill9(node);
    }
    let api = cluster.api(last);
    // Nobody can tell whether the others took over, so it stops; and it says so.
    cluster.wait_started_anew(last);
    let call = || {
        let call = api.invoke("probe", &ids[0], Probe::echo());
        call.header("holdfast-timeout-ms", 1_000)
    };
    let answers = |ask: Ask| ask.send().map_err(|error| error.to_string());
    wait_until("a call is refused", SOON, || {
        let answer = answers(call())?;
        let refused = answer.status == 503 && answer.header("retry-after").is_some();
        refused.then_some(()).ok_or_else(|| answer.to_string())
    });
    wait_until("a change is refused for want of a leader", SOON, || {
        let answer = answers(api.allocate("probe", "late", &json!({})))?;
        let refused = answer.status == 503 && answer.header("retry-after").is_some();
        refused.then_some(()).ok_or_else(|| answer.to_string())
    });
    wait_until("the node says that it may be out of date", SOON, || {
        let info = api.cluster()?;
        info.stale.then_some(()).ok_or_else(|| format!("{info:?}"))
    });
    let ready = api.get("/readyz").answer();
    assert_eq!(ready.status, 503, "{ready}");

    for node in others {
        cluster.restart(node);
    }
    cluster.wait_formed();
    let late = api.allocate_held("probe", "late", &json!({})).answer();
    assert!(matches!(late.status, 200 | 201), "{late}");
    let all = [ids, vec!["late".to_owned()]].concat();
    let findings = cluster.collector().wait_held("probe", &all, LONG);
    findings.assert_undisturbed();
}
