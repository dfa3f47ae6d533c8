//! Tells each node why it is given nothing, and everybody who asks of all nodes.
//!
//! The leader notes in each round whom it passes over. A node hears of itself with each answer about
//! its lease, and shows it as a [condition](crate::conditions); of a node that cannot be asked, the
//! leader tells what it has noted.

use std::collections::BTreeMap;

use holdfast_cluster::placement::withheld::Withheld;
use holdfast_model::{
    NodeId,
    api::{ConditionKind, NodeCondition},
};
use serde::{Deserialize, Serialize};

use super::Placement;
use crate::{
    clock::now_ms,
    conditions::Conditions,
    peer::{Kind, Lane},
    rpc::Question,
};

/// Whether the leader gives a node anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Verdict {
    /// It has not had a round yet: what was last said counts.
    Unknown,
    /// It does.
    Given,
    /// It does not.
    Withheld(Withheld),
}

/// Asks a node for its conditions, and the leader for what it has noted of others.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ConditionsOf;

/// What a node tells.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Of itself.
    pub(crate) own: Vec<NodeCondition>,
    /// Of others, if it leads.
    pub(crate) others: BTreeMap<NodeId, NodeCondition>,
}

impl Question for ConditionsOf {
    const KIND: Kind = Kind(15);
    const LANE: Lane = Lane::Data;
    type Answer = Told;
}

impl Verdict {
    /// Shows what it says of this node, and nothing of what was said before.
    pub(super) fn show(self, conditions: &Conditions) {
        let withheld = match self {
            Self::Unknown => return,
            Self::Given => None,
            Self::Withheld(why) => kind(why).map(|kind| (kind, why)),
        };
        for shown in SHOWN {
            let text = withheld.filter(|(kind, _)| *kind == shown);
            conditions.put(shown, text.map(|(_, why)| why.to_string()));
        }
    }
}

impl Placement {
    /// The conditions of this node, and what it knows of others.
    pub(crate) fn conditions(&self) -> Told {
        let others = self.withheld().into_iter().map(|(run, why)| {
            let kind = kind(why).unwrap_or(ConditionKind::Compiling);
            let told = NodeCondition::new(kind, why.to_string(), now_ms());
            (run.node, told)
        });
        Told {
            own: self.0.conditions.all(),
            others: others.collect(),
        }
    }
}

/// The condition that a node shows of itself; none where it knows more about it than the leader.
fn kind(why: Withheld) -> Option<ConditionKind> {
    match why {
        Withheld::Draining => Some(ConditionKind::Draining),
        Withheld::Restarting => Some(ConditionKind::Restarting),
        Withheld::Disconnected => Some(ConditionKind::Disconnected),
        Withheld::Stabilizing(_) => Some(ConditionKind::Stabilizing),
        Withheld::Unready => None,
    }
}

/// The conditions that come of what the leader says.
const SHOWN: [ConditionKind; 4] = [
    ConditionKind::Draining,
    ConditionKind::Restarting,
    ConditionKind::Disconnected,
    ConditionKind::Stabilizing,
];
