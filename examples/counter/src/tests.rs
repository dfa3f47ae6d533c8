use holdfast_guest::{
    Ctx, Invocation as _, InvokeError, Level, Request, Resource, ResourceHandler as _,
    TerminateReason, serde_json,
};

use super::{Counter, Spec};

fn counter(ctx: &Ctx, spec: &str) -> Counter {
    let spec: Spec = serde_json::from_str(spec).unwrap();
    Counter::handle(ctx, Resource::new("visits", spec)).unwrap()
}

fn ask(counter: &mut Counter, body: &str) -> Result<String, InvokeError> {
    let answer = counter.invoke(&Ctx::test(), Request::new(body))?;
    Ok(String::from_utf8(answer.body).unwrap())
}

#[test]
fn a_counter_counts_from_its_start() {
    let ctx = Ctx::test();
    let mut counter = counter(&ctx, r#"{"start": 40}"#);
    let logged = (Level::Info, "visits counts from 40".to_owned());
    assert_eq!(ctx.logs(), [logged]);

    assert_eq!(ask(&mut counter, "").unwrap(), r#"{"value":40,"token":1}"#);
    assert_eq!(
        ask(&mut counter, r#"{"add": 2}"#).unwrap(),
        r#"{"value":42,"token":1}"#
    );
    assert_eq!(
        ask(&mut counter, r#"{"set": -1}"#).unwrap(),
        r#"{"value":-1,"token":1}"#
    );
    counter.terminate(&ctx, TerminateReason::Moved).unwrap();
}

#[test]
fn an_unknown_operation_is_invalid_and_changes_nothing() {
    let mut counter = counter(&Ctx::test(), "{}");
    match ask(&mut counter, r#"{"double": 1}"#) {
        Err(InvokeError::Invalid(text)) => assert!(text.contains("`double`"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(ask(&mut counter, "").unwrap(), r#"{"value":0,"token":1}"#);
}

#[test]
fn a_counter_at_its_limit_refuses_more() {
    let mut counter = counter(&Ctx::test(), r#"{"start": 9223372036854775807}"#);
    assert_eq!(
        ask(&mut counter, r#"{"add": 1}"#),
        Err(InvokeError::conflict("the counter is at its limit"))
    );
}
