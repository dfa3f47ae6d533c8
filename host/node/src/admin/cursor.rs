//! Cursors of lists: where the next page begins, as text that needs no escaping in a URL and that
//! callers have no reason to take for an id.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use holdfast_model::ResourceId;

use super::error::{Error, Result};

/// The cursor of the page that begins after this id.
pub(super) fn after(id: &ResourceId) -> String {
    let id = id.as_str().as_bytes();
    BASE64_URL_SAFE_NO_PAD.encode([&[FORM], id].concat())
}

/// The id after which the page of this cursor begins.
pub(super) fn read(cursor: &str) -> Result<ResourceId> {
    let read = || {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (form, id) = bytes.split_first()?;
        let id = std::str::from_utf8(id).ok()?;
        (*form == FORM).then(|| id.parse().ok())?
    };
    read().ok_or_else(|| Error::invalid("cursor is none that this route gave"))
}

/// The form of what follows it. No id begins with it, so that no id passes for a cursor by chance.
const FORM: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_a_url_as_it_is() {
        for id in ["a", "%2F", "a b&c=d#e+f", "日本語", &"é".repeat(256)] {
            let id: ResourceId = id.parse().unwrap();
            let cursor = after(&id);
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            assert!(cursor.bytes().all(plain), "{cursor}");
            assert_eq!(read(&cursor).unwrap(), id);
        }
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let one = after(&"one".parse().unwrap());
        let id_alone = BASE64_URL_SAFE_NO_PAD.encode("one");
        for bad in [
            "",
            "one",
            "%00",
            &format!("{one}="),
            &one[1..],
            &id_alone,
            "AQ",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
