//! The conditions of this node: why it is given nothing, or is not well.
//!
//! Any part of a node sets a condition while it lasts and clears it afterwards. What is set here shows
//! in `holdfast status` and `nodes`, `/readyz`, the metrics (`holdfast_node_condition`), the log and
//! the events. There is nothing else to do for a new condition than to name its kind in
//! [`ConditionKind`] and to document it in `docs/OPERATING.md`:
//!
//! ```ignore
//! conditions.set(ConditionKind::Storage, "cannot store m6: no space left on device");
//! conditions.clear(ConditionKind::Storage);
//! ```
//!
//! Each kind has one owner: the part of the node that sets and clears it. Setting what is set already,
//! and clearing what is not, costs a lock and changes at most the text, so both may be done again and
//! again. Texts say what, never "error"; they are cut at [`TEXT_BYTES_MAX`].
//!
//! Invariant: bounded, one condition for each kind. Absent: what follows from a condition. What is
//! given to a node is decided by the leader, which is told what it must know
//! ([`Renew`](crate::placement)).

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use holdfast_model::api::{ConditionKind, NodeCondition};
use parking_lot::Mutex;
use tracing::{info, warn};

use crate::clock::now_ms;

/// Is told when conditions begin and end, in their order.
pub trait Observe: Send + Sync + 'static {
    /// A condition began. Must not use the conditions.
    fn began(&self, condition: &NodeCondition);
    /// A condition is over. Must not use the conditions.
    fn ended(&self, kind: ConditionKind);
}

/// The conditions of a node. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct Conditions(Arc<Inner>);

struct Inner {
    present: Mutex<BTreeMap<ConditionKind, NodeCondition>>,
    settled: AtomicBool,
    observer: Box<dyn Observe>,
}

impl Conditions {
    /// None yet; the observer is told of each.
    #[must_use]
    pub fn new(observer: impl Observe) -> Self {
        Self(Arc::new(Inner {
            present: Mutex::default(),
            settled: AtomicBool::new(false),
            observer: Box::new(observer),
        }))
    }

    /// Sets a condition: it begins, or has another text from now on.
    pub fn set(&self, kind: ConditionKind, text: impl Into<String>) {
        let text = cut(text.into());
        let mut present = self.0.present.lock();
        if let Some(known) = present.get_mut(&kind) {
            known.text = text;
            return;
        }
        let condition = NodeCondition::new(kind, text, now_ms());
        match condition.fault {
            // Its owner says more, as an error.
            _ if kind == ConditionKind::NoQuorum => {}
            true => warn!(condition = %kind, "{}", condition.text),
            false => info!(condition = %kind, "{}", condition.text),
        }
        // Under the lock: who is told of an end has been told of the beginning.
        self.0.observer.began(&condition);
        present.insert(kind, condition);
    }

    /// Clears a condition: it is over.
    pub fn clear(&self, kind: ConditionKind) {
        let mut present = self.0.present.lock();
        if present.remove(&kind).is_some() {
            info!(condition = %kind, "the condition is over");
            self.0.observer.ended(kind);
        }
    }

    /// Sets a condition where there is a text, else clears it.
    pub fn put(&self, kind: ConditionKind, text: Option<String>) {
        match text {
            Some(text) => self.set(kind, text),
            None => self.clear(kind),
        }
    }

    /// Notes that this run is given whatever there is, unless a condition says otherwise.
    pub fn settle(&self) {
        let idle = self.0.present.lock().values().any(|c| c.gets_nothing);
        self.0.settled.fetch_or(!idle, Ordering::Relaxed);
    }

    /// Whether this run was given whatever there is, at some time. What has to be compiled after that is
    /// new to all nodes, and none of them is less ready than the others.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.0.settled.load(Ordering::Relaxed)
    }

    /// Those that last, by kind.
    #[must_use]
    pub fn all(&self) -> Vec<NodeCondition> {
        self.0.present.lock().values().cloned().collect()
    }
}

impl Default for Conditions {
    fn default() -> Self {
        struct Nobody;
        impl Observe for Nobody {
            fn began(&self, _: &NodeCondition) {}
            fn ended(&self, _: ConditionKind) {}
        }
        Self::new(Nobody)
    }
}

impl std::fmt::Debug for Conditions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

/// At most [`TEXT_BYTES_MAX`] of a text, on one line.
fn cut(text: String) -> String {
    let mut text = text.replace(char::is_control, " ");
    if text.len() > TEXT_BYTES_MAX {
        let fits = |at: &usize| text.is_char_boundary(*at);
        let at = (0..TEXT_BYTES_MAX).rev().find(fits).unwrap_or(0);
        text.truncate(at);
        text.push('…');
    }
    text
}

/// Longest text of a condition: it is for one line of a table.
pub const TEXT_BYTES_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Told(Arc<Mutex<Vec<String>>>);

    impl Observe for Told {
        fn began(&self, condition: &NodeCondition) {
            let text = format!("{} began: {}", condition.kind, condition.text);
            self.0.lock().push(text);
        }

        fn ended(&self, kind: ConditionKind) {
            self.0.lock().push(format!("{kind} ended"));
        }
    }

    #[test]
    fn a_condition_begins_once_changes_its_text_and_ends_once() {
        let told = Told::default();
        let conditions = Conditions::new(told.clone());
        conditions.clear(ConditionKind::Compiling);
        conditions.set(ConditionKind::Compiling, "compiling m6, m7");
        let since = conditions.all()[0].since_ms;
        conditions.set(ConditionKind::Compiling, "compiling m7");
        let all = conditions.all();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].to_string(), "waiting: compiling m7");
        assert_eq!((all[0].since_ms, all[0].gets_nothing), (since, true));
        conditions.put(ConditionKind::Compiling, None);
        conditions.put(ConditionKind::Compiling, None);
        assert_eq!(
            *told.0.lock(),
            ["compiling began: compiling m6, m7", "compiling ended"]
        );
        assert!(conditions.all().is_empty());
    }

    #[test]
    fn the_handbook_has_every_kind_and_says_which_are_idle() {
        let page = include_str!("../../../docs/OPERATING.md");
        for kind in ConditionKind::ALL {
            let idle = if kind.gets_nothing() { "yes" } else { "no" };
            let row = format!("| `{kind}` | {idle} |");
            assert!(page.contains(&row), "{row}");
        }
    }

    #[test]
    fn a_text_stays_short_and_on_one_line() {
        let conditions = Conditions::default();
        conditions.set(ConditionKind::Storage, "ä\n".repeat(1_000));
        let text = &conditions.all()[0].text;
        assert!(text.len() <= TEXT_BYTES_MAX + '…'.len_utf8(), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
}
