//! Who may read what a node keeps.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use holdfast_tests::{
    Cluster, Probe,
    wait::{LONG, wait_until},
};
use serde_json::json;

use crate::BIN;

#[test]
fn what_a_node_keeps_is_its_own_users_also_where_it_was_not() {
    let mut cluster = Cluster::builder(BIN).start();
    let _ = Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let _ = cluster
        .api(0)
        .allocate_held("probe", "one", &json!({"handle_ms": 1}))
        .answer()
        .expect(201);
    let data = cluster.data_dir(0);
    assert_eq!(open_to_others(&data), [] as [PathBuf; 0]);

    assert!(cluster.stop(0).success());
    for path in all(&data) {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("they are the test's");
    }
    let token = cluster.folder().join("token");
    fs::write(&token, "0123456789abcdef0123").expect("the folder is the test's");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).expect("it is the test's");
    let token = token.display().to_string();
    cluster.set_args(0, &["--token-file", &token]);
    cluster.restart(0);
    wait_until("the node is ready", LONG, || cluster.api(0).ready());
    assert_eq!(open_to_others(&data), [] as [PathBuf; 0]);
    let log = cluster.log(0);
    assert!(
        log.contains("could read or change the data directory"),
        "{log}"
    );
    assert!(
        log.contains("can read a secret") && log.contains(&token),
        "{log}"
    );
}

fn open_to_others(dir: &Path) -> Vec<PathBuf> {
    let mut open = all(dir);
    // What ends meanwhile is nobody's.
    open.retain(|path| fs::symlink_metadata(path).is_ok_and(|about| about.mode() & 0o077 != 0));
    open
}

fn all(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).expect("it is a folder").flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(all(&path)),
            path => found.push(path),
        }
    }
    found
}
