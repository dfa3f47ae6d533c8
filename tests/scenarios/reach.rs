//! Networks that carry some of what nodes send: what works goes on, and what does not is named.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use holdfast_tests::{Cluster, LONG, SOON, cluster::Join, netns, never, wait_until};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::BIN;

fn active(cluster: &Cluster, seen_by: usize) -> Result<u64, String> {
    Ok(cluster.api(seen_by).cluster()?.nodes.active)
}

fn wait_active(cluster: &Cluster, seen_by: usize, expected: u64) {
    let what = format!("{expected} nodes are active, as node {seen_by} sees it");
    wait_until(&what, LONG, || {
        let active = active(cluster, seen_by)?;
        let are = (active == expected).then_some(());
        are.ok_or_else(|| format!("{active} are"))
    });
}

fn wait_logged(cluster: &Cluster, node: usize, words: &str) {
    wait_until(&format!("node {node} says {words:?}"), LONG, || {
        let log = cluster.log(node);
        log.contains(words).then_some(()).ok_or("it does not")
    });
}

/// Where nobody listens.
fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    listener.local_addr().expect("a bound listener has one")
}

#[test]
fn where_udp_is_blocked_nodes_stay_come_back_and_join_and_the_log_names_it() {
    let test = "reach::where_udp_is_blocked_nodes_stay_come_back_and_join_and_the_log_names_it";
    netns::test(test, 4, |network| {
        let mut cluster = Cluster::builder(BIN).nodes(3).network(network).start();
        let pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];
        cluster.network().block_udp(&pairs);
        for node in 0..3 {
            wait_logged(&cluster, node, "gossip over UDP is lost");
        }
        never(
            "a node that answers is shown as unreachable",
            Duration::from_secs(8),
            || match active(&cluster, 0) {
                Ok(3) => Ok(()),
                other => Err(format!("{other:?}")),
            },
        );

        cluster.kill9(2);
        cluster.restart(2);
        wait_active(&cluster, 0, 3);
        wait_until("the restarted node is ready", LONG, || {
            cluster.api(2).ready()
        });
        cluster.add(Join::default());
        wait_active(&cluster, 0, 4);
        wait_active(&cluster, 3, 4);

        cluster.network().block_udp(&[]);
        wait_logged(&cluster, 0, "gossip over UDP gets through again");
        wait_active(&cluster, 0, 4);
    });
}

#[test]
fn a_node_that_cannot_be_reached_where_it_says_is_told_so_and_others_say_it_too() {
    let mut cluster = Cluster::builder(BIN).start();
    let wrong = nowhere();
    // Peers are told the address that the name stands for.
    let joiner = cluster.add(Join {
        args: vec![format!("--advertise=localhost:{}", wrong.port())],
        ..Join::default()
    });
    let words = format!("cannot connect to this node at {wrong}");
    wait_logged(&cluster, joiner, &words);
    wait_logged(&cluster, 0, "peer not reached");
    wait_logged(
        &cluster,
        0,
        &format!("at {wrong}, which is connected to it"),
    );
    for node in [0, joiner] {
        wait_logged(&cluster, node, "condition=unreached");
    }
}

#[test]
fn a_node_that_listens_on_ipv4_joins_by_a_seed_that_is_written_as_ipv6() {
    let mut cluster = Cluster::builder(BIN).start();
    // TCP gets there from any socket, UDP from none that is bound to an address of IPv4.
    let seed = cluster.listening(0).cluster;
    let IpAddr::V4(v4) = seed.ip() else {
        panic!("{seed} is of the other family");
    };
    let mapped = SocketAddr::from((v4.to_ipv6_mapped(), seed.port()));
    let joiner = cluster.add(Join {
        seeds: vec![mapped],
        ..Join::default()
    });
    wait_active(&cluster, 0, 2);
    wait_until("the new node is ready", LONG, || {
        cluster.api(joiner).ready()
    });
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder of the test");
    for entry in fs::read_dir(from).expect("a data directory") {
        let entry = entry.expect("it is read");
        let to = to.join(entry.file_name());
        match entry.file_type().expect("it has one").is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).expect("it is a file")),
        }
    }
}

#[test]
fn a_copied_data_directory_is_found_out_and_the_later_process_ends() {
    let mut cluster = Cluster::builder(BIN).nodes(3).start();
    assert!(cluster.stop(2).success());
    let copied = cluster.folder().join("copied");
    copy(&cluster.data_dir(2), &copied);
    cluster.restart(2);
    wait_active(&cluster, 0, 3);
    wait_until("the original is ready", LONG, || cluster.api(2).ready());

    // The same incarnation in another process.
    let seed = format!("--seed={}", cluster.listening(0).cluster);
    let data = copied.to_str().expect("folders of tests have plain names");
    let args = [
        "--data-dir",
        data,
        "--cluster-name",
        cluster.name(),
        "--http=127.0.0.1:0",
        "--listen=127.0.0.1:0",
        &seed,
    ];
    let env = [("HOLDFAST_SECRET", cluster.secret())];
    let mut copy = cluster.try_start("copy", &args, &env);
    let status = copy.ended(LONG).expect("the copy ends");
    assert_eq!(status.code(), Some(7), "{}", copy.log());
    assert!(
        copy.log().contains("the data directory was copied"),
        "{}",
        copy.log()
    );

    wait_logged(&cluster, 2, "another process runs as this node");
    wait_active(&cluster, 0, 3);
    wait_until("the original goes on", LONG, || cluster.api(2).ready());
    let log = cluster.log(2);
    let lines = log
        .lines()
        .filter(|line| line.contains("took this node for dead"));
    assert!(lines.count() < 10, "the log is flooded");
}

#[test]
fn thousands_of_half_open_handshakes_do_not_keep_a_restarted_node_out() {
    let limit = getrlimit(Resource::Nofile);
    let most = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, most).expect("the soft limit may be the hard one");
    let mut cluster = Cluster::builder(BIN).nodes(3).start();
    cluster.kill9(2);
    let others = [0, 1].map(|node| cluster.listening(node).cluster);
    let half_open: Vec<TcpStream> = (0..4_000)
        .filter_map(|n| TcpStream::connect_timeout(&others[n % 2], SOON).ok())
        .collect();
    assert!(
        half_open.len() > 3_000,
        "only {} connected",
        half_open.len()
    );
    cluster.restart(2);
    let (_, took) = wait_until("the restarted node is ready", LONG, || {
        cluster.api(2).ready()
    });
    println!(
        "ready {took:?} after its restart, beside {} half-open handshakes",
        half_open.len()
    );
    let said = [0, 1].map(|node| cluster.log(node).contains("peer handshakes given up"));
    assert!(said.iter().any(|said| *said), "the log says why");
}
