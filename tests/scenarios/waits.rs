//! Waits that end when what they wait for can no longer come.

use std::{
    process::{Child, Command, Stdio},
    thread,
};

use holdfast_model::api::NodeStatus;
use holdfast_tests::{
    Answer, Api, Ask, Cluster, LONG, Probe, api::resource_path, component, probe::ids, wait_until,
};
use serde_json::{Value, json};

use crate::BIN;

/// Longer than any wait of a test may take: an answer that comes only then is a failure.
const FOR_EVER_MS: u64 = 600_000;

fn probing(nodes: usize) -> Cluster {
    let cluster = Cluster::builder(BIN).nodes(nodes).start();
    Probe::deploy(&cluster.api(0), "probe", cluster.collector());
    cluster
}

/// Asks, and does something else once the wait has begun. Gives the answer.
fn meanwhile(ask: Ask, begun: impl FnOnce()) -> Answer {
    thread::scope(|scope| {
        let waiting = scope.spawn(|| ask.patience(LONG + LONG).answer());
        begun();
        waiting.join().expect("it does not panic")
    })
}

fn waiting(path: &str, what: &str) -> String {
    format!("{path}?wait={what}&timeout_ms={FOR_EVER_MS}")
}

#[test]
fn who_waits_for_a_resource_hears_that_it_is_not_wanted_any_more() {
    let cluster = probing(2);
    let api = cluster.api(0);
    let never = json!({"fail_handle": 1_000_000});
    let path = |id: &str| resource_path("probe", id);
    let allocate = |id: &str| api.ask("PUT", &waiting(&path(id), "held")).json(&never);
    let known = |id: &str| {
        wait_until("it is allocated", LONG, || {
            let answer = cluster.api(1).get(&path(id)).answer();
            (answer.status == 200)
                .then_some(())
                .ok_or(answer.to_string())
        });
    };

    let answer = meanwhile(allocate("gone"), || {
        known("gone");
        let _ = cluster
            .api(1)
            .ask("DELETE", &path("gone"))
            .answer()
            .expect(204);
    });
    answer
        .problem(409, "superseded")
        .names(&["probe/gone", "deallocated since"]);

    let answer = meanwhile(allocate("changed"), || {
        known("changed");
        let _ = cluster
            .api(1)
            .allocate("probe", "changed", &json!({}))
            .answer()
            .expect(200);
    });
    answer
        .problem(409, "superseded")
        .names(&["spec was changed"]);

    // One whose end takes long is allocated again beside it.
    let slow = json!({"terminate_ms": 20_000});
    let _ = api
        .allocate_held("probe", "again", &slow)
        .answer()
        .expect(201);
    let deallocate = api.ask("DELETE", &waiting(&path("again"), "gone"));
    let answer = meanwhile(deallocate, || {
        wait_until("it is deallocated", LONG, || {
            let answer = cluster.api(1).get(&path("again")).answer();
            (answer.status == 404)
                .then_some(())
                .ok_or(answer.to_string())
        });
        let _ = cluster
            .api(1)
            .allocate("probe", "again", &json!({}))
            .answer()
            .expect(201);
    });
    answer
        .problem(409, "superseded")
        .names(&["allocated again"]);

    let answer = meanwhile(allocate("orphan"), || {
        known("orphan");
        let all = "/v1/modules/probe?force=true";
        let _ = cluster.api(1).ask("DELETE", all).answer().expect(204);
    });
    answer
        .problem(409, "superseded")
        .names(&["module was removed"]);
}

/// A component of another digest that does the same.
fn another(number: u8) -> bytes::Bytes {
    let mut bytes = component::probe().to_vec();
    // A custom section with no name and one byte.
    bytes.extend_from_slice(&[0, 2, 0, number]);
    bytes.into()
}

#[test]
fn of_two_deployments_at_once_the_one_that_lost_hears_of_it() {
    let cluster = probing(2);
    let api = cluster.api(0);
    let settings = |handler: &str| {
        let mut settings = Probe::settings(cluster.collector());
        settings["config"]["note"] = json!(handler);
        settings
    };
    // Its trial takes as long as there is a resource whose handle does.
    let slow = json!({"handle_ms": 10_000});
    let _ = api
        .allocate_held("probe", "slow", &slow)
        .answer()
        .expect(201);
    let path = waiting("/v1/modules/probe", "serving");
    let deploy = |number: u8| {
        api.ask("PUT", &path)
            .header("content-type", "application/wasm")
            .header("holdfast-settings", settings("x"))
            .body(another(number))
    };
    let tried = |number: u64| {
        wait_until("it is being tried", LONG, || {
            let rollout = cluster.api(1).module("probe").rollout;
            let tried = rollout.map(|rollout| rollout.version.number);
            (tried == Some(number))
                .then_some(())
                .ok_or(format!("{tried:?}"))
        });
    };
    let mut won = None;
    let lost = meanwhile(deploy(1), || {
        tried(2);
        won = Some(deploy(2).patience(LONG * 2).answer().expect(201));
    });
    lost.problem(409, "superseded")
        .names(&["version 2", "version 3 has taken its place"]);
    let won: Value = won.expect("it was deployed").json();
    assert_eq!(won["deployed"], 3);
    assert_eq!(won["version"]["number"], 3);
}

#[test]
fn a_deployment_ends_when_its_caller_says() {
    let cluster = Cluster::builder(BIN).start();
    let api = cluster.api(0);
    let deploy = |timeout_ms: u64| {
        api.ask("PUT", &format!("/v1/modules/probe?timeout_ms={timeout_ms}"))
            .header("content-type", "application/wasm")
            .header("holdfast-settings", Probe::settings(cluster.collector()))
            .body(another(7))
            .patience(LONG * 2)
    };
    let late = deploy(1).answer();
    late.problem(504, "timeout")
        .names(&["nothing was deployed"]);
    api.get("/v1/modules/probe")
        .answer()
        .problem(404, "unknown-module");
    let _ = deploy(FOR_EVER_MS).answer().expect(201);
}

/// A command that waits, through the second node.
fn begin(cluster: &Cluster, args: &[&str]) -> Child {
    let server = format!("http://{}", cluster.listening(1).http);
    Command::new(BIN)
        .args(["--server", &server])
        .args(args)
        .env_remove("HOLDFAST_TEST_PROCESS")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary under test can be started")
}

#[track_caller]
fn end(command: Child, code: i32) -> String {
    let output = command.wait_with_output().expect("it is our child");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

/// What would end a call that has more time than that: a client's or a server's own idea of enough.
const USUAL: u64 = 30_000;

#[test]
fn a_call_lasts_as_long_as_its_module_or_its_caller_says() {
    let cluster = Cluster::builder(BIN).nodes(2).start();
    let mut settings = Probe::settings_logging();
    settings["limits"] = json!({"call_timeout_ms": FOR_EVER_MS});
    settings["lane"] = json!("fiber");
    Probe::deploy_with(&cluster.api(0), "probe", &settings);
    for id in ["slow", "slower"] {
        let held = cluster.api(0).allocate_held("probe", id, &json!({}));
        let _ = held.answer().expect(201);
    }
    let long = Probe::sleep_ms(USUAL + 4_000);
    let patient = begin(&cluster, &["invoke", "probe/slow", &long]);
    let for_ever = Probe::sleep_ms(FOR_EVER_MS);
    let hasty = begin(
        &cluster,
        &["invoke", "probe/slower", &for_ever, "--timeout", "1s"],
    );
    end(hasty, 6);
    end(patient, 0);
}

fn removing(api: &Api) {
    wait_until("it is being removed", LONG, || {
        let answer = api.get("/v1/modules/probe").answer();
        let gone = answer.status == 404 || answer.json::<Value>()["removing"] == true;
        gone.then_some(()).ok_or(answer.to_string())
    });
}

#[test]
fn a_command_that_waits_outlives_the_node_that_it_asked() {
    let mut cluster = probing(3);
    let slow = json!({"terminate_ms": 3_000});
    cluster.api(0).allocate_all_as("probe", &ids("r", 9), &slow);
    cluster.collector().wait_held("probe", &ids("r", 9), LONG);
    let command = begin(
        &cluster,
        &["modules", "remove", "probe", "--force", "--wait"],
    );
    removing(&cluster.api(0));
    cluster.kill9(1);
    let text = end(command, 0);
    assert!(text.contains("probe is removed"), "{text}");
}

#[test]
fn a_drain_that_is_waited_for_ends_with_the_node_or_with_the_drain() {
    let mut cluster = probing(3);
    let slow = json!({"terminate_ms": 30_000});
    cluster.api(0).allocate_all_as("probe", &ids("r", 9), &slow);
    cluster.collector().wait_held("probe", &ids("r", 9), LONG);
    let third = cluster.listening(2).node;
    let id = third.to_string();
    let draining = |cluster: &Cluster| {
        wait_until("it is draining", LONG, || {
            let status = cluster.api(0).node(third)?.status;
            (status == NodeStatus::Draining)
                .then_some(())
                .ok_or(status.to_string())
        });
    };

    let command = begin(&cluster, &["drain", &id, "--wait"]);
    draining(&cluster);
    let cancel = format!("/v1/cluster/nodes/{third}/drain?cancel=true");
    let _ = cluster.api(0).ask("POST", &cancel).answer().expect(200);
    let text = end(command, 1);
    assert!(text.contains("its drain was ended since"), "{text}");

    let path = format!("/v1/cluster/nodes/{third}/drain?wait=empty&timeout_ms={FOR_EVER_MS}");
    let command = begin(&cluster, &["drain", &id, "--wait"]);
    draining(&cluster);
    let api = cluster.api(0);
    let answer = thread::scope(|scope| {
        let waiting = scope.spawn(|| api.ask("POST", &path).patience(LONG * 2).answer());
        cluster.kill9(2);
        waiting.join().expect("it does not panic")
    });
    let _ = answer.expect(200);
    let text = end(command, 0);
    assert!(text.contains("is down and owns nothing"), "{text}");
}
