//! Counts the memory of one instance and refuses what exceeds its limit.
//!
//! Invariant: linear memories and tables of a store, added up, never exceed `bytes_max`.

use wasmtime::ResourceLimiter;

/// The account of one store.
pub(crate) struct Memory {
    bytes: u64,
    bytes_max: u64,
    /// Growth granted last, in bytes: given back if it then fails for another reason.
    last: u64,
    /// Total that was asked for when growth was refused last, in bytes.
    refused: Option<u64>,
}

impl Memory {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes: 0,
            bytes_max,
            last: 0,
            refused: None,
        }
    }

    /// Forgets refusals of earlier calls.
    pub(crate) fn begin_call(&mut self) {
        self.refused = None;
    }

    /// Total in bytes that was asked for in vain since the call began.
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
        self.last = bytes;
        true
    }

    fn give_back(&mut self) {
        self.bytes -= std::mem::take(&mut self.last);
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

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.give_back();
        Ok(())
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

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.give_back();
        Ok(())
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
    fn growth_that_fails_is_not_counted() {
        let mut memory = Memory::new(100);
        assert!(memory.memory_growing(0, 90, None).unwrap());
        memory
            .memory_grow_failed(wasmtime::Error::msg("no memory"))
            .unwrap();
        assert!(memory.memory_growing(0, 90, None).unwrap());
        assert!(!memory.memory_growing(90, 95, Some(90)).unwrap());
        assert_eq!(memory.refused(), None);
    }
}
