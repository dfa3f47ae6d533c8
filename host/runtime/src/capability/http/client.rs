//! Sends requests over HTTP/1.1, on kept connections where possible.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs as _},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use holdfast_model::module::HttpGrant;
use http_body_util::BodyExt as _;
use hyper::{
    body::{Body, Frame, Incoming},
    client::conn::http1::{self, SendRequest},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, timeout, timeout_at},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, ClientConfig, RootCertStore, pki_types::ServerName},
};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, io::TokioIo};

use super::{
    destination::{Destination, is_allowed},
    pool::{Key, Pool},
    share::Share,
};
use crate::fence::Fence;

/// The HTTP client of a node's guests.
pub(crate) struct Client {
    resolve: Resolve,
    tls: TlsConnector,
    pool: Arc<Pool>,
    /// Open connections.
    permits: Arc<Semaphore>,
    /// Names that are being looked up.
    lookups: Arc<Semaphore>,
}

/// Finds the addresses of a name. It may block.
type Resolve = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

impl Client {
    pub(crate) fn new() -> Self {
        let resolve = |host: &str, port: u16| Ok((host, port).to_socket_addrs()?.collect());
        Self::resolving_with(Arc::new(resolve))
    }

    fn resolving_with(resolve: Resolve) -> Self {
        let roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            resolve,
            tls: TlsConnector::from(Arc::new(tls)),
            pool: Arc::default(),
            permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
        }
    }

    /// Sends a request if the grants allow it, and the fence lets it pass. The permit, and the place
    /// in the module's share, are held until the answer has been read.
    pub(super) async fn send(
        &self,
        grants: &[HttpGrant],
        mut request: http::Request<WasiBody>,
        options: RequestOptions,
        permit: OwnedSemaphorePermit,
        share: &Share,
        fence: &Fence,
    ) -> Result<http::Response<WasiBody>, Error> {
        let destination = Destination::of(request.uri())?;
        if !destination.is_granted(grants) {
            return Err(Error::HttpRequestDenied);
        }
        // Servers expect the path alone (RFC 9112 section 3.2.1); the name is in `Host`.
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(|| http::Uri::from_static("/"), Into::into);

        let connect_max = options.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        let connect_by = Instant::now() + connect_max.min(TIMEOUT_MAX);
        let first_byte = options.first_byte_timeout.unwrap_or(READ_TIMEOUT);
        let permits = [permit, place(&share.requests, connect_by).await?];
        let addresses = self.addresses(&destination, grants, share);
        let addrs = timeout_at(connect_by, addresses)
            .await
            .map_err(|_| Error::DnsTimeout)??;

        for &addr in &addrs {
            let key = Key {
                destination: destination.clone(),
                addr,
            };
            while let Some(mut sender) = self.pool.take(&key) {
                pass(fence)?;
                let sending = sender.try_send_request(request);
                let Ok(sent) = timeout(first_byte, sending).await else {
                    return Err(Error::ConnectionReadTimeout);
                };
                match sent {
                    Ok(response) => return Ok(self.answer(response, key, sender, options, permits)),
                    // The server closed it meanwhile. What was not sent is sent elsewhere.
                    Err(mut error) => match error.take_message() {
                        Some(unsent) => request = unsent,
                        None => return Err(hyper_error(&error.into_error())),
                    },
                }
            }
        }
        let connection = place(&self.permits, connect_by).await?;
        let connecting = self.connect(&destination, &addrs, connection);
        let (addr, mut sender) = timeout_at(connect_by, connecting)
            .await
            .map_err(|_| Error::ConnectionTimeout)??;
        pass(fence)?;
        let response = timeout(first_byte, sender.send_request(request))
            .await
            .map_err(|_| Error::ConnectionReadTimeout)?
            .map_err(|error| hyper_error(&error))?;
        let key = Key { destination, addr };
        Ok(self.answer(response, key, sender, options, permits))
    }

    /// The addresses that a connection may go to.
    async fn addresses(
        &self,
        destination: &Destination,
        grants: &[HttpGrant],
        share: &Share,
    ) -> Result<Vec<SocketAddr>, Error> {
        let mut addrs = match destination.literal() {
            Some(addr) => vec![addr],
            None => self
                .look_up(destination, share)
                .await
                .map_err(|error| Error::DnsError {
                    rcode: Some(error.to_string()),
                    info_code: None,
                })?,
        };
        if addrs.is_empty() {
            return Err(Error::DestinationNotFound);
        }
        addrs.retain(|addr| is_allowed(*addr, grants));
        addrs.truncate(ADDRESSES_MAX);
        if addrs.is_empty() {
            return Err(Error::DestinationIpProhibited);
        }
        Ok(addrs)
    }

    async fn look_up(
        &self,
        destination: &Destination,
        share: &Share,
    ) -> io::Result<Vec<SocketAddr>> {
        // The module's first: who waits for it must not hold one of the node's.
        let of_module = share.lookups.clone().acquire_owned().await;
        let of_node = self.lookups.clone().acquire_owned().await;
        let resolve = self.resolve.clone();
        let (host, port) = (destination.host.clone(), destination.port);
        let job = tokio::task::spawn_blocking(move || {
            // They go with the job: it goes on when nobody waits for it any more.
            let _places = (of_module, of_node);
            resolve(&host, port)
        });
        job.await?
    }

    /// Connects to the first address that answers.
    async fn connect(
        &self,
        destination: &Destination,
        addrs: &[SocketAddr],
        permit: OwnedSemaphorePermit,
    ) -> Result<(SocketAddr, SendRequest<WasiBody>), Error> {
        let (addr, stream) = first_to_answer(addrs).await?;
        let sender = self.handshake(destination, stream, permit).await?;
        Ok((addr, sender))
    }

    async fn handshake(
        &self,
        destination: &Destination,
        stream: TcpStream,
        permit: OwnedSemaphorePermit,
    ) -> Result<SendRequest<WasiBody>, Error> {
        // Requests are small and answered before the next one: never wait to fill a packet.
        stream
            .set_nodelay(true)
            .map_err(|error| connect_error(&error))?;
        let stream: Box<dyn Stream> = if destination.tls {
            let name = ServerName::try_from(destination.host.clone())
                .map_err(|_| Error::HttpRequestUriInvalid)?;
            let stream = self.tls.connect(name, stream).await;
            Box::new(stream.map_err(|error| tls_error(&error))?)
        } else {
            Box::new(stream)
        };
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| hyper_error(&error))?;
        // Ends when the server closes, or when the sender and the last body are dropped.
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP connection of a guest broke");
            }
        });
        Ok(sender)
    }

    fn answer(
        &self,
        response: http::Response<Incoming>,
        key: Key,
        mut sender: SendRequest<WasiBody>,
        options: RequestOptions,
        permits: [OwnedSemaphorePermit; 2],
    ) -> http::Response<WasiBody> {
        let pool = self.pool.clone();
        // It is ready again once the answer has been read. Whoever takes longer gets a new one.
        tokio::spawn(async move {
            if let Ok(Ok(())) = timeout(RETURN_WAIT_MAX, sender.ready()).await {
                pool.put(key, sender);
            }
        });
        let pause_max = options.between_bytes_timeout.unwrap_or(READ_TIMEOUT);
        response.map(|incoming| {
            let body = Answer {
                incoming,
                pause_max,
                pause: None,
                _permits: permits,
            };
            body.boxed_unsync()
        })
    }
}

/// Nothing leaves a node that may not run its instances any more, however long it was prepared.
fn pass(fence: &Fence) -> Result<(), Error> {
    match fence.is_shut() {
        true => Err(Error::HttpRequestDenied),
        false => Ok(()),
    }
}

/// Waits for a place among those at the same time.
async fn place(places: &Arc<Semaphore>, by: Instant) -> Result<OwnedSemaphorePermit, Error> {
    match timeout_at(by, places.clone().acquire_owned()).await {
        Ok(place) => Ok(place.expect("the semaphore is never closed")),
        Err(_) => Err(Error::ConnectionLimitReached),
    }
}

/// Tries the addresses in their order. One that is silent keeps its attempt, but the next one is
/// tried beside it (Happy Eyeballs, RFC 8305 section 5).
async fn first_to_answer(addrs: &[SocketAddr]) -> Result<(SocketAddr, TcpStream), Error> {
    let mut attempts = FuturesUnordered::new();
    let mut untried = addrs.iter();
    let mut last = Error::DestinationUnavailable;
    loop {
        match untried.next() {
            Some(&addr) => attempts.push(async move { (addr, TcpStream::connect(addr).await) }),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        let more = untried.len() > 0;
        tokio::select! {
            Some((addr, result)) = attempts.next() => match result {
                Ok(stream) => return Ok((addr, stream)),
                Err(error) => last = connect_error(&error),
            },
            () = tokio::time::sleep(HEAD_START), if more => {}
        }
    }
}

/// The body of an answer, with a limit on each pause.
struct Answer {
    incoming: Incoming,
    pause_max: Duration,
    pause: Option<Pin<Box<Sleep>>>,
    _permits: [OwnedSemaphorePermit; 2],
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            self.pause = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| hyper_error(&error))));
        }
        let pause_max = self.pause_max.min(TIMEOUT_MAX);
        let pause = self
            .pause
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(pause_max)));
        ready!(pause.as_mut().poll(cx));
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.incoming.size_hint()
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

fn connect_error(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Error::DestinationIpUnroutable
        }
        _ => Error::DestinationUnavailable,
    }
}

fn tls_error(error: &io::Error) -> Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::InvalidCertificate(_)) => Error::TlsCertificateError,
        Some(rustls::Error::AlertReceived(alert)) => Error::TlsAlertReceived {
            alert_id: Some(u8::from(*alert)),
            alert_message: Some(format!("{alert:?}")),
        },
        Some(_) => Error::TlsProtocolError,
        None => Error::ConnectionTerminated,
    }
}

fn hyper_error(error: &hyper::Error) -> Error {
    if error.is_timeout() {
        Error::ConnectionReadTimeout
    } else if error.is_parse() {
        Error::HttpProtocolError
    } else if error.is_user() {
        Error::InternalError(Some(error.to_string()))
    } else {
        Error::ConnectionTerminated
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// No call may take longer, whatever the guest asks for.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
const RETURN_WAIT_MAX: Duration = Duration::from_secs(30);
/// Of one connection; the head of an answer has to fit in.
const BUFFER_BYTES_MAX: usize = 64 << 10;
const ADDRESSES_MAX: usize = 8;
/// Connections of all guests of the node together, idle ones included.
pub const CONNECTIONS_MAX: usize = 1024;
/// Each takes a thread of the blocking pool, which component files and compilation share.
pub(super) const LOOKUPS_MAX: usize = 32;
/// What one address has before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests;
