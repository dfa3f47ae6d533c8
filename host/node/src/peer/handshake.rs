//! How two nodes convince each other that they belong to the same cluster.
//!
//! ```text
//! dialer                                            acceptor
//!   cluster name, nonce                       ->
//!                                             <-    nonce, or a refusal
//!   MAC, identity, purpose                    ->
//!                                             <-    MAC, identity and address, or a refusal
//! ```
//!
//! Each MAC is HMAC-SHA256 under a key made from the cluster's secret, over the sender's role and
//! *all* messages so far with its own new one. Both nonces are in there, so a recording of another
//! handshake proves nothing; the roles differ, so a proof cannot be mirrored. The dialer goes first:
//! whoever connects learns nothing but the reason of a refusal before having proven the secret.
//!
//! Absent on purpose: encryption, and authentication of the frames that follow. Whoever can rewrite
//! packets between nodes can act as a member; the network between nodes must be private.

use std::{io, net::SocketAddr};

use holdfast_cluster::codec::{self, encode};
use holdfast_model::ClusterName;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{HelloError, Refusal, info::Identity};
use crate::identity::{Key, random};

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// Only to get to know each other: it ends with the handshake.
    Hello,
    /// Frames of [`Lane::Control`](super::Lane).
    Control,
    /// Frames of [`Lane::Data`](super::Lane).
    Data,
}

/// The acceptor as the dialer got to know it.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) identity: Identity,
    pub(super) ends: Ends,
}

/// The two ends of a connection, as the acceptor's socket has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ends {
    pub(super) acceptor: SocketAddr,
    pub(super) dialer: SocketAddr,
}

/// How a handshake failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the connection broke during the handshake")]
    Io(#[from] io::Error),
    #[error("the other side does not speak the protocol of Holdfast peers")]
    Foreign,
    #[error(transparent)]
    Refused(Refusal),
}

impl Failure {
    /// The same, of a handshake with whoever listens on `addr`.
    pub(super) fn at(self, addr: SocketAddr) -> HelloError {
        match self {
            Self::Io(source) => HelloError::Broken { addr, source },
            Self::Foreign => HelloError::NotHoldfast { addr },
            Self::Refused(reason) => HelloError::Refused { addr, reason },
        }
    }
}

/// The dialer's side.
pub(super) async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    me: &Identity,
    cluster: &ClusterName,
    key: &Key,
    purpose: Purpose,
) -> Result<Accepted, Failure> {
    let mut transcript = Vec::new();
    if let Challenge::Refused(refusal) = greet(stream, &mut transcript, cluster).await? {
        // Whoever says this must have proven the secret before: a node ends by it.
        return Err(match refusal {
            Refusal::Removed(_) | Refusal::Twin { .. } => Failure::Foreign,
            refusal => Failure::Refused(refusal),
        });
    }

    let claim = encode(&Claim {
        identity: me.clone(),
        purpose,
    });
    let mac = key.mac(&[DIALER, &transcript, &claim]);
    send(stream, &mut transcript, &[&mac[..], &claim].concat()).await?;

    let before = transcript.clone();
    let (_, answer) = receive(stream, &mut transcript).await?;
    let (mac, verdict) = answer.split_at_checked(MAC).ok_or(Failure::Foreign)?;
    // Whatever it says: without the proof it comes from somebody with another secret.
    if !key.verifies(&[ACCEPTOR, &before, verdict], mac) {
        return Err(Failure::Refused(Refusal::WrongSecret));
    }
    match decode(verdict)? {
        Verdict::Welcome { identity, ends } => Ok(Accepted {
            identity: *identity,
            ends,
        }),
        Verdict::Refused(refusal) => Err(Failure::Refused(refusal)),
    }
}

/// Asks of which cluster the acceptor is, without proving anything: a refusal says as much to
/// anybody.
pub(super) async fn recognize<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    pretended: &ClusterName,
) -> Result<ClusterName, Failure> {
    match greet(stream, &mut Vec::new(), pretended).await? {
        Challenge::Nonce(_) => Ok(pretended.clone()),
        Challenge::Refused(Refusal::OtherCluster { acceptor, .. }) => Ok(acceptor),
        Challenge::Refused(refusal) => Err(Failure::Refused(refusal)),
    }
}

/// The first message of the dialer, and what the acceptor says to it.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    transcript: &mut Vec<u8>,
    cluster: &ClusterName,
) -> Result<Challenge, Failure> {
    let hello = Hello {
        cluster: cluster.clone(),
        nonce: random(),
    };
    send(stream, transcript, &encode(&hello)).await?;
    let (version, challenge) = receive(stream, transcript).await?;
    if version != VERSION {
        return Err(Failure::Refused(Refusal::Version {
            acceptor: version,
            dialer: VERSION,
        }));
    }
    decode(&challenge)
}

/// The acceptor's side. `judge` decides on the dialer's identity once that is proven; a refusal is
/// told to the dialer.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    ends: Ends,
    me: &Identity,
    cluster: &ClusterName,
    key: &Key,
    judge: impl FnOnce(&Identity) -> Result<(), Refusal>,
) -> Result<(Identity, Purpose), Failure> {
    let mut transcript = Vec::new();
    let (version, hello) = receive(stream, &mut transcript).await?;
    if version != VERSION {
        // An answer of any content: its prefix names our version.
        send(stream, &mut transcript, &[]).await?;
        return Err(Failure::Refused(Refusal::Version {
            acceptor: VERSION,
            dialer: version,
        }));
    }
    let hello: Hello = decode(&hello)?;
    if hello.cluster != *cluster {
        let refusal = Refusal::OtherCluster {
            acceptor: cluster.clone(),
            dialer: hello.cluster,
        };
        send(
            stream,
            &mut transcript,
            &encode(&Challenge::Refused(refusal.clone())),
        )
        .await?;
        return Err(Failure::Refused(refusal));
    }
    send(
        stream,
        &mut transcript,
        &encode(&Challenge::Nonce(random())),
    )
    .await?;

    let before = transcript.clone();
    let (_, proof) = receive(stream, &mut transcript).await?;
    let (mac, claim) = proof.split_at_checked(MAC).ok_or(Failure::Foreign)?;
    if !key.verifies(&[DIALER, &before, claim], mac) {
        // No MAC of ours for somebody who may be collecting them to guess the secret.
        let verdict = encode(&Verdict::Refused(Refusal::WrongSecret));
        send(stream, &mut transcript, &[&[0; MAC][..], &verdict].concat()).await?;
        return Err(Failure::Refused(Refusal::WrongSecret));
    }
    let claim: Claim = decode(claim)?;
    let judged = judge(&claim.identity);
    let verdict = encode(&match &judged {
        Ok(()) => Verdict::Welcome {
            identity: Box::new(me.clone()),
            ends,
        },
        Err(refusal) => Verdict::Refused(refusal.clone()),
    });
    let mac = key.mac(&[ACCEPTOR, &transcript, &verdict]);
    send(stream, &mut transcript, &[&mac[..], &verdict].concat()).await?;
    judged.map_err(Failure::Refused)?;
    Ok((claim.identity, claim.purpose))
}

#[derive(Serialize, Deserialize)]
struct Hello {
    cluster: ClusterName,
    #[serde(with = "serde_bytes")]
    nonce: [u8; 32],
}

#[derive(Serialize, Deserialize)]
enum Challenge {
    Nonce(#[serde(with = "serde_bytes")] [u8; 32]),
    Refused(Refusal),
}

#[derive(Serialize, Deserialize)]
struct Claim {
    identity: Identity,
    purpose: Purpose,
}

#[derive(Serialize, Deserialize)]
enum Verdict {
    Welcome { identity: Box<Identity>, ends: Ends },
    Refused(Refusal),
}

/// Sends one message: magic, version, length, body. The first two stay for ever, so that any two
/// versions can tell each other apart.
async fn send<S: AsyncWrite + Unpin>(
    stream: &mut S,
    transcript: &mut Vec<u8>,
    body: &[u8],
) -> Result<(), Failure> {
    let length = u16::try_from(body.len()).map_err(|_| Failure::Foreign)?;
    let start = transcript.len();
    transcript.extend_from_slice(MAGIC);
    transcript.extend_from_slice(&VERSION.to_le_bytes());
    transcript.extend_from_slice(&length.to_le_bytes());
    transcript.extend_from_slice(body);
    stream.write_all(&transcript[start..]).await?;
    Ok(())
}

async fn receive<S: AsyncRead + Unpin>(
    stream: &mut S,
    transcript: &mut Vec<u8>,
) -> Result<(u16, Vec<u8>), Failure> {
    let mut prefix = [0; 8];
    stream.read_exact(&mut prefix).await?;
    let version = u16::from_le_bytes([prefix[4], prefix[5]]);
    let length = usize::from(u16::from_le_bytes([prefix[6], prefix[7]]));
    if prefix[..4] != *MAGIC || length > MESSAGE_BYTES_MAX {
        return Err(Failure::Foreign);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    transcript.extend_from_slice(&prefix);
    transcript.extend_from_slice(&body);
    Ok((version, body))
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    codec::decode(body).map_err(|_| Failure::Foreign)
}

/// Version of the handshake, of the frames, and of what is in [`Identity`].
pub(super) const VERSION: u16 = 4;
const MAGIC: &[u8; 4] = b"HFPR";
const MAC: usize = 32;
const MESSAGE_BYTES_MAX: usize = 4096;
const DIALER: &[u8] = b"dialer";
const ACCEPTOR: &[u8] = b"acceptor";
