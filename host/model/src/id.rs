//! Identifiers of clusters, nodes, modules, resources and slots.

use std::{
    fmt::{self, Write as _},
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::schema::{number, schema, text};

/// Identity of a node: made at random at its first start and kept in its data directory.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(transparent)]
#[schema(examples("076e5cf8-463d-4add-81a9-cdc537df0e55"))]
pub struct NodeId(pub Uuid);

/// Identity of a cluster: made at random when it is founded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(examples("734839b4-8ff8-4d4c-81a8-21d6853ccfd7"))]
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
    ($(#[doc = $doc:literal])* $name:ident($inner:ty), $max:expr) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
        schema!($name, number(concat!($($doc),*).trim(), 0, $max));
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
    Incarnation(u64),
    None
);
counter!(
    /// Version of the view: grows with every change of ownership.
    Epoch(u64),
    None
);
counter!(
    /// Fencing token of a slot: the epoch of its last change of owner.
    Token(u64),
    None
);
counter!(
    /// One of the equal arcs of a module's hash ring.
    Slot(u16),
    Some(u64::from(Slot::COUNT) - 1)
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
    inner: "a-z0-9-",
    ends: "a-z0-9",
    text: "1 to 63 characters of a-z, 0-9 and '-', and begin and end with a letter or a digit",
};

/// What people call places and values by.
const WORD: Rule = Rule {
    inner: "A-Za-z0-9_.-",
    ends: "A-Za-z0-9_.-",
    text: "1 to 63 characters of A-Z, a-z, 0-9, '-', '_' and '.'",
};

/// What a name must be.
struct Rule {
    /// The characters that it may have, and those that it may begin and end with: ASCII, as a
    /// regular expression has them between brackets.
    inner: &'static str,
    ends: &'static str,
    /// All of it, for people.
    text: &'static str,
}

impl Rule {
    const CHARS_MAX: usize = 63;

    fn fits(&self, name: &str) -> bool {
        let is_end = |byte: Option<&u8>| byte.is_some_and(|byte| is_among(self.ends, *byte));
        let name = name.as_bytes();
        name.len() <= Self::CHARS_MAX
            && name.iter().all(|byte| is_among(self.inner, *byte))
            && is_end(name.first())
            && is_end(name.last())
    }

    /// The same as a regular expression; the length aside.
    fn pattern(&self) -> String {
        let Self { inner, ends, .. } = self;
        if inner == ends {
            return format!("^[{inner}]+$");
        }
        format!("^[{ends}]([{inner}]*[{ends}])?$")
    }
}

/// Whether a byte is one of those that stand between brackets in a regular expression.
fn is_among(mut class: &str, byte: u8) -> bool {
    while let [first, rest @ ..] = class.as_bytes() {
        let (last, after) = match rest {
            [b'-', last, ..] => (last, 3),
            _ => (first, 1),
        };
        if (*first..=*last).contains(&byte) {
            return true;
        }
        class = &class[after..];
    }
    false
}

macro_rules! name {
    ($(#[doc = $doc:literal])* $name:ident, $what:literal, $rule:ident, $example:literal) => {
        $(#[doc = $doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);
        schema!(
            $name,
            text(concat!($($doc),*).trim())
                .min_length(Some(1))
                .max_length(Some(Rule::CHARS_MAX))
                .pattern(Some($rule.pattern()))
                .examples([$example])
        );
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
                if $rule.fits(text) {
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
    LABEL,
    "my-bot"
);
name!(
    /// Name of a cluster: a DNS label (RFC 1123 in lower case).
    ClusterName,
    "cluster name",
    LABEL,
    "office"
);
name!(
    /// A failure domain, like a rack or a data centre.
    Zone,
    "zone",
    WORD,
    "rack-4"
);
name!(
    /// What a label of a node is called: a DNS label (RFC 1123 in lower case).
    LabelKey,
    "label key",
    LABEL,
    "disk"
);
name!(
    /// What a label of a node says.
    LabelValue,
    "label value",
    WORD,
    "ssd"
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

schema!(
    ResourceId,
    // A schema counts characters: none has less than a byte.
    text(&format!(
        "Identifier of a resource within its module: UTF-8 without control characters, at most {} \
         bytes of it. In a path it is one percent-encoded segment: `a/b` is `a%2Fb`.",
        ResourceId::BYTES_MAX
    ))
    .min_length(Some(1))
    .max_length(Some(ResourceId::BYTES_MAX))
    .pattern(Some(r"^[^\u0000-\u001F\u007F-\u009F]*$"))
    .examples(["ada"])
);

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

/// For people: what does not show, or changes how the rest shows, is written as its code point. Programs read
/// [`ResourceId::as_str`].
impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_ascii() {
            return f.write_str(&self.0);
        }
        for c in self.0.chars() {
            match is_hidden(c) {
                true => write!(f, "{}", c.escape_unicode())?,
                false => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Whether a character does not show, or changes how others do: one without a width, one that turns the
/// direction of text, one that ends a line.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

impl fmt::Debug for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests;
