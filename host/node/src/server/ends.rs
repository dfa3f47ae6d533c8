//! Where a run begins and ends, in the log and in the data directory.

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Resource, getrlimit};
use tracing::{info, warn};

use crate::{
    identity::{DataDir, LastRun},
    modules::chain,
};

/// How long each part of an end takes.
pub(super) struct Phases(Instant);

impl Phases {
    /// The first part begins.
    pub(super) fn begin() -> Self {
        Self(Instant::now())
    }

    /// Says that a part is over, and how long it took; the next one begins.
    pub(super) fn over(&mut self, phase: &'static str) {
        let now = Instant::now();
        let began = std::mem::replace(&mut self.0, now);
        let took_ms = now.duration_since(began).as_millis() as u64;
        info!(phase, took_ms, "ending");
    }
}

/// Says how the run before this one ended.
pub(super) fn tell_last(dir: &DataDir) {
    match dir.last_run() {
        LastRun::Unknown => {}
        LastRun::Ended(how) => info!(how, "the run before ended by itself"),
        LastRun::Cut { same_boot: true } => {
            warn!("the run before was cut short: it was killed, or it crashed");
        }
        LastRun::Cut { same_boot: false } => {
            warn!("the run before was cut short: the machine went down");
        }
    }
}

/// Says who begins, where, and with what limits.
pub(super) fn tell_begin(dir: &DataDir, http: SocketAddr, advertise: SocketAddr) {
    let cluster = dir.cluster().map(|cluster| cluster.to_string());
    info!(
        node.id = %dir.node(),
        node.incarnation = %dir.incarnation(),
        cluster.id = cluster.as_deref().unwrap_or("none yet"),
        http = %http,
        peers = %advertise,
        open_files_max = getrlimit(Resource::Nofile).current,
        memory_bytes_max = memory_bytes_max(),
        cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "the node begins"
    );
}

/// Notes how this run ends, for the next one.
pub(super) async fn note(dir: &Arc<DataDir>, how: &str) {
    let (noted, how) = (dir.clone(), how.to_owned());
    let note = tokio::task::spawn_blocking(move || noted.run_ends(&how));
    match tokio::time::timeout(NOTE, note).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => warn!(error = chain(&error), "how this run ends is not noted"),
        Ok(Err(_)) | Err(_) => warn!("how this run ends is not noted: the disk does not answer"),
    }
}

/// What this process may use: the limit of its control group, or what the machine has.
fn memory_bytes_max() -> Option<u64> {
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse().ok());
    let all = || {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib * 1024)
    };
    limit.or_else(all)
}

/// A disk that is stuck must not keep a run from ending.
const NOTE: Duration = Duration::from_secs(1);
