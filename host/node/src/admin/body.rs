//! Reads whole bodies, up to a limit, and the JSON in them.

use std::error::Error as StdError;

use bytes::{Bytes, BytesMut};
use holdfast_model::{ModuleName, Spec, api::ProblemKind, resource::InvalidSpec};
use http_body_util::BodyExt;
use hyper::body::Body;
use serde::de::DeserializeOwned;

use super::{
    budget::{ByteBudget, Reservation},
    error::{Error, Result},
};

/// A body came too slowly: its connection's error.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it came too slowly")]
pub struct SlowBody;

/// The spec in a body; an empty one where there is none.
pub(super) async fn spec(budget: &ByteBudget, body: axum::body::Body) -> Result<Spec> {
    let too_large = || {
        let detail = format!("a spec has at most {} bytes", Spec::BYTES_MAX);
        Error::new(ProblemKind::TooLarge, detail)
    };
    // White space does not count, but nobody needs ten times as much of it.
    let limit = Spec::BYTES_MAX as u64 * 10;
    let body = read(budget, None, body, limit, too_large).await?;
    if body.is_empty() {
        return Ok(Spec::default());
    }
    Spec::from_json(&body).map_err(|error| match error {
        InvalidSpec::TooLong { .. } => too_large(),
        error => Error::invalid(crate::modules::chain(&error)),
    })
}

/// The whole body, if it is no larger than allowed; `too_large` says what is, when it is not. It takes
/// from the budget, of a module's share if it is for one, until the last of its bytes is dropped.
pub(super) async fn read<B>(
    budget: &ByteBudget,
    module: Option<&ModuleName>,
    body: B,
    bytes_max: u64,
    too_large: impl Fn() -> Error,
) -> Result<Bytes>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let said = body.size_hint().lower();
    // What says its length up front is refused before any of it is read.
    if said > bytes_max {
        return Err(too_large());
    }
    let mut body = std::pin::pin!(body);
    let mut whole = Pieces::default();
    let mut reservation = None::<Reservation>;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(&*error.into()))?;
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        if whole.len() + piece.len() as u64 > bytes_max {
            return Err(too_large());
        }
        whole.push(piece, said);
        if whole.takes() > ByteBudget::FREE {
            let reservation = reservation.get_or_insert_with(|| budget.reserve(module));
            reservation.grow(whole.takes())?;
        }
    }
    let whole = whole.into_bytes();
    Ok(match reservation {
        Some(reservation) => reservation.hold(whole),
        None => whole,
    })
}

/// What has come of a body. One that comes in one piece is not copied.
#[derive(Default)]
struct Pieces {
    first: Bytes,
    all: BytesMut,
}

impl Pieces {
    fn push(&mut self, piece: Bytes, said: u64) {
        if self.len() == 0 {
            self.first = piece;
            return;
        }
        if self.all.is_empty() {
            // No more up front than a client that goes on sending has sent soon.
            let wanted = usize::try_from(said.min(AHEAD_BYTES_MAX)).unwrap_or(0);
            self.all.reserve(wanted.max(self.first.len() + piece.len()));
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&piece);
    }

    fn len(&self) -> u64 {
        (self.first.len() + self.all.len()) as u64
    }

    /// How much memory that takes.
    fn takes(&self) -> u64 {
        (self.first.len() + self.all.capacity()) as u64
    }

    fn into_bytes(self) -> Bytes {
        match self.all.is_empty() {
            true => self.first,
            false => self.all.freeze(),
        }
    }
}

/// What is told when a body breaks off.
pub(super) fn broken(error: &(dyn StdError + 'static)) -> Error {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<SlowBody>() {
            return Error::slow("the body");
        }
        cause = error.source();
    }
    Error::invalid(format!("the body broke off: {error}"))
}

/// The value that this JSON object is; the error says where in `what` it makes no sense.
pub(super) fn json<T: DeserializeOwned>(what: &str, text: &[u8]) -> Result<T> {
    // A list would be taken for a struct's fields in their order.
    if text
        .trim_ascii_start()
        .first()
        .is_some_and(|first| *first != b'{')
    {
        return Err(Error::invalid(format!("{what}: it must be a JSON object")));
    }
    let parsed = parse(text).or_else(|error| {
        // `39.0` is a whole number too (JSON Schema, section 6.1.1), which serde does not know.
        let whole = holdfast_model::json::with_whole_numbers(text);
        whole
            .and_then(|text| parse(text.as_bytes()).ok())
            .ok_or(error)
    });
    parsed.map_err(|error| Error::invalid(format!("{what}: {error}")))
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| error.to_string())?;
    json.end().map_err(|error| error.to_string())?;
    Ok(value)
}

const AHEAD_BYTES_MAX: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    async fn read_all<B>(budget: &ByteBudget, body: B, bytes_max: u64) -> Result<Bytes>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let too_large = || Error::invalid("too large");
        read(budget, None, body, bytes_max, too_large).await
    }

    fn pieces(pieces: &[&'static [u8]]) -> impl Body<Data = Bytes, Error = Infallible> + use<> {
        let frames: Vec<_> = pieces
            .iter()
            .map(|piece| Ok(Frame::data(Bytes::from_static(piece))))
            .collect();
        StreamBody::new(stream::iter(frames))
    }

    #[test]
    fn a_whole_number_may_be_written_with_a_fraction_of_nothing() {
        #[derive(Debug, serde::Deserialize)]
        struct Numbers {
            n: u64,
        }
        for (text, n) in [
            (r#"{"n":39}"#, 39),
            (r#"{"n":39.0}"#, 39),
            (r#"{"n": 3.90e1}"#, 39),
            (r#"{"n":18446744073709551615.0}"#, u64::MAX),
        ] {
            assert_eq!(
                json::<Numbers>("it", text.as_bytes()).unwrap().n,
                n,
                "{text}"
            );
        }
        for text in [
            r#"{"n":39.5}"#,
            r#"{"n":1e400}"#,
            r#"{"n":-1.0}"#,
            r#"{"n":1.0,"n":1}"#,
        ] {
            assert!(json::<Numbers>("it", text.as_bytes()).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_body_is_read_whole_up_to_its_limit_in_however_many_pieces() {
        let budget = ByteBudget::new(1 << 20, Gauge::default());
        let whole = read_all(&budget, pieces(&[b"ab", b"", b"c", b"def"]), 6).await;
        assert_eq!(whole.unwrap(), "abcdef");
        assert_eq!(read_all(&budget, pieces(&[]), 0).await.unwrap(), "");
        assert!(read_all(&budget, pieces(&[b"ab", b"cd"]), 3).await.is_err());
        let full = Full::from(Bytes::from_static(b"abcd"));
        assert!(read_all(&budget, full, 3).await.is_err());
    }

    #[tokio::test]
    async fn what_the_node_has_no_room_for_is_refused_and_takes_nothing() {
        let gauge = Gauge::default();
        let budget = ByteBudget::new(10_000, gauge.clone());
        let large = |bytes| Full::from(Bytes::from(vec![0_u8; bytes]));
        let held = read_all(&budget, large(8_000), 1 << 20).await.unwrap();
        assert_eq!(gauge.get(), 8_000);
        let refused = read_all(&budget, large(8_000), 1 << 20).await.unwrap_err();
        assert_eq!(refused.problem().status, 503);
        drop(held);
        assert_eq!(gauge.get(), 0);
        read_all(&budget, large(8_000), 1 << 20).await.unwrap();
    }
}
