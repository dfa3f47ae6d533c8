//! How components are compiled, as settings of cargo: given by environment, so that they hold
//! whatever a package says. The tests build their guests by this very file.

pub(crate) const ENVIRONMENT: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s"),
    ("CARGO_PROFILE_RELEASE_LTO", "true"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    // Keeps the names of functions, which traps are reported with.
    ("CARGO_PROFILE_RELEASE_STRIP", "debuginfo"),
    // The default of 1 MiB would be most of an instance's memory.
    (
        "CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS",
        "-C link-arg=-zstack-size=65536",
    ),
];
