//! The form of a frame, which is all that travels on a connection after the handshake.
//!
//! ```text
//! u32 length of the rest · u8 type · u64 call · u16 kind · payload      (little-endian)
//! ```

use bytes::{Buf, Bytes, BytesMut};

use super::Kind;

/// One frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) ty: Type,
    /// Which call it belongs to: chosen by the caller, unique on its connection.
    pub(super) call: u64,
    /// What is asked; 0 in answers.
    pub(super) kind: Kind,
    pub(super) payload: Bytes,
}

/// What a frame does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// Asks. From the side that dialed.
    Request = 1,
    /// Answers.
    Response = 2,
    /// Answers that the request failed; the payload is the reason as text.
    Error = 3,
    /// Answers that the request was not looked at because too much is going on.
    Busy = 4,
    /// The caller no longer waits. From the side that dialed.
    Cancel = 5,
    /// Every request that was acted on has its answer before this: the others were not looked at, and
    /// none will be. From the side that accepted, which ends the connection; the call is 0.
    Over = 6,
}

/// Bytes that are no frame. The connection that brought them is of no more use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a frame of {bytes} bytes is longer than the {max} allowed")]
    Long { bytes: usize, max: usize },
    #[error("a frame of {bytes} bytes is shorter than its header")]
    Short { bytes: usize },
    #[error("frame type {0} is not known")]
    Type(u8),
}

impl Type {
    fn of(byte: u8) -> Result<Self, Malformed> {
        [
            Self::Request,
            Self::Response,
            Self::Error,
            Self::Busy,
            Self::Cancel,
            Self::Over,
        ]
        .into_iter()
        .find(|ty| *ty as u8 == byte)
        .ok_or(Malformed::Type(byte))
    }
}

/// The header of a frame whose payload has `payload_bytes` bytes.
pub(super) fn header(ty: Type, call: u64, kind: Kind, payload_bytes: usize) -> [u8; HEADER] {
    let length = u32::try_from(HEADER - PREFIX + payload_bytes)
        .expect("frames are checked against `Options::frame_bytes_max`, which is below 4 GiB");
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = ty as u8;
    header[5..13].copy_from_slice(&call.to_le_bytes());
    header[13..].copy_from_slice(&kind.0.to_le_bytes());
    header
}

/// Takes the next whole frame off the front of what was read; `None` when more must be read first.
pub(super) fn take(read: &mut BytesMut, bytes_max: usize) -> Result<Option<Frame>, Malformed> {
    let Some(prefix) = read.first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*prefix) as usize;
    let bytes = PREFIX + length;
    if bytes > bytes_max {
        return Err(Malformed::Long {
            bytes,
            max: bytes_max,
        });
    }
    if bytes < HEADER {
        return Err(Malformed::Short { bytes });
    }
    if read.len() < bytes {
        // Known length: one allocation instead of one per doubling.
        read.reserve(bytes - read.len());
        return Ok(None);
    }
    read.advance(PREFIX);
    let ty = Type::of(read.get_u8())?;
    let call = read.get_u64_le();
    let kind = Kind(read.get_u16_le());
    let payload_bytes = bytes - HEADER;
    // A small payload that lives on must not hold the whole read buffer in memory.
    let payload = if payload_bytes <= COPIED_BYTES_MAX {
        let payload = Bytes::copy_from_slice(&read[..payload_bytes]);
        read.advance(payload_bytes);
        payload
    } else {
        read.split_to(payload_bytes).freeze()
    };
    Ok(Some(Frame {
        ty,
        call,
        kind,
        payload,
    }))
}

/// Bytes of a frame that are not payload.
pub(super) const HEADER: usize = PREFIX + 1 + 8 + 2;
const PREFIX: usize = 4;
const COPIED_BYTES_MAX: usize = 4096;
