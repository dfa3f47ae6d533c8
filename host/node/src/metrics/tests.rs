use super::*;

static HELD: Described = Described {
    name: "resources",
    help: "Resources",
    unit: None,
    grows: false,
};
static LEFT: Described = Described {
    name: "lease_left",
    help: "Time",
    unit: Some(Unit::Seconds),
    grows: false,
};

#[test]
fn the_older_format_describes_counters_by_the_names_of_their_samples() {
    let text = "# HELP a_calls Calls.\n# TYPE a_calls counter\na_calls_total{x=\"# EOF\"} 1\n\
                # HELP b_seconds Time.\n# TYPE b_seconds gauge\n# UNIT b_seconds seconds\nb_seconds 2\n\
                # EOF\n";
    let expected = "# HELP a_calls_total Calls.\n# TYPE a_calls_total counter\na_calls_total{x=\"# EOF\"} 1\n\
                    # HELP b_seconds Time.\n# TYPE b_seconds gauge\nb_seconds 2\n";
    assert_eq!(classic(text), expected);
}

#[test]
fn what_was_counted_and_read_is_written_once_for_each_name() {
    let metrics = Metrics::new();
    let module = "m".parse().unwrap();
    let calls = metrics.begin(&module);
    calls.count(Ok(()), Duration::from_micros(30));
    calls.count(Err(&call::Error::Interrupted), Duration::from_secs(60));
    metrics.started(&module);
    metrics.request("/v1/cluster", "GET", 200);
    let reading = |status: &str, value| Reading {
        what: &HELD,
        labels: vec![("status", status.to_owned())],
        value,
    };
    let left = Reading {
        what: &LEFT,
        labels: Vec::new(),
        value: 1.5,
    };
    let text = metrics.encode(&[reading("held", 7.0), reading("failed", 0.0), left]);
    for line in [
        "holdfast_calls_total{module=\"m\",result=\"ok\"} 1",
        "holdfast_calls_total{module=\"m\",result=\"interrupted\"} 1",
        "holdfast_call_duration_seconds_bucket{le=\"0.00005\",module=\"m\"} 1",
        "holdfast_call_duration_seconds_count{module=\"m\"} 2",
        "holdfast_instances_started_total{module=\"m\"} 1",
        "holdfast_resources{status=\"held\"} 7.0",
        "holdfast_resources{status=\"failed\"} 0.0",
        "holdfast_lease_left_seconds 1.5",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert_eq!(text.matches("# HELP holdfast_resources ").count(), 1);
    assert!(text.ends_with("# EOF\n"));
    metrics.forget(&module);
    assert!(!metrics.encode(&[]).contains("module=\"m\""));
}
