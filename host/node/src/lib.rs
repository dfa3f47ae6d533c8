//! A node of a Holdfast cluster, and the `holdfast` command.
//!
//! Each module uses only those before it in this list:
//! - [`clock`], `priority`, [`identity`], [`token`], [`telemetry`], [`self_test`], [`metrics`], [`traces`],
//!   [`config`]: what a node is and is told;
//!   [`recent`]: a ring of what happened last;
//! - [`control`]: the replicated state, on Raft and disk; [`modules`]: components;
//! - [`recover`], [`rejoin`]: both of them, of a node that does not run;
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
mod priority;
pub mod recent;
pub mod recover;
pub mod rejoin;
pub mod restart;
mod rpc;
pub mod self_test;
pub mod server;
pub mod start;
pub mod start_faults;
pub mod telemetry;
pub mod token;
pub mod traces;

pub use embed::Node;

/// The `holdfast` command: reads the arguments, does what they say, and gives the exit code.
#[must_use]
pub fn main() -> std::process::ExitCode {
    let mut args = std::env::args_os().skip(1);
    // What a node starts to compile a component with: no command of anybody else's.
    if args.next().is_some_and(|first| first == config::COMPILE) {
        let limit = args.next().and_then(|limit| limit.to_str()?.parse().ok());
        return match limit {
            Some(memory_bytes_max) => holdfast_runtime::compile_stdin(memory_bytes_max),
            None => std::process::ExitCode::from(2),
        };
    }
    cli::main(start::run)
}
