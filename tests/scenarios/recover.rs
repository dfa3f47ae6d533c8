//! A cluster whose majority is lost for good is founded anew from one node's disk.

use std::{collections::BTreeMap, fs, process::Command};

use holdfast_tests::{
    Cluster, LONG, Probe, SOON, api::resource_path, cluster::Join, probe::ids, wait_until,
};
use serde_json::{Value, json};

use crate::BIN;

/// What the command says on standard output and on standard error, and its exit code.
fn recover(cluster: &Cluster, node: usize, more: &[&str]) -> (String, String, i32) {
    let data = cluster.data_dir(node).display().to_string();
    let output = Command::new(BIN)
        .args(["recover", "--data-dir", &data])
        .args(more)
        .stdin(std::process::Stdio::null())
        .output()
        .expect("the command runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let code = output.status.code().expect("it ends by itself");
    (text(output.stdout), text(output.stderr), code)
}

#[test]
fn a_cluster_without_its_majoritys_disks_is_founded_anew_from_the_third() {
    let mut cluster = Cluster::builder(BIN).nodes(3).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let ids = ids("r", 30);
    cluster.api(0).allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);
    let former = cluster.api(2).cluster().expect("it answers");
    let token = |cluster: &Cluster, id: &String| cluster.api(2).resource("probe", id).token;
    let tokens: BTreeMap<&String, _> = ids.iter().map(|id| (id, token(&cluster, id))).collect();

    let (_, refused, code) = recover(&cluster, 2, &["--confirm", cluster.name()]);
    assert_eq!(code, 4, "{refused}");
    assert!(refused.contains("the node runs"), "{refused}");
    for node in [0, 1] {
        cluster.kill9(node);
    }
    cluster.wipe(1);
    // Nobody can take over, and it knows that.
    cluster.wait_started_anew(2);
    wait_until("the node says that there is no majority", LONG, || {
        let info = cluster.api(2).cluster()?;
        let lost = info.no_majority.is_some();
        lost.then_some(()).ok_or_else(|| format!("{info:?}"))
    });
    assert_eq!(cluster.stop(2).code(), Some(0));

    // Nothing happens before it is confirmed, by the right name.
    let (shown, refused, code) = recover(&cluster, 2, &[]);
    assert_eq!(code, 4, "{refused}");
    for says in [cluster.name(), &former.id.to_string(), "WARNING", "30"] {
        assert!(shown.contains(says), "{says}: {shown}");
    }
    let (_, refused, code) = recover(&cluster, 2, &["--confirm", "office"]);
    assert_eq!(code, 2, "{refused}");
    assert!(refused.contains("nothing was changed"), "{refused}");
    let elsewhere = cluster.folder().join("nothing-here");
    let output = Command::new(BIN)
        .args(["recover", "--data-dir", &elsewhere.display().to_string()])
        .output()
        .expect("the command runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(!elsewhere.exists(), "looking makes nothing");

    let name = cluster.name().to_owned();
    let confirmed = ["--confirm", &name, "--format", "json"];
    let (report, said, code) = recover(&cluster, 2, &confirmed);
    assert_eq!(code, 0, "{said}");
    let report: Value = serde_json::from_str(&report).expect("one JSON document");
    assert_eq!(report["found"]["resources"], 30);
    assert_eq!(report["founded"]["former_id"], json!(former.id));
    let backup = report["founded"]["backup"].as_str().expect("a path");
    for file in ["control-log.redb", "control-state.redb", "cluster-id"] {
        assert!(
            fs::exists(format!("{backup}/{file}")).expect("it is ours"),
            "{file}"
        );
    }

    cluster.restart(2);
    cluster.wait_formed();
    let findings = cluster.collector().wait_held("probe", &ids, LONG);
    assert_eq!(findings.regressions, []);
    let anew = cluster.api(2).cluster().expect("it answers");
    assert_eq!(json!(anew.id), report["founded"]["id"]);
    assert_ne!(anew.id, former.id);
    assert_eq!((anew.name, anew.voters.len()), (former.name, 1));
    for (id, before) in tokens {
        let after = token(&cluster, id);
        assert!(after.0 > before.0 + (1 << 39), "{id}: {before} and {after}");
    }
    // Fresh nodes join and take their share.
    cluster.restart(1);
    let late = cluster.add(Join {
        seeds: vec![cluster.listening(2).cluster],
        ..Join::default()
    });
    cluster.wait_formed();
    wait_until("each has its share", LONG, || {
        let nodes = cluster.api(late).nodes()?;
        let shares = nodes.iter().all(|node| node.held == Some(10));
        shares.then_some(()).ok_or_else(|| format!("{nodes:?}"))
    });
    let path = resource_path("probe", "late");
    let _ = cluster.api(late).ask("PUT", &path).answer().expect(201);

    // An old disk that comes back is not let in, and says why.
    cluster.restart(0);
    wait_until("the old disk is refused", SOON, || {
        let log = cluster.log(0);
        let refused = log.contains("two clusters have the same name");
        let says = refused && log.contains("founded anew");
        says.then_some(()).ok_or("not yet")
    });
    assert_eq!(cluster.api(0).get("/readyz").answer().status, 503);
    let nodes = cluster.api(2).nodes().expect("it answers");
    let old = cluster.listening(0).node;
    assert!(nodes.len() == 3 && nodes.iter().all(|node| node.node != old));
    let unknown = cluster.api(0).get(&path).answer();
    assert_eq!(unknown.status, 503, "{unknown}");
}
