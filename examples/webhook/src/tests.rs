use holdfast_guest::{
    Ctx, Error, Invocation as _, InvokeError, Request, Resource, ResourceHandler as _, Response,
    http,
};

use super::{Spec, Webhook};

fn webhook(ctx: &Ctx) -> Webhook {
    subscribed(ctx, "http://subscriber.test/events").unwrap()
}

fn subscribed(ctx: &Ctx, url: &str) -> holdfast_guest::Result<Webhook> {
    let spec = Spec {
        url: url.to_owned(),
        secret: Some("s3cret".to_owned()),
    };
    Webhook::handle(ctx, Resource::new("orders", spec))
}

fn event(body: &str) -> Request {
    let mut event = Request::new(body);
    event.id = "request-1".to_owned();
    event.content_type = Some("text/plain".to_owned());
    event
}

#[test]
fn an_event_is_posted_with_its_key_type_token_and_secret() {
    let ctx = Ctx::test()
        .with_http(Ok(http::Response::new(204)))
        .with_http(Ok(http::Response::new(200)));
    let mut webhook = webhook(&ctx);

    let answer = webhook.invoke(&ctx, event("hello")).unwrap();
    assert_eq!(
        answer,
        Response::bytes(
            "application/json",
            r#"{"status":204,"attempt":1,"delivered":1}"#
        )
    );
    let mut repeated = event("hello");
    repeated.idempotency_key = Some("key-1".to_owned());
    webhook.invoke(&ctx, repeated).unwrap();

    let sent = ctx.sent();
    assert_eq!(sent[0].method, http::Method::Post);
    assert_eq!(sent[0].url, "http://subscriber.test/events");
    assert_eq!(sent[0].body, b"hello");
    for (header, value) in [
        ("idempotency-key", "request-1"),
        ("content-type", "text/plain"),
        ("fencing-token", "1"),
        ("authorization", "Bearer s3cret"),
    ] {
        assert_eq!(sent[0].header(header), Some(value), "{header}");
    }
    assert_eq!(sent[1].header("idempotency-key"), Some("key-1"));
}

#[test]
fn a_failed_delivery_is_unavailable_and_counted() {
    let ctx = Ctx::test()
        .with_http(Ok(http::Response::new(500)))
        .with_http(Err(http::Error::TimedOut))
        .with_http(Ok(http::Response::new(200)));
    let mut webhook = webhook(&ctx);

    assert_eq!(
        webhook.invoke(&ctx, event("")),
        Err(InvokeError::unavailable("the subscriber answered 500"))
    );
    assert!(matches!(
        webhook.invoke(&ctx, event("")),
        Err(InvokeError::Unavailable(_))
    ));
    assert_eq!(
        webhook.invoke(&ctx, event("")).unwrap().body,
        br#"{"status":200,"attempt":3,"delivered":1}"#
    );
}

#[test]
fn a_subscriber_that_hangs_is_given_up_before_the_host_gives_up_the_instance() {
    let ctx = Ctx::test().with_http(Err(http::Error::TimedOut));
    let mut webhook = webhook(&ctx);
    let event = event("");
    let left = event.time_left();

    let answer = webhook.invoke(&ctx, event);
    assert!(matches!(answer, Err(InvokeError::Unavailable(_))));
    let timeout = ctx.sent()[0].timeout;
    assert!(
        timeout > left / 2 && timeout <= left * 9 / 10,
        "{timeout:?}"
    );
}

#[test]
fn a_url_that_cannot_be_used_quarantines_the_subscription() {
    for url in ["", "subscriber.test", "ftp://subscriber.test"] {
        match subscribed(&Ctx::test(), url) {
            Err(Error::Fatal(text)) => assert!(text.contains("http://"), "{text}"),
            other => panic!("{url}: {other:?}"),
        }
    }
}

#[test]
fn what_trying_again_does_not_help_is_a_failure_and_says_what_to_do() {
    let ctx = Ctx::test();
    match webhook(&ctx).invoke(&ctx, event("")) {
        Err(InvokeError::Failed(text)) => assert!(text.contains("grants.http"), "{text}"),
        other => panic!("{other:?}"),
    }
    let name = "authorization".to_owned();
    let ctx = Ctx::test().with_http(Err(http::Error::Header { name }));
    let answer = webhook(&ctx).invoke(&ctx, event(""));
    assert!(matches!(answer, Err(InvokeError::Failed(_))), "{answer:?}");
}
