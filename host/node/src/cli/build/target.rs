//! Making sure that the toolchain can build components.

use std::{io, path::Path};

use super::{Error, Progress, TARGET, tool};

/// Installs the target when the toolchain of this folder does not have it.
pub(super) async fn ensure(
    dir: &Path,
    report: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<(), Error> {
    if is_installed(dir).await? {
        return Ok(());
    }
    report(Progress::Step("installing the Rust target wasm32-wasip2"));
    let done = match tool("rustup", dir)
        .args(["target", "add", TARGET])
        .output()
        .await
    {
        Ok(done) => done,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::NoRustup),
        Err(source) => {
            return Err(Error::Run {
                program: "rustup",
                source,
            });
        }
    };
    if done.status.success() {
        return Ok(());
    }
    Err(Error::Rustup {
        said: String::from_utf8_lossy(&done.stderr).trim().to_owned(),
    })
}

/// Whether the standard library for the target is there, whoever installed it.
async fn is_installed(dir: &Path) -> Result<bool, Error> {
    let run = |source| Error::Run {
        program: "rustc",
        source,
    };
    let mut rustc = tool("rustc", dir);
    let asked = rustc.args(["--print", "target-libdir", "--target", TARGET]);
    let said = asked.output().await.map_err(run)?.stdout;
    let libraries = String::from_utf8_lossy(&said);
    Ok(std::fs::read_dir(libraries.trim()).is_ok_and(|mut entries| entries.next().is_some()))
}
