//! What a node's part in the control state needs to know, and what the library is told of it.

use std::{path::PathBuf, time::Duration};

use holdfast_model::NodeId;
use openraft::{Config, SnapshotPolicy};

use super::OpenError;

/// What a node's part in the control state needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the two database files. It exists, and no other process uses it.
    pub dir: PathBuf,
    /// This node.
    pub me: NodeId,
    /// The node was part of a cluster under this identity before. Then its files must be there: a
    /// node that forgot what it acknowledged, or its vote, must come back under another identity.
    pub member: bool,
    /// How often a leader shows that it is there. Shorter makes idle traffic, longer makes
    /// elections slow, as both election times must be well above it.
    pub heartbeat: Duration,
    /// Shortest silence of the leader after which a node asks to be elected. Too short, and a busy
    /// disk or network topples leaders; too long, and nothing is decided for that time after a crash.
    pub election_min: Duration,
    /// Longest such silence. Each node draws its own between the two, so that one comes first.
    pub election_max: Duration,
    /// Entries after which the log may be purged, up to a durable state.
    pub snapshot_every: u64,
    /// Entries kept all the same, for nodes that are behind. More than are written while a snapshot
    /// is transferred, or each transfer is followed by another.
    pub log_kept: u64,
    /// Bytes of entries after which the log may be purged, if that comes first.
    pub snapshot_every_bytes: u64,
    /// Bytes of entries kept at most, however few entries they are. Fewer: a node that was away for a
    /// moment is sent the whole state. More: disk, and time to read the log at a start.
    pub log_kept_bytes: u64,
}

impl Options {
    /// The usual [`Options::election_min`].
    pub const ELECTION_MIN: Duration = Duration::from_millis(300);

    /// The usual timing.
    #[must_use]
    pub fn new(dir: PathBuf, me: NodeId) -> Self {
        Self {
            dir,
            me,
            member: false,
            heartbeat: Duration::from_millis(100),
            election_min: Self::ELECTION_MIN,
            election_max: Duration::from_millis(600),
            snapshot_every: 20_000,
            log_kept: 100_000,
            snapshot_every_bytes: 16 << 20,
            log_kept_bytes: 64 << 20,
        }
    }

    pub(super) fn config(&self) -> Result<Config, OpenError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let config = Config {
            cluster_name: "holdfast".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            install_snapshot_timeout: millis(SNAPSHOT_PIECE_TIMEOUT),
            max_payload_entries: 1_024,
            replication_lag_threshold: self.snapshot_every + self.log_kept,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.log_kept,
            purge_batch_size: (self.snapshot_every / 16).max(1),
            enable_pre_vote: Some(true),
            backoff: "50ms 100ms 200ms ...500ms".into(),
            // A leader that restarts has forgotten whom it refused leases: it must be elected anew,
            // in a new term, for everything that is bound to a term to hold.
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        config
            .validate()
            .map_err(|error| OpenError::Timing(error.into()))
    }
}

/// How long a piece of a snapshot may take to be stored at the other end. The last one includes the
/// whole installation.
const SNAPSHOT_PIECE_TIMEOUT: Duration = Duration::from_secs(60);
