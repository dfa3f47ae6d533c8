//! What Prometheus reads of a node.

use std::{collections::BTreeSet, path::Path};

use holdfast_tests::{Cluster, Probe, SOON, wait_until};
use serde_json::json;

use crate::BIN;

/// What a node says.
fn scrape(cluster: &Cluster, node: usize) -> String {
    let ask = cluster.api(node).get("/metrics");
    let ask = ask.header(
        "accept",
        "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
    );
    let answer = ask.answer().expect(200);
    let kind = answer.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    String::from_utf8(answer.body.to_vec()).expect("text")
}

/// The value of a sample.
fn value(text: &str, sample: &str) -> f64 {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    let line = line.unwrap_or_else(|| panic!("no {sample} in\n{text}"));
    line.parse().expect("a number")
}

#[test]
fn what_happens_is_counted_where_it_happens() {
    let cluster = Cluster::builder(BIN).nodes(2).start();
    let api = cluster.api(0);
    Probe::deploy_with(&api, "probe", &Probe::settings_logging());
    for id in ["a", "b", "c", "d"] {
        let held = api.allocate_held("probe", id, &json!({})).answer();
        drop(held.expect(201));
    }
    let fatal = api.allocate("probe", "fatal", &json!({"fatal": true}));
    drop(fatal.answer().expect(201));
    for _ in 0..3 {
        drop(api.invoke("probe", "a", Probe::echo()).answer().expect(200));
    }
    drop(api.invoke("probe", "a", Probe::error("conflict")).answer());
    drop(api.get("/v1/nonsense").answer());

    let told = scrape(&cluster, 0);
    assert!(told.ends_with("# EOF\n"));
    let older = api.get("/metrics").answer().expect(200);
    let kind = older.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let older = String::from_utf8_lossy(&older.body).into_owned();
    assert!(
        older.contains("# TYPE holdfast_calls_total counter\n"),
        "{older}"
    );
    let calls = |result| {
        let labels = format!("{{module=\"probe\",result=\"{result}\"}}");
        value(&told, &format!("holdfast_calls_total{labels}"))
    };
    assert_eq!(["ok", "refused", "trap"].map(calls), [3.0, 1.0, 0.0]);
    let count = "holdfast_call_duration_seconds_count{module=\"probe\"}";
    assert_eq!(value(&told, count), 4.0);
    let lost = "holdfast_http_requests_total{route=\"none\",method=\"GET\",status=\"404\"}";
    assert_eq!(value(&told, lost), 1.0);
    assert_eq!(value(&told, "holdfast_nodes{standing=\"active\"}"), 2.0);
    assert_eq!(value(&told, "holdfast_peers_connected"), 1.0);
    assert!(value(&told, "process_resident_memory_bytes") > 1e6);
    assert!(value(&told, "process_cpu_seconds_total") > 0.0);
    let leads = |node| value(&scrape(&cluster, node), "holdfast_leader");
    assert_eq!((0..2).map(leads).sum::<f64>(), 1.0);
    // Of what is on several nodes, each tells its own.
    let of_all = |sample: &str| -> f64 {
        let all = (0..2).map(|node| scrape(&cluster, node));
        let with_it = all.filter(|text| text.contains(&format!("{sample} ")));
        with_it.map(|text| value(&text, sample)).sum()
    };
    let started = of_all("holdfast_instances_started_total{module=\"probe\"}");
    assert_eq!(started, 4.0);
    let held = of_all("holdfast_resources{module=\"probe\",status=\"held\"}");
    assert_eq!(held, 4.0);
    wait_until("the failure is counted", SOON, || {
        let failed = of_all("holdfast_instances_failed_total{module=\"probe\"}");
        (failed >= 1.0).then_some(()).ok_or("not yet")
    });

    // A module that is gone leaves nothing behind.
    let gone = "/v1/modules/probe?force=true&wait=gone";
    drop(api.ask("DELETE", gone).answer().expect(204));
    wait_until("it is forgotten", SOON, || {
        let text = scrape(&cluster, 0);
        let is_there = text.contains("module=\"probe\"");
        (!is_there).then_some(()).ok_or(text)
    });
}

#[test]
fn the_page_has_every_metric_and_no_other() {
    let cluster = Cluster::builder(BIN).start();
    let api = cluster.api(0);
    Probe::deploy_with(&api, "probe", &Probe::settings_logging());
    drop(api.allocate_held("probe", "a", &json!({})).answer());
    let told = scrape(&cluster, 0);
    let name = |line: &str| {
        let mut words = line.strip_prefix("# TYPE ")?.split(' ');
        let (name, kind) = (words.next()?, words.next()?);
        let total = if kind == "counter" { "_total" } else { "" };
        Some(format!("{name}{total}"))
    };
    let told: BTreeSet<String> = told.lines().filter_map(name).collect();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/METRICS.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let row = |line: &str| {
        let (name, _) = line.strip_prefix("| `")?.split_once("` |")?;
        let is_name = name.starts_with("holdfast_") || name.starts_with("process_");
        (is_name && !name.contains([' ', '{'])).then(|| name.to_owned())
    };
    let listed: BTreeSet<String> = page.lines().filter_map(row).collect();
    assert_eq!(told, listed);
}
