//! The API token: what callers of the HTTP API must show.

use std::{fmt, io, path::Path, sync::Arc};

use arc_swap::{ArcSwapOption, Guard};

use sha2::{Digest, Sha256};

/// A bearer token, of which only the hash is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

/// The token that counts now, where there is one: it can be replaced while the node runs. Clones share
/// it.
#[derive(Clone, Debug, Default)]
pub struct Current(Arc<ArcSwapOption<Token>>);

impl Current {
    /// What callers must show; they need show nothing when there is none.
    #[must_use]
    pub fn new(token: Option<Token>) -> Self {
        Self(Arc::new(ArcSwapOption::from_pointee(token)))
    }

    /// The token.
    #[must_use]
    pub fn load(&self) -> Guard<Option<Arc<Token>>> {
        self.0.load()
    }

    /// Whether callers must show one.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.load().is_some()
    }

    /// Has callers show this one from now on. Says whether it is another than before.
    pub fn replace(&self, token: Token) -> bool {
        let former = self.0.swap(Some(Arc::new(token.clone())));
        former.as_deref() != Some(&token)
    }
}

/// A token that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("read the API token from {file}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is too short to be a secret, or no header can carry it.
    #[error("the API token must be at least {BYTES_MIN} printable ASCII characters without spaces")]
    Unfit,
}

impl Token {
    /// Takes a token as text; white space around it does not count.
    ///
    /// # Errors
    /// When it is too short, or no header can carry it.
    pub fn new(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.len() < BYTES_MIN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::Unfit);
        }
        Ok(Self(Sha256::digest(text).into()))
    }

    /// Reads a token from a file.
    ///
    /// # Errors
    /// When the file cannot be read, or has no token.
    pub fn read(file: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(file).map_err(|source| Error::Read {
            file: file.display().to_string(),
            source,
        })?;
        Self::new(&text)
    }

    /// Its hash, for the next run in this process.
    pub(crate) fn hash(&self) -> [u8; 32] {
        self.0
    }

    /// The token with this hash.
    pub(crate) fn of_hash(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// Whether this is the token. Hashes are compared, so that the time it takes tells nothing.
    #[must_use]
    pub fn is(&self, shown: &[u8]) -> bool {
        let shown: [u8; 32] = Sha256::digest(shown).into();
        shown == self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

const BYTES_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_token_is_taken() {
        let token = Token::new(" 0123456789abcdef\n").unwrap();
        assert!(token.is(b"0123456789abcdef"));
        for other in [
            &b""[..],
            b"0123456789abcdeF",
            b"0123456789abcdef0",
            b" 0123456789abcdef",
        ] {
            assert!(!token.is(other));
        }
    }

    #[test]
    fn short_and_unprintable_tokens_are_refused() {
        for bad in ["", "short", "0123456789 abcdef", "0123456789abcdéf"] {
            assert!(Token::new(bad).is_err(), "{bad}");
        }
    }
}
