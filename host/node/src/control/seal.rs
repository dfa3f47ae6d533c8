//! What is stored, each value with a checksum of its place and its bytes.
//!
//! The database finds a page that was torn; this finds bytes that were altered on their way to it, on the
//! disk, or since. The place is part of it: a value at another's place is altered as well.

use xxhash_rust::xxh3::Xxh3;

/// The value of this place does not have its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its checksum is wrong: it was altered after it was written")]
pub(crate) struct Altered;

/// A value as it is stored: the checksum, 8 bytes with the lowest first, and the bytes.
pub(crate) fn seal(place: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(CHECKSUM_BYTES + value.len());
    sealed.extend_from_slice(&checksum(place, value));
    sealed.extend_from_slice(value);
    sealed
}

/// The value in what is stored.
pub(crate) fn unseal<'a>(place: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], Altered> {
    let (sum, value) = sealed.split_at_checked(CHECKSUM_BYTES).ok_or(Altered)?;
    match sum == checksum(place, value) {
        true => Ok(value),
        false => Err(Altered),
    }
}

fn checksum(place: &[u8], value: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hash = Xxh3::new();
    hash.update(&(place.len() as u64).to_le_bytes());
    hash.update(place);
    hash.update(value);
    hash.digest().to_le_bytes()
}

const CHECKSUM_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_a_stored_value_counts_and_so_does_its_place() {
        let sealed = seal(b"place", b"value");
        assert_eq!(unseal(b"place", &sealed), Ok(&b"value"[..]));
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(b"place", &altered), Err(Altered), "bit {bit}");
        }
        assert_eq!(unseal(b"palce", &sealed), Err(Altered));
        for len in 0..sealed.len() {
            assert_eq!(
                unseal(b"place", &sealed[..len]),
                Err(Altered),
                "{len} bytes"
            );
        }
    }
}
