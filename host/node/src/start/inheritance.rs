//! What a run leaves to the next one in the same process, across `exec`: its ports, and what only
//! whoever started the process could give, as the cluster's secret.
//!
//! Descriptors keep their numbers: to move one onto a number that is in use would take from this
//! process, whose threads still run, what it works with. So they are passed by numbers that nobody
//! uses, as sockets of `sd_listen_fds(3)`, whose range is made to reach that far.
//!
//! Secrets wait in a socket, which no file system shows and whose other end is closed: the files that
//! they came from may be gone.

use std::{
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsRawFd as _, OwnedFd, RawFd},
        unix::net::UnixDatagram,
    },
    process::Command,
    sync::Arc,
};

use anyhow::Context as _;
use command_fds::CommandFdExt as _;
use listenfd::ListenFd;
use serde::{Deserialize, Serialize};

use crate::{
    identity::Secret,
    server::{Succession, Why},
    token::Token,
};

/// What the run before has left.
pub(super) struct Inheritance {
    /// Where peers reach the node, which may have been any port that was free.
    pub(super) cluster: SocketAddr,
    /// The listener of the HTTP API.
    pub(super) http: Arc<TcpListener>,
    /// Whether the run before was asked to make place for this one: then files may be meant to be
    /// read again.
    pub(super) announced: bool,
    pub(super) secret: Option<Secret>,
    pub(super) token: Option<Token>,
}

/// What is in the socket.
#[derive(Serialize, Deserialize)]
struct Kept {
    announced: bool,
    secret: Option<Vec<u8>>,
    /// Its hash.
    token: Option<[u8; 32]>,
}

impl Inheritance {
    /// Takes what the run before has left, if there was one.
    pub(super) fn take() -> anyhow::Result<Option<Self>> {
        let Ok(cluster) = std::env::var(FORMER) else {
            return Ok(None);
        };
        let cluster = cluster.parse().with_context(|| format!("read {FORMER}"))?;
        let numbers = std::env::var(NUMBERS).unwrap_or_default();
        let numbers: Vec<usize> = numbers
            .split(',')
            .filter_map(|number| number.parse().ok())
            .collect();
        let [http, kept] = numbers[..] else {
            anyhow::bail!("{NUMBERS} has no two numbers in it, but {numbers:?}");
        };
        let mut passed = ListenFd::from_env();
        let place = |number: usize| number.wrapping_sub(FIRST as usize);
        let http = passed.take_tcp_listener(place(http));
        let http = http.context("take the listener that the run before has left")?;
        let http = http.with_context(|| format!("{FORMER} is set, and no listener was left"))?;
        let kept = passed.take_unix_datagram(place(kept));
        let kept = kept.context("take the secrets that the run before has left")?;
        let kept = kept.with_context(|| format!("{FORMER} is set, and no secrets were left"))?;
        let kept = read(&kept).context("read the secrets that the run before has left")?;
        let secret = kept.secret.map(|bytes| Secret::new(&bytes)).transpose()?;
        Ok(Some(Self {
            cluster,
            http: Arc::new(http),
            announced: kept.announced,
            secret,
            token: kept.token.map(Token::of_hash),
        }))
    }
}

/// Has a command that takes the place of this process leave these to it.
pub(super) fn leave(
    command: &mut Command,
    succession: &Succession,
    token: Option<&Token>,
) -> anyhow::Result<()> {
    let http: OwnedFd = succession.http.try_clone()?.into();
    let kept: OwnedFd = keep(&Kept {
        announced: succession.why == Why::Announced,
        secret: Some(succession.secret.bytes().to_owned()),
        token: token.map(Token::hash),
    })?
    .into();
    let numbers = [http.as_raw_fd(), kept.as_raw_fd()];
    let count = numbers.into_iter().max().unwrap_or(FIRST) - FIRST + 1;
    command
        .env(FORMER, succession.cluster.to_string())
        .env(NUMBERS, format!("{},{}", numbers[0], numbers[1]))
        .env("LISTEN_FDS", count.to_string())
        .env("LISTEN_PID", std::process::id().to_string())
        // They are to close at any other `exec`; this marks them right before this one.
        .preserved_fds(vec![http, kept]);
    Ok(())
}

/// Puts them where the next run finds them.
fn keep(kept: &Kept) -> anyhow::Result<UnixDatagram> {
    let (write, read) = UnixDatagram::pair()?;
    write.send(&serde_json::to_vec(kept)?)?;
    Ok(read)
}

fn read(socket: &UnixDatagram) -> anyhow::Result<Kept> {
    // All of it is there.
    socket.set_nonblocking(true)?;
    let mut bytes = vec![0; KEPT_BYTES_MAX];
    let length = socket.recv(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes[..length])?)
}

/// Tells a run that was started anew the address for peers of the one before.
const FORMER: &str = "HOLDFAST_FORMER_RUN";

/// Tells it the numbers of the listener and of the socket with the secrets.
const NUMBERS: &str = "HOLDFAST_FORMER_FDS";

/// Where the range of `sd_listen_fds(3)` begins.
const FIRST: RawFd = 3;

/// Longer than any secret.
const KEPT_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_once_its_writer_is_gone() {
        let kept = Kept {
            announced: true,
            secret: Some(b"0123456789abcdef".to_vec()),
            token: Some([7; 32]),
        };
        let read = read(&keep(&kept).unwrap()).unwrap();
        assert_eq!(
            (read.announced, read.secret, read.token),
            (true, kept.secret, kept.token)
        );
    }
}
