//! What goes wrong with gossip again and again: reported rarely, and answered slowly.

use std::{io, time::Duration};

use tokio::time::Instant;
use tracing::Level;

use crate::telemetry::Repeated;

/// Slows down answers to those who take this node for dead. A second process with the same identity
/// refutes what this one has said, and they would do so as fast as packets travel.
#[derive(Default)]
pub(super) struct Refutations {
    in_a_row: u32,
    last: Option<Instant>,
    /// Until when no packets are read.
    pub(super) hold: Option<Instant>,
}

impl Refutations {
    pub(super) fn count(&mut self, now: Instant) {
        let in_a_row = |last| now.saturating_duration_since(last) < REFUTATIONS_APART;
        self.in_a_row = match self.last.is_some_and(in_a_row) {
            true => self.in_a_row.saturating_add(1),
            false => 1,
        };
        self.last = Some(now);
        if self.in_a_row > REFUTATIONS_AT_ONCE {
            self.hold = Some(now + REFUTATION_PAUSE);
        }
    }
}

/// Keeps reports of each kind of trouble rare.
pub(super) struct Trouble {
    pub(super) foreign: Repeated,
    pub(super) name_taken: Repeated,
    pub(super) refuted: Repeated,
    pub(super) refused: Repeated,
    pub(super) unsent: Repeated,
    pub(super) unsendable: Repeated,
    pub(super) receive: Repeated,
    pub(super) twin: Repeated,
    pub(super) other_twin: Repeated,
}

impl Default for Trouble {
    fn default() -> Self {
        let warning = |message| Repeated::new(Level::WARN, message);
        Self {
            foreign: warning("gossip packets dropped: another cluster's, or another secret"),
            name_taken: warning("another cluster uses this cluster's name and secret"),
            refuted: Repeated::new(
                Level::INFO,
                "others took this node for dead; told them that it lives",
            ),
            refused: warning("gossip packets refused"),
            unsent: Repeated::new(Level::DEBUG, "gossip packets not sent"),
            unsendable: warning("gossip packets cannot be sent over UDP"),
            receive: warning("gossip packets could not be received"),
            twin: Repeated::new(Level::DEBUG, "another process gossips as this node"),
            other_twin: Repeated::new(Level::ERROR, "two processes gossip as one node"),
        }
    }
}

/// Whether an error says no more than that nobody is there, or that the network is full for a moment.
pub(super) fn is_down(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionRefused | Kind::WouldBlock)
}

/// Refutations that are sent at once; a network that heals causes a few. Those after them, unless
/// they are this far apart, come with a pause.
const REFUTATIONS_AT_ONCE: u32 = 8;
const REFUTATIONS_APART: Duration = Duration::from_secs(1);
const REFUTATION_PAUSE: Duration = Duration::from_millis(100);
