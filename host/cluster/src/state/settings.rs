//! What operators set for the whole cluster, and how that changes while it runs.
//!
//! Invariant: [`Cluster::silence_max`] outlasts every grant that may still be in force, those under
//! earlier settings too. Shorter leases are granted at once; but silence counts by the longer ones
//! until a leader has seen that the last of those is over.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Cluster;
use crate::lease::{self, Terms};

/// Settings of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// How many voters the cluster wants once it has enough nodes: 1, 3, 5 or 7. More survive more
    /// losses, and every change waits for more disks.
    pub voters_wanted: u8,
    /// How long leases last.
    pub lease: Terms,
    /// How long a voter must be silent before a live node takes its place. Too low: each restart
    /// costs two changes of the voters. Too high: for that long another loss may end the majority.
    pub replace_voters_after: Duration,
    /// Whether a node whose own address refuses connections is replaced at once. Off where
    /// something between the nodes refuses connections in their place; the resources of a dead node
    /// wait for the end of its lease then.
    pub fast_failover: bool,
    /// How long a node must have been there before it is given what others run; twice as long for
    /// each time that it was lost lately, up to 2 min. 0: at once. Too low: resources move to nodes
    /// that do not stay. Too high: a node that joins is of no use for that long.
    pub stable_after: Duration,
}

/// A change of some of the settings; the others stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsChange {
    /// See [`ClusterSettings::voters_wanted`].
    pub voters_wanted: Option<u8>,
    /// See [`Terms::ttl`].
    pub lease_ttl: Option<Duration>,
    /// See [`Terms::guard`].
    pub lease_guard: Option<Duration>,
    /// See [`ClusterSettings::replace_voters_after`].
    pub replace_voters_after: Option<Duration>,
    /// See [`ClusterSettings::fast_failover`].
    pub fast_failover: Option<bool>,
    /// See [`ClusterSettings::stable_after`].
    pub stable_after: Option<Duration>,
}

/// Grants under earlier settings that last longer than those of today.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outlasting {
    /// How long silence has to last until the last of them is over.
    pub silence: Duration,
    /// Position in the log of the change after which none of them was granted any more.
    pub since: u64,
}

/// Settings that a cluster cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Invalid {
    /// No majority, or none that is worth its cost.
    #[error("a cluster has 1, 3, 5 or 7 voters, not {0}")]
    Voters(u8),
    /// Two nodes might run the same resource, or none any.
    #[error("the times of leases are not safe: {0}")]
    Lease(lease::Unsafe),
    /// Voters would come and go with every hiccup of the network, or never.
    #[error("a voter must be silent for 1 s to 24 h before it is replaced, not {} ms", .0.as_millis())]
    ReplaceVotersAfter(Duration),
    /// A node would never be given anything.
    #[error("a node is stable after at most 2 min, not {} ms", .0.as_millis())]
    StableAfter(Duration),
}

impl ClusterSettings {
    /// Three voters, the usual leases, 30 s until a voter is replaced, fast failover, and a second
    /// until a node is stable.
    pub const DEFAULT: Self = Self {
        voters_wanted: 3,
        lease: Terms::DEFAULT,
        replace_voters_after: Duration::from_secs(30),
        fast_failover: true,
        stable_after: Duration::from_secs(1),
    };

    /// The longest [`ClusterSettings::replace_voters_after`].
    pub const REPLACE_VOTERS_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

    /// The longest [`ClusterSettings::stable_after`].
    pub const STABLE_AFTER_MAX: Duration = Duration::from_secs(120);

    /// Makes sure that a cluster can have these settings.
    ///
    /// # Errors
    /// Names the one that it cannot have.
    pub fn check(self) -> Result<Self, Invalid> {
        if !matches!(self.voters_wanted, 1 | 3 | 5 | 7) {
            return Err(Invalid::Voters(self.voters_wanted));
        }
        self.lease.check().map_err(Invalid::Lease)?;
        let replaced = REPLACE_VOTERS_AFTER_MIN..=Self::REPLACE_VOTERS_AFTER_MAX;
        if !replaced.contains(&self.replace_voters_after) {
            return Err(Invalid::ReplaceVotersAfter(self.replace_voters_after));
        }
        if self.stable_after > Self::STABLE_AFTER_MAX {
            return Err(Invalid::StableAfter(self.stable_after));
        }
        Ok(self)
    }

    /// The settings after a change.
    #[must_use]
    pub fn changed(self, change: SettingsChange) -> Self {
        Self {
            voters_wanted: change.voters_wanted.unwrap_or(self.voters_wanted),
            lease: Terms {
                ttl: change.lease_ttl.unwrap_or(self.lease.ttl),
                guard: change.lease_guard.unwrap_or(self.lease.guard),
                contact: self.lease.contact,
            },
            replace_voters_after: change
                .replace_voters_after
                .unwrap_or(self.replace_voters_after),
            fast_failover: change.fast_failover.unwrap_or(self.fast_failover),
            stable_after: change.stable_after.unwrap_or(self.stable_after),
        }
    }
}

impl Cluster {
    /// How long a node must have been granted nothing until its lease is over for sure, by the
    /// leader's clock.
    #[must_use]
    pub fn silence_max(&self) -> Duration {
        let outlasting = self.outlasting.map(|outlasting| outlasting.silence);
        self.settings
            .lease
            .silence_max()
            .max(outlasting.unwrap_or_default())
    }

    /// Puts other settings in force, by the entry at `index`. False when these are in force.
    pub(super) fn set(&mut self, settings: ClusterSettings, index: u64) -> bool {
        if settings == self.settings {
            return false;
        }
        let before = self.silence_max();
        self.settings = settings;
        if before > settings.lease.silence_max() {
            self.outlasting = Some(Outlasting {
                silence: before,
                since: index,
            });
        }
        true
    }

    /// The grants before the change at `since` are over. False when others outlast them.
    pub(super) fn outlasted(&mut self, since: u64) -> bool {
        let over = self
            .outlasting
            .is_some_and(|outlasting| outlasting.since == since);
        if over {
            self.outlasting = None;
        }
        over
    }
}

const REPLACE_VOTERS_AFTER_MIN: Duration = Duration::from_secs(1);
