//! What the system allows a process: memory mappings and open files.

use holdfast_runtime::{Mappings, OUTGOING_CONNECTIONS_MAX};
use rustix::process::{Resource, Rlimit, getrlimit};

use super::{super::human, Finding};
use crate::{config::HttpOptions, server};

pub(super) fn mappings() -> Mappings {
    Mappings::allowed()
}

pub(super) fn judge_mappings(allowed: Mappings) -> Finding {
    const CHECK: &str = "memory-mappings";
    let found = format!(
        "{} (vm.max_map_count), enough for {} instances on fibers",
        human::count(allowed.0),
        human::count(allowed.fibers())
    );
    if allowed >= Mappings::USUAL {
        return Finding::ok(CHECK, found);
    }
    Finding::warning(
        CHECK,
        found,
        format!(
            "an instance in the fiber lane takes three mappings, and what is beyond is not \
             started. Put back what is usual: `sudo sysctl -w vm.max_map_count={}`",
            Mappings::USUAL.0
        ),
    )
}

pub(super) fn open_files() -> Rlimit {
    getrlimit(Resource::Nofile)
}

pub(super) fn judge_open_files(limit: Rlimit) -> Finding {
    const CHECK: &str = "open-files";
    // A node takes all that it may.
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    let found = match limit.maximum {
        Some(files) => human::count(files),
        None => "without limit".to_owned(),
    };
    let wanted = u64::from(HttpOptions::default().connections_max) + server::RESERVED_FILES;
    if allowed >= wanted {
        return Finding::ok(CHECK, found);
    }
    let connections = human::count(server::most_connections(allowed));
    let remedy = format!(
        "raise the hard limit: `ulimit -Hn {wanted}` as root before `holdfast start`, or \
         LimitNOFILE={wanted} with systemd. With this one there are at most {connections} HTTP \
         connections; peers, the disk and up to {} connections of handlers share the rest",
        human::count(OUTGOING_CONNECTIONS_MAX as u64),
    );
    if allowed < FILES_OWN {
        let found = format!("{found}, not enough for a node's own files and peers");
        return Finding::failure(CHECK, found, remedy);
    }
    let found = format!("{found}, and a node can use {}", human::count(wanted));
    Finding::warning(CHECK, found, remedy)
}

/// For files, threads' queues of events, and the connections of some dozens of peers.
const FILES_OWN: u64 = 512;

#[cfg(test)]
mod tests {
    use super::{super::Status, *};

    #[test]
    fn fewer_mappings_than_usual_are_a_warning_that_says_what_they_are_enough_for() {
        let usual = judge_mappings(Mappings::USUAL);
        assert_eq!(usual.status, Status::Ok);
        assert!(
            usual.found.contains("enough for 19,113 instances"),
            "{usual:?}"
        );
        assert_eq!(judge_mappings(Mappings(1 << 20)).status, Status::Ok);
        let few = judge_mappings(Mappings(8_000));
        assert_eq!(few.status, Status::Warning);
        assert!(few.found.contains("2,333 instances"), "{few:?}");
        assert!(
            few.remedy
                .unwrap()
                .contains("sysctl -w vm.max_map_count=65530")
        );
    }

    #[test]
    fn open_files_are_judged_by_the_hard_limit_which_a_node_takes() {
        let judge = |current, maximum| judge_open_files(Rlimit { current, maximum });
        assert_eq!(judge(Some(1_024), Some(20_480)).status, Status::Ok);
        assert_eq!(judge(None, None).status, Status::Ok);
        let few = judge(Some(1_024), Some(4_096));
        assert_eq!(few.status, Status::Warning);
        assert!(
            few.found.contains("4,096, and a node can use 20,480"),
            "{few:?}"
        );
        let remedy = few.remedy.unwrap();
        assert!(
            remedy.contains("ulimit -Hn 20480") && remedy.contains("at most 2,048 HTTP"),
            "{remedy}"
        );
        assert_eq!(judge(Some(256), Some(256)).status, Status::Failure);
    }
}
