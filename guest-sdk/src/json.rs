//! Reads JSON that came from outside.

use serde::de::DeserializeOwned;

/// The whole of `bytes` as one value. The error names the path of what does not parse.
///
/// One reader for specs and bodies alike: each further kind of input would be compiled once more.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    if depth(bytes) > DEPTH_MAX {
        return Err(format!("it is nested deeper than {DEPTH_MAX} levels"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// How many arrays and objects of JSON are open at once; of anything else, any number.
fn depth(bytes: &[u8]) -> usize {
    let (mut open, mut deepest) = (0_usize, 0);
    let (mut in_text, mut escaped) = (false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                open += 1;
                deepest = deepest.max(open);
            }
            b']' | b'}' if !in_text => open = open.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The reader calls itself for each level, and stops at 128 of its own accord. A component's stack of
/// 64 KiB is full before: the instance would trap, and with it go all that it knows.
const DEPTH_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_is_nested_too_deeply_is_refused_before_it_is_read() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse::<Value>(nested(DEPTH_MAX).as_bytes()).is_ok());
        let refused = parse::<Value>(nested(DEPTH_MAX + 1).as_bytes()).unwrap_err();
        assert!(refused.contains("deeper than 64"), "{refused}");
    }

    #[test]
    fn brackets_in_texts_do_not_count() {
        for (text, expected) in [
            ("1", 0),
            (r#"{"a":[1,{}],"b":[]}"#, 3),
            (r#"["[[[","{\"[","\\"]"#, 1),
            ("]]][", 1),
        ] {
            assert_eq!(depth(text.as_bytes()), expected, "{text}");
        }
    }
}
