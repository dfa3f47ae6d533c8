//! When a version that was tried may serve.
//!
//! An instance is replaced in place, and must not wait for the compiler meanwhile. So a version that
//! holds a resource on trial serves once every node that owns some has compiled it. Who cannot, for
//! reasons of its own, keeps the former version and is not waited for; who is slow or silent is waited
//! for, but not for ever. What a node runs until it has compiled what serves is its own matter
//! (`docs/decisions/0005`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use holdfast_model::NodeId;
use serde::{Deserialize, Serialize};

/// What an owner says of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compiled {
    /// It can be started there at once.
    Yes,
    /// It is on its way, or the node has not heard of it yet.
    NotYet,
    /// It cannot be loaded there; it is tried again, and nobody should wait.
    Unable,
}

/// Whom a version is to wait for before it serves: owners that have not compiled it, after a wait of so
/// long. Empty: it may serve.
#[must_use]
pub fn awaited(
    owners: &BTreeSet<NodeId>,
    said: &BTreeMap<NodeId, Compiled>,
    waited: Duration,
) -> BTreeSet<NodeId> {
    let is_awaited = |node: &&NodeId| match said.get(*node) {
        Some(Compiled::Yes | Compiled::Unable) => false,
        Some(Compiled::NotYet) => waited < SLOW_MAX,
        None => waited < SILENT_MAX,
    };
    owners.iter().filter(is_awaited).copied().collect()
}

/// How long a version waits for an owner that compiles it: longer than compiling the largest component
/// takes on a busy machine. Longer: one slow node holds up an upgrade. Shorter: it runs the former
/// version while the others run the new one.
pub const SLOW_MAX: Duration = Duration::from_secs(60);

/// How long it waits for one that does not answer: a connection that broke is made again by then.
pub const SILENT_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_serves_once_every_owner_has_compiled_it_or_cannot() {
        let [a, b, c] = [1, 2, 3].map(|n| NodeId(uuid::Uuid::from_u128(n)));
        let owners = BTreeSet::from([a, b, c]);
        let mut said = BTreeMap::from([(a, Compiled::Yes), (b, Compiled::NotYet)]);
        let waits = |said: &BTreeMap<_, _>, waited| awaited(&owners, said, waited);
        assert_eq!(waits(&said, Duration::ZERO), [b, c].into());
        assert_eq!(waits(&said, SILENT_MAX), [b].into(), "who is silent");
        assert_eq!(waits(&said, SLOW_MAX), [].into(), "who is slow");
        said.insert(b, Compiled::Yes);
        said.insert(c, Compiled::Unable);
        assert_eq!(waits(&said, Duration::ZERO), [].into());
        // Who said something and owns nothing is not asked.
        let alone = BTreeSet::from([a]);
        said.insert(b, Compiled::NotYet);
        assert_eq!(awaited(&alone, &said, Duration::ZERO), [].into());
    }
}
