//! Holdfast across real processes, a file for each part of what it promises.
//!
//! One binary: each of them would link the whole node for itself.

mod api;
mod backup;
mod bench;
mod chaos;
mod compile;
mod components;
mod containment;
mod copies;
mod deploy;
mod dev;
mod doctor;
mod drain;
mod durability;
mod errors;
mod events;
mod examples;
mod failure;
mod files;
mod full;
mod harness;
mod http;
mod invoke;
mod load;
mod logs;
mod membership;
mod metrics;
mod minority;
mod moves;
mod newcomer;
mod openapi;
mod operations;
mod outgoing;
mod own_log;
mod reach;
mod readme;
mod recover;
mod resources;
mod restart;
mod spread;
mod traces;
mod upgrade;
mod versions;
mod voters;
mod waits;

/// The binary under test.
const BIN: &str = env!("CARGO_BIN_EXE_holdfast-under-test");
