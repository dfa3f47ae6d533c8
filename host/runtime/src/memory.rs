//! Counts the memory of one instance and refuses what exceeds its limit.
//!
//! Invariant: linear memories and tables of a store, added up, never exceed `bytes_max`. What was
//! granted stays counted: the limiter is told of growth that failed without a word on whether it
//! had been granted (a size that overflows is not asked for), so nothing can be given back safely.

use wasmtime::ResourceLimiter;

/// The account of one store.
pub(crate) struct Memory {
    bytes: u64,
    bytes_max: u64,
    /// Total that was asked for in bytes, if the growth asked for last was refused.
    refused: Option<u64>,
}

impl Memory {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes: 0,
            bytes_max,
            refused: None,
        }
    }

    /// Forgets refusals of earlier calls.
    pub(crate) fn begin_call(&mut self) {
        self.refused = None;
    }

    /// Total in bytes that was asked for in vain, if nothing was granted in this call since.
    pub(crate) fn refused(&self) -> Option<u64> {
        self.refused
    }

    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    fn grow(&mut self, bytes: u64) -> bool {
        let total = self.bytes.saturating_add(bytes);
        if total > self.bytes_max {
            self.refused = Some(total);
            return false;
        }
        self.bytes = total;
        self.refused = None;
        true
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // Beyond its own maximum the memory cannot grow anyway: no matter for the account.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        Ok(self.grow(desired.saturating_sub(current) as u64))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let elements = desired.saturating_sub(current) as u64;
        Ok(self.grow(elements.saturating_mul(ELEMENT_BYTES)))
    }

    fn instances(&self) -> usize {
        PARTS_MAX
    }

    fn tables(&self) -> usize {
        PARTS_MAX
    }

    fn memories(&self) -> usize {
        PARTS_MAX
    }
}

/// A function reference in a table takes this much.
const ELEMENT_BYTES: u64 = 8;

/// Core instances, memories and tables of one component. Components of interpreted languages
/// have about twenty.
pub(crate) const PARTS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_share_one_limit() {
        let mut memory = Memory::new(100);
        assert!(memory.memory_growing(0, 40, None).unwrap());
        assert!(memory.memory_growing(0, 40, None).unwrap());
        assert!(!memory.table_growing(0, 3, None).unwrap());
        assert_eq!(memory.refused(), Some(104));
        assert!(memory.table_growing(0, 2, None).unwrap());
    }

    #[test]
    fn a_failure_that_was_never_granted_gives_nothing_back() {
        let mut memory = Memory::new(100);
        assert!(memory.memory_growing(0, 90, None).unwrap());
        let overflow = || wasmtime::Error::msg("overflow calculating new table size");
        memory.table_grow_failed(overflow()).unwrap();
        memory.memory_grow_failed(overflow()).unwrap();
        assert!(!memory.memory_growing(90, 180, None).unwrap());
    }

    #[test]
    fn only_the_latest_refusal_counts_as_one() {
        let mut memory = Memory::new(100);
        assert!(!memory.memory_growing(0, 101, None).unwrap());
        assert_eq!(memory.refused(), Some(101));
        assert!(memory.memory_growing(0, 90, None).unwrap());
        assert_eq!(memory.refused(), None);
        assert!(!memory.memory_growing(90, 95, Some(90)).unwrap());
        assert_eq!(memory.refused(), None, "it is the memory's own maximum");
    }
}
