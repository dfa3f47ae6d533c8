//! Shares the file descriptors of the process: HTTP connections get what nothing else needs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Raises how many files the process may open to all that it is allowed to raise it to. Other programs that it
/// becomes, or starts, inherit that.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "the limit of open files stays as low as it is");
    }
}

/// How many HTTP connections a node may have that was told `wanted`, as the process's limit is now.
pub(super) fn connections_max(wanted: u32) -> u32 {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let most = most_connections(files);
    if u64::from(wanted) <= most {
        return wanted;
    }
    let most = u32::try_from(most).unwrap_or(u32::MAX);
    warn!(
        wanted,
        connections = most,
        open_files = files,
        "fewer HTTP connections than wanted: the process may open too few files"
    );
    most
}

/// How many HTTP connections there may be where so many files may be open: half, or what the others
/// leave.
#[must_use]
pub fn most_connections(files: u64) -> u64 {
    files - (files / 2).min(RESERVED)
}

/// For peers, the disk and what handlers connect to, and for connections on their way out.
pub const RESERVED: u64 = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_get_what_the_others_leave() {
        for (files, most) in [
            (256, 128),
            (1_024, 512),
            (20_000, 15_904),
            (u64::MAX, u64::MAX - RESERVED),
        ] {
            assert_eq!(most_connections(files), most, "{files}");
        }
    }

    #[test]
    fn what_is_wanted_is_an_upper_bound() {
        assert_eq!(connections_max(1), 1);
    }
}
