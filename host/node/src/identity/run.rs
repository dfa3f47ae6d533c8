//! How the last run on a data directory ended, for whoever reads the log of the next.
//!
//! A run that begins says so in a file, and one that ends as it should how. What finds the former
//! without the latter follows a crash, a kill or a power cut.

use std::{fmt, fs, path::Path};

use super::{BootId, Error, write};

/// How the run before this one ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastRun {
    /// There was none, or nobody knows.
    Unknown,
    /// As it should, in these words.
    Ended(String),
    /// It did not say: it was killed or crashed, or the machine went down.
    Cut {
        /// The machine is still in the same boot, so it did not go down.
        same_boot: bool,
    },
}

impl LastRun {
    /// Reads it. What cannot be read is unknown: it is nothing that a start depends on.
    pub(super) fn read(dir: &Path, now: BootId) -> Self {
        let Ok(text) = fs::read_to_string(dir.join(RUN)) else {
            return Self::Unknown;
        };
        match text.trim_end().split_once(' ') {
            Some((ENDED, how)) => Self::Ended(how.to_owned()),
            Some((RUNS, boot)) => Self::Cut {
                same_boot: boot == now.to_string(),
            },
            _ => Self::Unknown,
        }
    }
}

/// Notes that a run has begun.
pub(super) fn begin(dir: &Path, boot: BootId) -> Result<(), Error> {
    write(dir, RUN, &format_args!("{RUNS} {boot}"))
}

/// Notes how a run ends.
pub(super) fn end(dir: &Path, how: &impl fmt::Display) -> Result<(), Error> {
    write(dir, RUN, &format_args!("{ENDED} {how}"))
}

const RUN: &str = "last-run";
const RUNS: &str = "runs";
const ENDED: &str = "ended";
