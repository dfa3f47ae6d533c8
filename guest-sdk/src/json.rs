//! Reads JSON that came from outside.

use serde::de::DeserializeOwned;

/// The whole of `bytes` as one value. The error names the path of what does not parse.
///
/// One reader for specs and bodies alike: each further kind of input would be compiled once more.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    Ok(value)
}
