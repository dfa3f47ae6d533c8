//! Life without a majority of the voters.

use std::{collections::BTreeSet, time::Duration};

use holdfast_model::{NodeId, api::ClusterPlan};
use holdfast_tests::{
    Cluster, LONG, Probe, SOON, api::resource_path, checker::Key, cluster::Join, probe::ids,
    wait_until,
};
use serde_json::json;

use crate::BIN;

/// Far less than a caller waits who is left waiting, and enough on a loaded machine.
const WITHOUT_WAITING: Duration = Duration::from_secs(15);

/// Waits until the nodes hold what they own, all of it together and each once, by their own count; and
/// makes sure that tokens only grew. When a node began anew is not known well enough for the observer to
/// tell by itself what ended with that.
fn wait_each_held_once(cluster: &Cluster, all: u64) {
    wait_until("each is held once", LONG, || {
        let nodes = cluster.api(0).nodes()?;
        let settled = nodes.iter().all(|node| node.held == Some(node.resources));
        let held: u64 = nodes.iter().filter_map(|node| node.held).sum();
        let done = settled && held == all;
        done.then_some(()).ok_or_else(|| format!("{nodes:?}"))
    });
    assert_eq!(cluster.collector().findings().regressions, []);
}

#[test]
fn without_a_majority_what_goes_on_answers_and_everything_else_is_refused() {
    let mut cluster = Cluster::builder(BIN).nodes(4).start();
    let mut settings = Probe::settings(cluster.collector());
    Probe::deploy_with(&cluster.api(0), "stops", &settings);
    settings["on_lost_quorum"] = json!("continue");
    Probe::deploy_with(&cluster.api(0), "goes-on", &settings);
    let ids = ids("r", 40);
    for module in ["stops", "goes-on"] {
        cluster.api(0).allocate_all(module, &ids);
        cluster.collector().wait_held(module, &ids, LONG);
    }
    wait_until("the fourth node has its share", LONG, || {
        let nodes = cluster.api(0).nodes()?;
        let held = |n: &holdfast_model::api::NodeInfo| n.held.is_some_and(|held| held >= 15);
        let all = nodes.iter().all(held);
        all.then_some(()).ok_or_else(|| format!("{nodes:?}"))
    });
    let voters = cluster.api(0).cluster().expect("it answers").voters;
    let voters: Vec<usize> = voters.iter().map(|v| cluster.number_of(*v)).collect();
    assert_eq!(voters.len(), 3);
    let lost = [voters[0], voters[1]];
    let left: Vec<usize> = (0..4).filter(|node| !lost.contains(node)).collect();
    for node in lost {
        cluster.kill9(node);
    }

    for node in &left {
        wait_until("the node notices that its lease is over", LONG, || {
            let log = cluster.log(*node);
            log.contains("no majority is heard")
                .then_some(())
                .ok_or("it has not")
        });
    }
    let pids: Vec<u32> = left.iter().map(|node| cluster.pid(*node)).collect();
    let owner = |module: &str, id: &str| -> Option<NodeId> {
        let info = cluster.api(left[0]).resource(module, id);
        Some(info.owner?.node)
    };
    let of = |node: usize| cluster.listening(node).node;
    let mut answered = 0;
    for id in &ids {
        for module in ["stops", "goes-on"] {
            let owner = owner(module, id).expect("nobody took it away");
            let runs = module == "goes-on" && left.iter().any(|node| of(*node) == owner);
            // Here, and forwarded from the other node without a majority.
            for node in &left {
                let call = cluster.api(*node).invoke(module, id, Probe::echo());
                // Its caller would wait for half a minute: it is not left waiting.
                let answer = call.patience(WITHOUT_WAITING).answer();
                if runs {
                    let _ = answer.expect(200);
                    answered += 1;
                } else {
                    assert_eq!(answer.status, 503, "{answer}");
                    assert!(answer.header("retry-after").is_some(), "{answer}");
                    assert!(answer.to_string().contains("no majority"), "{answer}");
                }
            }
        }
    }
    assert!(answered >= 20, "{answered} calls");
    // What fails is started again by the node that has it.
    let here = |id: &&String| owner("goes-on", id) == Some(of(left[0]));
    let fails = ids.iter().find(here).expect("it holds some");
    let api = cluster.api(left[0]);
    let _ = api
        .invoke("goes-on", fails, Probe::panic())
        .answer()
        .expect(500);
    let _ = api
        .invoke("goes-on", fails, Probe::echo())
        .answer()
        .expect(200);
    for (node, pid) in left.iter().zip(&pids) {
        assert_eq!(cluster.pid(*node), *pid);
        assert!(!cluster.log(*node).contains("starting anew"));
    }

    for node in lost {
        cluster.restart(node);
    }
    // A majority may have given their resources to others by now: they begin anew.
    for node in &left {
        cluster.wait_started_anew(*node);
    }
    cluster.wait_formed();
    wait_each_held_once(&cluster, 80);
    let late = cluster
        .api(0)
        .allocate_held("goes-on", "late", &json!({}))
        .answer();
    assert_eq!(late.status, 201, "{late}");
}

#[test]
fn a_node_that_stood_still_lets_go_of_what_would_have_gone_on() {
    let mut cluster = Cluster::builder(BIN).nodes(3).start();
    let mut settings = Probe::settings(cluster.collector());
    settings["on_lost_quorum"] = json!("continue");
    Probe::deploy_with(&cluster.api(0), "goes-on", &settings);
    let ids = ids("r", 30);
    cluster.api(0).allocate_all("goes-on", &ids);
    cluster.collector().wait_held("goes-on", &ids, LONG);
    let all: BTreeSet<Key> = ids.iter().map(|id| Key::new("goes-on", id)).collect();
    let still = (cluster.leader() + 1) % 3;
    cluster.pause(still);
    // The others have a majority: they take over as for any other module.
    wait_until("the others hold all of it", LONG, || {
        cluster
            .collector()
            .findings()
            .holds_exactly("goes-on", &all)
    });
    cluster.resume(still);
    // It hears that it was replaced, so it is not alone without a majority.
    cluster.wait_started_anew(still);
    cluster.wait_formed();
    wait_each_held_once(&cluster, 30);
}

#[test]
fn a_witness_votes_holds_nothing_and_makes_the_majority() {
    let mut cluster = Cluster::builder(BIN).nodes(2).start();
    let witness = cluster.add(Join {
        args: vec!["--weight".to_owned(), "0".to_owned()],
        ..Join::default()
    });
    cluster.wait_formed();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let ids = ids("r", 20);
    cluster.api(witness).allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);
    let owns = |cluster: &Cluster, node: usize| {
        let info = cluster.api(witness).node(cluster.listening(node).node);
        let info = info.expect("it is listed");
        (info.resources, info.voter)
    };
    assert_eq!(owns(&cluster, witness), (0, true));
    assert_eq!((owns(&cluster, 0).0, owns(&cluster, 1).0), (10, 10));

    // The founder, too, can be lost: two of three are left.
    cluster.kill9(0);
    let findings = cluster.collector().wait_held("probe", &ids, LONG);
    findings.assert_undisturbed();
    assert_eq!(owns(&cluster, witness), (0, true));
    assert_eq!(owns(&cluster, 1).0, 20);
    // It answers like any other node.
    let call = cluster.api(witness).invoke("probe", &ids[0], Probe::echo());
    let _ = call.answer().expect(200);
}

#[test]
fn a_node_without_a_majority_says_so_and_marks_what_it_reads() {
    let mut cluster = Cluster::builder(BIN).nodes(3).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    let ids = ids("r", 3);
    cluster.api(0).allocate_all("probe", &ids);
    cluster.collector().wait_held("probe", &ids, LONG);
    let (left, lost) = (0, [1, 2]);
    let api = cluster.api(left);
    let read = |path: &str| api.get(path).answer().expect(200);
    let resource = resource_path("probe", &ids[0]);
    wait_until("what it reads is current", SOON, || {
        let answer = read(&resource);
        let stale = answer.header("holdfast-stale-ms").is_some();
        (!stale).then_some(()).ok_or("it is not")
    });
    for node in lost {
        cluster.kill9(node);
    }
    cluster.wait_started_anew(left);
    let names = lost.map(|node| cluster.listening(node).node.to_string());
    let info = wait_until("it says so", LONG, || {
        let info = api.cluster()?;
        let no_majority = info.no_majority.clone();
        no_majority
            .filter(|lost| lost.missing.len() == 2)
            .ok_or_else(|| format!("{info:?}"))
    });
    let missing: BTreeSet<String> = info.0.missing.iter().map(ToString::to_string).collect();
    assert_eq!(missing, names.iter().cloned().collect());
    assert!(api.cluster().expect("it answers").stale);

    for path in [
        &resource,
        "/v1/modules",
        "/v1/modules/probe",
        "/v1/modules/probe/resources",
        "/v1/cluster",
        "/v1/cluster/nodes",
        "/v1/cluster/slots?module=probe",
    ] {
        let answer = read(path);
        let age = answer.header("holdfast-stale-ms").map(str::to_owned);
        let age: Option<u64> = age.and_then(|age| age.parse().ok());
        assert!(age.is_some_and(|age| age > 0), "{path}: {answer}");
    }
    // A plan is a question, too.
    let plan = api
        .ask("POST", "/v1/cluster/plan")
        .json(&json!({"join": [{}]}));
    let plan = plan.answer().expect(200);
    assert!(plan.header("holdfast-stale-ms").is_some(), "{plan}");
    let told: ClusterPlan = plan.json();
    assert_eq!(told.nodes.len(), 4, "{told:?}");
    // Neither does it claim that something does not exist, nor keep anybody waiting.
    let body = json!({}).to_string();
    for (method, path) in [
        ("GET", "/v1/modules/probe/resources/none"),
        ("GET", "/v1/modules/none"),
        (
            "PUT",
            "/v1/modules/probe/resources/x?wait=held&timeout_ms=600000",
        ),
        ("PUT", "/v1/modules/probe?wait=serving&timeout_ms=600000"),
        ("DELETE", "/v1/modules/probe/resources/x?timeout_ms=600000"),
        ("POST", "/v1/modules/probe/resources:batch"),
        ("POST", "/v1/modules/probe/resources/none/invoke"),
        ("GET", "/readyz"),
    ] {
        let ask = api.ask(method, path).body(body.clone());
        let ask = ask.patience(WITHOUT_WAITING);
        let answer = ask.answer();
        assert_eq!(answer.status, 503, "{method} {path}: {answer}");
        assert!(answer.header("retry-after").is_some(), "{answer}");
        let text = answer.to_string();
        assert!(text.contains("no majority of the voters"), "{text}");
        for name in &names {
            assert!(text.contains(name), "{method} {path}: {text}");
        }
    }
    let server = format!("http://{}", cluster.listening(left).http);
    let command = |args: &[&str]| {
        let mut command = std::process::Command::new(BIN);
        command.args(["--server", &server]).args(args);
        let output = command.output().expect("the command runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (text(output.stdout), text(output.stderr))
    };
    for args in [&["status"][..], &["nodes"]] {
        let (shown, warned) = command(args);
        assert!(shown.contains("No majority: "), "{args:?}: {shown}");
        assert!(shown.contains(&names[0][..8]), "{args:?}: {shown}");
        assert!(warned.contains("this may be out of date"), "{warned}");
    }
    let (_, warned) = command(&["resources", "get", "probe/r0", "--format", "json"]);
    assert!(warned.starts_with("{\"warning\":"), "{warned}");
    let told = || {
        let log = cluster.log(left);
        let run = log.rsplit("starting anew").next().expect("there is one");
        run.matches("no majority of the voters is heard").count()
    };
    wait_until("its log says so", SOON, || {
        (told() > 0).then_some(()).ok_or("it does not")
    });
    // Once, not at every look.
    assert_eq!(told(), 1);

    for node in lost {
        cluster.restart(node);
    }
    cluster.wait_formed();
    let answer = read(&resource);
    assert!(answer.header("holdfast-stale-ms").is_none(), "{answer}");
    assert!(cluster.log(left).contains("is heard again"));
    assert!(!command(&["status"]).0.contains("No majority"));
}
