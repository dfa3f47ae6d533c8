//! A cluster founded anew from the state of one node, when the majority that agreed on it is lost.

use holdfast_model::{ClusterId, NodeId, Token};

use super::{Standing, State};

impl State {
    /// Makes this the state of another cluster, of which only `survivor` is left, and that owns
    /// nothing yet: its next incarnation joins as after any crash, and the first plan gives it
    /// every slot.
    ///
    /// The epoch leaps so far that no token of the lost cluster is larger than those to come,
    /// whatever it decided after this copy of its state.
    pub fn refound(&mut self, id: ClusterId, survivor: NodeId, at_ms: u64) {
        if let Some(cluster) = &mut self.cluster {
            (cluster.id, cluster.founded_at_ms) = (id, at_ms);
        }
        self.epoch.0 = self.epoch.0.saturating_add(EPOCH_LEAP);
        self.nodes.retain(|node, _| *node == survivor);
        for node in self.nodes.values_mut() {
            node.standing = Standing::Down;
        }
        let token = Token(self.epoch.0);
        for module in self.modules.values_mut() {
            // What was left for its owner to release has no owner any more.
            module.slots.retain(|_, slot| !slot.resources.is_empty());
            for slot in module.slots.values_mut() {
                (slot.owner, slot.next, slot.token) = (None, None, token);
            }
            if let Some(rollout) = &mut module.about.rollout {
                rollout.failed_on.clear();
            }
        }
        self.modules
            .retain(|_, module| !(module.about.removing && module.slots.is_empty()));
    }
}

/// By how much tokens leap: more changes of owner than a cluster makes in years. There is room for
/// thousands of such leaps in the integers that JSON's numbers hold.
const EPOCH_LEAP: u64 = 1 << 40;
