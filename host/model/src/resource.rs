//! Resources: what somebody must own.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::openapi::schema::Type;

use crate::{
    ModuleName, ResourceId,
    json::compact_object,
    schema::{schema, text},
};

/// A resource's identity in the cluster, written `module/id`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceKey {
    /// The module that handles it.
    pub module: ModuleName,
    /// Its id within the module.
    pub id: ResourceId,
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.module, self.id)
    }
}

impl fmt::Debug for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no spec.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSpec {
    /// The text is no JSON object.
    #[error("a spec must be a JSON object")]
    NotAnObject(#[source] Option<serde_json::Error>),
    /// The text is longer than [`Spec::BYTES_MAX`].
    #[error("a spec has at most {max} bytes, this one has {len}", max = Spec::BYTES_MAX)]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
}

/// What a resource is to do: a JSON object, kept as compact text with sorted keys, so that equal
/// objects have equal texts. Numbers stay as they were written.
///
/// In formats that people read it can be a part of JSON texts only, and of no type whose form depends on a
/// tag: a reader would have to read it twice.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Spec(Arc<str>);

schema!(
    Spec,
    text(&format!(
        "What a resource is to do: any JSON object, of at most {} bytes in compact form.",
        Spec::BYTES_MAX
    ))
    .schema_type(Type::Object)
    .examples([serde_json::json!({"greeting": "Hi"})])
);

impl Spec {
    /// Length of the longest spec, in bytes of its compact form.
    pub const BYTES_MAX: usize = 64 << 10;

    /// Reads a spec from JSON text.
    ///
    /// # Errors
    /// When the text is no JSON object, or too long.
    pub fn from_json(text: &[u8]) -> Result<Self, InvalidSpec> {
        let not_an_object = |error| InvalidSpec::NotAnObject(Some(error));
        let text = std::str::from_utf8(text).map_err(|error| {
            not_an_object(serde::de::Error::custom(format!("it is no UTF-8: {error}")))
        })?;
        let text = compact_object(text).map_err(not_an_object)?;
        if text.len() > Self::BYTES_MAX {
            return Err(InvalidSpec::TooLong { len: text.len() });
        }
        Ok(Self(text.into()))
    }

    /// Reads a spec from a JSON value.
    ///
    /// # Errors
    /// When the value is no object, or too long.
    pub fn from_value(value: &serde_json::Value) -> Result<Self, InvalidSpec> {
        if !value.is_object() {
            return Err(InvalidSpec::NotAnObject(None));
        }
        Self::from_json(value.to_string().as_bytes())
    }

    /// The spec as compact JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The spec as a JSON value, whose numbers are no more exact than `f64` where they have fractions or are
    /// large.
    #[must_use]
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::from_str(&self.0).expect("a spec is made from a JSON value only")
    }
}

impl Default for Spec {
    fn default() -> Self {
        Self("{}".into())
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Spec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            // As it is written: a value would round its numbers.
            let raw: &RawValue =
                serde_json::from_str(&self.0).expect("a spec is made from JSON text only");
            return raw.serialize(serializer);
        }
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Spec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let raw = Box::<RawValue>::deserialize(deserializer)?;
            return Self::from_json(raw.get().as_bytes()).map_err(serde::de::Error::custom);
        }
        // Written by this type, to disk or to a peer: no need to parse it again.
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_objects_are_equal_specs() {
        let a = Spec::from_json(br#"{"b": {"y":1, "x":2}, "a": [1]}"#).unwrap();
        let b = Spec::from_json(br#"{"a":[1],"b":{"x":2,"y":1}}"#).unwrap();
        assert_eq!(a, b);
        assert_eq!(a.as_str(), r#"{"a":[1],"b":{"x":2,"y":1}}"#);
    }

    #[test]
    fn numbers_go_through_as_they_are() {
        let text = r#"{"a":12345678901234567890123,"b":0.1000,"c":1e400}"#;
        let spec: Spec = serde_json::from_str(text).unwrap();
        assert_eq!(spec.as_str(), text);
        assert_eq!(serde_json::to_string(&spec).unwrap(), text);
        assert!(serde_json::from_str::<Spec>(r#"{"a":1,"a":2}"#).is_err());
    }

    #[test]
    fn only_objects_are_specs() {
        for bad in ["", "[]", "1", "null", "{", "\"x\""] {
            assert!(Spec::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(Spec::BYTES_MAX));
        assert!(matches!(
            Spec::from_json(long.as_bytes()),
            Err(InvalidSpec::TooLong { .. })
        ));
    }
}
