use holdfast_guest::{
    Ctx, Error, Invocation as _, InvokeError, Request, Resource, ResourceHandler as _,
    TerminateReason, http,
    serde_json::{Value, from_slice, json},
};

use super::{Probe, Spec};

fn probe(ctx: &Ctx, spec: Spec) -> Result<Probe, Error> {
    Probe::handle(ctx, Resource::new("a", spec))
}

fn observed() -> Ctx {
    Ctx::test()
        .with_config("report_url", "http://observer.test/reports")
        .with_config("node", "n1")
}

#[test]
fn handle_and_both_ends_of_terminate_are_reported() {
    let ctx = observed()
        .with_http(Ok(http::Response::new(200)))
        .with_http(Ok(http::Response::new(200)))
        .with_http(Ok(http::Response::new(204)));
    let probe = probe(&ctx, Spec::default()).unwrap();
    let instance = probe.instance;
    probe.terminate(&ctx, TerminateReason::Moved).unwrap();

    let reports: Vec<Value> = ctx
        .sent()
        .iter()
        .map(|request| from_slice(&request.body).unwrap())
        .collect();
    let report = |event: &str| json!({"event": event, "module": "test", "id": "a", "token": 1, "attempt": 1, "node": "n1", "instance": instance});
    let [terminating, terminated] = ["terminating", "terminated"].map(|event| {
        let mut report = report(event);
        report["reason"] = json!("moved");
        report
    });
    assert_eq!(reports, [report("handle"), terminating, terminated]);
}

#[test]
fn a_call_that_asks_for_it_is_reported_before_it_is_answered() {
    let ctx = observed()
        .with_http(Ok(http::Response::new(200)))
        .with_http(Ok(http::Response::new(200)))
        .with_http(Ok(http::Response::new(403)));
    let mut probe = probe(&ctx, Spec::default()).unwrap();
    let mut invoke = || probe.invoke(&ctx, Request::new(r#"{"op":"observed"}"#));
    assert!(invoke().is_ok());
    assert!(invoke().is_err(), "the observer did not accept the report");
    let called: Value = from_slice(&ctx.sent()[1].body).unwrap();
    assert_eq!(called["event"], "called");
}

#[test]
fn no_two_instances_have_the_same_number() {
    let one = probe(&Ctx::test(), Spec::default()).unwrap();
    let other = probe(&Ctx::test(), Spec::default()).unwrap();
    assert_ne!(one.instance, other.instance);
}

#[test]
fn a_probe_whose_report_is_not_accepted_does_not_hold() {
    let ctx = observed().with_http(Ok(http::Response::new(409)));
    let refused = probe(&ctx, Spec::default()).unwrap_err();
    assert!(matches!(refused, Error::Retry(_)), "{refused:?}");
    let unreachable = probe(&ctx, Spec::default()).unwrap_err();
    assert!(
        unreachable.text().starts_with("report handle: "),
        "{unreachable:?}"
    );
}

#[test]
fn reports_go_to_the_log_where_the_config_says_so() {
    let ctx = Ctx::test().with_config("report_log", "on");
    let probe = probe(&ctx, Spec::default()).unwrap();
    probe.terminate(&ctx, TerminateReason::Moved).unwrap();
    let events: Vec<Value> = ctx
        .logs()
        .iter()
        .map(|(_, line)| from_slice::<Value>(line.as_bytes()).unwrap()["event"].take())
        .collect();
    assert_eq!(events, ["handle", "terminating", "terminated"]);
    assert!(ctx.sent().is_empty());
}

#[test]
fn the_spec_scripts_failures_of_handle() {
    let ctx = Ctx::test();
    let fatal = Spec {
        fatal: true,
        ..Spec::default()
    };
    assert!(matches!(probe(&ctx, fatal), Err(Error::Fatal(_))));

    let twice = Spec {
        fail_handle: 2,
        ..Spec::default()
    };
    for (attempt, held) in [(1, false), (2, false), (3, true)] {
        let mut resource = Resource::new("a", twice.clone());
        resource.attempt = attempt;
        assert_eq!(Probe::handle(&ctx, resource).is_ok(), held, "{attempt}");
    }
}

#[test]
fn requests_choose_what_happens() {
    let ctx = Ctx::test();
    let mut probe = probe(&ctx, Spec::default()).unwrap();
    let mut invoke = |body: &str| probe.invoke(&ctx, Request::new(body));

    let echo: Value = from_slice(&invoke(r#"{"op":"echo","x":1}"#).unwrap().body).unwrap();
    let instance = &echo["instance"];
    let expected = json!({"id": "a", "token": 1, "instance": instance, "calls": 1, "body": r#"{"op":"echo","x":1}"#});
    assert_eq!(echo, expected);
    assert!(invoke("").is_ok());
    assert!(invoke(r#"{"op":"sleep_ms","ms":0}"#).is_ok());
    assert_eq!(
        invoke(r#"{"op":"error","kind":"not_found"}"#),
        Err(InvokeError::not_found("told to fail"))
    );
    assert!(matches!(
        invoke(r#"{"op":"fly"}"#),
        Err(InvokeError::Invalid(_))
    ));
}
