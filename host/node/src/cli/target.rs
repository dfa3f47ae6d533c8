//! How commands name things: `MODULE/ID`, and nodes by the beginning of their id.

use anyhow::Context as _;
use clap::Args;
use holdfast_model::{NodeId, ResourceKey, api::NodeInfo};

use super::{
    failure::{Exit, Failure},
    suggest,
};
use crate::client::Client;

/// A resource, given as `MODULE/ID` or `MODULE ID`.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The resource, as MODULE/ID; or only its module.
    #[arg(value_name = "MODULE[/ID]")]
    target: String,

    /// The resource's id, where the first argument is only a module.
    #[arg(value_name = "ID")]
    id: Option<String>,
}

impl Target {
    /// The resource named.
    pub(super) fn key(&self) -> anyhow::Result<ResourceKey> {
        match self.key_and_rest()? {
            (key, None) => Ok(key),
            (key, Some(more)) => Err(usage(format!(
                "{more:?} is one argument too many: {key} names a resource already"
            ))),
        }
    }

    /// The resource named, and the second argument when the first named all of it.
    pub(super) fn key_and_rest(&self) -> anyhow::Result<(ResourceKey, Option<&str>)> {
        let (module, id, rest) = match (self.target.split_once('/'), self.id.as_deref()) {
            (Some((module, id)), rest) => (module, id, rest),
            (None, Some(id)) => (self.target.as_str(), id, None),
            (None, None) => {
                return Err(usage(format!(
                    "{:?} names no resource: give MODULE/ID or MODULE ID",
                    self.target
                )));
            }
        };
        let key = ResourceKey {
            module: module.parse().map_err(|error| usage(format!("{error}")))?,
            id: id.parse().map_err(|error| usage(format!("{error}")))?,
        };
        Ok((key, rest))
    }
}

/// A mistake in the command line that clap cannot see.
pub(super) fn usage(message: impl Into<String>) -> anyhow::Error {
    Failure::new(message).exit(Exit::Usage).into()
}

/// The node whose id begins with this text.
pub(super) async fn node(client: &Client, beginning: &str) -> anyhow::Result<NodeId> {
    if let Ok(node) = beginning.parse() {
        return Ok(node);
    }
    let nodes = client.nodes().await.context("list the nodes")?.nodes;
    choose(&nodes, beginning)
}

fn choose(nodes: &[NodeInfo], beginning: &str) -> anyhow::Result<NodeId> {
    let wanted = beginning.to_ascii_lowercase();
    let mut found = nodes
        .iter()
        .map(|info| info.node)
        .filter(|node| node.to_string().starts_with(&wanted));
    match (found.next(), found.next()) {
        (Some(node), None) if !wanted.is_empty() => Ok(node),
        (Some(_), _) => Err(usage(format!(
            "{beginning:?} begins the ids of several nodes; give more of it"
        ))),
        (None, _) => {
            let beginnings = nodes.iter().map(|info| {
                let id = info.node.to_string();
                id[..wanted.len().clamp(ID_CHARS_SHOWN, id.len())].to_owned()
            });
            let meant = suggest::alike(&wanted, beginnings);
            let hint = suggest::did_you_mean(&meant);
            let hint = hint.unwrap_or_else(|| "`holdfast nodes` lists the nodes".to_owned());
            Err(Failure::new(format!("there is no node {beginning}"))
                .hint(hint)
                .exit(Exit::NotFound)
                .into())
        }
    }
}

/// How much of an id tables show.
const ID_CHARS_SHOWN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn target(target: &str, id: Option<&str>) -> Target {
        Target {
            target: target.to_owned(),
            id: id.map(str::to_owned),
        }
    }

    #[test]
    fn a_resource_is_named_in_two_ways() {
        for (given, id, expected) in [
            ("m/a", None, "m/a"),
            ("m", Some("a"), "m/a"),
            ("m/a/b", None, "m/a/b"),
            ("m", Some("a/b"), "m/a/b"),
        ] {
            assert_eq!(target(given, id).key().unwrap().to_string(), expected);
        }
        for (given, id, why) in [
            ("m", None, "names no resource"),
            ("m/", None, "must not be empty"),
            ("M/a", None, "module name \"M\""),
            ("m/a", Some("b"), "too many"),
        ] {
            let error = target(given, id).key().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let twice = target("m/a", Some("body"));
        assert_eq!(twice.key_and_rest().unwrap().1, Some("body"));
    }

    #[test]
    fn a_node_is_named_by_a_unique_beginning() {
        let nodes = ["1a", "1b", "2c"].map(|head| {
            let id = format!("{head}000000-0000-4000-8000-000000000000");
            super::super::nodes::tests::info(&id)
        });
        assert_eq!(choose(&nodes, "2").unwrap(), nodes[2].node);
        assert_eq!(choose(&nodes, "1A").unwrap(), nodes[0].node);
        for (beginning, why) in [("1", "several"), ("", "several"), ("3", "no node 3")] {
            let error = choose(&nodes, beginning).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        // One letter of the id in the table is wrong.
        let error = choose(&nodes, "2d000000").unwrap_err();
        let told = super::super::failure::told(&error);
        assert!(told.contains("hint: did you mean 2c000000?"), "{told}");
    }
}
