//! Tells what happens on this node itself: to its instances, its modules and its conditions.

use std::sync::Arc;

use holdfast_model::{
    ModuleName, NodeId, ResourceId,
    api::{ConditionKind, Happening, NodeCondition, StopReason},
};
use holdfast_runtime::TerminateReason;

use super::Own;
use crate::{clock::now_ms, conditions, metrics::Metrics};

/// Tells what happens to the instances of this node. Cheap to clone.
#[derive(Clone)]
pub struct Teller {
    me: NodeId,
    metrics: Metrics,
    pub(super) own: Arc<Own>,
}

impl Teller {
    /// Tells events of this node, and counts them.
    #[must_use]
    pub fn new(me: NodeId, metrics: Metrics) -> Self {
        let own = Arc::new(Own::new(0, OWN_MAX));
        Self { me, metrics, own }
    }

    /// A version of a module can be started here.
    pub(crate) fn ready(&self, module: &ModuleName, version: u64) {
        self.tell(Happening::ModuleReady {
            node: self.me,
            module: module.clone(),
            version,
        });
    }

    /// A resource is held.
    pub(crate) fn started(
        &self,
        module: &ModuleName,
        resource: &ResourceId,
        version: u64,
        token: holdfast_model::Token,
    ) {
        self.metrics.started(module);
        self.tell(Happening::InstanceStarted {
            node: self.me,
            module: module.clone(),
            resource: resource.clone(),
            version,
            token,
        });
    }

    /// An instance could not be started, or died.
    pub(crate) fn failed(
        &self,
        module: &ModuleName,
        resource: &ResourceId,
        error: &str,
        quarantined: bool,
    ) {
        self.metrics.failed(module);
        self.tell(Happening::InstanceFailed {
            node: self.me,
            module: module.clone(),
            resource: resource.clone(),
            error: error.to_owned(),
            quarantined,
        });
    }

    /// An instance was ended.
    pub(crate) fn stopped(
        &self,
        module: &ModuleName,
        resource: &ResourceId,
        reason: TerminateReason,
    ) {
        let reason = match reason {
            TerminateReason::Moved => StopReason::Moved,
            TerminateReason::Removed => StopReason::Removed,
            TerminateReason::Upgraded => StopReason::Upgraded,
            TerminateReason::Stopping => StopReason::Stopping,
            TerminateReason::Unhealthy => StopReason::Unhealthy,
        };
        self.metrics.stopped(module);
        self.tell(Happening::InstanceStopped {
            node: self.me,
            module: module.clone(),
            resource: resource.clone(),
            reason,
        });
    }

    fn tell(&self, happening: Happening) {
        self.own.push((now_ms(), happening));
    }
}

impl conditions::Observe for Teller {
    fn began(&self, condition: &NodeCondition) {
        self.tell(Happening::NodeConditionBegan {
            node: self.me,
            kind: condition.kind,
            text: condition.text.clone(),
        });
    }

    fn ended(&self, kind: ConditionKind) {
        self.tell(Happening::NodeConditionEnded {
            node: self.me,
            kind,
        });
    }
}

/// How many events of instances a node keeps: some ten MiB.
const OWN_MAX: usize = 1 << 16;
