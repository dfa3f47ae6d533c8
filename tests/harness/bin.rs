//! The binary under test: the same entry point as `holdfast`, built as part of the tests.
//!
//! Cargo tells an integration test where the binaries of its own package are, and only those; so
//! the scenarios need no nested build of the product.

use std::process::ExitCode;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// The product's, which is its binary's and not its library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A node that is stopped (SIGSTOP) does not notice that its test was killed; the kernel does.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if parent.is_some() && parent == std::env::var(holdfast_tests::process::TEST).ok() {
        set_parent_process_death_signal(Some(Signal::KILL)).expect("Linux knows it");
    }
    holdfast::main()
}
