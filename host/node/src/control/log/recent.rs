//! The newest entries of the log, in memory.
//!
//! Invariant: an entry that is not known to be on disk is here, and so is every later one.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;

/// Encoded entries by index, without gaps up to the last one of the log.
#[derive(Default)]
pub(super) struct Recent {
    entries: BTreeMap<u64, Bytes>,
    bytes: usize,
    /// Everything up to there is on disk.
    stored: Option<u64>,
}

impl Recent {
    /// The first index in memory: all before it is on disk.
    pub(super) fn first(&self) -> Option<u64> {
        self.entries.first_key_value().map(|(index, _)| *index)
    }

    /// Entries of a range, until they pass `bytes_max`.
    pub(super) fn range(
        &self,
        from: Bound<u64>,
        to: Bound<u64>,
        bytes_max: usize,
    ) -> Vec<(u64, Bytes)> {
        if super::is_empty(from, to) {
            return Vec::new();
        }
        let mut bytes = 0;
        let fits = |(_, entry): &(&u64, &Bytes)| {
            let fits = bytes < bytes_max;
            bytes += entry.len();
            fits
        };
        let range = self.entries.range((from, to)).take_while(fits);
        range
            .map(|(index, entry)| (*index, entry.clone()))
            .collect()
    }

    /// Adds an entry after the last one, which is not on disk yet.
    pub(super) fn append(&mut self, index: u64, entry: Bytes) {
        self.bytes += entry.len();
        if let Some(replaced) = self.entries.insert(index, entry) {
            self.bytes -= replaced.len();
        }
    }

    /// Everything up to an entry is on disk: the oldest may go.
    pub(super) fn stored(&mut self, index: u64) {
        self.stored = self.stored.max(Some(index));
        while self.bytes > BYTES_MAX
            && let Some(oldest) = self.entries.first_entry()
            && Some(*oldest.key()) <= self.stored
        {
            self.bytes -= oldest.remove().len();
        }
    }

    /// Forgets entries from an index on.
    pub(super) fn truncate(&mut self, from: u64) {
        let cut = self.entries.split_off(&from);
        self.bytes -= cut.values().map(Bytes::len).sum::<usize>();
        // What comes in their place is not on disk yet.
        self.stored = self.stored.min(from.checked_sub(1));
    }

    /// Forgets entries up to an index.
    pub(super) fn purge(&mut self, through: u64) {
        let kept = self.entries.split_off(&(through + 1));
        let purged = std::mem::replace(&mut self.entries, kept);
        self.bytes -= purged.values().map(Bytes::len).sum::<usize>();
    }
}

/// Entries that are on disk and kept here all the same. Fewer: followers a little behind have the file
/// read. More: memory that nobody asks for.
const BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kib: usize) -> Bytes {
        Bytes::from(vec![0; kib << 10])
    }

    fn indexes(recent: &Recent) -> Vec<u64> {
        let all = recent.range(Bound::Unbounded, Bound::Unbounded, usize::MAX);
        all.into_iter().map(|(index, _)| index).collect()
    }

    #[test]
    fn what_is_not_on_disk_stays_however_much_it_is() {
        let mut recent = Recent::default();
        for index in 1..=5 {
            recent.append(index, entry(8 << 10));
        }
        assert_eq!(indexes(&recent), [1, 2, 3, 4, 5]);
        recent.stored(2);
        assert_eq!(indexes(&recent), [3, 4, 5]);
        recent.stored(5);
        assert_eq!(indexes(&recent), [4, 5], "as many as fit");
    }

    #[test]
    fn what_takes_the_place_of_cut_entries_is_not_taken_for_stored() {
        let mut recent = Recent::default();
        for index in 1..=4 {
            recent.append(index, entry(1));
        }
        recent.stored(4);
        recent.truncate(3);
        assert_eq!(indexes(&recent), [1, 2]);
        for index in 3..=6 {
            recent.append(index, entry(8 << 10));
        }
        recent.stored(2);
        assert_eq!(indexes(&recent), [3, 4, 5, 6]);
        recent.purge(4);
        assert_eq!(indexes(&recent), [5, 6]);
        assert_eq!(recent.bytes, 16 << 20);
    }
}
