//! `holdfast build`: makes a component of a handler's package.
//!
//! Cargo does the work, with the profile that suits components: small, and with function names
//! for backtraces. What the user's shell or an outer cargo set for native builds is kept away.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Args;
use holdfast_model::{Digest, ModuleName};
use serde::Serialize;
use tokio::process::Command;

use super::{
    failure::Failure,
    human, manifest,
    manifest::Manifest,
    output,
    output::Output,
    scaffold::{self, Refreshed},
};

mod cargo;
mod profile;
mod target;
pub(super) mod toolchain;

/// Build a handler's package to a component
///
/// Needs cargo; the target wasm32-wasip2 is installed through rustup when it is missing. The SDK of
/// a package that `holdfast new` made is replaced by the one of this holdfast where they differ.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct BuildArgs {
    /// The folder with Cargo.toml and holdfast.toml.
    #[arg(default_value = ".", value_name = "DIR")]
    dir: PathBuf,
}

/// A component and what its manifest says.
#[derive(Clone, Debug)]
pub struct Built {
    /// Where the component is.
    pub path: PathBuf,
    /// The component.
    pub bytes: Bytes,
    /// The manifest beside the package.
    pub manifest: Manifest,
    /// How long it took.
    pub took: Duration,
    /// The manifests of all packages of this machine that it is made of.
    pub packages: BTreeSet<PathBuf>,
}

impl Built {
    /// The file in which cargo says what the build has read.
    pub(super) fn dep_info(&self) -> PathBuf {
        self.path.with_extension("d")
    }
}

/// What a build tells while it runs.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// What it does now, in a few words.
    Step(&'a str),
    /// A line that the compiler or cargo wants to be read.
    Diagnostic(&'a str),
}

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The manifest is no good.
    #[error("the folder has no good manifest")]
    Manifest(#[from] manifest::Error),
    /// There is no package.
    #[error("{} has no Cargo.toml", .dir.display())]
    NoPackage {
        /// The folder.
        dir: PathBuf,
    },
    /// The SDK in the package cannot be brought to this version.
    #[error("write the SDK to {}", .dir.join(".holdfast").display())]
    Sdk {
        /// The folder of the package.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A program cannot be run.
    #[error("run {program}")]
    Run {
        /// The program.
        program: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The toolchain is older than the SDK.
    #[error(
        "rustc here is {found}, and handlers need {} or newer",
        toolchain::NEEDED
    )]
    TooOld {
        /// Its version.
        found: String,
    },
    /// The compiler does not run.
    #[error("rustc does not run: {said}")]
    NoCompiler {
        /// What it said.
        said: String,
    },
    /// The target is not installed, and there is no rustup to install it.
    #[error("the Rust toolchain has no target wasm32-wasip2, and rustup is not installed")]
    NoRustup,
    /// The target is not installed, and rustup could not install it.
    #[error("`rustup target add wasm32-wasip2` failed: {said}")]
    Rustup {
        /// Its words.
        said: String,
    },
    /// Rustup installed the target, but the compiler does not have it.
    #[error("rustup has installed the target wasm32-wasip2, but the rustc on PATH is not rustup's")]
    OtherToolchain,
    /// Cargo failed; its words were given as [`Progress::Diagnostic`] too.
    #[error("cargo build failed with {status}")]
    Cargo {
        /// How it ended.
        status: ExitStatus,
        /// The last of what it said.
        said: String,
        /// The manifests of the packages of this machine that it came to.
        packages: BTreeSet<PathBuf>,
    },
    /// The package makes no component.
    #[error("the package in {} makes no component", .dir.display())]
    NoComponent {
        /// The folder.
        dir: PathBuf,
    },
    /// The component cannot be read.
    #[error("read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// What to do about it.
    pub(super) fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Manifest(manifest::Error::Read { .. }) | Self::NoPackage { .. } => {
                "name the folder of a handler; `holdfast new NAME` makes one"
            }
            Self::Run { .. } => "install Rust from https://rustup.rs",
            Self::TooOld { .. } => {
                "`rustup update stable`, or a newer Rust from whatever installed this one; a \
                 rust-toolchain.toml in the folder, or above it, chooses one of its own"
            }
            Self::NoCompiler { .. } => {
                "`rustup default stable` repairs most; else install Rust from https://rustup.rs"
            }
            Self::NoRustup => {
                "install the target with whatever installed Rust, or Rust from https://rustup.rs"
            }
            Self::Rustup { .. } => "it needs the network, once",
            Self::OtherToolchain => {
                "put rustup's folder, ~/.cargo/bin, first in PATH, or install the target with \
                 whatever installed that rustc"
            }
            Self::NoComponent { .. } => {
                "its Cargo.toml needs `[lib]` with `crate-type = [\"cdylib\"]`"
            }
            _ => return None,
        })
    }
}

/// Builds the package in `dir` to a component, with the SDK of this binary if `holdfast new` made
/// the package. Intermediate files go to `target_dir`, or where
/// cargo puts them when there is none. Dropping the future ends the build.
///
/// # Errors
/// See [`Error`].
pub async fn component(
    dir: &Path,
    target_dir: Option<&Path>,
    report: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<Built, Error> {
    let started = Instant::now();
    let manifest = Manifest::read(dir)?;
    if !dir.join("Cargo.toml").is_file() {
        let dir = dir.to_owned();
        return Err(Error::NoPackage { dir });
    }
    match scaffold::refresh(dir) {
        Ok(Refreshed::Same) => {}
        Ok(Refreshed::Replaced) => report(Progress::Diagnostic(REPLACED)),
        Ok(Refreshed::Restored) => report(Progress::Diagnostic(RESTORED)),
        Err(source) => {
            let dir = dir.to_owned();
            return Err(Error::Sdk { dir, source });
        }
    }
    target::ensure(dir, report).await?;
    report(Progress::Step("compiling"));
    let (path, packages) = cargo::build(dir, target_dir, report).await?;
    match tokio::fs::read(&path).await {
        Ok(bytes) => Ok(Built {
            path,
            bytes: bytes.into(),
            manifest,
            took: started.elapsed(),
            packages,
        }),
        Err(source) => Err(Error::Read { path, source }),
    }
}

/// Where the component of the package in `dir` is, as it was built last.
pub(super) async fn last(dir: &Path) -> Result<PathBuf, Error> {
    cargo::last(dir).await
}

/// Builds with a spinner, and compiler messages on standard error.
pub(super) async fn with_spinner(dir: &Path) -> anyhow::Result<Built> {
    shown(dir).await.map_err(explain)
}

/// The same, with an error that is not explained yet.
pub(super) async fn shown(dir: &Path) -> Result<Built, Error> {
    let spinner = output::spinner(format!("building {}", dir.display()));
    let built = component(dir, None, &mut |progress| match progress {
        Progress::Step(step) => spinner.set_message(step.to_owned()),
        Progress::Diagnostic(line) => spinner.suspend(|| eprintln!("{line}")),
    })
    .await;
    spinner.finish_and_clear();
    built
}

/// The error with a hint for people.
pub(super) fn explain(error: Error) -> anyhow::Error {
    match error.hint() {
        Some(hint) => {
            let failure = Failure::new(format!("{:#}", anyhow::Error::new(error)));
            failure.hint(hint).into()
        }
        None => error.into(),
    }
}

pub(super) async fn run(args: &BuildArgs, output: &Output) -> anyhow::Result<()> {
    let built = with_spinner(&args.dir).await?;
    let made = Made {
        module: built.manifest.name,
        digest: Digest::of(&built.bytes),
        size_bytes: built.bytes.len() as u64,
        took_ms: u64::try_from(built.took.as_millis()).unwrap_or(u64::MAX),
        path: built.path,
    };
    output.show(&made, |made| {
        output.pairs([
            ("module", made.module.to_string()),
            ("component", made.path.display().to_string()),
            ("digest", made.digest.to_string()),
            ("size", human::bytes(made.size_bytes)),
            ("took", human::duration(Duration::from_millis(made.took_ms))),
        ])
    })
}

#[derive(Serialize)]
struct Made {
    module: ModuleName,
    path: PathBuf,
    digest: Digest,
    size_bytes: u64,
    took_ms: u64,
}

/// Whether the toolchain of this folder can build components. Installs nothing.
pub(super) async fn has_target(dir: &Path) -> Result<bool, Error> {
    target::is_installed(&|program| tool_as_it_is(program, dir)).await
}

/// The same as [`tool`], of a toolchain that is installed: rustup would get the one that a folder
/// asks for.
pub(super) fn tool_as_it_is(program: &str, dir: &Path) -> Command {
    let mut command = tool(program, dir);
    command.env("RUSTUP_AUTO_INSTALL", "0");
    command
}

/// A program of the Rust toolchain, to be run in the package's folder without what an outer cargo
/// or a native build set: flags like `-C target-cpu=native` mean nothing to Wasm, and flags in
/// the environment would replace those of the package's own configuration.
fn tool(program: &str, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(dir)
        .kill_on_drop(true)
        .stdin(Stdio::null());
    for (name, value) in std::env::vars_os() {
        if disturbs(&name) {
            command.env_remove(name);
        } else if let Some(path) = of_caller(&name, &value) {
            command.env(name, path);
        }
    }
    command
}

/// A folder that the caller named, as the caller meant it: from where the caller is, and not from the
/// package.
fn of_caller(name: &OsStr, value: &OsStr) -> Option<PathBuf> {
    const FOLDERS: [&str; 4] = [
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET_DIR",
        "CARGO_HOME",
        "RUSTUP_HOME",
    ];
    let is_folder = FOLDERS.iter().any(|folder| name == *folder);
    if !is_folder || value.is_empty() {
        return None;
    }
    std::path::absolute(value).ok()
}

fn disturbs(name: &OsString) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    const KEPT: [&str; 8] = [
        "CARGO_HOME",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET_DIR",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_BUILD_JOBS",
    ];
    const DROPPED: [&str; 5] = [
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO",
        "MAKEFLAGS",
    ];
    if KEPT.iter().any(|kept| name.starts_with(kept)) {
        return false;
    }
    DROPPED.contains(&name) || name.starts_with("CARGO_")
}

const RESTORED: &str = concat!(
    "note: .holdfast/ was missing; it now holds the SDK of this holdfast, ",
    env!("CARGO_PKG_VERSION")
);

const REPLACED: &str = concat!(
    "note: .holdfast/ held another SDK; it now holds the one of this holdfast, ",
    env!("CARGO_PKG_VERSION")
);

/// What components are compiled for.
pub(super) const TARGET: &str = "wasm32-wasip2";

const AFTER_HELP: &str = "\
Examples:
  holdfast build
  holdfast build handlers/counter --format json | jq -r .path";

#[cfg(test)]
mod tests;
