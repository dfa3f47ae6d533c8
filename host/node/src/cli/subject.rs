//! A module, or one of its resources, as `MODULE[/ID]`.

use std::str::FromStr;

use holdfast_model::{ModuleName, ResourceId};

/// A module, or one of its resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    module: ModuleName,
    resource: Option<ResourceId>,
}

impl Subject {
    /// Module and resource of a subject that may have been given.
    pub(super) fn parts(given: Option<Self>) -> (Option<ModuleName>, Option<ResourceId>) {
        match given {
            Some(Self { module, resource }) => (Some(module), resource),
            None => (None, None),
        }
    }
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (module, id) = match text.split_once('/') {
            Some((module, id)) => (module, Some(id)),
            None => (text, None),
        };
        let resource = id.map(str::parse::<ResourceId>).transpose();
        Ok(Self {
            module: module.parse().map_err(|error| format!("{error}"))?,
            resource: resource.map_err(|error| format!("{error}"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_follows_its_module() {
        let parts = |text: &str| text.parse().map(|subject| Subject::parts(Some(subject)));
        let module = |text: &str| text.parse().ok();
        assert_eq!(parts("m"), Ok((module("m"), None)));
        assert_eq!(parts("m/a/b"), Ok((module("m"), "a/b".parse().ok())));
        for text in ["", "M", "m/", "/a"] {
            parts(text).unwrap_err();
        }
    }
}
