//! Counts the instances in the fiber lane, and refuses more than the process can have.
//!
//! A fiber's stack has memory mappings of its own, and Linux allows a process a certain number of
//! them. Past it any allocation may fail, of whatever part of the process: so this stops before.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::failure::Failure;

pub(crate) struct Fibers {
    /// A limit that was set; otherwise the system's counts, as it is at the moment.
    max: Option<u64>,
    count: AtomicU64,
}

/// How many memory mappings a process may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mappings(pub u64);

/// The place of one instance, free again once dropped.
pub(crate) struct Fiber(Arc<Fibers>);

impl Mappings {
    /// What kernels allow unless told otherwise.
    pub const USUAL: Self = Self(65_530);

    /// What this system allows at the moment (`vm.max_map_count`); the usual number where it does not
    /// say.
    #[must_use]
    pub fn allowed() -> Self {
        std::fs::read_to_string("/proc/sys/vm/max_map_count")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .map_or(Self::USUAL, Self)
    }

    /// How many instances in the fiber lane a node starts with them.
    #[must_use]
    pub fn fibers(self) -> u64 {
        (self.0 - self.0 / SPARE_PART) / MAPPINGS_PER_FIBER
    }
}

impl Fibers {
    pub(crate) fn new(max: Option<u64>) -> Self {
        Self {
            max,
            count: AtomicU64::new(0),
        }
    }

    /// Takes a place for one more instance.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Fiber, Failure> {
        // Counted first and given back by the drop: two at once cannot both take the last place.
        let fiber = Fiber(self.clone());
        let others = self.count.fetch_add(1, Ordering::Relaxed);
        // Read each time, so that an operator who raises it need not restart the node.
        let Mappings(mappings) = Mappings::allowed();
        let max = self.max.unwrap_or_else(|| Mappings(mappings).fibers());
        if others >= max {
            return Err(Failure::TooManyFibers { max, mappings });
        }
        Ok(fiber)
    }
}

impl Drop for Fiber {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Measured: the stack, its guard page, and what they split.
const MAPPINGS_PER_FIBER: u64 = 3;
/// One of so many mappings is left for threads, machine code, databases and large allocations.
const SPARE_PART: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_once_its_instance_is_gone() {
        let fibers = Arc::new(Fibers::new(Some(2)));
        let first = fibers.admit().ok();
        let second = fibers.admit().ok();
        assert!(first.is_some() && second.is_some());
        for _ in 0..3 {
            let refused = fibers.admit().err();
            assert!(matches!(
                refused,
                Some(Failure::TooManyFibers { max: 2, .. })
            ));
        }
        drop(first);
        assert!(fibers.admit().is_ok());
    }

    #[test]
    fn the_usual_kernel_has_room_for_some_nineteen_thousand() {
        assert_eq!(Mappings::USUAL.fibers(), 19_113);
        assert_eq!(Mappings(0).fibers(), 0);
    }
}
