//! The disk of a data directory.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{statfs, statvfs};

use super::{super::human, Finding};
use crate::control;

/// A data directory, or where it would be.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    /// The directory itself, or the nearest above it that is there.
    at: PathBuf,
    /// How long it took, each time, until something small was on disk; in order.
    synced: io::Result<Vec<Duration>>,
    /// Bytes that the user of this process may still write.
    free: io::Result<u64>,
    /// It is a file system in memory.
    in_memory: bool,
}

pub(super) async fn look(dir: Option<&Path>) -> Option<Disk> {
    let dir = dir?.to_owned();
    let looked = tokio::task::spawn_blocking(move || Disk::look(dir));
    Some(looked.await.expect("looking at a disk does not panic"))
}

impl Disk {
    fn look(dir: PathBuf) -> Self {
        let absolute = std::path::absolute(&dir).unwrap_or_else(|_| dir.clone());
        let there = absolute.ancestors().find(|path| path.exists());
        let at = there.unwrap_or(Path::new("/")).to_owned();
        let free = statvfs(&at).map(|found| found.f_bavail.saturating_mul(found.f_frsize));
        Self {
            synced: sync(&at),
            free: free.map_err(io::Error::from),
            in_memory: statfs(&at).is_ok_and(|found| IN_MEMORY.contains(&(found.f_type as u32))),
            dir,
            at,
        }
    }

    pub(super) fn judge(&self) -> Vec<Finding> {
        let mut findings = vec![self.judge_dir()];
        findings.push(match &self.free {
            Ok(free) => judge_free(*free),
            Err(error) => Finding::warning(
                "disk-space",
                format!("cannot be told: {error}"),
                "see with `df` that there is some GiB",
            ),
        });
        if let Ok(synced) = &self.synced {
            findings.push(judge_sync(synced));
        }
        findings
    }

    fn judge_dir(&self) -> Finding {
        const CHECK: &str = "data-dir";
        let dir = self.dir.display();
        let missing = self.at != std::path::absolute(&self.dir).unwrap_or_default();
        match &self.synced {
            Err(error) if missing => Finding::failure(
                CHECK,
                format!("{dir} is not there, and {}: {error}", self.at.display()),
                format!(
                    "make it for the user that runs the node: `sudo install -d -o USER -m 700 {dir}`"
                ),
            ),
            Err(error) => Finding::failure(
                CHECK,
                format!("{dir}: {error}"),
                format!(
                    "give it to the user that runs the node: `sudo chown -R USER {dir}`; or give \
                     another --data-dir"
                ),
            ),
            Ok(_) if self.in_memory => Finding::warning(
                CHECK,
                format!("{dir} is in memory, not on a disk"),
                "what it holds is lost when the machine stops, and the node comes back as another \
                 one: give --data-dir on a disk",
            ),
            Ok(_) if missing => Finding::ok(CHECK, format!("{dir} is made by the first start")),
            Ok(_) => Finding::ok(CHECK, format!("{dir} is writable")),
        }
    }
}

fn judge_free(free: u64) -> Finding {
    const CHECK: &str = "disk-space";
    const REMEDY: &str = "free some: beside the state, a node keeps every component twice, as it \
                          was deployed and compiled";
    let found = format!("{} free", human::bytes(free));
    match free {
        0..FREE_MIN => Finding::failure(CHECK, found, REMEDY),
        FREE_MIN..FREE_GOOD => Finding::warning(CHECK, found, REMEDY),
        _ => Finding::ok(CHECK, found),
    }
}

fn judge_sync(synced: &[Duration]) -> Finding {
    const CHECK: &str = "disk-sync";
    let usual = synced[synced.len() / 2];
    let slowest = synced[synced.len() - 1];
    let found = format!(
        "fsync takes {}, {} at worst of {}",
        millis(usual),
        millis(slowest),
        synced.len()
    );
    if usual >= control::Options::ELECTION_MIN {
        let remedy =
            "a disk this slow topples leaders: use a faster one, that no other program keeps busy";
        return Finding::failure(CHECK, found, remedy);
    }
    if usual > SYNC_GOOD || slowest >= control::Options::ELECTION_MIN {
        let remedy = "every change waits for the faster half of the voters' disks: prefer an SSD that \
                      no other program keeps busy";
        return Finding::warning(CHECK, found, remedy);
    }
    Finding::ok(CHECK, found)
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// Writes a little and waits for the disk, some times; in a file that never has a name.
fn sync(at: &Path) -> io::Result<Vec<Duration>> {
    let mut file = tempfile::tempfile_in(at)?;
    let began = Instant::now();
    let mut synced = Vec::new();
    while synced.len() < SYNCS && (synced.is_empty() || began.elapsed() < SYNCS_TIME) {
        let before = Instant::now();
        file.write_all(&[0; PAGE])?;
        file.sync_data()?;
        synced.push(before.elapsed());
    }
    synced.sort_unstable();
    Ok(synced)
}

/// Below it, not even a few components fit.
const FREE_MIN: u64 = 128 << 20;
/// The log of a busy cluster, and some dozens of components, fit into it.
const FREE_GOOD: u64 = 2 << 30;
/// What each change may wait for without anybody taking note.
const SYNC_GOOD: Duration = Duration::from_millis(50);
const SYNCS: usize = 16;
const SYNCS_TIME: Duration = Duration::from_secs(3);
const PAGE: usize = 4096;
/// The magic numbers of tmpfs and ramfs, `statfs(2)`.
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

#[cfg(test)]
mod tests {
    use super::{super::Status, *};

    fn disk(dir: &str, at: &str, synced: io::Result<Vec<Duration>>) -> Disk {
        Disk {
            dir: dir.into(),
            at: at.into(),
            synced,
            free: Ok(1 << 40),
            in_memory: false,
        }
    }

    fn ms(all: &[u64]) -> Vec<Duration> {
        all.iter().copied().map(Duration::from_millis).collect()
    }

    #[test]
    fn a_data_directory_is_there_or_can_be_made() {
        let denied = || Err(io::ErrorKind::PermissionDenied.into());
        for (at, synced, status, named) in [
            ("/var/lib/hf", Ok(ms(&[1])), Status::Ok, "is writable"),
            (
                "/var/lib",
                Ok(ms(&[1])),
                Status::Ok,
                "made by the first start",
            ),
            (
                "/var/lib/hf",
                denied(),
                Status::Failure,
                "permission denied",
            ),
            (
                "/var/lib",
                denied(),
                Status::Failure,
                "not there, and /var/lib:",
            ),
        ] {
            let finding = disk("/var/lib/hf", at, synced).judge_dir();
            assert_eq!(finding.status, status, "{finding:?}");
            assert!(finding.found.contains(named), "{finding:?}");
        }
        let in_memory = Disk {
            in_memory: true,
            ..disk("/tmp/hf", "/tmp/hf", Ok(ms(&[0])))
        };
        assert_eq!(in_memory.judge_dir().status, Status::Warning);
    }

    #[test]
    fn free_space_is_judged_by_what_a_node_writes() {
        for (free, status) in [
            (0, Status::Failure),
            (FREE_MIN, Status::Warning),
            (FREE_GOOD, Status::Ok),
        ] {
            assert_eq!(judge_free(free).status, status, "{free}");
        }
    }

    #[test]
    fn a_disk_is_judged_by_its_usual_fsync_and_its_worst() {
        for (synced, status) in [
            (ms(&[1, 2, 60]), Status::Ok),
            (ms(&[1, 2, 400]), Status::Warning),
            (ms(&[1, 60, 70]), Status::Warning),
            (ms(&[1, 300, 300]), Status::Failure),
        ] {
            assert_eq!(judge_sync(&synced).status, status, "{synced:?}");
        }
    }

    #[tokio::test]
    async fn looking_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("data/node");
        let disk = look(Some(&dir)).await.unwrap();
        assert_eq!(disk.at, folder.path());
        assert_eq!(disk.synced.as_ref().unwrap().len(), SYNCS, "{disk:?}");
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        assert!(look(None).await.is_none());
    }

    #[tokio::test]
    async fn a_file_is_no_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let disk = look(Some(file.path())).await.unwrap();
        assert_eq!(disk.judge_dir().status, Status::Failure, "{disk:?}");
    }
}
