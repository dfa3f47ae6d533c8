//! Whether the Rust toolchain of a folder is new enough for what the SDK is written in.

use tokio::process::Command;

use super::Error;

/// Refuses a compiler that is too old, or does not run: what cargo says of either names neither.
pub(super) async fn check(tool: &(dyn Fn(&str) -> Command + Sync)) -> Result<(), Error> {
    let run = |source| Error::Run {
        program: "rustc",
        source,
    };
    let asked = tool("rustc").arg("--version").output().await.map_err(run)?;
    if !asked.status.success() {
        let said = String::from_utf8_lossy(&asked.stderr).trim().to_owned();
        return Err(Error::NoCompiler { said });
    }
    let said = String::from_utf8_lossy(&asked.stdout);
    // What names its version otherwise is somebody's own: cargo may find more to say.
    let Some(found) = said.split(' ').nth(1).filter(|word| parts(word).is_some()) else {
        return Ok(());
    };
    match parts(found) < parts(NEEDED) {
        true => Err(Error::TooOld {
            found: found.trim().to_owned(),
        }),
        false => Ok(()),
    }
}

/// Major and minor number of a version like `1.95.0` or `1.97.0-nightly`.
pub(in crate::cli) fn parts(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim().split('.');
    let major = numbers.next()?.parse().ok()?;
    Some((major, numbers.next()?.parse().ok()?))
}

/// What the SDK needs, in the packages that `holdfast new` makes too.
pub(in crate::cli) const NEEDED: &str = env!("CARGO_PKG_RUST_VERSION");
