//! Looks things up in the state so that what is called unknown is so in a state that is current.

use holdfast_cluster::state::{Refused, Standing, State};
use holdfast_model::{NodeId, api::ProblemKind, call};

use super::{
    Parts,
    error::{Error, Result},
    modules::deadline,
};

impl Parts {
    /// What this node's state says. If that is that something does not exist, what a state says
    /// that is current: it may have been made through another node a moment ago.
    pub(super) async fn look_up<T>(
        &self,
        look: impl Fn(&State) -> Result<T, call::Error>,
    ) -> Result<T> {
        self.joined()?;
        if let Ok(found) = self.control.read(&look) {
            return Ok(found);
        }
        self.majority()?;
        let deadline = deadline(None, false).into_std();
        self.control.read_index(deadline).await?;
        Ok(self.control.read(&look)?)
    }

    /// Makes sure that a node is one of the cluster, in a state that is current if need be.
    pub(super) async fn known(&self, node: NodeId) -> Result<()> {
        self.joined()?;
        let is_known = |state: &State| {
            let known = state.nodes().get(&node);
            known.is_some_and(|known| known.standing != Standing::Removed)
        };
        if self.control.read(is_known) {
            return Ok(());
        }
        self.majority()?;
        let deadline = deadline(None, false).into_std();
        self.control.read_index(deadline).await?;
        match self.control.read(is_known) {
            true => Ok(()),
            false => Err(Refused::UnknownNode(node).into()),
        }
    }

    /// Makes sure that it is not in vain to ask for a change.
    pub(super) fn may_change(&self) -> Result<()> {
        self.majority().map_err(Error::not_done)
    }

    /// Makes sure that it is not in vain to ask for a leader.
    pub(super) fn majority(&self) -> Result<()> {
        match self.placement.lost_quorum() {
            None => Ok(()),
            Some(lost) => Err(Error::new(ProblemKind::NoLeader, lost.to_string())),
        }
    }

    /// Makes sure that this node has a state: one that has not joined yet has an empty one, which
    /// says nothing of the cluster.
    pub(super) fn joined(&self) -> Result<()> {
        match self.control.read(|state| state.cluster().is_some()) {
            true => Ok(()),
            false => Err(not_joined()),
        }
    }
}

pub(super) fn not_joined() -> Error {
    let why = "the node has not joined a cluster yet";
    Error::new(ProblemKind::Unavailable, why)
}
