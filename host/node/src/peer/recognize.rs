//! Who listens on a cluster port, as far as it tells anybody.
//!
//! Absent: the secret, and with it any proof. What answers may be anything that speaks the protocol:
//! good enough to tell people what is there, and for nothing else.

use std::net::SocketAddr;

use holdfast_model::ClusterName;
use tokio::{net::TcpStream, time::timeout};

use super::{HelloError, Options, handshake};

/// The name of the cluster whose node listens on `addr`. The node takes the question for a peer's of
/// the cluster `pretended`, and names that where it logs that it refused.
///
/// # Errors
/// When nothing answers there in time, or no node.
pub async fn recognize(
    addr: SocketAddr,
    pretended: &ClusterName,
) -> Result<ClusterName, HelloError> {
    let options = Options::default();
    let after = options.connect_time;
    let mut stream = match timeout(after, TcpStream::connect(addr)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(source)) => return Err(HelloError::Connect { addr, source }),
        Err(_elapsed) => return Err(HelloError::TimedOut { addr, after }),
    };
    let after = options.handshake_time;
    timeout(after, handshake::recognize(&mut stream, pretended))
        .await
        .map_err(|_elapsed| HelloError::TimedOut { addr, after })?
        .map_err(|failure| failure.at(addr))
}
