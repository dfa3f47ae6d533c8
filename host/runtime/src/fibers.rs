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

/// The place of one instance, free again once dropped.
pub(crate) struct Fiber(Arc<Fibers>);

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
        let mappings = mappings_max();
        let max = self.max.unwrap_or_else(|| fitting(mappings));
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

fn fitting(mappings: u64) -> u64 {
    (mappings - mappings / SPARE_PART) / MAPPINGS_PER_FIBER
}

/// What the system allows a process.
fn mappings_max() -> u64 {
    std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(MAPPINGS_MAX_USUAL)
}

/// Measured: the stack, its guard page, and what they split.
const MAPPINGS_PER_FIBER: u64 = 3;
/// One of so many mappings is left for threads, machine code, databases and large allocations.
const SPARE_PART: u64 = 8;
/// What kernels have unless told otherwise.
const MAPPINGS_MAX_USUAL: u64 = 65_530;

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
        assert_eq!(fitting(MAPPINGS_MAX_USUAL), 19_113);
        assert_eq!(fitting(0), 0);
    }
}
