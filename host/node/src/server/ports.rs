//! The ports of a node: bound, or taken over from the run before.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, UdpSocket},
    time::Instant,
};

use super::Error;
use crate::config::NodeConfig;

/// Where peers reach the node: TCP and UDP of the same number. A port that is in use may be
/// somebody's for a moment only, where another run has just ended.
pub(super) async fn peers(
    config: &NodeConfig,
) -> Result<(TcpListener, UdpSocket, SocketAddr), Error> {
    let deadline = Instant::now() + config.port_patience;
    loop {
        match bind_peers(config.listen).await {
            Err(Error::Listen { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {}
            bound => return bound,
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn bind_peers(addr: SocketAddr) -> Result<(TcpListener, UdpSocket, SocketAddr), Error> {
    let failed = |what| move |source| Error::Listen { what, addr, source };
    for _ in 0..TRIES {
        let listener = TcpListener::bind(addr)
            .await
            .map_err(failed("peers (TCP)"))?;
        let bound = listener.local_addr().map_err(failed("peers (TCP)"))?;
        match UdpSocket::bind(bound).await {
            Ok(socket) => return Ok((listener, socket, bound)),
            // The port was free for TCP only; with port 0 another one will do.
            Err(error) if addr.port() == 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            Err(source) => return Err(failed("peers (UDP)")(source)),
        }
    }
    let source = io::Error::from(io::ErrorKind::AddrInUse);
    Err(Error::Listen {
        what: "peers (UDP)",
        addr,
        source,
    })
}

/// The HTTP API's: the listener that the run before has left, if there was one.
pub(super) async fn http(config: &NodeConfig) -> Result<(TcpListener, SocketAddr), Error> {
    let addr = config.http;
    let failed = |source| Error::Listen {
        what: "HTTP",
        addr,
        source,
    };
    let listener = match &config.http_listener {
        None => TcpListener::bind(addr).await.map_err(failed)?,
        Some(left) => take_over(left).map_err(Error::Inherited)?,
    };
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn take_over(left: &std::net::TcpListener) -> io::Result<TcpListener> {
    let listener = left.try_clone()?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// How soon a port that is in use is tried again.
const POLL: Duration = Duration::from_millis(50);

/// How many free TCP ports are tried until one is free for UDP too.
const TRIES: usize = 16;
