//! Reads whole bodies, up to a limit, and the JSON in them.

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use serde::de::DeserializeOwned;

use super::error::{Error, Result};

/// The whole body, if it is no larger than allowed; `too_large` says what is, when it is not.
pub(super) async fn read<B>(body: B, bytes_max: u64, too_large: impl Fn() -> Error) -> Result<Bytes>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // What says its length up front is refused before any of it is read.
    if body.size_hint().lower() > bytes_max {
        return Err(too_large());
    }
    let limit = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(Error::invalid(format!("the body broke off: {error}"))),
    }
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
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut json);
    let value = value.map_err(|error| Error::invalid(format!("{what}: {error}")))?;
    json.end()
        .map_err(|error| Error::invalid(format!("{what}: {error}")))?;
    Ok(value)
}
