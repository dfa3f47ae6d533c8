//! The binary under test: the same entry point as `holdfast`, built as part of the tests.
//!
//! Cargo tells an integration test where the binaries of its own package are, and only those; so
//! the scenarios need no nested build of the product.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast::main()
}
