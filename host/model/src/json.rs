//! JSON texts in one form, so that equal objects have equal texts.
//!
//! Invariant: numbers stay as they were written, of whatever size: who reads them decides what they hold. An
//! object with the same key twice is refused, for readers differ in which of the two they take.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// The compact form of an object, with sorted keys.
pub(crate) fn compact_object(text: &str) -> Result<String, serde_json::Error> {
    if !text.trim_ascii_start().starts_with('{') {
        return Err(serde_json::Error::custom("it is none"));
    }
    let whole: &RawValue = serde_json::from_str(text)?;
    let mut compact = String::with_capacity(text.len());
    write(whole.get(), DEPTH_MAX, &mut compact, as_written)?;
    Ok(compact)
}

/// An object with those of its numbers written as whole ones that are, like `39.0` and `1e3`; none when the text is
/// no object.
#[must_use]
pub fn with_whole_numbers(text: &[u8]) -> Option<String> {
    let whole: &RawValue = serde_json::from_slice(text).ok()?;
    let mut compact = String::with_capacity(text.len());
    write(whole.get(), DEPTH_MAX, &mut compact, as_whole).ok()?;
    Some(compact)
}

fn as_written(number: &str) -> Cow<'_, str> {
    Cow::Borrowed(number)
}

fn as_whole(number: &str) -> Cow<'_, str> {
    whole(number).map_or(Cow::Borrowed(number), Cow::Owned)
}

/// The digits of a number that is whole, if there are no more of them than an integer has.
fn whole(number: &str) -> Option<String> {
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (number, 0),
    };
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let zeros = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let zeros = usize::try_from(zeros)
        .ok()
        .filter(|zeros| *zeros <= DIGITS_MAX)?;
    let (sign, digits) = match integer.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", integer),
    };
    let digits = format!("{digits}{fraction}{}", "0".repeat(zeros));
    let digits = digits.trim_start_matches('0');
    match (digits.len(), sign) {
        (0, _) => Some("0".to_owned()),
        (1..=DIGITS_MAX, _) => Some(format!("{sign}{digits}")),
        _ => None,
    }
}

fn write(
    text: &str,
    depth_left: u32,
    into: &mut String,
    number: fn(&str) -> Cow<'_, str>,
) -> Result<(), serde_json::Error> {
    let deeper = || {
        let too_deep = || serde_json::Error::custom(format!("it is deeper than {DEPTH_MAX}"));
        depth_left.checked_sub(1).ok_or_else(too_deep)
    };
    match text.as_bytes().first() {
        Some(b'{') => {
            let deeper = deeper()?;
            let Object(members) = serde_json::from_str(text)?;
            into.push('{');
            for (at, (key, value)) in members.iter().enumerate() {
                if at > 0 {
                    into.push(',');
                }
                into.push_str(&serde_json::to_string(key)?);
                into.push(':');
                write(value.get(), deeper, into, number)?;
            }
            into.push('}');
        }
        Some(b'[') => {
            let deeper = deeper()?;
            let items: Vec<&RawValue> = serde_json::from_str(text)?;
            into.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    into.push(',');
                }
                write(item.get(), deeper, into, number)?;
            }
            into.push(']');
        }
        Some(b'"') => {
            let text: Cow<'_, str> = serde_json::from_str(text)?;
            into.push_str(&serde_json::to_string(&text)?);
        }
        Some(b't' | b'f' | b'n') => into.push_str(text),
        _ => into.push_str(&number(text)),
    }
    Ok(())
}

/// The members of an object, each key once.
struct Object<'a>(BTreeMap<Cow<'a, str>, &'a RawValue>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<Cow<'de, str>, &RawValue>()? {
                    if members.contains_key(&key) {
                        return Err(A::Error::custom(format!("it has the key {key:?} twice")));
                    }
                    members.insert(key, value);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// How deep objects and arrays may stand in one another. Each level is looked through once more.
const DEPTH_MAX: u32 = 127;

/// The digits of the greatest integer.
const DIGITS_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_and_order_do_not_count_and_numbers_stay() {
        for (text, compact) in [
            ("{}", "{}"),
            (" {\n} ", "{}"),
            (
                r#"{"b": {"y":1, "x":2}, "a": [1, true , null]}"#,
                r#"{"a":[1,true,null],"b":{"x":2,"y":1}}"#,
            ),
            (
                r#"{"n":12345678901234567890123,"f":1.10,"e":-1E+400}"#,
                r#"{"e":-1E+400,"f":1.10,"n":12345678901234567890123}"#,
            ),
            (r#"{"\u0061":"\u00e9\/"}"#, r#"{"a":"é/"}"#),
        ] {
            assert_eq!(compact_object(text).unwrap(), compact, "{text}");
        }
    }

    #[test]
    fn numbers_that_are_whole_are_written_so() {
        for (text, expected) in [
            (
                r#"{"a":39.0,"b":[-1.50e1,0.0,-0.0]}"#,
                r#"{"a":39,"b":[-15,0,0]}"#,
            ),
            (r#"{"a":1e3,"b":"1.0"}"#, r#"{"a":1000,"b":"1.0"}"#),
            (
                r#"{"a":1.5,"b":1e-1,"c":1e99}"#,
                r#"{"a":1.5,"b":1e-1,"c":1e99}"#,
            ),
        ] {
            assert_eq!(with_whole_numbers(text.as_bytes()).unwrap(), expected);
        }
        assert_eq!(with_whole_numbers(b"{"), None);
    }

    #[test]
    fn a_key_twice_is_refused_however_it_is_written_and_wherever() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"b":[{"a":{"c":1,"c":2}}]}"#,
        ] {
            let error = compact_object(text).unwrap_err().to_string();
            assert!(error.contains("twice"), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused_however_deep() {
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        for text in [
            "",
            "[]",
            "1",
            "{",
            "{}x",
            r#"{"a":"\ud800"}"#,
            r#"{"a":01}"#,
            &deep,
        ] {
            assert!(compact_object(text).is_err(), "{:.20}", text);
        }
    }
}
