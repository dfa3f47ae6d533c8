//! How many bytes the log takes, and up to where it would have to be purged to take fewer.

use std::collections::VecDeque;

/// The bytes of the entries of a log, in steps of [`STEP_BYTES`] or more.
#[derive(Default)]
pub(super) struct Sizes {
    steps: VecDeque<Step>,
    bytes: u64,
}

struct Step {
    /// The last entry that is counted here.
    last: u64,
    bytes: u64,
}

impl Sizes {
    /// Counts an entry after the last one.
    pub(super) fn append(&mut self, index: u64, bytes: usize) {
        let bytes = bytes as u64;
        self.bytes += bytes;
        match self.steps.back_mut() {
            Some(step) if step.bytes < STEP_BYTES => {
                step.last = index;
                step.bytes += bytes;
            }
            _ => self.steps.push_back(Step { last: index, bytes }),
        }
    }

    /// Forgets entries from an index on; a step that is cut counts whole.
    pub(super) fn truncate(&mut self, from: u64) {
        let Some(kept) = from.checked_sub(1) else {
            *self = Self::default();
            return;
        };
        while let Some(last) = self.steps.pop_back() {
            let before = self.steps.back().map(|step| step.last);
            if before.is_none_or(|before| before < kept) {
                let last_kept = last.last.min(kept);
                self.steps.push_back(Step {
                    last: last_kept,
                    ..last
                });
                return;
            }
            self.bytes -= last.bytes;
        }
    }

    /// Forgets entries up to an index; a step that is cut counts whole.
    pub(super) fn purge(&mut self, through: u64) {
        while let Some(first) = self.steps.front()
            && first.last <= through
        {
            self.bytes -= first.bytes;
            self.steps.pop_front();
        }
    }

    /// Bytes of the steps that end after an index.
    pub(super) fn after(&self, index: u64) -> u64 {
        let steps = self.steps.iter().rev();
        let after = steps.take_while(|step| step.last > index);
        after.map(|step| step.bytes).sum()
    }

    /// The last entry of the oldest steps without which at most `kept` bytes are left; none when there
    /// are no more.
    pub(super) fn excess(&self, kept: u64) -> Option<u64> {
        let mut left = self.bytes;
        let mut steps = self.steps.iter();
        let mut through = None;
        while left > kept {
            let step = steps.next()?;
            left -= step.bytes;
            through = Some(step.last);
        }
        through
    }
}

/// Entries that are counted together, which bounds how many steps a log has.
const STEP_BYTES: u64 = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries of 100 KiB: three to a step.
    fn log(entries: u64) -> Sizes {
        let mut sizes = Sizes::default();
        for index in 1..=entries {
            sizes.append(index, 100 << 10);
        }
        sizes
    }

    #[test]
    fn a_log_is_purged_up_to_where_few_enough_bytes_are_left() {
        let sizes = log(30);
        assert_eq!(sizes.excess(30 * (100 << 10)), None);
        assert_eq!(sizes.excess(29 * (100 << 10)), Some(3));
        assert_eq!(sizes.excess(20 * (100 << 10)), Some(12));
        assert_eq!(sizes.excess(0), Some(30));
        assert_eq!(sizes.after(27), 300 << 10);
        assert_eq!(sizes.after(30), 0);
    }

    #[test]
    fn what_is_cut_or_purged_is_counted_no_more() {
        let mut sizes = log(30);
        sizes.purge(12);
        assert_eq!(sizes.bytes, 18 * (100 << 10));
        sizes.truncate(22);
        assert_eq!(sizes.bytes, 9 * (100 << 10));
        assert_eq!(sizes.after(12), sizes.bytes);
        sizes.append(22, 1 << 10);
        assert_eq!(sizes.excess(0), Some(22));
        sizes.truncate(0);
        assert_eq!((sizes.bytes, sizes.excess(0)), (0, None));
    }

    #[test]
    fn a_step_that_is_cut_counts_whole() {
        let mut sizes = log(6);
        sizes.truncate(5);
        assert_eq!(sizes.bytes, 600 << 10);
        assert_eq!(sizes.excess(400 << 10), Some(3));
        assert_eq!(sizes.excess(0), Some(4));
    }
}
