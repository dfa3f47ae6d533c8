//! Counts the memory of one instance, and of all of them, and refuses what exceeds a limit.
//!
//! Invariant: linear memories and tables of a store, added up, never exceed `bytes_max`, and those of all
//! stores never exceed the node's. What was granted stays counted: the limiter is told of growth that
//! failed without a word on whether it had been granted (a size that overflows is not asked for), so
//! nothing can be given back safely before the store is gone.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use wasmtime::ResourceLimiter;

/// The account of all guests of a node.
#[derive(Debug)]
pub(crate) struct NodeMemory {
    bytes: AtomicU64,
    bytes_max: u64,
}

/// The account of one store.
pub(crate) struct Memory {
    bytes: u64,
    bytes_max: u64,
    node: Arc<NodeMemory>,
    /// What was asked for last, if that was refused.
    refused: Option<Refused>,
}

/// Growth that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Total in bytes that was asked for.
    pub(crate) asked: u64,
    /// The limit of the node, if it was that one and not the instance's own.
    pub(crate) node_max: Option<u64>,
}

impl NodeMemory {
    /// With this limit, or what suits the machine.
    pub(crate) fn new(bytes_max: Option<u64>) -> Self {
        Self {
            bytes: AtomicU64::new(0),
            bytes_max: bytes_max.unwrap_or_else(|| allowed() / 4 * 3),
        }
    }

    pub(crate) fn used_and_max(&self) -> (u64, u64) {
        (self.bytes.load(Relaxed), self.bytes_max)
    }

    fn take(&self, bytes: u64) -> bool {
        // Counted first and given back where that was too much: two at once cannot both take the last.
        let before = self.bytes.fetch_add(bytes, Relaxed);
        let fits = before.saturating_add(bytes) <= self.bytes_max;
        if !fits {
            self.bytes.fetch_sub(bytes, Relaxed);
        }
        fits
    }
}

/// The memory that this process may have, by the machine and its control groups; no limit where none of
/// them says one.
fn allowed() -> u64 {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        let kib = line.split_whitespace().nth(1)?.parse::<u64>().ok()?;
        Some(kib << 10)
    });
    let group = fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|text| {
            let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
            number(&format!(
                "/sys/fs/cgroup{}/memory.max",
                path.trim_end_matches('/')
            ))
        });
    let limits = [
        machine,
        group,
        number("/sys/fs/cgroup/memory.max"),
        number("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ];
    limits.into_iter().flatten().min().unwrap_or(u64::MAX)
}

impl Memory {
    pub(crate) fn new(bytes_max: u64, node: Arc<NodeMemory>) -> Self {
        Self {
            bytes: 0,
            bytes_max,
            node,
            refused: None,
        }
    }

    /// Forgets refusals of earlier calls.
    pub(crate) fn begin_call(&mut self) {
        self.refused = None;
    }

    /// What was asked for in vain, if nothing was granted in this call since.
    pub(crate) fn refused(&self) -> Option<Refused> {
        self.refused
    }

    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    fn grow(&mut self, bytes: u64) -> bool {
        let asked = self.bytes.saturating_add(bytes);
        let refuse = |node_max| Some(Refused { asked, node_max });
        if asked > self.bytes_max {
            self.refused = refuse(None);
            return false;
        }
        if !self.node.take(bytes) {
            self.refused = refuse(Some(self.node.bytes_max));
            return false;
        }
        self.bytes = asked;
        self.refused = None;
        true
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.node.bytes.fetch_sub(self.bytes, Relaxed);
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

    fn memory(bytes_max: u64) -> Memory {
        Memory::new(bytes_max, Arc::new(NodeMemory::new(Some(1_000))))
    }

    fn refused(memory: &Memory) -> Option<u64> {
        memory.refused().map(|refused| refused.asked)
    }

    #[test]
    fn all_stores_share_the_limit_of_the_node() {
        let node = Arc::new(NodeMemory::new(Some(100)));
        let mut one = Memory::new(80, Arc::clone(&node));
        let mut other = Memory::new(80, Arc::clone(&node));
        assert!(one.memory_growing(0, 60, None).unwrap());
        assert!(!other.memory_growing(0, 60, None).unwrap());
        let by_node = Refused {
            asked: 60,
            node_max: Some(100),
        };
        assert_eq!(other.refused(), Some(by_node));
        assert!(other.memory_growing(0, 40, None).unwrap());
        assert!(!one.memory_growing(60, 81, None).unwrap());
        assert_eq!(one.refused().unwrap().node_max, None, "its own limit");
        assert_eq!(node.used_and_max(), (100, 100));
        drop(one);
        assert_eq!(node.used_and_max(), (40, 100));
    }

    #[test]
    fn the_machine_says_what_there_is() {
        let all = allowed();
        assert!((64 << 20..1 << 50).contains(&all), "{all}");
    }

    #[test]
    fn memories_and_tables_share_one_limit() {
        let mut memory = memory(100);
        assert!(memory.memory_growing(0, 40, None).unwrap());
        assert!(memory.memory_growing(0, 40, None).unwrap());
        assert!(!memory.table_growing(0, 3, None).unwrap());
        assert_eq!(refused(&memory), Some(104));
        assert!(memory.table_growing(0, 2, None).unwrap());
    }

    #[test]
    fn a_failure_that_was_never_granted_gives_nothing_back() {
        let mut memory = memory(100);
        assert!(memory.memory_growing(0, 90, None).unwrap());
        let overflow = || wasmtime::Error::msg("overflow calculating new table size");
        memory.table_grow_failed(overflow()).unwrap();
        memory.memory_grow_failed(overflow()).unwrap();
        assert!(!memory.memory_growing(90, 180, None).unwrap());
    }

    #[test]
    fn only_the_latest_refusal_counts_as_one() {
        let mut memory = memory(100);
        assert!(!memory.memory_growing(0, 101, None).unwrap());
        assert_eq!(refused(&memory), Some(101));
        assert!(memory.memory_growing(0, 90, None).unwrap());
        assert_eq!(memory.refused(), None);
        assert!(!memory.memory_growing(90, 95, Some(90)).unwrap());
        assert_eq!(memory.refused(), None, "it is the memory's own maximum");
    }
}
