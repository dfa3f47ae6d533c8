//! The secret that all nodes of a cluster share, and the keys made from it.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    str::FromStr,
};

use hmac::{Hmac, Mac};
use holdfast_model::ClusterName;
use rand::{TryRng, rngs::SysRng};
use sha2::Sha256;

use super::private;

/// A cluster's secret. Whoever has it is a member; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// A key made from a [`Secret`] for one purpose in one cluster. `Debug` does not show it.
#[derive(Clone)]
pub struct Key([u8; 32]);

/// Why something is no usable secret.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSecret {
    /// It has too few bytes to resist guessing.
    #[error(
        "the cluster secret has {bytes} bytes, at least {} are needed: make one with \
         `head -c 32 /dev/urandom | base64`",
        Secret::BYTES_MIN
    )]
    Short {
        /// Its length without surrounding white space.
        bytes: usize,
    },
    /// Its file cannot be read.
    #[error("read the cluster secret from {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Secret {
    /// The least length, white space around it not counted.
    pub const BYTES_MIN: usize = 16;

    /// A new one: 32 bytes of the kernel's randomness, in hexadecimal.
    #[must_use]
    pub fn generate() -> Self {
        let mut text = Vec::with_capacity(64);
        for byte in random::<32>() {
            write!(text, "{byte:02x}").expect("a Vec takes every write");
        }
        Self(text)
    }

    /// Reads it from a file; white space around it is dropped.
    ///
    /// # Errors
    /// The file cannot be read or its content is too short.
    pub fn read(path: &Path) -> Result<Self, InvalidSecret> {
        let bytes = fs::read(path).map_err(|source| InvalidSecret::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::new(&bytes)
    }

    /// Writes it to a new file that only its owner can read.
    ///
    /// # Errors
    /// The file exists already or cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = private::open(path, OpenOptions::new().create_new(true))?;
        file.write_all(&self.0)?;
        file.write_all(b"\n")?;
        file.sync_all()
    }

    /// The key with which peers prove that they belong to `cluster`.
    #[must_use]
    pub fn handshake_key(&self, cluster: &ClusterName) -> Key {
        self.key(cluster, b"holdfast peer handshake 1")
    }

    /// The key that seals gossip packets of `cluster`.
    #[must_use]
    pub fn gossip_key(&self, cluster: &ClusterName) -> Key {
        self.key(cluster, b"holdfast gossip seal 1")
    }

    /// HKDF-SHA256 (RFC 5869): the cluster's name is the salt, the purpose the info.
    fn key(&self, cluster: &ClusterName, purpose: &[u8]) -> Key {
        Key(expand(
            &extract(cluster.as_str().as_bytes(), &self.0),
            purpose,
        ))
    }

    /// Its bytes, for the next run in this process.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Takes its bytes; white space around them does not count.
    ///
    /// # Errors
    /// When there are too few.
    pub(crate) fn new(bytes: &[u8]) -> Result<Self, InvalidSecret> {
        let bytes = bytes.trim_ascii();
        if bytes.len() < Self::BYTES_MIN {
            return Err(InvalidSecret::Short { bytes: bytes.len() });
        }
        Ok(Self(bytes.to_owned()))
    }
}

impl FromStr for Secret {
    type Err = InvalidSecret;
    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        Self::new(text.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Key {
    /// The raw key, for a cipher.
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// HMAC-SHA256 under this key over the parts, one after the other. The caller makes sure that
    /// their lengths cannot be confused.
    pub(crate) fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        hmac(&self.0, parts).finalize().into_bytes().into()
    }

    /// Whether `mac` is [`Key::mac`] of the parts, in constant time.
    pub(crate) fn verifies(&self, parts: &[&[u8]], mac: &[u8]) -> bool {
        hmac(&self.0, parts).verify_slice(mac).is_ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Bytes from the kernel's random source.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SysRng
        .try_fill_bytes(&mut bytes)
        .expect("getrandom does not fail once Linux has booted");
    bytes
}

/// HKDF-Extract (RFC 5869, section 2.2).
pub(super) fn extract(salt: &[u8], secret: &[u8]) -> [u8; 32] {
    hmac(salt, &[secret]).finalize().into_bytes().into()
}

/// The first block of HKDF-Expand (RFC 5869, section 2.3): all that a key of 32 bytes needs.
pub(super) fn expand(extracted: &[u8; 32], info: &[u8]) -> [u8; 32] {
    hmac(extracted, &[info, &[1]])
        .finalize()
        .into_bytes()
        .into()
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac =
        <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac
}
