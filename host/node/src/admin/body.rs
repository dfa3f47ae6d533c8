//! Reads whole bodies, up to a limit.

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;

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
