//! What is to be known about the resources of this node, for peers and people.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use holdfast_model::{ModuleName, ResourceId, api::ResourceStatus};
use serde::{Deserialize, Serialize};

use super::{Dispatch, entry::Report};
use crate::{
    peer::{Kind, Lane},
    rpc::Question,
};

/// Asks an owner about some of its resources.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reports {
    pub(crate) module: ModuleName,
    pub(crate) ids: Vec<ResourceId>,
}

impl Question for Reports {
    const KIND: Kind = Kind(3);
    const LANE: Lane = Lane::Data;
    /// One for each id; none for a resource that does not run, start or end there.
    type Answer = Vec<Option<Report>>;
}

/// Asks a node how many resources it has in which state.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CountsOf;

/// How many resources a node has in which state.
pub(crate) type Counts = BTreeMap<ResourceStatus, u64>;

impl Question for CountsOf {
    const KIND: Kind = Kind(4);
    const LANE: Lane = Lane::Data;
    type Answer = Counts;
}

/// Asks an owner to answer once a resource is held or quarantined with this revision of its spec,
/// or will not be any more.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AwaitHeld {
    pub(crate) module: ModuleName,
    pub(crate) id: ResourceId,
    pub(crate) revision: u64,
    pub(crate) timeout: Duration,
}

impl Question for AwaitHeld {
    const KIND: Kind = Kind(5);
    const LANE: Lane = Lane::Data;
    /// None when the resource is not here, is to have another spec, or time is up.
    type Answer = Option<ResourceStatus>;
}

impl Dispatch {
    /// What this node knows of these resources.
    pub(crate) fn reports(&self, question: &Reports) -> Vec<Option<Report>> {
        let table = self.0.shared.tables.get(question.module.as_str());
        let report = |id: &ResourceId| {
            let entry = table.as_ref()?.entries.pin().get(id).cloned()?;
            Some(entry.report())
        };
        question.ids.iter().map(report).collect()
    }

    /// How many resources this node has in which state.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::new();
        for (status, count) in self.counts_of_modules().into_values().flatten() {
            *counts.entry(status).or_default() += count;
        }
        counts
    }

    /// The same, for each module.
    pub(crate) fn counts_of_modules(&self) -> BTreeMap<ModuleName, Counts> {
        let mut all = BTreeMap::<ModuleName, Counts>::new();
        for table in self.0.shared.tables.all() {
            let counts = all.entry(table.name.clone()).or_default();
            for entry in table.entries.pin().values() {
                *counts.entry(entry.status()).or_default() += 1;
            }
        }
        all
    }

    /// Waits until a resource of this node is held or quarantined as asked, or will not be any more.
    pub(crate) async fn await_held(&self, question: AwaitHeld) -> Option<ResourceStatus> {
        let table = self.0.shared.tables.get(question.module.as_str())?;
        let entry = table.entries.pin().get(&question.id).map(Arc::clone)?;
        tokio::time::timeout(question.timeout, entry.settled(question.revision))
            .await
            .ok()
            .flatten()
    }
}
