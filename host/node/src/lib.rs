//! A node of a Holdfast cluster, and the `holdfast` command.
//!
//! Each module uses only those before it in this list:
//! - [`clock`], [`identity`], [`token`], [`telemetry`], [`self_test`], [`metrics`], [`traces`], [`config`]: what a node is
//!   and is told;
//!   [`recent`]: a ring of what happened last;
//! - [`control`]: the replicated state, on Raft and disk; [`modules`]: components;
//! - [`recover`]: both of them, of a node that does not run;
//! - [`peer`], [`gossip`], `rpc`, `gather`: other nodes;
//! - [`placement`]: the leader's work; [`restart`]: announced restarts; [`logs`]: what handlers say;
//!   [`events`]: what happens;
//!   [`dispatch`]: resources and calls; [`deploy`]: deployments;
//! - [`admin`]: the HTTP API; [`server`]: all of it, started and ended in order;
//! - [`client`], [`cli`]: the API's other side, and the command; [`embed`]: a node as part of another
//!   program; [`start`]: where all meet.

pub mod admin;
pub mod cli;
pub mod client;
pub mod clock;
pub mod conditions;
pub mod config;
pub mod control;
pub mod deploy;
pub mod dispatch;
pub mod embed;
pub mod events;
mod gather;
pub mod gossip;
pub mod identity;
pub mod logs;
pub mod metrics;
pub mod modules;
pub mod peer;
pub mod placement;
pub mod recent;
pub mod recover;
pub mod restart;
mod rpc;
pub mod self_test;
pub mod server;
pub mod start;
pub mod telemetry;
pub mod token;
pub mod traces;

pub use embed::Node;

/// The `holdfast` command: reads the arguments, does what they say, and gives the exit code.
#[must_use]
pub fn main() -> std::process::ExitCode {
    cli::main(start::run)
}
