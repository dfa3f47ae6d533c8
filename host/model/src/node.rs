//! What operators say of a node: its share of the load, and labels.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use utoipa::openapi::{ObjectBuilder, RefOr};

use crate::{
    InvalidName, LabelKey, LabelValue,
    schema::{number, schema},
};

/// A node's share of the load in relation to other nodes; 0 makes a witness, which votes and
/// holds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Weight(u8);

schema!(
    Weight,
    number(
        "A node's share of the load in relation to other nodes; 0 makes a witness, which votes and \
         holds nothing.",
        Weight::WITNESS.get(),
        Some(Weight::MAX.get())
    )
);

impl Weight {
    /// The greatest, and what a node has unless told otherwise.
    pub const MAX: Self = Self(100);

    /// Votes and holds nothing.
    pub const WITNESS: Self = Self(0);

    /// The weight as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0 as u64
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::MAX
    }
}

/// A text or number that is no weight.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a weight is a whole number from 0 to 100, not {given}")]
pub struct InvalidWeight {
    /// What was given, cut after 80 characters.
    pub given: String,
}

impl TryFrom<u32> for Weight {
    type Error = InvalidWeight;
    fn try_from(weight: u32) -> Result<Self, InvalidWeight> {
        let fits = |weight: &u8| *weight <= Self::MAX.0;
        let weight_or_none = u8::try_from(weight).ok().filter(fits);
        let given = || InvalidWeight {
            given: weight.to_string(),
        };
        weight_or_none.map(Self).ok_or_else(given)
    }
}

impl From<Weight> for u32 {
    fn from(weight: Weight) -> Self {
        weight.0.into()
    }
}

impl FromStr for Weight {
    type Err = InvalidWeight;
    fn from_str(text: &str) -> Result<Self, InvalidWeight> {
        let invalid = |_| InvalidWeight {
            given: format!("{:?}", text.chars().take(80).collect::<String>()),
        };
        text.parse::<u32>().map_err(invalid)?.try_into()
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What an operator says of a node beyond what Holdfast knows itself, like `disk=ssd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// What it is about.
    pub key: LabelKey,
    /// What it says.
    pub value: LabelValue,
}

/// A text that is no label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLabel {
    /// It has no `=`.
    #[error("{given:?} is no label: it must look like disk=ssd")]
    Form {
        /// What was given, cut after 80 characters.
        given: String,
    },
    /// One side of it is not valid.
    #[error(transparent)]
    Part(#[from] InvalidName),
}

impl FromStr for Label {
    type Err = InvalidLabel;
    fn from_str(text: &str) -> Result<Self, InvalidLabel> {
        let given = || InvalidLabel::Form {
            given: text.chars().take(80).collect(),
        };
        let (key, value) = text.split_once('=').ok_or_else(given)?;
        Ok(Self {
            key: key.parse()?,
            value: value.parse()?,
        })
    }
}

/// The labels of a node, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<LabelKey, LabelValue>")]
#[serde(into = "BTreeMap<LabelKey, LabelValue>")]
pub struct Labels(BTreeMap<LabelKey, LabelValue>);

schema!(Labels, {
    let key = match LabelKey::schema() {
        RefOr::T(key) => Some(key),
        RefOr::Ref(_) => None,
    };
    ObjectBuilder::new()
        .description(Some("The labels of a node, by key."))
        .property_names(key)
        .additional_properties(Some(LabelValue::schema()))
        .max_properties(Some(Labels::MAX))
});

/// Labels that a node cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLabels {
    /// There are more than [`Labels::MAX`].
    #[error("a node has at most {max} labels, not {given}", max = Labels::MAX)]
    TooMany {
        /// How many there are.
        given: usize,
    },
    /// Nobody knows which of the two is meant.
    #[error("label {0} is given more than once")]
    Twice(LabelKey),
}

impl Labels {
    /// How many labels a node has at most.
    pub const MAX: usize = 16;

    /// The labels given, each key once.
    ///
    /// # Errors
    /// When there are too many, or one is given more than once.
    pub fn new(labels: impl IntoIterator<Item = Label>) -> Result<Self, InvalidLabels> {
        let mut by_key = BTreeMap::new();
        for Label { key, value } in labels {
            match by_key.entry(key) {
                Entry::Vacant(entry) => entry.insert(value),
                Entry::Occupied(entry) => return Err(InvalidLabels::Twice(entry.key().clone())),
            };
        }
        by_key.try_into()
    }

    /// Each label, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&LabelKey, &LabelValue)> {
        self.0.iter()
    }
}

impl TryFrom<BTreeMap<LabelKey, LabelValue>> for Labels {
    type Error = InvalidLabels;
    fn try_from(by_key: BTreeMap<LabelKey, LabelValue>) -> Result<Self, InvalidLabels> {
        match by_key.len() {
            0..=Self::MAX => Ok(Self(by_key)),
            given => Err(InvalidLabels::TooMany { given }),
        }
    }
}

impl From<Labels> for BTreeMap<LabelKey, LabelValue> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_from_0_to_100_however_it_is_given() {
        for good in [0_u32, 1, 100] {
            let weight = Weight::try_from(good).unwrap();
            assert_eq!(u32::from(weight), good);
            assert_eq!(good.to_string().parse(), Ok(weight));
            let json = serde_json::to_string(&weight).unwrap();
            assert_eq!(serde_json::from_str::<Weight>(&json).unwrap(), weight);
        }
        for bad in ["101", "256", "4294967296", "-1", "1.5", "", "ten"] {
            let error = bad.parse::<Weight>().unwrap_err().to_string();
            assert!(error.contains("0 to 100"), "{error}");
            assert!(error.contains(bad), "{error}");
        }
        for bad in ["101", "-1", "1.5", "\"50\"", "null"] {
            assert!(serde_json::from_str::<Weight>(bad).is_err(), "{bad}");
        }
    }

    fn labels(texts: &[String]) -> Result<Labels, InvalidLabels> {
        Labels::new(texts.iter().map(|text| text.parse().unwrap()))
    }

    #[test]
    fn a_label_is_a_key_and_a_value() {
        for good in ["disk=ssd", "a=B_1.x-y", &format!("a={}", "v".repeat(63))] {
            let label: Label = good.parse().unwrap();
            assert_eq!(format!("{}={}", label.key, label.value), good);
        }
        for (bad, why) in [
            ("disk", "must look like"),
            ("", "must look like"),
            ("Disk=ssd", "label key \"Disk\""),
            ("=ssd", "label key \"\""),
            ("disk=", "label value \"\""),
            ("disk=a=b", "label value \"a=b\""),
            ("disk=big one", "label value \"big one\""),
            (&format!("a={}", "v".repeat(64)), "1 to 63"),
        ] {
            let error = bad.parse::<Label>().unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn labels_are_few_and_each_is_given_once() {
        let many: Vec<String> = (0..17).map(|n| format!("k{n}=v")).collect();
        let most = labels(&many[1..]).unwrap();
        assert_eq!(most.iter().count(), Labels::MAX);
        assert_eq!(labels(&many), Err(InvalidLabels::TooMany { given: 17 }));
        let twice = ["a=1", "b=1", "a=2"].map(str::to_owned);
        let error = labels(&twice).unwrap_err().to_string();
        assert_eq!(error, "label a is given more than once");
    }

    #[test]
    fn labels_are_a_json_object_and_checked_when_they_are_read() {
        let two = labels(&["b=2".to_owned(), "a=1".to_owned()]).unwrap();
        let json = serde_json::to_string(&two).unwrap();
        assert_eq!(json, r#"{"a":"1","b":"2"}"#);
        assert_eq!(serde_json::from_str::<Labels>(&json).unwrap(), two);
        let many: BTreeMap<String, &str> = (0..17).map(|n| (format!("k{n}"), "v")).collect();
        let many = serde_json::to_string(&many).unwrap();
        let error = serde_json::from_str::<Labels>(&many).unwrap_err();
        assert!(error.to_string().contains("at most 16"), "{error}");
    }
}
