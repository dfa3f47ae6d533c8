//! Components to deploy: the probe, built from source, and malformed ones made here.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use bytes::Bytes;
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve};

use crate::permit::target_dir;

/// The component of `tests/guests/probe`, built once per test process.
///
/// # Panics
/// When it cannot be built, with cargo's words.
#[must_use]
pub fn probe() -> Bytes {
    static PROBE: LazyLock<Bytes> = LazyLock::new(|| build("probe"));
    PROBE.clone()
}

/// Builds a guest of the workspace the way `holdfast build` does.
fn build(package: &str) -> Bytes {
    let target = target_dir().join("guests");
    fs::create_dir_all(&target).expect("the target directory is writable");
    // One test process builds, the others find its work done.
    let turn = File::create(target.join("turn")).expect("the target directory is writable");
    turn.lock().expect("a file of ours can be locked");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if let Err(words) = cargo_build(package, &root, &target) {
        assert!(
            words.contains("may not be installed"),
            "cannot build {package}:\n{words}"
        );
        run(Command::new("rustup").args(["target", "add", TARGET]))
            .unwrap_or_else(|words| panic!("cannot install {TARGET}:\n{words}"));
        cargo_build(package, &root, &target)
            .unwrap_or_else(|words| panic!("cannot build {package}:\n{words}"));
    }
    let file: PathBuf = target.join(TARGET).join("release").join(package);
    fs::read(file.with_extension("wasm"))
        .expect("a guest that was built is there")
        .into()
}

fn cargo_build(package: &str, root: &Path, target: &Path) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root)
        .args(["build", "--release", "--locked", "--target", TARGET])
        .args(["--package", package, "--target-dir"])
        .arg(target)
        // These would replace the flags below.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s")
        .env("CARGO_PROFILE_RELEASE_LTO", "true")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
        .env(
            "CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS",
            "-C link-arg=-zstack-size=65536",
        );
    run(&mut command)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A component of the world `it` of this WIT text, whose every function traps.
///
/// # Panics
/// When the text is no WIT with such a world.
#[must_use]
pub fn trapping(wit: &str) -> Bytes {
    let mut resolve = Resolve::default();
    let package = resolve
        .push_str("it.wit", wit)
        .expect("the test's WIT is valid");
    let world = resolve
        .select_world(&[package], Some("it"))
        .expect("the test's WIT has a world `it`");
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Legacy(LiftLowerAbi::Sync));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("a dummy module takes metadata");
    ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.encode())
        .expect("a dummy module becomes a component")
        .into()
}

/// The `resource-handler` of the product, for WIT texts of [`trapping`]: the interface's body.
#[must_use]
pub fn resource_handler() -> String {
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/resource-handler.wit");
    fs::read_to_string(wit).expect("the WIT is part of the repository")
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
