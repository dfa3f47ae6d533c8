//! Identifiers of clusters, nodes, modules, resources and slots.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Identity of a node: made at random at its first start and kept in its data directory.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub Uuid);

/// Identity of a cluster: made at random when it is founded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub Uuid);

macro_rules! uuid_id {
    ($name:ident) => {
        impl $name {
            /// A new random identity.
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::from_str(text).map(Self)
            }
        }
    };
}
uuid_id!(NodeId);
uuid_id!(ClusterId);

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}
counter!(
    /// One run of a node's process: grows by one at each start.
    Incarnation(u64)
);
counter!(
    /// Version of the view: grows with every change of ownership.
    Epoch(u64)
);
counter!(
    /// Fencing token of a slot: the epoch of its last change of owner.
    Token(u64)
);
counter!(
    /// One of the [`Slot::COUNT`] equal arcs of a module's hash ring.
    Slot(u16)
);

impl Slot {
    /// Number of slots of every module.
    pub const COUNT: u16 = 4096;

    /// The slot of a resource id: XXH3-64 of its bytes, modulo [`Slot::COUNT`].
    #[must_use]
    pub fn of(id: &str) -> Self {
        let hash = xxhash_rust::xxh3::xxh3_64(id.as_bytes());
        Self((hash % u64::from(Self::COUNT)) as u16)
    }
}

/// A text that is no valid name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?} is not valid: it must be {rule}")]
pub struct InvalidName {
    /// What was to be named, like `module name` or `zone`.
    pub what: &'static str,
    /// What such a name must be.
    pub rule: &'static str,
    /// The text that was given, cut after 80 characters.
    pub given: String,
}

/// A DNS label (RFC 1123 in lower case).
const LABEL: Rule = Rule {
    fits: is_label,
    text: "1 to 63 characters of a-z, 0-9 and '-', and begin and end with a letter or a digit",
};

/// What people call places and values by.
const WORD: Rule = Rule {
    fits: is_word,
    text: "1 to 63 characters of A-Z, a-z, 0-9, '-', '_' and '.'",
};

struct Rule {
    fits: fn(&str) -> bool,
    text: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);
        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if ($rule.fits)(text) {
                    return Ok(Self(text.into()));
                }
                let given = text.chars().take(80).collect();
                Err(InvalidName { what: $what, rule: $rule.text, given })
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}
name!(
    /// Name of a module: a DNS label (RFC 1123 in lower case).
    ModuleName,
    "module name",
    LABEL
);
name!(
    /// Name of a cluster: a DNS label (RFC 1123 in lower case).
    ClusterName,
    "cluster name",
    LABEL
);
name!(
    /// A failure domain, like a rack or a data centre.
    Zone,
    "zone",
    WORD
);
name!(
    /// What a label of a node is called: a DNS label (RFC 1123 in lower case).
    LabelKey,
    "label key",
    LABEL
);
name!(
    /// What a label of a node says.
    LabelValue,
    "label value",
    WORD
);

impl ModuleName {
    /// Reads a name from one percent-encoded segment of a URL path (RFC 3986).
    ///
    /// # Errors
    /// When the decoded text is no valid name.
    pub fn from_path_segment(segment: &str) -> Result<Self, InvalidName> {
        // What is no UTF-8 is no label either, and shown with replacement characters.
        percent_encoding::percent_decode_str(segment)
            .decode_utf8_lossy()
            .parse()
    }
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_word(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=63).contains(&text.len()) && text.bytes().all(inner)
}

/// Why a text is no resource id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidResourceId {
    /// The text is empty.
    #[error("a resource id must not be empty")]
    Empty,
    /// The text is longer than [`ResourceId::BYTES_MAX`].
    #[error("a resource id has at most {max} bytes, this one has {len}", max = ResourceId::BYTES_MAX)]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The text has a control character.
    #[error("a resource id must not have control characters; U+{code:04X} stands at byte {at}")]
    Control {
        /// The character's code point.
        code: u32,
        /// Its offset in bytes.
        at: usize,
    },
    /// The bytes are not UTF-8.
    #[error("a resource id must be UTF-8")]
    NotUtf8,
}

/// Identifier of a resource within its module: 1 to 512 bytes of UTF-8, no control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceId(Arc<str>);

impl ResourceId {
    /// Length of the longest id, in bytes.
    pub const BYTES_MAX: usize = 512;

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The slot that this id falls into.
    #[must_use]
    pub fn slot(&self) -> Slot {
        Slot::of(&self.0)
    }

    /// Reads an id from one percent-encoded segment of a URL path (RFC 3986).
    ///
    /// # Errors
    /// When the decoded bytes are no valid id.
    pub fn from_path_segment(segment: &str) -> Result<Self, InvalidResourceId> {
        percent_encoding::percent_decode_str(segment)
            .decode_utf8()
            .map_err(|_| InvalidResourceId::NotUtf8)?
            .parse()
    }

    /// The id as one percent-encoded segment of a URL path.
    #[must_use]
    pub fn to_path_segment(&self) -> String {
        percent_encoding::utf8_percent_encode(&self.0, SEGMENT).to_string()
    }
}

/// Everything but the unreserved characters of RFC 3986.
const SEGMENT: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

impl FromStr for ResourceId {
    type Err = InvalidResourceId;
    fn from_str(text: &str) -> Result<Self, InvalidResourceId> {
        if text.is_empty() {
            return Err(InvalidResourceId::Empty);
        }
        if text.len() > Self::BYTES_MAX {
            return Err(InvalidResourceId::TooLong { len: text.len() });
        }
        if let Some((at, c)) = text.char_indices().find(|(_, c)| c.is_control()) {
            return Err(InvalidResourceId::Control {
                code: u32::from(c),
                at,
            });
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for ResourceId {
    type Error = InvalidResourceId;
    fn try_from(text: String) -> Result<Self, InvalidResourceId> {
        text.parse()
    }
}

impl From<ResourceId> for String {
    fn from(id: ResourceId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl std::borrow::Borrow<str> for ResourceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels() {
        for good in ["a", "counter", "x-1", "0", &"a".repeat(63)] {
            assert!(good.parse::<ModuleName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a_b",
            "a.b",
            "ä",
            "a/b",
            &"a".repeat(64),
        ] {
            assert!(bad.parse::<ModuleName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn zones_are_words() {
        for good in ["eu-1", "Rack_4", "dc.north", "a", &"A".repeat(63)] {
            assert!(good.parse::<Zone>().is_ok(), "{good}");
        }
        for bad in ["", "rack 4", "a/b", "ä", "a,b", "a=b", &"a".repeat(64)] {
            let error = bad.parse::<Zone>().unwrap_err().to_string();
            assert!(error.starts_with("zone \""), "{error}");
        }
    }

    #[test]
    fn names_may_be_percent_encoded_in_a_url_path() {
        let name: ModuleName = "my-bot".parse().unwrap();
        for segment in ["my-bot", "my%2Dbot", "%6dy-bot"] {
            assert_eq!(ModuleName::from_path_segment(segment), Ok(name.clone()));
        }
        assert!(ModuleName::from_path_segment("my%2Fbot").is_err());
        assert!(ModuleName::from_path_segment("%ff").is_err());
    }

    #[test]
    fn resource_ids_are_bounded_text_without_control_characters() {
        assert_eq!("".parse::<ResourceId>(), Err(InvalidResourceId::Empty));
        let long = "é".repeat(257);
        assert_eq!(
            long.parse::<ResourceId>(),
            Err(InvalidResourceId::TooLong { len: 514 })
        );
        assert!("é".repeat(256).parse::<ResourceId>().is_ok());
        assert_eq!(
            "a\u{7f}b".parse::<ResourceId>(),
            Err(InvalidResourceId::Control { code: 0x7f, at: 1 })
        );
        assert!("a\u{85}".parse::<ResourceId>().is_err());
        assert!("日本/ ?#%".parse::<ResourceId>().is_ok());
    }

    #[test]
    fn any_id_survives_a_url_path() {
        for text in ["a/b", "..", "100%", "x y", "日本", "a?b#c", "%2F"] {
            let id: ResourceId = text.parse().unwrap();
            let segment = id.to_path_segment();
            assert!(!segment.contains(['/', '?', '#', ' ']), "{segment}");
            assert_eq!(ResourceId::from_path_segment(&segment), Ok(id));
        }
        assert_eq!(
            ResourceId::from_path_segment("%ff"),
            Err(InvalidResourceId::NotUtf8)
        );
        assert_eq!(
            ResourceId::from_path_segment("a%00"),
            Err(InvalidResourceId::Control { code: 0, at: 1 })
        );
    }

    #[test]
    fn slots_never_change_between_releases() {
        // Stored views depend on it: a change of the hash would give slots to the wrong owners.
        let slots: Vec<u16> = ["", "a", "resource-1"].map(|id| Slot::of(id).0).to_vec();
        assert_eq!(slots, SLOTS_OF_OLD);
    }

    const SLOTS_OF_OLD: [u16; 3] = [1218, 3615, 4083];
}
