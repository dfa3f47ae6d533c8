//! The ports of a node: bound, or taken over from the run before.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

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

/// The listener for peers once more: it is open until this ends, whatever becomes of the task that
/// accepts from it. Peers take a closed one for the end of the instances.
#[derive(Default)]
pub(super) struct Held(Option<OwnedFd>);

impl Held {
    pub(super) fn hold(&mut self, listener: &TcpListener) -> io::Result<()> {
        self.0 = Some(listener.as_fd().try_clone_to_owned()?);
        Ok(())
    }

    /// No instance is left. The listener closes with the task that accepts, before the connections
    /// of peers break: so they see it at once.
    pub(super) fn release(&mut self) {
        self.0 = None;
    }
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::io::{FdFlags, fcntl_getfd};

    use super::*;

    fn closes_on_exec(socket: impl AsFd) -> bool {
        fcntl_getfd(socket).unwrap().contains(FdFlags::CLOEXEC)
    }

    /// A program that takes the place of this one, or one that it starts, would keep it open.
    #[tokio::test]
    async fn what_peers_connect_to_is_not_passed_on_to_another_program() {
        let any = "127.0.0.1:0".parse().unwrap();
        let (listener, socket, _) = bind_peers(any).await.unwrap();
        assert!(closes_on_exec(&listener) && closes_on_exec(&socket));
        let mut held = Held::default();
        held.hold(&listener).unwrap();
        assert!(closes_on_exec(held.0.as_ref().unwrap()));
        let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(stream, listener.accept());
        assert!(closes_on_exec(near.unwrap()) && closes_on_exec(far.unwrap().0));
    }

    #[tokio::test]
    async fn a_held_listener_is_open_until_it_is_released() {
        let any = "127.0.0.1:0".parse().unwrap();
        let (listener, _socket, addr) = bind_peers(any).await.unwrap();
        let mut held = Held::default();
        held.hold(&listener).unwrap();
        drop(listener);
        std::net::TcpStream::connect(addr).unwrap();
        held.release();
        let refused = std::net::TcpStream::connect(addr).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
