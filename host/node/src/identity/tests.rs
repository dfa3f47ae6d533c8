use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use holdfast_model::{ClusterId, ClusterName, Incarnation};

use super::{
    BootId, DataDir, Error, LastRun, Secret,
    secret::{expand, extract},
};

#[test]
fn the_node_id_stays_and_the_incarnation_grows_with_each_open() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("a/b");
    let first = DataDir::open(&path).unwrap();
    let node = first.node();
    assert_eq!(first.incarnation(), Incarnation(1));
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o700
    );
    drop(first);
    let second = DataDir::open(&path).unwrap();
    assert_eq!(
        (second.node(), second.incarnation()),
        (node, Incarnation(2))
    );
    drop(second);
    assert_eq!(DataDir::open(&path).unwrap().incarnation(), Incarnation(3));
}

#[test]
fn a_directory_in_use_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let held = DataDir::open(home.path()).unwrap();
    let error = DataDir::open(home.path()).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }));
    let text = error.to_string();
    assert!(
        text.contains(home.path().to_str().unwrap()) && text.contains("another node"),
        "{text}"
    );
    assert_eq!(
        held.incarnation(),
        Incarnation(1),
        "the refused open must not count"
    );
    drop(held);
    assert_eq!(
        DataDir::open(home.path()).unwrap().incarnation(),
        Incarnation(2)
    );
}

#[test]
fn a_cluster_once_remembered_stays() {
    let home = tempfile::tempdir().unwrap();
    let (ours, other) = (ClusterId::random(), ClusterId::random());
    let dir = DataDir::open(home.path()).unwrap();
    assert_eq!(dir.cluster(), None);
    dir.remember_cluster(ours).unwrap();
    drop(dir);
    let dir = DataDir::open(home.path()).unwrap();
    assert_eq!(dir.cluster(), Some(ours));
    dir.remember_cluster(ours).unwrap();
    let text = dir.remember_cluster(other).unwrap_err().to_string();
    assert!(
        text.contains(&ours.to_string()) && text.contains(&other.to_string()),
        "{text}"
    );
    assert_eq!(dir.cluster(), Some(ours));
}

#[test]
fn damaged_files_are_named_with_a_remedy() {
    for name in ["node-id", "incarnation", "cluster-id"] {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(home.path()).unwrap();
        dir.remember_cluster(ClusterId::random()).unwrap();
        drop(dir);
        for garbage in [&b"not this"[..], b"", b"\xff\xfe"] {
            fs::write(home.path().join(name), garbage).unwrap();
            let error = DataDir::open(home.path()).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
            let text = error.to_string();
            assert!(
                text.contains(name) && text.contains("join as a new one"),
                "{text}"
            );
        }
    }
}

#[test]
fn a_used_directory_without_its_identity_is_refused() {
    for name in ["node-id", "incarnation"] {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(home.path()).unwrap();
        dir.remember_cluster(ClusterId::random()).unwrap();
        drop(dir);
        fs::remove_file(home.path().join(name)).unwrap();
        let error = DataDir::open(home.path()).unwrap_err();
        assert!(
            matches!(&error, Error::Missing { path } if path.ends_with(name)),
            "{error:?}"
        );
    }
}

#[test]
fn a_first_start_cut_short_is_repeated() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("incarnation"), "0\n").unwrap();
    fs::write(home.path().join("node-id.new"), "half").unwrap();
    assert_eq!(
        DataDir::open(home.path()).unwrap().incarnation(),
        Incarnation(1)
    );
}

#[test]
fn the_boot_id_is_the_kernels() {
    assert_eq!(BootId::current().unwrap(), BootId::current().unwrap());
}

#[test]
fn a_secret_is_trimmed_long_enough_and_never_shown() {
    let secret: Secret = "  0123456789abcdef\n".parse().unwrap();
    assert_eq!(secret, "0123456789abcdef".parse().unwrap());
    let text = "0123456789abcde "
        .parse::<Secret>()
        .unwrap_err()
        .to_string();
    assert!(text.contains("15 bytes") && text.contains("16"), "{text}");
    let name: ClusterName = "prod".parse().unwrap();
    let shown = format!("{secret:?} {:?}", secret.gossip_key(&name));
    assert_eq!(shown, "Secret(…) Key(…)");
}

#[test]
fn a_generated_secret_survives_its_file_which_only_the_owner_reads() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("secret");
    let secret = Secret::generate();
    assert_ne!(secret, Secret::generate());
    secret.write(&path).unwrap();
    assert_eq!(Secret::read(&path).unwrap(), secret);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(fs::read_to_string(&path).unwrap().trim().len(), 64);
    assert!(
        secret.write(&path).is_err(),
        "an existing secret must not be overwritten"
    );
    let text = Secret::read(&home.path().join("none"))
        .unwrap_err()
        .to_string();
    assert!(text.contains("none"), "{text}");
}

#[test]
fn keys_differ_by_purpose_cluster_and_secret() {
    let (a, b): (ClusterName, ClusterName) = ("a".parse().unwrap(), "b".parse().unwrap());
    let (one, two) = (Secret::generate(), Secret::generate());
    let keys = [
        one.handshake_key(&a),
        one.gossip_key(&a),
        one.handshake_key(&b),
        two.handshake_key(&a),
    ];
    for (i, x) in keys.iter().enumerate() {
        for y in &keys[i + 1..] {
            assert_ne!(x.bytes(), y.bytes());
        }
    }
    assert_eq!(one.gossip_key(&a).bytes(), keys[1].bytes());
}

#[test]
fn derivation_is_hkdf_sha256() {
    // RFC 5869, test case 1, first 32 bytes of the output.
    let extracted = extract(&hex("000102030405060708090a0b0c"), &[0x0b; 22]);
    assert_eq!(
        expand(&extracted, &hex("f0f1f2f3f4f5f6f7f8f9")).to_vec(),
        hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf")
    );
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |i| u8::from_str_radix(&text[i..i + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

#[test]
fn a_directory_that_a_dying_process_still_has_is_waited_for() {
    let home = tempfile::tempdir().unwrap();
    let dying = DataDir::open(home.path()).unwrap();
    let dir = std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        scope.spawn(move || {
            // It is waited for by now.
            told.recv().unwrap();
            drop(dying);
        });
        let waiting = || tell.send(()).unwrap();
        DataDir::open_within(home.path(), Duration::from_secs(60), waiting)
    });
    assert_eq!(dir.unwrap().incarnation(), Incarnation(2));
}

#[test]
fn the_next_run_knows_how_the_last_one_ended() {
    let home = tempfile::tempdir().unwrap();
    let open = || DataDir::open(home.path()).unwrap();
    let dir = open();
    assert_eq!(*dir.last_run(), LastRun::Unknown);
    dir.run_begins().unwrap();
    drop(dir);
    let dir = open();
    assert_eq!(*dir.last_run(), LastRun::Cut { same_boot: true });
    dir.run_begins().unwrap();
    dir.run_ends("stopped by SIGTERM").unwrap();
    drop(dir);
    let ended = LastRun::Ended("stopped by SIGTERM".to_owned());
    assert_eq!(*open().last_run(), ended);
}
