//! How TCP connections between nodes are set up and read.

use std::{io, net::SocketAddr, time::Duration};

use bytes::BytesMut;
use rustix::net::sockopt;
use tokio::net::TcpStream;

/// Sets what every connection between nodes has: no delay for small frames, and an end within about
/// `silence_max` when the other host no longer answers, idle or not.
pub(super) fn prepare(stream: &TcpStream, silence_max: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    // The kernel counts whole seconds here. The user timeout decides when it is over.
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(1))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(1))?;
    let silence_ms = u32::try_from(silence_max.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, silence_ms)?;
    Ok(())
}

/// Reads what is there, at least one byte; the other side's end is an error.
pub(super) async fn fill(stream: &TcpStream, read: &mut BytesMut) -> io::Result<()> {
    loop {
        stream.readable().await?;
        read.reserve(READ_BYTES_MIN);
        match stream.try_read_buf(read) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

/// Says to the other side that nothing more comes.
pub(super) fn finish(stream: &TcpStream) -> io::Result<()> {
    Ok(rustix::net::shutdown(stream, rustix::net::Shutdown::Write)?)
}

/// Whether two addresses are one, in whatever form the system wrote them.
pub(super) fn same(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && a.ip().to_canonical() == b.ip().to_canonical()
}

const READ_BYTES_MIN: usize = 16 * 1024;
