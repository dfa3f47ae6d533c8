//! How a gossip packet is sealed.
//!
//! ```text
//! "HFG" · u8 version · 8 bytes of the cluster name's hash · 16 bytes of cluster id      header
//! 24 bytes of nonce · ciphertext · 16 bytes of tag            XChaCha20-Poly1305 (RFC 8439, draft-irtf-cfrg-xchacha)
//! ```
//!
//! The header is authenticated, not encrypted. The key depends on the secret and the cluster's name
//! but not on its id: that is how a cluster hears of another one that was founded under its name.
//! Nonces are random: with 192 bits they do not meet.

use chacha20poly1305::{AeadInPlace, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use holdfast_model::{ClusterId, ClusterName};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::identity::{Key, random};

/// Seals and opens the packets of one cluster.
pub(super) struct Seal {
    cipher: XChaCha20Poly1305,
    header: [u8; HEADER],
}

/// What a packet turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened<'a> {
    /// Our cluster's; this is what it says.
    Ours(&'a [u8]),
    /// Of another cluster with our name and our secret.
    NameTaken(ClusterId),
    /// Not for us, or not genuine.
    Foreign,
}

impl Seal {
    pub(super) fn new(cluster: &ClusterName, cluster_id: ClusterId, key: &Key) -> Self {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(MAGIC);
        header[4..ID].copy_from_slice(&Sha256::digest(cluster.as_str())[..8]);
        header[ID..].copy_from_slice(cluster_id.0.as_bytes());
        Self {
            cipher: XChaCha20Poly1305::new(key.bytes().into()),
            header,
        }
    }

    /// Seals what a packet says.
    pub(super) fn close(&self, plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE] = random();
        let mut packet = Vec::with_capacity(OVERHEAD + plain.len());
        packet.extend_from_slice(&self.header);
        packet.extend_from_slice(&nonce);
        packet.extend_from_slice(plain);
        let nonce = XNonce::from_slice(&nonce);
        let tag = self
            .cipher
            .encrypt_in_place_detached(nonce, &self.header, &mut packet[HEADER + NONCE..])
            .expect("a packet is far below the 256 GiB that the cipher can take");
        packet.extend_from_slice(&tag);
        packet
    }

    /// Opens a packet in place.
    pub(super) fn open<'a>(&self, packet: &'a mut [u8]) -> Opened<'a> {
        if packet.len() < OVERHEAD || packet[..ID] != self.header[..ID] {
            return Opened::Foreign;
        }
        let (header, rest) = packet.split_at_mut(HEADER);
        let (nonce, rest) = rest.split_at_mut(NONCE);
        let (body, tag) = rest.split_at_mut(rest.len() - TAG);
        let (nonce, tag) = (XNonce::from_slice(nonce), Tag::from_slice(tag));
        if self
            .cipher
            .decrypt_in_place_detached(nonce, header, body, tag)
            .is_err()
        {
            return Opened::Foreign;
        }
        if *header != self.header {
            let id = header[ID..]
                .try_into()
                .expect("16 bytes follow the name's hash");
            return Opened::NameTaken(ClusterId(Uuid::from_bytes(id)));
        }
        Opened::Ours(body)
    }
}

/// Bytes that sealing adds to a packet.
pub(super) const OVERHEAD: usize = HEADER + NONCE + TAG;
const MAGIC: &[u8; 4] = b"HFG\x01";
/// Where the cluster's id begins.
const ID: usize = 4 + 8;
const HEADER: usize = ID + 16;
const NONCE: usize = 24;
const TAG: usize = 16;
