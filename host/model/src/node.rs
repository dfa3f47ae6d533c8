//! What operators say of a node: its share of the load.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A node's share of the load in relation to other nodes; 0 makes a witness, which votes and
/// holds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Weight(u8);

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
}
