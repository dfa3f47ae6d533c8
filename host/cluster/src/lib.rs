//! Who owns what, and how that changes: the pure core of Holdfast.
//!
//! Pure: time arrives as a parameter, decisions leave as values. Nothing here reads a clock, a
//! socket, a file or a global, and nothing runs by itself; so a test can run years of a cluster's
//! life in seconds and get the same run again from the same seed.
//!
//! - [`membership`] finds nodes and suspects failures (SWIM). It hints, it never decides.
//! - [`state`] is the replicated state machine: nodes, modules, resources, and the owner of every
//!   slot. Raft orders its commands; what it says is what is.
//! - [`ring`] and [`placement`] plan who should own a slot. They only plan.
//! - [`rollout`] says whom a new version waits for before it serves.
//! - [`handover`] is what one node does as the view changes: start, stop, release.
//! - [`lease`] is the right to run: granted for seconds, over by itself.
//! - [`evidence`] turns proofs of death into the commands that free a dead node's slots.
//! - [`codec`] is how what is stored or sent is written, so that versions understand each other.
//! - [`copies`] says whether copies of the state are equal, and which is wrong.
//! - [`voters`] keeps the set of voters odd, live and small.

pub mod codec;
pub mod copies;
pub mod evidence;
pub mod handover;
pub mod lease;
pub mod membership;
pub mod placement;
pub mod ring;
pub mod rollout;
pub mod state;
pub mod voters;
