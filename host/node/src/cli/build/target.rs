//! Making sure that the toolchain can build components.

use std::{io, path::Path};

use tokio::process::Command;

use super::{Error, Progress, TARGET, tool, toolchain};

/// Installs the target when the toolchain of this folder does not have it.
pub(super) async fn ensure(
    dir: &Path,
    report: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<(), Error> {
    ensure_by(&|program| tool(program, dir), report).await
}

/// The same, by these programs.
async fn ensure_by(
    tool: &(dyn Fn(&str) -> Command + Sync),
    report: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<(), Error> {
    toolchain::check(tool).await?;
    if is_installed(tool).await? {
        return Ok(());
    }
    report(Progress::Step("installing the Rust target wasm32-wasip2"));
    let done = match tool("rustup")
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
    // What counts is what the compiler finds: another build may have been faster than this one,
    // and the compiler may not be the one that rustup looks after.
    if is_installed(tool).await? {
        return Ok(());
    }
    if done.status.success() {
        return Err(Error::OtherToolchain);
    }
    Err(Error::Rustup {
        said: String::from_utf8_lossy(&done.stderr).trim().to_owned(),
    })
}

/// Whether the standard library for the target is there, whoever installed it.
pub(super) async fn is_installed(tool: &(dyn Fn(&str) -> Command + Sync)) -> Result<bool, Error> {
    let run = |source| Error::Run {
        program: "rustc",
        source,
    };
    let mut rustc = tool("rustc");
    let asked = rustc.args(["--print", "target-libdir", "--target", TARGET]);
    let said = asked.output().await.map_err(run)?.stdout;
    let libraries = String::from_utf8_lossy(&said);
    Ok(std::fs::read_dir(libraries.trim()).is_ok_and(|mut entries| entries.next().is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of programs, the only one on the PATH: each is `toolchain.sh` under its name.
    struct Toolchain {
        folder: tempfile::TempDir,
        adds: &'static str,
        version: &'static str,
    }

    impl Toolchain {
        fn of(programs: &[&str], adds: &'static str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let script = concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/src/cli/build/target/toolchain.sh"
            );
            for program in programs {
                std::os::unix::fs::symlink(script, folder.path().join(program)).unwrap();
            }
            std::fs::create_dir(folder.path().join("libraries")).unwrap();
            Self {
                folder,
                adds,
                version: "1.95.0",
            }
        }

        fn install(&self) {
            std::fs::write(self.folder.path().join("libraries/libstd.rlib"), "").unwrap();
        }

        /// What comes of it, and whether anything was to be installed.
        async fn ensure(&self) -> (Result<(), Error>, bool) {
            let here = self.folder.path();
            let programs = |program: &str| {
                let mut command = tool(program, here);
                command
                    .env("PATH", here)
                    .env("LIBRARIES", here.join("libraries"))
                    .env("ADDS", self.adds)
                    .env("VERSION", self.version);
                command
            };
            let mut told = false;
            let result = ensure_by(&programs, &mut |_| told = true).await;
            (result, told)
        }
    }

    #[tokio::test]
    async fn a_target_that_is_there_is_left_alone() {
        let toolchain = Toolchain::of(&["rustc"], "");
        toolchain.install();
        let (result, told) = toolchain.ensure().await;
        assert!(result.is_ok(), "{result:?}");
        assert!(!told);
    }

    #[tokio::test]
    async fn a_target_that_is_missing_is_installed() {
        let toolchain = Toolchain::of(&["rustc", "rustup"], "it");
        let (result, told) = toolchain.ensure().await;
        assert!(result.is_ok(), "{result:?}");
        assert!(told);
        let (result, told) = toolchain.ensure().await;
        assert!(result.is_ok() && !told, "{result:?}");
    }

    #[tokio::test]
    async fn an_installation_that_another_was_faster_with_is_one() {
        let (result, _) = Toolchain::of(&["rustc", "rustup"], "both").ensure().await;
        assert!(result.is_ok(), "{result:?}");
    }

    #[tokio::test]
    async fn what_keeps_the_target_away_is_named_with_its_remedy() {
        for (programs, adds, named, remedy) in [
            (&["rustc"][..], "", "rustup is not installed", "rustup.rs"),
            (&["rustc", "rustup"], "", "could not download", "network"),
            (&["rustc", "rustup"], "elsewhere", "not rustup's", "PATH"),
            (&[], "", "run rustc", "rustup.rs"),
        ] {
            let (result, _) = Toolchain::of(programs, adds).ensure().await;
            let error = result.unwrap_err();
            let hint = error.hint().unwrap();
            assert!(error.to_string().contains(named), "{error}");
            assert!(hint.contains(remedy), "{hint}");
        }
    }

    #[tokio::test]
    async fn a_compiler_that_is_too_old_or_broken_is_named_before_anything_is_installed() {
        for (version, named, remedy) in [
            (
                "1.94.1",
                "rustc here is 1.94.1, and handlers need 1.95",
                "rustup update",
            ),
            ("1.9.0", "rustc here is 1.9.0", "rust-toolchain.toml"),
            ("", "no default is configured", "rustup default stable"),
        ] {
            let mut toolchain = Toolchain::of(&["rustc", "rustup"], "it");
            toolchain.version = version;
            let (result, told) = toolchain.ensure().await;
            let error = result.unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
            assert!(error.hint().unwrap().contains(remedy), "{error}");
            assert!(!told, "it installs something");
        }
    }
}
