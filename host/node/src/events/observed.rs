//! Tells of this node's conditions as they begin and end.

use holdfast_model::api::{ConditionKind, Happening, NodeCondition};

use super::Teller;
use crate::conditions;

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
