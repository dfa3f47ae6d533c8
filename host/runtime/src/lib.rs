//! Runs handlers: WebAssembly components, one instance per resource.
//!
//! [`Runtime::load`] inspects, compiles and links a component, [`Module::instantiate`] makes the
//! instance of one resource, and [`Instance`] runs its calls, one at a time.
//!
//! Invariants: whatever a guest does ends within its deadline and memory limit, harms its own
//! instance only and comes back as a [`Failure`]; an import that is not granted answers that
//! access is denied; a thread that runs other tasks is not held for longer than a few epoch ticks.
//!
//! Absent: ownership, leases and retries. This crate knows one process and no cluster.
//! It is the only one that names `wasmtime`.

mod bindings;
mod budget;
mod capability;
mod compile;
mod engine;
mod failure;
mod fence;
mod fibers;
mod follow;
pub mod guests;
mod inspect;
mod instance;
mod journal;
mod linear;
mod memory;
mod module;
mod state;

pub use bindings::TerminateReason;
pub use budget::Stop;
pub use capability::http::CONNECTIONS_MAX as OUTGOING_CONNECTIONS_MAX;
pub use compile::{CompilerProcess, compile_stdin};
pub use engine::{NewError, Options, Runtime};
pub use failure::Failure;
pub use fence::{Fence, Fences};
pub use fibers::Mappings;
pub use follow::{Follow, Followed};
pub use inspect::LoadError;
pub use instance::{Instance, ManagedResource};
pub use journal::{GuestLog, GuestLogSink, Level, Source, TracingSink};
pub use module::{Exports, Module};
