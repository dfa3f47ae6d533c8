//! Proof that a run of a node is over, as opposed to suspicion.
//!
//! Pure: an [`Inquest`] is opened when a connection that qualifies broke, is told how each attempt to
//! connect again went, and says when they amount to a proof.

use std::{net::SocketAddr, time::Duration};

use holdfast_model::{Incarnation, NodeId};
use tokio::time::Instant;

use super::HelloError;

/// A run of a node that is over, and how we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The node and its run.
    pub subject: (NodeId, Incarnation),
    /// How we know.
    pub proof: Proof,
}

/// How the end of a run of a node is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// We were connected to that run, at its own socket address; the connection broke, and the
    /// address refuses connections, several times in a row. Its listener lives as long as its
    /// instances, so those are gone. Sound unless something between forges refusals.
    Refused {
        /// The address.
        addr: SocketAddr,
    },
    /// A later run of the node has shaken hands.
    NewerIncarnation {
        /// The later run.
        incarnation: Incarnation,
        /// Whether both run under one boot of one kernel. Only then does the lock of the data
        /// directory prove that the earlier one ended first.
        same_boot: bool,
    },
}

/// The time after a break in which refusals count.
#[derive(Debug)]
pub(super) struct Inquest {
    subject: (NodeId, Incarnation),
    addr: SocketAddr,
    until: Instant,
    refusals_needed: u32,
    refusals: u32,
}

/// What an attempt to connect has added.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Dead(Evidence),
    /// Try again soon.
    Open,
    /// It may live: no proof will come of this.
    Unproven,
}

impl Inquest {
    /// Opens it. The broken connection must have been dialed, handshaken and direct.
    pub(super) fn open(
        subject: (NodeId, Incarnation),
        addr: SocketAddr,
        now: Instant,
        time: Duration,
        refusals_needed: u32,
    ) -> Self {
        Self {
            subject,
            addr,
            until: now + time,
            refusals_needed,
            refusals: 0,
        }
    }

    /// Takes the failure of one attempt to connect to `addr`.
    pub(super) fn observe(
        &mut self,
        addr: SocketAddr,
        failure: &HelloError,
        now: Instant,
    ) -> Finding {
        if addr != self.addr || now > self.until {
            return Finding::Unproven;
        }
        if failure.is_refused_connect() {
            self.refusals += 1;
            if self.refusals < self.refusals_needed {
                return Finding::Open;
            }
            let proof = Proof::Refused { addr };
            return Finding::Dead(Evidence {
                subject: self.subject,
                proof,
            });
        }
        // A process that is being torn down takes connections and drops them for a while: a big one
        // for some hundred milliseconds. Silence and unreachable networks never become a proof.
        self.refusals = 0;
        if failure.is_torn() {
            Finding::Open
        } else {
            Finding::Unproven
        }
    }
}
