//! Joining, and who is kept out.

use std::{fs, net::TcpListener, path::Path, time::Duration};

use holdfast_tests::{
    Cluster, LONG, Probe, Process, SOON, checker::Fact, cluster::Join, never, probe::ids,
    wait_until,
};
use serde_json::json;

use crate::BIN;

fn active(cluster: &Cluster, seen_by: usize) -> Result<u64, String> {
    Ok(cluster.api(seen_by).cluster()?.nodes.active)
}

fn wait_active(cluster: &Cluster, expected: u64) -> Duration {
    let what = format!("{expected} nodes are active");
    let (_, took) = wait_until(&what, LONG, || {
        let active = active(cluster, 0)?;
        let are = (active == expected).then_some(());
        are.ok_or_else(|| format!("{active} are"))
    });
    took
}

/// Where nobody listens.
fn nowhere() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    listener.local_addr().expect("a bound listener has one")
}

/// Starts a process with the name and the secret of this cluster, beside its nodes.
fn start_like(cluster: &Cluster, label: &str, data: &Path, more: &[&str]) -> Process {
    let data = data.to_str().expect("folders of tests have plain names");
    let mut args = vec!["--data-dir", data, "--cluster-name", cluster.name()];
    args.push("--http=127.0.0.1:0");
    args.extend(more);
    cluster.try_start(label, &args, &[("HOLDFAST_SECRET", cluster.secret())])
}

#[test]
fn a_node_joins_by_any_seed_the_dead_ones_first() {
    let mut cluster = Cluster::builder(BIN).nodes(2).start();
    let alive = cluster.listening(1).cluster;
    let joiner = cluster.add(Join {
        seeds: vec![nowhere(), nowhere(), alive],
        ..Join::default()
    });
    let took = wait_active(&cluster, 3);
    println!("joined by the third of three seeds after {took:?}");
    wait_until("the new node is ready", SOON, || {
        cluster.api(joiner).ready()
    });
}

#[test]
fn a_node_joins_as_soon_as_its_seed_is_there() {
    let mut cluster = Cluster::builder(BIN).start();
    let seed = cluster.listening(0).cluster;
    cluster.kill9(0);
    let joiner = cluster.add(Join {
        seeds: vec![seed],
        ..Join::default()
    });
    never(
        "a node without a cluster is ready",
        Duration::from_secs(2),
        || {
            let ready = cluster.api(joiner).ready().is_ok();
            if ready { Err("it is") } else { Ok(()) }
        },
    );
    let waiting = cluster.api(joiner).get("/readyz").answer();
    waiting.problem(503, "unavailable");
    let _ = cluster.api(joiner).get("/healthz").answer().expect(200);

    cluster.restart(0);
    wait_until("the seed is ready", LONG, || cluster.api(0).ready());
    let took = wait_active(&cluster, 2);
    println!("joined {took:?} after its seed was ready");
}

#[test]
fn without_gossip_nobody_joins() {
    let mut cluster = Cluster::builder(BIN).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let ids = ids("r", 20);
    cluster.api(0).allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);
    let deaf = cluster.add(Join {
        env: vec![("HOLDFAST_TEST_NO_GOSSIP".to_owned(), "1".to_owned())],
        ..Join::default()
    });
    let without = cluster.pid(deaf);
    never(
        "a node joins without gossip",
        Duration::from_secs(10),
        || {
            if active(&cluster, 0)? > 1 || cluster.api(deaf).ready().is_ok() {
                return Err("it joined".to_owned());
            }
            Ok(())
        },
    );
    // The same joiner with gossip: it is the gossip that was missing.
    let hears = cluster.add(Join::default());
    wait_active(&cluster, 2);
    let with = cluster.pid(hears);
    wait_until("the joiner with gossip holds its share", LONG, || {
        let share = cluster.collector().findings().spread("probe").remove(&with);
        let is_it = share.filter(|share| *share == ids.len() / 2);
        is_it.ok_or_else(|| format!("it holds {share:?}"))
    });
    let events = cluster.collector().events();
    let mut handled = events
        .iter()
        .filter(|event| matches!(event.fact, Fact::Handled { pid, .. } if pid == without));
    assert_eq!(handled.next(), None, "the deaf node holds something");
}

/// Waits until the node has said this, in its log or at its end.
fn wait_said(process: &mut Process, parts: &[&str]) {
    let what = format!("the node says {parts:?}");
    wait_until(&what, LONG, || {
        let log = process.log().to_lowercase();
        let said = parts.iter().all(|part| log.contains(&part.to_lowercase()));
        said.then_some(()).ok_or(log)
    });
}

#[test]
fn a_node_of_another_cluster_name_is_refused_by_name() {
    let cluster = Cluster::builder(BIN).start();
    let mut stranger = cluster.try_join(
        "stranger",
        &Join {
            name: Some("another-name".to_owned()),
            ..Join::default()
        },
    );
    wait_said(&mut stranger, &["another-name", cluster.name()]);
    wait_active(&cluster, 1);
}

#[test]
fn a_node_with_another_secret_is_refused_by_name() {
    let cluster = Cluster::builder(BIN).start();
    let mut stranger = cluster.try_join(
        "stranger",
        &Join {
            secret: Some("another-secret-that-is-long-enough-for-anyone".to_owned()),
            ..Join::default()
        },
    );
    wait_said(&mut stranger, &["secret"]);
    wait_active(&cluster, 1);
    for secret in [cluster.secret(), "another-secret-that-is"] {
        let leaked = [stranger.log(), cluster.log(0)]
            .iter()
            .any(|log| log.contains(secret));
        assert!(!leaked, "a secret is in a log");
    }
}

#[test]
fn a_node_of_another_cluster_id_is_refused_by_name() {
    // Two nodes: a founder that is still alone ends when it hears of its name elsewhere.
    let cluster = Cluster::builder(BIN).nodes(2).start();
    let mut other = Cluster::builder(BIN).beside(&cluster).start();
    let ids = [&cluster, &other].map(|cluster| cluster.api(0).cluster().unwrap().id);
    assert_ne!(ids[0], ids[1]);

    // A node of the second cluster is pointed at the first, with its name and its secret.
    let moved = other.add(Join::default());
    wait_active(&other, 2);
    assert_eq!(other.stop(moved).code(), Some(0));
    let folder = cluster.folder().join("moved");
    fs::create_dir_all(&folder).unwrap();
    fs::rename(other.data_dir(moved), folder.join("data")).unwrap();
    let mut process = cluster.try_join("moved", &Join::default());
    let [first, second] = ids.map(|id| id.to_string());
    wait_said(&mut process, &[&first, &second]);
    wait_active(&cluster, 2);
}

#[test]
fn a_second_founder_of_the_same_name_is_told_so() {
    // Two nodes: a founder that is still alone ends when it hears of its name elsewhere.
    let cluster = Cluster::builder(BIN).nodes(2).start();
    let seed = cluster.listening(0).cluster.to_string();
    let folder = cluster.folder().join("second");
    let args = ["--listen=127.0.0.1:0", "--bootstrap", "--seed", &seed];
    let mut second = start_like(&cluster, "second", &folder, &args);
    let status = second.ended(LONG).expect("a second founder ends");
    assert!(!status.success());
    wait_said(&mut second, &["bootstrap"]);
    wait_active(&cluster, 2);
}

#[test]
fn a_founder_that_hears_its_name_under_another_id_ends_and_an_established_cluster_goes_on() {
    let mut cluster = Cluster::builder(BIN).nodes(2).start();
    let folder = cluster.folder().join("lonely");
    let listen = nowhere().to_string();
    let args = [&format!("--listen={listen}"), "--bootstrap"];
    let mut founder = start_like(&cluster, "lonely", &folder, &args);
    // Nobody has told it of the other cluster, so it made one of its own.
    wait_said(&mut founder, &["founded the cluster"]);
    // A node of the established one that takes it for a seed, too. Which of its seeds answers a new
    // node first is chance; one that was a member before asks none.
    let other = cluster.add(Join::default());
    wait_active(&cluster, 3);
    assert_eq!(cluster.stop(other).code(), Some(0));
    let args = ["--listen=127.0.0.1:0", "--seed", &listen];
    let told = start_like(&cluster, "told", &cluster.data_dir(other), &args);
    let status = founder.ended(LONG).expect("a founder that is alone ends");
    assert!(!status.success());
    let id = cluster.api(0).cluster().unwrap().id.to_string();
    wait_said(&mut founder, &["another cluster has the name", &id]);
    wait_active(&cluster, 3);
    drop(told);
}

#[test]
fn what_a_node_is_started_with_as_labels_every_node_shows() {
    let mut cluster = Cluster::builder(BIN).start();
    let joiner = cluster.add(Join {
        args: ["--label", "disk=ssd", "--label", "rack=R4.2"]
            .map(str::to_owned)
            .into(),
        ..Join::default()
    });
    cluster.wait_formed();
    let node = cluster.listening(joiner).node;
    let labels = |cluster: &Cluster| {
        let answer = cluster.api(0).get("/v1/cluster/nodes").answer().expect(200);
        let list: serde_json::Value = answer.json();
        let nodes = list["nodes"].as_array().expect("it is a list").iter();
        let mut nodes = nodes.filter(|info| info["node"] == node.to_string());
        nodes.next().expect("it is listed")["labels"].clone()
    };
    assert_eq!(labels(&cluster), json!({"disk": "ssd", "rack": "R4.2"}));
    // The next start says what counts from then on.
    assert_eq!(cluster.stop(joiner).code(), Some(0));
    cluster.set_args(joiner, &["--label", "disk=hdd"]);
    cluster.restart(joiner);
    cluster.wait_formed();
    assert_eq!(labels(&cluster), json!({"disk": "hdd"}));
}

#[test]
fn a_node_refuses_to_start_when_it_could_only_do_harm() {
    let cluster = Cluster::builder(BIN).start();
    let data = cluster.folder().join("data");
    let data = data.to_str().unwrap();
    let seed = cluster.listening(0).cluster.to_string();
    let secret = cluster.folder().join("secret");
    fs::write(&secret, cluster.secret()).unwrap();
    let (secret, http) = (secret.to_str().unwrap(), "--http=127.0.0.1:0");
    let listen = "--listen=127.0.0.1:0";
    let secret_file = format!("--secret-file={secret}");
    let cases: &[(&str, &[&str], &[&str])] = &[
        (
            "a joiner without a secret",
            &["--seed", &seed, http, listen],
            &["secret"],
        ),
        (
            "a node that neither founds nor joins",
            &[&secret_file, http, listen],
            &["--bootstrap", "--seed"],
        ),
        (
            "an open HTTP address without a token",
            &["--bootstrap", "--http=0.0.0.0:0", listen],
            &["token"],
        ),
        (
            "an open cluster address without an explicit secret",
            &["--bootstrap", http, "--listen=0.0.0.0:0"],
            &["secret"],
        ),
        (
            "a cluster name that is none",
            &["--bootstrap", http, listen, "--cluster-name=Not_A_Name"],
            &["Not_A_Name"],
        ),
        (
            "a label that is given twice",
            &[
                "--bootstrap",
                http,
                listen,
                "--label=disk=ssd",
                "--label=disk=hdd",
            ],
            &["label disk is given more than once"],
        ),
    ];
    for (i, (what, args, words)) in cases.iter().enumerate() {
        let mut all = vec!["--data-dir", data];
        if !args.iter().any(|arg| arg.starts_with("--cluster-name")) {
            all.push("--cluster-name=refused");
        }
        all.extend(*args);
        let mut process = cluster.try_start(&format!("refused-{i}"), &all, &[]);
        let status = process.ended(LONG);
        let log = process.log();
        let status = status.unwrap_or_else(|| panic!("{what} runs; its log:\n{log}"));
        assert!(!status.success(), "{what} ended well");
        for word in *words {
            assert!(log.contains(word), "{what}: {word:?} is not in:\n{log}");
        }
    }
}

#[test]
fn a_data_directory_serves_one_process_at_a_time() {
    let cluster = Cluster::builder(BIN).start();
    let data = cluster.data_dir(0);
    let data = data.to_str().unwrap();
    let args = [
        "--data-dir",
        data,
        "--cluster-name",
        cluster.name(),
        "--http=127.0.0.1:0",
        "--listen=127.0.0.1:0",
    ];
    let mut second = cluster.try_start("second", &args, &[("HOLDFAST_SECRET", cluster.secret())]);
    let status = second.ended(LONG).expect("the second process ends");
    assert!(!status.success());
    wait_said(&mut second, &[data]);
    cluster.api(0).ready().expect("the first goes on");
}

#[test]
fn a_node_that_comes_back_keeps_its_identity_and_gets_a_new_incarnation() {
    let mut cluster = Cluster::builder(BIN).nodes(2).start();
    let before = cluster.listening(1).clone();
    cluster.kill9(1);
    cluster.restart(1);
    wait_active(&cluster, 2);
    let after = cluster.listening(1);
    assert_eq!(before.node, after.node);
    assert!(before.incarnation < after.incarnation);
    assert_eq!((before.http, before.cluster), (after.http, after.cluster));
}
