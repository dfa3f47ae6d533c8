//! The harness leaves nothing behind.
#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, and says where"
)]

use std::{
    env, fs,
    io::{Read as _, stdin},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use holdfast_tests::{Cluster, LONG, SOON, cluster::Join, wait_until};

use crate::BIN;

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
    assert_eq!(users_of(folder), [] as [String; 0]);
}

/// Every process that has this folder in its command line. Other tests of this process have nodes too.
fn users_of(folder: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("this is Linux").flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    let name = folder.to_string_lossy();
    lines.filter(|line| line.contains(&*name)).collect()
}

#[test]
fn a_cluster_leaves_nothing_behind_however_its_test_ends() {
    let mut cluster = Cluster::builder(BIN).nodes(2).start();
    cluster.pause(1);
    let passed = traces(&cluster);
    assert_eq!(
        users_of(&passed.1).len(),
        2,
        "nodes are found by their folder"
    );
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

    kill_a_test();
}

/// Runs the test below in a process of its own, and kills that while its node is stopped.
fn kill_a_test() {
    let mine = tempfile::tempdir().unwrap();
    let told = mine.path().join("traces");
    let mut test = Command::new(env::current_exe().unwrap())
        .args(["--exact", "harness::the_test_that_is_killed"])
        .env(KILLED, &told)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let ((pid, folder), _) = wait_until("the other test has a node", LONG * 5, || {
        let text = fs::read_to_string(&told).map_err(|error| error.to_string())?;
        let (pid, folder) = text
            .strip_suffix('\n')
            .and_then(|text| text.split_once(' '))
            .ok_or("not all")?;
        Ok::<_, String>((pid.to_owned(), PathBuf::from(folder)))
    });
    test.kill().unwrap();
    let _killed = test.wait().unwrap();
    wait_until("the stopped node is gone", SOON, || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Whoever got it as an orphan may not have buried it yet.
        let lives = !stat.is_empty() && !stat.contains(") Z ");
        (!lives).then_some(()).ok_or(stat)
    });
    // A killed test cannot remove its folder. The next one does.
    assert!(folder.exists());
    assert_eq!(users_of(&folder), [] as [String; 0]);
    drop(Cluster::builder(BIN).start());
    assert!(!folder.exists(), "{} is left", folder.display());
}

/// Does nothing unless [`kill_a_test`] started it: then it waits for its end.
#[test]
fn the_test_that_is_killed() {
    let Some(told) = env::var_os(KILLED) else {
        return;
    };
    let mut cluster = Cluster::builder(BIN).start();
    cluster.pause(0);
    let (pids, folder) = traces(&cluster);
    fs::write(told, format!("{} {}\n", pids[0], folder.display())).unwrap();
    let _ = stdin().read_to_end(&mut Vec::new());
}

const KILLED: &str = "TEST_THAT_IS_KILLED";
