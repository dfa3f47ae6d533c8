//! Sends a request through `wasi:http`.
//!
//! Every wait is bounded by one timer for the whole exchange; the host ends an exchange whose
//! handles are dropped. Handles are dropped children first: the host traps otherwise. No
//! `request-options` are given, for hosts of wasmtime 48 never free them.

use super::{Error, Method, Request, Response, Url};
use crate::bindings::handler::wasi::{
    clocks::monotonic_clock,
    http::{
        outgoing_handler,
        types::{
            self, ErrorCode, Fields, FutureIncomingResponse, IncomingResponse, OutgoingBody,
            OutgoingRequest, Scheme,
        },
    },
    io::{
        poll::{self, Pollable},
        streams::{OutputStream, StreamError},
    },
};

pub(crate) fn send(request: &Request) -> Result<Response, Error> {
    let url = Url::parse(&request.url)?;
    let failure = |code: &ErrorCode| failure(code, request);
    let nanos = u64::try_from(request.timeout.as_nanos()).unwrap_or(u64::MAX);

    let outgoing = outgoing(request, &url)?;
    let body = outgoing
        .body()
        .expect("the body of a new request has not been taken");
    let answer = outgoing_handler::handle(outgoing, None).map_err(|e| failure(&e))?;
    let timer = monotonic_clock::subscribe_duration(nanos);
    // The host takes the body while it sends: it is written after `handle`, not before.
    if write(&body, &request.body, &timer)? {
        OutgoingBody::finish(body, None).map_err(|e| failure(&e))?;
    }
    let incoming = wait(&answer, &timer)?.map_err(|e| failure(&e))?;
    Ok(Response {
        status: incoming.status(),
        headers: headers(&incoming),
        body: read(&incoming, request, &timer)?,
    })
}

fn outgoing(request: &Request, url: &Url<'_>) -> Result<OutgoingRequest, Error> {
    let headers = Fields::new();
    let append = |name: &str, value: &str| {
        headers
            .append(name, value.as_bytes())
            .map_err(|_| Error::Header {
                name: name.to_owned(),
            })
    };
    for (name, value) in &request.headers {
        append(name, value)?;
    }
    let has_body = !request.body.is_empty()
        || matches!(request.method, Method::Post | Method::Put | Method::Patch);
    if has_body && request.header("content-length").is_none() {
        append("content-length", &request.body.len().to_string())?;
    }

    let outgoing = OutgoingRequest::new(headers);
    let method = match request.method {
        Method::Get => types::Method::Get,
        Method::Head => types::Method::Head,
        Method::Post => types::Method::Post,
        Method::Put => types::Method::Put,
        Method::Patch => types::Method::Patch,
        Method::Delete => types::Method::Delete,
        Method::Options => types::Method::Options,
    };
    let scheme = if url.https {
        Scheme::Https
    } else {
        Scheme::Http
    };
    let refused = |problem| {
        move |()| Error::Url {
            url: request.url.clone(),
            problem,
        }
    };
    outgoing
        .set_method(&method)
        .expect("a method of RFC 9110 is a valid method");
    outgoing
        .set_scheme(Some(&scheme))
        .map_err(refused("its scheme is refused"))?;
    outgoing
        .set_authority(Some(url.authority))
        .map_err(refused("its host or port is not valid"))?;
    outgoing
        .set_path_with_query(Some(&url.path_with_query))
        .map_err(refused("its path or query is not valid"))?;
    Ok(outgoing)
}

/// Whether the whole body was taken. If not, the answer says why: the peer may have answered
/// early, or the connection may have broken.
fn write(body: &OutgoingBody, bytes: &[u8], timer: &Pollable) -> Result<bool, Error> {
    let stream = body
        .write()
        .expect("the stream of a new body has not been taken");
    let mut rest = bytes;
    while !rest.is_empty() {
        let Some(permitted) = permitted(&stream, timer)? else {
            return Ok(false);
        };
        let (now, later) = rest.split_at(rest.len().min(permitted));
        if stream.write(now).is_err() {
            return Ok(false);
        }
        rest = later;
    }
    if stream.flush().is_err() {
        return Ok(false);
    }
    Ok(permitted(&stream, timer)?.is_some())
}

/// How many bytes may be written now: more than zero, or `None` when the stream is at its end.
fn permitted(stream: &OutputStream, timer: &Pollable) -> Result<Option<usize>, Error> {
    loop {
        match stream.check_write() {
            Ok(0) => ready(&stream.subscribe(), timer)?,
            Ok(bytes) => return Ok(Some(usize::try_from(bytes).unwrap_or(usize::MAX))),
            Err(_) => return Ok(None),
        }
    }
}

fn wait(
    answer: &FutureIncomingResponse,
    timer: &Pollable,
) -> Result<Result<IncomingResponse, ErrorCode>, Error> {
    loop {
        if let Some(answer) = answer.get() {
            return Ok(answer.expect("an answer is taken once"));
        }
        ready(&answer.subscribe(), timer)?;
    }
}

fn headers(incoming: &IncomingResponse) -> Vec<(String, String)> {
    let entries = incoming.headers().entries();
    let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
    entries
        .into_iter()
        .map(|(name, value)| (name, text(value)))
        .collect()
}

fn read(
    incoming: &IncomingResponse,
    request: &Request,
    timer: &Pollable,
) -> Result<Vec<u8>, Error> {
    let body = incoming.consume().expect("a new answer has its body");
    let stream = body.stream().expect("a new body has its stream");
    let mut bytes = Vec::new();
    loop {
        match stream.read(READ_BYTES_MAX) {
            Ok(chunk) if chunk.is_empty() => ready(&stream.subscribe(), timer)?,
            Ok(chunk) if bytes.len() + chunk.len() > request.response_bytes_max => {
                return Err(Error::TooLarge {
                    bytes_max: request.response_bytes_max,
                });
            }
            Ok(chunk) => bytes.extend(chunk),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(match types::http_error_code(&error) {
                    Some(code) => failure(&code, request),
                    // The error's own text is for debugging: some hosts put backtraces into it.
                    None => failure(&ErrorCode::HttpResponseIncomplete, request),
                });
            }
        }
    }
}

/// Waits until `awaited` is ready, no longer than the timer.
fn ready(awaited: &Pollable, timer: &Pollable) -> Result<(), Error> {
    if poll::poll(&[awaited, timer]).contains(&0) {
        Ok(())
    } else {
        Err(Error::TimedOut)
    }
}

fn failure(code: &ErrorCode, request: &Request) -> Error {
    let text = match code {
        ErrorCode::HttpRequestDenied | ErrorCode::DestinationIpProhibited => {
            return Error::Denied {
                url: request.url.clone(),
            };
        }
        ErrorCode::HttpRequestUriInvalid => {
            return Error::Url {
                url: request.url.clone(),
                problem: "the host refuses it",
            };
        }
        ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout => return Error::TimedOut,
        ErrorCode::ConnectionRefused => "the connection was refused",
        ErrorCode::ConnectionTerminated => "the connection broke",
        ErrorCode::HttpResponseIncomplete => "the connection broke within the answer",
        ErrorCode::DnsError(_) | ErrorCode::DestinationNotFound => "the host name was not found",
        ErrorCode::DestinationUnavailable => "the destination cannot be reached",
        ErrorCode::TlsCertificateError => "the destination's certificate is not valid",
        ErrorCode::InternalError(Some(text)) => text,
        other => return Error::Failed(format!("the exchange failed: {other:?}")),
    };
    Error::Failed(text.to_owned())
}

const READ_BYTES_MAX: u64 = 64 << 10;
