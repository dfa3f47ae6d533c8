use std::{future::Future, net::SocketAddr};

use futures_util::stream;
use holdfast_model::api::{
    AllocateQuery, AllocateWait, BatchOutcome, BatchRequest, BatchResult, PROBLEM_JSON,
    ProblemKind, ResourcesQuery,
};
use holdfast_model::{Settings, Spec};
use http::StatusCode;
use http_body_util::{Full, StreamBody};
use hyper::{body::Frame, service::service_fn};
use hyper_util::rt::TokioIo;

use super::*;

/// Serves every request with `answer` until the test ends.
async fn serve<F, B>(
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) -> Client
where
    F: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    Client::new(&addr.to_string()).unwrap()
}

fn text(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

#[test]
fn a_server_is_a_plain_http_url_without_a_path() {
    for (given, url) in [
        ("127.0.0.1:7300", "http://127.0.0.1:7300"),
        ("http://localhost:7300/", "http://localhost:7300"),
        ("http://[::1]:1", "http://[::1]:1"),
        (" node-1 ", "http://node-1"),
    ] {
        assert_eq!(Client::new(given).unwrap().server(), url);
    }
    for (given, why) in [
        ("https://a:1", "plain HTTP"),
        ("ftp://a", "begin with http://"),
        ("http://a/v1", "no path"),
        ("http://a?x", "no path"),
        ("", "look like"),
        ("http://", "look like"),
        ("a b", "look like"),
    ] {
        let error = Client::new(given).unwrap_err().to_string();
        assert!(error.contains(why), "{given}: {error}");
    }
}

#[tokio::test]
async fn the_wall_clock_of_a_node_is_the_date_of_its_answers() {
    let client = serve(|_| async {
        let mut answer = text(200, "ok\n");
        let date = HeaderValue::from_static("Tue, 15 Nov 1994 08:12:31 GMT");
        answer.headers_mut().insert(header::DATE, date);
        answer
    })
    .await;
    let date = client.date().await.unwrap().unwrap();
    let since = date.duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(since.as_secs(), 784_887_151);
}

#[tokio::test]
async fn where_nobody_listens_the_error_names_the_url() {
    let unused: SocketAddr = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let error = Client::new(&unused.to_string())
        .unwrap()
        .cluster()
        .await
        .unwrap_err();
    assert!(matches!(&error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&unused.to_string()), "{error}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.to_lowercase().contains("refused"), "{source}");
}

#[tokio::test]
async fn a_problem_keeps_its_kind_and_the_real_status() {
    let client = serve(|_| async {
        let problem = Problem::new(ProblemKind::UnknownModule, "there is no module x");
        let mut response = text(404, serde_json::to_vec(&problem).unwrap());
        let media_type = HeaderValue::from_static(PROBLEM_JSON);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, media_type);
        response
    })
    .await;
    let error = client.module(&"x".parse().unwrap()).await.unwrap_err();
    let problem = error.problem().unwrap();
    assert_eq!(problem.kind, ProblemKind::UnknownModule);
    assert_eq!(problem.status, 404);
    assert_eq!(error.to_string(), "Unknown module: there is no module x");
}

#[tokio::test]
async fn what_is_no_node_is_told_apart() {
    let client = serve(|_| async { text(200, "<html>") }).await;
    let error = client.cluster().await.unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error:?}");
    let client = serve(|_| async { text(502, "Bad gateway") }).await;
    let error = client.cluster().await.unwrap_err();
    assert!(error.to_string().contains("status 502"), "{error}");
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let client = serve(|_| std::future::pending::<Response<Full<Bytes>>>())
        .await
        .with_timeout(Duration::from_millis(50));
    let error = client.cluster().await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn the_limit_is_longer_than_the_wait_that_was_asked_for() {
    let client = Client::new("a").unwrap();
    assert_eq!(client.limit(None), TIMEOUT);
    assert_eq!(client.limit(Some(60_000)), Duration::from_secs(65));
}

#[tokio::test]
async fn requests_carry_path_query_token_and_body() {
    let client = serve(|request| async {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let seen = format!(
            "{} {} {:?} {}",
            head.method,
            head.uri,
            head.headers[header::AUTHORIZATION],
            String::from_utf8_lossy(&body)
        );
        text(
            200,
            serde_json::to_vec(&Problem::new(ProblemKind::Other, seen)).unwrap(),
        )
        .map(|body| body)
    })
    .await
    .with_token("s3cret")
    .unwrap();
    let query = AllocateQuery {
        wait: Some(AllocateWait::Held),
        timeout_ms: Some(10),
    };
    let exchange = Exchange::new(Method::PUT, "/x/a%2Fb")
        .query(&query)
        .body("application/json", Spec::default().as_str().to_owned());
    let seen: Problem = client.json(exchange).await.unwrap();
    assert_eq!(
        seen.detail,
        "PUT /x/a%2Fb?wait=held&timeout_ms=10 \"Bearer s3cret\" {}"
    );
    let page = ResourcesQuery {
        cursor: Some("a&b".into()),
        status: Some("held".parse().unwrap()),
        ..ResourcesQuery::default()
    };
    let target = Exchange::new(Method::GET, "/r").query(&page).target;
    assert_eq!(target, "/r?cursor=a%26b&status=held");
    assert!(!format!("{client:?}").contains("s3cret"));
}

#[tokio::test]
async fn a_text_that_no_header_carries_is_the_callers_mistake() {
    let call = Call {
        idempotency_key: Some("a\nb".to_owned()),
        ..Call::default()
    };
    let client = Client::new("127.0.0.1:1").unwrap();
    let (module, id) = ("m".parse().unwrap(), "a".parse().unwrap());
    let error = client.invoke(&module, &id, call).await.unwrap_err();
    assert!(matches!(&error, Error::InvalidHeader { .. }), "{error:?}");
    let text = error.to_string();
    assert_eq!(text, r#"header idempotency-key cannot carry "a\nb""#);
}

#[tokio::test]
async fn settings_travel_in_ascii() {
    let client = serve(|request| async move {
        let settings = request.headers()[holdfast_model::api::SETTINGS_HEADER]
            .to_str()
            .unwrap()
            .to_owned();
        text(
            400,
            serde_json::to_vec(&Problem::new(ProblemKind::Other, settings)).unwrap(),
        )
    })
    .await;
    let mut settings = Settings::default();
    let odd = "grüße 🦀\u{7f}\n".to_owned();
    settings.config.insert("k".into(), odd);
    let error = client
        .deploy(
            &"m".parse().unwrap(),
            Bytes::new(),
            Some(&settings),
            &Default::default(),
        )
        .await
        .unwrap_err();
    let Error::Problem(problem) = error else {
        panic!("{error:?}");
    };
    assert!(problem.detail.contains("\\ud83e"), "{}", problem.detail);
    assert_eq!(
        serde_json::from_str::<Settings>(&problem.detail).unwrap(),
        settings
    );
}

#[tokio::test]
async fn a_batch_streams_both_ways() {
    // Answers each line as it comes: a client that sent all before it read would hang here,
    // because the lines never end by themselves.
    let client = serve(|request| async {
        let frames = stream::unfold(request.into_body(), |mut body| async {
            let data = body.frame().await?.unwrap().into_data().unwrap();
            let line: BatchRequest = serde_json::from_slice(&data).unwrap();
            let BatchRequest::Allocate { id, .. } = line else {
                panic!("{line:?}");
            };
            let answer = format!("{{\"line\":1,\"id\":\"{id}\",\"result\":\"created\"}}\n");
            // In two pieces, to be put together again.
            let (one, two) = answer.split_at(7);
            let pieces = [one.to_owned(), two.to_owned()].map(|piece| Frame::data(piece.into()));
            Some((stream::iter(pieces.map(Ok)), body))
        });
        Response::new(StreamBody::new(futures_util::StreamExt::flatten(frames)))
    })
    .await;
    let (lines, more) = tokio::sync::mpsc::channel(1);
    let more = stream::unfold(more, |mut more| async {
        let line: BatchRequest = more.recv().await?;
        Some((line, more))
    });
    let allocate = |id: &str| BatchRequest::Allocate {
        id: id.parse().unwrap(),
        spec: Spec::default(),
    };
    lines.send(allocate("0")).await.unwrap();
    let mut lines = Some(lines);
    let mut seen = Vec::new();
    client
        .batch(&"m".parse().unwrap(), more, |answer| {
            assert_eq!(answer.outcome, BatchOutcome::Result(BatchResult::Created));
            seen.push(answer.id.unwrap().to_string());
            match seen.len() {
                3 => lines = None,
                n => lines
                    .as_ref()
                    .unwrap()
                    .try_send(allocate(&n.to_string()))
                    .unwrap(),
            }
        })
        .await
        .unwrap();
    assert_eq!(seen, ["0", "1", "2"]);
}

#[tokio::test]
async fn a_batch_whose_answers_end_early_is_an_error() {
    let client = serve(|request| async {
        request.into_body().collect().await.unwrap();
        text(200, r#"{"line":1,"id":"a","result":"absent"}"#)
    })
    .await;
    let lines = ["a", "b"].map(|id| BatchRequest::Deallocate {
        id: id.parse().unwrap(),
    });
    let mut seen = 0;
    let error = client
        .batch(&"m".parse().unwrap(), stream::iter(lines), |_| seen += 1)
        .await
        .unwrap_err();
    assert_eq!(seen, 1);
    assert!(error.to_string().contains("after 1 of 2 lines"), "{error}");
}
