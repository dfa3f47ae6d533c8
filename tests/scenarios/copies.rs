//! Copies of the control state that are damaged, or differ from the others.

use std::{fs, process::Command};

use holdfast_tests::{Cluster, LONG, Probe, probe::ids, wait_until};
use redb::{Database, ReadableTable, TableDefinition};
use serde_json::Value;

use crate::BIN;

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");

fn holding(count: usize) -> (Cluster, Vec<String>) {
    let cluster = Cluster::builder(BIN).nodes(3).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let ids = ids("r", count);
    cluster.api(0).allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);
    (cluster, ids)
}

/// All are held once, by three nodes that are ready, whoever they are.
fn wait_whole(cluster: &Cluster, ids: &[String]) {
    wait_until("three nodes hold it all", LONG, || {
        let nodes = cluster.api(0).nodes()?;
        let held: u64 = nodes.iter().filter_map(|node| node.held).sum();
        let holders = nodes.iter().filter(|node| node.held > Some(0)).count();
        let whole = held == ids.len() as u64 && holders == 3;
        whole.then_some(()).ok_or_else(|| format!("{nodes:?}"))
    });
    assert_eq!(cluster.collector().findings().regressions, []);
}

fn rejoin(cluster: &Cluster, node: usize, more: &[&str]) -> (String, String, i32) {
    let data = cluster.data_dir(node).display().to_string();
    let output = Command::new(BIN)
        .args(["rejoin", "--data-dir", &data])
        .args(more)
        .output()
        .expect("the command runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let code = output.status.code().expect("it ends by itself");
    (text(output.stdout), text(output.stderr), code)
}

#[test]
fn a_log_with_a_hole_is_named_with_its_remedy_and_the_node_comes_back_as_another() {
    let (mut cluster, ids) = holding(30);
    let former = cluster.listening(2).node;
    let (_, refused, code) = rejoin(&cluster, 2, &["--yes"]);
    assert_eq!(code, 4, "{refused}");
    assert_eq!(cluster.stop(2).code(), Some(0));
    let file = cluster.data_dir(2).join("control-log.redb");
    let db = Database::open(&file).expect("it is whole");
    let transaction = db.begin_write().expect("nobody else has it");
    {
        let mut log = transaction.open_table(LOG).expect("it has one");
        let middle = {
            let (first, _) = log.first().expect("it is readable").expect("it has some");
            let (last, _) = log.last().expect("it is readable").expect("it has some");
            u64::midpoint(first.value(), last.value())
        };
        let gone = log.remove(middle).expect("it is readable");
        assert!(gone.is_some());
    }
    transaction.commit().expect("it can be written");
    drop(db);

    let data = cluster.data_dir(2).display().to_string();
    let secret = [("HOLDFAST_SECRET", cluster.secret())];
    let name = format!("--cluster-name={}", cluster.name());
    let args = ["--data-dir", &data, &name, "--http=127.0.0.1:0"];
    let mut damaged = cluster.try_start("damaged", &args, &secret);
    let status = damaged.ended(LONG).expect("it does not run");
    assert!(!status.success());
    let log = damaged.log();
    for says in ["is missing", "holdfast rejoin"] {
        assert!(log.contains(says), "{says}: {log}");
    }

    let (_, refused, code) = rejoin(&cluster, 2, &[]);
    assert_eq!(code, 4, "{refused}");
    let (report, said, code) = rejoin(&cluster, 2, &["--yes", "--format", "json"]);
    assert_eq!(code, 0, "{said}");
    let report: Value = serde_json::from_str(&report).expect("one JSON document");
    assert_eq!(report["former"], former.to_string());
    let backup = report["backup"].as_str().expect("a path");
    assert!(fs::exists(format!("{backup}/control-log.redb")).expect("it is ours"));
    cluster.restart(2);
    assert_ne!(cluster.listening(2).node, former);
    wait_whole(&cluster, &ids);
}

#[test]
fn a_copy_that_differs_is_noticed_and_begun_anew() {
    let (mut cluster, ids) = holding(30);
    let former = cluster.listening(2).node;
    assert_eq!(cluster.stop(2).code(), Some(0));
    let file = cluster.data_dir(2).join("control-state.redb");
    let db = Database::open(&file).expect("it is whole");
    let transaction = db.begin_write().expect("nobody else has it");
    {
        let mut rows = transaction.open_table(ROWS).expect("it has one");
        let resource = {
            let mut all = rows.iter().expect("it is readable");
            let is_resource = |key: &[u8]| key.starts_with(b"rprobe\0");
            all.find_map(|row| {
                let (key, _) = row.expect("it is readable");
                is_resource(key.value()).then(|| key.value().to_vec())
            })
        };
        let resource = resource.expect("there are resources");
        let gone = rows.remove(resource.as_slice()).expect("it is readable");
        assert!(gone.is_some());
    }
    transaction.commit().expect("it can be written");
    drop(db);
    cluster.restart(2);

    wait_until("the node says that its copy differs", LONG, || {
        let log = cluster.log(2);
        let says = log.contains("copy of the state differs") && log.contains("ERROR");
        says.then_some(()).ok_or("it has not")
    });
    wait_until("it came back as another node", LONG, || {
        let nodes = cluster.api(0).nodes()?;
        let others: Vec<_> = nodes.iter().map(|node| node.node).collect();
        let fresh = nodes.iter().any(|node| {
            let known = (0..2).map(|n| cluster.listening(n).node);
            node.held > Some(0) && node.node != former && !known.into_iter().any(|n| n == node.node)
        });
        fresh.then_some(()).ok_or_else(|| format!("{others:?}"))
    });
    wait_whole(&cluster, &ids);
}
