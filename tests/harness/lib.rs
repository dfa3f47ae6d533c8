//! What the scenarios stand on: real `holdfast` processes, an observer outside of them, and a
//! checker that judges what the observer saw.
//!
//! - [`Cluster`] starts, kills, pauses and restarts nodes, each a process of its own with a folder
//!   of its own, and removes all of it when it is dropped.
//! - [`Collector`] is the observer: the probe handler reports to it over HTTP. What is true of a
//!   cluster is what the collector saw, never what a node says about itself.
//! - [`traces`] has a collector of OpenTelemetry's traces, which shows what a user of those would see.
//! - [`Logs`] is another one, which costs the nodes less: it reads what the probe says in their logs.
//! - [`checker`] is pure: events in, overlaps, losses and gaps out. So is [`ledger`], for clusters
//!   in which owners fall silent, and are told from the new ones by what they do after that.
//! - [`operations`] draws what operators and their machines do to a cluster, and knows what must be so after it.
//! - [`netns`] gives each node a network namespace, and loses packets between them.
//! - [`Api`] speaks raw HTTP to one node, so that a test sees what a user's client would see.
//! - [`Contract`] is the OpenAPI document, which every exchange of an [`Api`] is held against.
//! - [`wait_until`] polls with a deadline. Nothing here sleeps to hope for the best.
//!
//! Absent: any use of a node's internals. The product is one binary and its HTTP API.

pub mod api;
pub mod callers;
pub mod checker;
pub mod cluster;
pub mod collector;
pub mod contract;
pub mod faults;
mod folder;
pub mod http;
pub mod invokers;
pub mod ledger;
pub mod logs;
pub mod machine;
pub mod netns;
pub mod operations;
pub mod permit;
pub mod probe;
pub mod process;
mod report;
pub mod roster;
pub mod source;
pub mod traces;
pub mod wait;

pub use api::Api;
pub use callers::Callers;
pub use checker::{Findings, Key};
pub use cluster::Cluster;
pub use collector::Collector;
pub use contract::Contract;
pub use holdfast_test_components as component;
pub use http::{Answer, Ask, Unanswered};
pub use logs::Logs;
pub use machine::Machine;
pub use probe::Probe;
pub use process::{Launch, Process};
pub use wait::{LONG, SOON, never, wait_until};

/// Where the observer and the clients of the tests run; tests themselves are plain threads.
pub(crate) fn executor() -> &'static tokio::runtime::Runtime {
    static EXECUTOR: std::sync::LazyLock<tokio::runtime::Runtime> =
        std::sync::LazyLock::new(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .thread_name("harness")
                .enable_all()
                .build()
                .expect("threads can be started")
        });
    &EXECUTOR
}
