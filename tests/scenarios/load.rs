//! A machine with far more to do than it can: leases are kept, or what is lost is lost cleanly.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread::available_parallelism,
    time::{Duration, Instant},
};

use holdfast_tests::{Cluster, LONG, Probe, never, probe::ids};

use crate::BIN;

/// Other processes that want every processor four times over, and one that writes to the disk without
/// end. Ended when dropped.
struct Load(Vec<Child>);

impl Load {
    fn start(folder: &Path) -> Self {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().expect("there is a shell")
        };
        let processors = available_parallelism().map_or(2, std::num::NonZero::get);
        let busy = (0..4 * processors).map(|_| shell("while :; do :; done"));
        let file = folder.join("hog");
        let hog = format!(
            "while :; do dd if=/dev/zero of={} bs=1M count=64 conv=fsync; done",
            file.display()
        );
        Self(busy.chain([shell(&hog)]).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended; that is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A histogram of a node's metrics: how many values were at most each bound.
fn histogram(metrics: &str, name: &str) -> Vec<(String, f64)> {
    let prefix = format!("{name}_bucket{{le=\"");
    let bucket = |line: &str| {
        let (bound, count) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
        Some((bound.to_owned(), count.parse().ok()?))
    };
    metrics.lines().filter_map(bucket).collect()
}

/// The long form asserts that no lease is lost: `HOLDFAST_LOAD_SECONDS=600`, on a machine that does
/// nothing else. The short one, among other tests, makes sure that nothing is held twice whatever is lost.
#[test]
fn leases_outlast_a_machine_that_is_overcommitted() {
    let seconds: Option<u64> = std::env::var("HOLDFAST_LOAD_SECONDS")
        .ok()
        .map(|seconds| seconds.parse().expect("HOLDFAST_LOAD_SECONDS is a number"));
    let resources = if seconds.is_some() { 10_000 } else { 300 };
    let cluster = Cluster::builder(BIN).nodes(3).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let folder = cluster.folder().join("load");
    fs::create_dir(&folder).expect("the test's folder is writable");
    let load = Load::start(&folder);
    let begun = Instant::now();
    let ids = ids("r", resources);
    for some in ids.chunks(1_000) {
        cluster.api(0).allocate_all("probe", some);
    }
    let lasts = Duration::from_secs(seconds.unwrap_or(5));
    let findings = cluster.collector().wait_held("probe", &ids, lasts + LONG);
    let held = begun.elapsed();
    // As long as it is to last, whatever happens.
    never::<String>("this ends", lasts.saturating_sub(held), || Ok(()));
    drop(load);
    println!(
        "{resources} starts took {held:.1?}; the load lasted {:.0?}",
        begun.elapsed()
    );
    let mut lost = 0;
    for node in 0..3 {
        lost += cluster.begun_anew(node).len();
        let metrics = cluster.api(node).get("/metrics").patience(LONG).answer();
        let text = String::from_utf8_lossy(&metrics.expect(200).body).into_owned();
        for name in [
            "holdfast_lease_renewal_seconds",
            "holdfast_lease_slack_seconds",
        ] {
            println!("node {node} {name} {:?}", histogram(&text, name));
        }
    }
    println!("{lost} leases were lost");
    findings.assert_undisturbed();
    if seconds.is_some() {
        assert_eq!(lost, 0, "no lease is lost");
    }
}
