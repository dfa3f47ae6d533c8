//! What the system allows a process: memory mappings and open files.

use holdfast_runtime::{Mappings, OUTGOING_CONNECTIONS_MAX};
use rustix::process::{Resource, Rlimit, getrlimit};

use super::{super::human, Finding};
use crate::server::CONNECTIONS_MAX;

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
    let allowed = limit.current.unwrap_or(u64::MAX);
    let found = match limit.current {
        Some(files) => human::count(files),
        None => "without limit".to_owned(),
    };
    if allowed >= FILES_WANTED {
        return Finding::ok(CHECK, found);
    }
    let mut remedy = format!(
        "`ulimit -n {FILES_WANTED}` before `holdfast start`, or LimitNOFILE={FILES_WANTED} with \
         systemd: each of {} HTTP connections takes one, of {} that handlers have, and a node's \
         own files",
        human::count(CONNECTIONS_MAX as u64),
        human::count(OUTGOING_CONNECTIONS_MAX as u64),
    );
    if limit.maximum.is_some_and(|hard| hard < FILES_WANTED) {
        remedy.push_str(". The hard limit is lower: root must raise it too");
    }
    if allowed < FILES_OWN {
        let found = format!("{found}, not enough for a node's own files and peers");
        return Finding::failure(CHECK, found, remedy);
    }
    let found = format!("{found}, and a node can use {}", human::count(FILES_WANTED));
    Finding::warning(CHECK, found, remedy)
}

/// For files, threads' queues of events, and the connections of some dozens of peers.
const FILES_OWN: u64 = 512;
const FILES_WANTED: u64 = CONNECTIONS_MAX as u64 + OUTGOING_CONNECTIONS_MAX as u64 + FILES_OWN;

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
    fn open_files_are_judged_by_what_all_connections_take() {
        let judge = |current, maximum| judge_open_files(Rlimit { current, maximum });
        assert_eq!(FILES_WANTED, 17_920);
        assert_eq!(judge(Some(17_920), Some(17_920)).status, Status::Ok);
        assert_eq!(judge(None, None).status, Status::Ok);
        let usual = judge(Some(1_024), Some(1 << 20));
        assert_eq!(usual.status, Status::Warning);
        assert!(
            usual.found.contains("1,024, and a node can use 17,920"),
            "{usual:?}"
        );
        let remedy = usual.remedy.unwrap();
        assert!(
            remedy.contains("ulimit -n 17920") && !remedy.contains("root"),
            "{remedy}"
        );
        let hard = judge(Some(1_024), Some(4_096)).remedy.unwrap();
        assert!(hard.contains("root"), "{hard}");
        assert_eq!(judge(Some(256), None).status, Status::Failure);
    }
}
