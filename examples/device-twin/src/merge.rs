//! JSON merge patch (RFC 7396, which took the place of RFC 7386), and what is left to be done.

use holdfast_guest::serde_json::{Map, Value};

/// Changes an object as a patch says: `null` removes, objects are merged, anything else replaces.
pub(crate) fn merge(target: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (name, change) in patch {
        match change {
            Value::Null => {
                target.remove(&name);
            }
            Value::Object(change) => match target.entry(name).or_insert(Value::Null) {
                Value::Object(below) => merge(below, change),
                other => {
                    // Into an empty one, for a patch has `null`s that an object must not have.
                    let mut below = Map::new();
                    merge(&mut below, change);
                    *other = Value::Object(below);
                }
            },
            value => {
                target.insert(name, value);
            }
        }
    }
}

/// What is desired and not reported: the patch that makes the reported object as it should be. What
/// is reported beside that is left alone.
pub(crate) fn delta(
    desired: &Map<String, Value>,
    reported: &Map<String, Value>,
) -> Map<String, Value> {
    let mut delta_of_all = Map::new();
    for (name, wanted) in desired {
        let left = match (wanted, reported.get(name)) {
            (Value::Object(wanted), Some(Value::Object(is))) => {
                let below = delta(wanted, is);
                (!below.is_empty()).then_some(Value::Object(below))
            }
            (wanted, is) => (is != Some(wanted)).then(|| wanted.clone()),
        };
        if let Some(left) = left {
            delta_of_all.insert(name.clone(), left);
        }
    }
    delta_of_all
}

#[cfg(test)]
mod tests {
    use holdfast_guest::serde_json::{from_str, json};

    use super::*;

    fn object(text: &str) -> Map<String, Value> {
        from_str(text).unwrap()
    }

    /// The table of RFC 7396, appendix A, as far as both are objects.
    #[test]
    fn patches_do_what_the_rfc_says() {
        for (target, patch, result) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (
                r#"{"a":{"b":"c"}}"#,
                r#"{"a":{"b":"d","c":null}}"#,
                r#"{"a":{"b":"d"}}"#,
            ),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
            (
                r#"{"a":"foo"}"#,
                r#"{"a":{"b":null,"c":1}}"#,
                r#"{"a":{"c":1}}"#,
            ),
        ] {
            let mut merged = object(target);
            merge(&mut merged, object(patch));
            assert_eq!(merged, object(result), "{target} by {patch}");
        }
    }

    #[test]
    fn the_delta_is_what_the_device_has_yet_to_do() {
        for (desired, reported, left) in [
            ("{}", r#"{"t":21}"#, "{}"),
            (r#"{"t":21}"#, "{}", r#"{"t":21}"#),
            (r#"{"t":21}"#, r#"{"t":20,"rssi":-60}"#, r#"{"t":21}"#),
            (r#"{"t":21}"#, r#"{"t":21,"rssi":-60}"#, "{}"),
            (
                r#"{"a":{"b":1,"c":2}}"#,
                r#"{"a":{"b":1}}"#,
                r#"{"a":{"c":2}}"#,
            ),
            (r#"{"a":{"b":1}}"#, r#"{"a":7}"#, r#"{"a":{"b":1}}"#),
            (r#"{"a":{}}"#, r#"{"a":{"b":1}}"#, "{}"),
            (r#"{"a":{}}"#, "{}", r#"{"a":{}}"#),
            (r#"{"a":[1,null]}"#, r#"{"a":[1]}"#, r#"{"a":[1,null]}"#),
        ] {
            let (desired, mut reported) = (object(desired), object(reported));
            let delta_found = delta(&desired, &reported);
            assert_eq!(json!(delta_found), json!(object(left)), "{desired:?}");
            merge(&mut reported, delta_found);
            assert_eq!(delta(&desired, &reported), Map::new(), "{desired:?}");
        }
    }
}
