//! The harness leaves nothing behind.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use holdfast_tests::{Cluster, cluster::Join};

const BIN: &str = env!("CARGO_BIN_EXE_holdfast-under-test");

/// The processes and the folder of a cluster.
fn traces(cluster: &Cluster) -> (Vec<u32>, PathBuf) {
    let pids = cluster.running().into_iter().map(|node| cluster.pid(node));
    (pids.collect(), cluster.folder().to_owned())
}

fn assert_gone((pids, folder): &(Vec<u32>, PathBuf)) {
    assert!(!pids.is_empty());
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} lives");
    }
    assert!(!folder.exists(), "{} is left", folder.display());
}

/// Every child of this process that runs the binary under test, zombies included.
fn children() -> Vec<String> {
    let this = std::process::id().to_string();
    let stats = fs::read_dir("/proc").expect("this is Linux").flatten();
    let stats = stats.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats
        .filter(|stat| {
            // `pid (name) state ppid …`; a name may contain anything.
            let after = stat.rsplit(')').next().unwrap_or_default();
            after.split_whitespace().nth(1) == Some(&this)
        })
        .collect()
}

#[test]
fn a_cluster_leaves_nothing_behind_however_its_test_ends() {
    let mut cluster = Cluster::builder(BIN).nodes(2).start();
    cluster.pause(1);
    let passed = traces(&cluster);
    drop(cluster);
    assert_gone(&passed);

    let mut failed = None;
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let mut cluster = Cluster::builder(BIN).start();
        let late = cluster.add(Join::default());
        cluster.kill9(late);
        failed = Some(traces(&cluster));
        panic!("planted: the logs above belong to it");
    }));
    assert!(ended.is_err());
    assert_gone(&failed.expect("the cluster had started"));

    assert_eq!(children(), [] as [String; 0]);
}
