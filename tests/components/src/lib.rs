//! Components for tests: guests of this workspace, built from source as `holdfast build` builds
//! them, and malformed ones made here.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use bytes::Bytes;
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve, WorldId};

// The product's own, so that the tests run what users run. A file, for no crate of ours is below.
#[path = "../../../host/node/src/cli/build/profile.rs"]
mod profile;

/// The component of `tests/guests/probe`, built once per test process.
///
/// # Panics
/// When it cannot be built, with cargo's words.
#[must_use]
pub fn probe() -> Bytes {
    static PROBE: LazyLock<Bytes> = LazyLock::new(|| build("probe"));
    PROBE.clone()
}

/// Builds a guest of the workspace. The Rust target is installed when it is missing.
///
/// # Panics
/// When it cannot be built, with cargo's words.
#[must_use]
pub fn build(package: &str) -> Bytes {
    let target = target_dir().join("guests");
    fs::create_dir_all(&target).expect("the target directory is writable");
    // One test process builds, the others find its work done.
    let turn = File::create(target.join("turn")).expect("the target directory is writable");
    turn.lock().expect("a file of ours can be locked");
    if let Err(words) = cargo_build(package, &target) {
        assert!(
            words.contains("may not be installed"),
            "cannot build {package}:\n{words}"
        );
        run(Command::new("rustup").args(["target", "add", TARGET])).unwrap_or_else(|words| {
            panic!(
                "cannot install the Rust target {TARGET}, which handlers are built for:\n{words}\n\
                 `rustup target add {TARGET}` needs the network, once. Without rustup, install the \
                 target with whatever installed Rust, or Rust from https://rustup.rs."
            )
        });
        cargo_build(package, &target)
            .unwrap_or_else(|words| panic!("cannot build {package}:\n{words}"));
    }
    let file: PathBuf = target.join(TARGET).join("release").join(package);
    fs::read(file.with_extension("wasm"))
        .expect("a guest that was built is there")
        .into()
}

fn cargo_build(package: &str, target: &Path) -> Result<(), String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root())
        .args(["build", "--release", "--locked", "--target", TARGET])
        .args(["--package", package, "--target-dir"])
        .arg(target)
        // These would replace the flags below.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .envs(profile::ENVIRONMENT);
    run(&mut command)
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().display().to_string();
    let output = command
        .output()
        .map_err(|error| format!("run {program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Cargo's target directory, found from the test's own place in it.
///
/// # Panics
/// When the running program was not built by cargo.
#[must_use]
pub fn target_dir() -> PathBuf {
    let test = env::current_exe().expect("a running test has a file");
    test.ancestors()
        .nth(3)
        .expect("tests lie in target/PROFILE/deps")
        .to_owned()
}

/// A component of the world `it` of this WIT text, whose every function traps.
///
/// # Panics
/// When the text is no WIT with such a world.
#[must_use]
pub fn trapping(wit: &str) -> Bytes {
    trapping_in(Resolve::default(), wit)
}

/// The same, where the text may name what `resolve` has.
///
/// # Panics
/// When the text is no WIT with such a world.
#[must_use]
pub fn trapping_in(resolve: Resolve, wit: &str) -> Bytes {
    encode(resolve, wit, |resolve, world| {
        dummy_module(resolve, world, ManglingAndAbi::Legacy(LiftLowerAbi::Sync))
    })
}

/// A component of the world `it` of this WIT text, from a core module.
///
/// # Panics
/// When the text is no WIT with such a world, or the module does not fit it.
pub fn encode(
    mut resolve: Resolve,
    wit: &str,
    core: impl FnOnce(&Resolve, WorldId) -> Vec<u8>,
) -> Bytes {
    let package = resolve
        .push_str("it.wit", wit)
        .expect("the test's WIT is valid");
    let world = resolve
        .select_world(&[package], Some("it"))
        .expect("the test's WIT has a world `it`");
    let mut module = core(&resolve, world);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("a core module takes metadata");
    ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.encode())
        .expect("the module becomes a component")
        .into()
}

/// The `resource-handler` of the product, for WIT texts of [`trapping`]: the interface's body.
///
/// # Panics
/// When the repository has no such file.
#[must_use]
pub fn resource_handler() -> String {
    let wit = root().join("wit/resource-handler.wit");
    fs::read_to_string(wit).expect("the WIT is part of the repository")
}

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

const TARGET: &str = "wasm32-wasip2";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trapping_component_is_a_component() {
        let wit = format!(
            "{}\nworld it {{ export resource-handler; }}",
            resource_handler()
        );
        assert_eq!(&trapping(&wit)[..8], b"\0asm\x0d\0\x01\0");
    }
}
