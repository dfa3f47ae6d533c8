//! How values are written that are stored or sent: one codec for all of them.
//!
//! The first byte says which codec wrote the value ([`NAMED`]: MessagePack, every field under its
//! name). So a value can be read by a version that knows more fields, or fewer:
//!
//! - A field that is new must have a default (`#[serde(default)]`), and is not written while it has
//!   that (`skip_serializing_if`): the former version reads what it always did.
//! - A message between nodes may hold fields that its reader does not know; they are skipped.
//! - What all copies of the state must read alike, [rows](crate::state) and commands, is refused
//!   where a field is not known (`#[serde(deny_unknown_fields)]`): skipping it would make the copies
//!   differ without a word. Nothing of the kind is proposed before all nodes know it.
//! - Names are for ever, and so are the names of an enum's variants.
//!
//! Absent: what the values mean.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Bytes that cannot be read as the value that was expected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is not even the byte that names the codec.
    #[error("it is empty")]
    Empty,
    /// Most likely a later version wrote it.
    #[error("it was written with codec {0}, which this version does not know")]
    UnknownCodec(u8),
    /// It is damaged, or another value.
    #[error("it is not what it should be")]
    Malformed(#[from] rmp_serde::decode::Error),
    /// It is damaged, or another value.
    #[error("{0} bytes follow it")]
    Trailing(usize),
}

/// The codec of this version: MessagePack, fields and variants by name.
pub const NAMED: u8 = 1;

/// Writes a value.
///
/// # Panics
/// When it is no plain data: a map of unknown length, or something that refuses to be written.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    encode_to(&mut bytes, value);
    bytes
}

/// Writes a value behind what is there already.
///
/// # Panics
/// As [`encode`].
pub fn encode_to<T: Serialize>(bytes: &mut Vec<u8>, value: &T) {
    bytes.push(NAMED);
    rmp_serde::encode::write_named(bytes, value).expect("plain data, which can always be written");
}

/// Reads what [`encode`] wrote, all of it.
///
/// # Errors
/// When it is something else.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let mut rest = named(bytes)?;
    let mut reader = rmp_serde::Deserializer::new(&mut rest);
    reader.set_max_depth(DEPTH_MAX);
    let value = T::deserialize(&mut reader)?;
    match rest.len() {
        0 => Ok(value),
        left => Err(Error::Trailing(left)),
    }
}

/// Reads what [`encode`] wrote, with texts and bytes left where they are.
///
/// # Errors
/// When it is something else. What follows a whole value is not noticed.
pub fn decode_borrowed<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(named(bytes)?);
    reader.set_max_depth(DEPTH_MAX);
    Ok(T::deserialize(&mut reader)?)
}

fn named(bytes: &[u8]) -> Result<&[u8], Error> {
    match bytes.split_first() {
        Some((&NAMED, named)) => Ok(named),
        Some((&codec, _)) => Err(Error::UnknownCodec(codec)),
        None => Err(Error::Empty),
    }
}

/// Room for what is written most.
const USUAL_BYTES: usize = 128;

/// How deep values may be nested: far more than any that is written, far less than a call stack holds.
const DEPTH_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Former {
        number: u64,
        kind: Kind,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Kind {
        Plain,
        Named { text: String },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Later {
        number: u64,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        more: Vec<u64>,
        kind: Kind,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        #[expect(dead_code, reason = "it is read")]
        number: u64,
        #[expect(dead_code, reason = "it is read")]
        kind: Kind,
    }

    fn named() -> Kind {
        let text = "a".to_owned();
        Kind::Named { text }
    }

    #[test]
    fn values_are_written_with_names_behind_the_number_of_the_codec() {
        let value = Former {
            number: 300,
            kind: named(),
        };
        let bytes = encode(&value);
        assert_eq!(
            bytes,
            b"\x01\x82\xa6number\xcd\x01\x2c\xa4kind\x81\xa5Named\x81\xa4text\xa1a"
        );
        assert_eq!(decode::<Former>(&bytes).unwrap(), value);
    }

    #[test]
    fn a_later_version_reads_what_a_former_wrote_and_the_other_way_round() {
        let kind = Kind::Plain;
        let former = encode(&Former { number: 1, kind });
        let kind = Kind::Plain;
        let more = Vec::new();
        let same = Later {
            number: 1,
            more,
            kind,
        };
        assert_eq!(decode::<Later>(&former).unwrap(), same);
        assert_eq!(encode(&same), former, "nothing new is written in vain");
        let more = vec![7];
        let later = encode(&Later { more, ..same });
        assert_eq!(decode::<Former>(&later).unwrap().number, 1);
        let error = decode::<Strict>(&later).unwrap_err();
        let Error::Malformed(error) = error else {
            panic!("{error}");
        };
        assert!(
            error.to_string().contains("unknown field `more`"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_value_is_refused() {
        assert!(matches!(decode::<u64>(&[]), Err(Error::Empty)));
        let foreign = decode::<u64>(&[0, 7]);
        assert!(matches!(foreign, Err(Error::UnknownCodec(0))));
        let mut bytes = encode(&7_u64);
        assert_eq!(decode::<u64>(&bytes).unwrap(), 7);
        bytes.push(0);
        assert!(matches!(decode::<u64>(&bytes), Err(Error::Trailing(1))));
        // Not within reach of a call stack.
        let deep = [&[NAMED][..], &[0x91].repeat(100_000)].concat();
        #[derive(Debug, Deserialize)]
        struct Deep(#[expect(dead_code, reason = "it is read")] Vec<Deep>);
        assert!(matches!(decode::<Deep>(&deep), Err(Error::Malformed(_))));
    }
}
