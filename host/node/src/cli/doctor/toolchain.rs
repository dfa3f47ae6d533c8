//! What handlers are built with.
//!
//! A node needs none of it: that nothing is installed is a warning, but what is installed must do.

use std::{io, path::Path, time::Duration};

use tokio::time::timeout;

use super::{
    super::build::{
        self,
        toolchain::{NEEDED, parts},
    },
    Finding,
};

/// What a program of the toolchain said.
#[derive(Debug)]
enum Said {
    /// The number of its version.
    Version(String),
    /// There is no such program.
    NotThere,
    /// It does not do what it should.
    Broken(String),
}

pub(super) async fn check() -> Vec<Finding> {
    let (rustc, cargo, rustup, target) = tokio::join!(
        version("rustc"),
        version("cargo"),
        version("rustup"),
        target()
    );
    let mut findings = vec![judge_rust(&rustc, &cargo, NEEDED)];
    if let Some(there) = target {
        findings.push(judge_target(there, matches!(rustup, Said::Version(_))));
    }
    findings
}

async fn version(program: &str) -> Said {
    let mut command = build::tool_as_it_is(program, Path::new("."));
    let said = timeout(PATIENCE, command.arg("--version").output()).await;
    match said {
        Err(_elapsed) => Said::Broken("gave no answer".to_owned()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Said::NotThere,
        Ok(Err(error)) => Said::Broken(error.to_string()),
        Ok(Ok(output)) if !output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr);
            Said::Broken(said.lines().next().unwrap_or("failed").to_owned())
        }
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stdout);
            match said.split(' ').nth(1).filter(|word| parts(word).is_some()) {
                Some(number) => Said::Version(number.trim().to_owned()),
                None => Said::Broken(format!("says {said:?}")),
            }
        }
    }
}

/// Whether the target is installed; none where nobody can tell.
async fn target() -> Option<bool> {
    let asked = build::has_target(Path::new("."));
    timeout(PATIENCE, asked).await.ok()?.ok()
}

fn judge_rust(rustc: &Said, cargo: &Said, needed: &str) -> Finding {
    const CHECK: &str = "rust";
    let found = format!("rustc {}, cargo {}", told(rustc), told(cargo));
    match (rustc, cargo) {
        (Said::NotThere, Said::NotThere) => Finding::warning(
            CHECK,
            "not installed",
            format!(
                "a node needs none; to build handlers, install Rust {needed} or newer from \
                 https://rustup.rs"
            ),
        ),
        (Said::Version(rustc), Said::Version(cargo)) => {
            let old = |version: &str| parts(version) < parts(needed);
            match old(rustc) || old(cargo) {
                false => Finding::ok(CHECK, found),
                true => Finding::failure(
                    CHECK,
                    format!("{found}; handlers need {needed} or newer"),
                    "`rustup update stable`, or a newer Rust from whatever installed this one",
                ),
            }
        }
        _ => Finding::failure(
            CHECK,
            found,
            "`rustup default stable` repairs most; else install Rust from https://rustup.rs",
        ),
    }
}

fn told(said: &Said) -> &str {
    match said {
        Said::Version(number) => number,
        Said::NotThere => "is not installed",
        Said::Broken(how) => how,
    }
}

fn judge_target(there: bool, rustup: bool) -> Finding {
    const CHECK: &str = "wasm-target";
    let missing = format!("{} is not installed", build::TARGET);
    match (there, rustup) {
        (true, _) => Finding::ok(CHECK, format!("{} is installed", build::TARGET)),
        (false, true) => Finding::warning(
            CHECK,
            missing,
            format!(
                "`holdfast build` installs it when it is first needed; now: `rustup target add {}`",
                build::TARGET
            ),
        ),
        (false, false) => {
            let remedy = build::Error::NoRustup.hint().unwrap_or_default();
            Finding::failure(CHECK, format!("{missing}, and rustup is not there"), remedy)
        }
    }
}

/// The first call of a toolchain may read much from a slow disk.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::{super::Status, *};

    fn version(number: &str) -> Said {
        Said::Version(number.to_owned())
    }

    #[test]
    fn a_toolchain_is_good_from_the_version_on_that_the_sdk_needs() {
        for (rustc, cargo, status) in [
            ("1.95.0", "1.95.0", Status::Ok),
            ("1.97.0-nightly", "1.97.0-nightly", Status::Ok),
            ("2.0.0", "2.0.0", Status::Ok),
            ("1.94.1", "1.94.1", Status::Failure),
            ("1.9.0", "1.95.0", Status::Failure),
            ("1.95.0", "1.94.0", Status::Failure),
        ] {
            let finding = judge_rust(&version(rustc), &version(cargo), "1.95");
            assert_eq!(finding.status, status, "{finding:?}");
            assert!(finding.found.contains(rustc), "{finding:?}");
        }
        assert!(parts(NEEDED).is_some(), "{NEEDED}");
    }

    #[test]
    fn a_machine_without_rust_runs_nodes_but_half_a_toolchain_is_broken() {
        let none = judge_rust(&Said::NotThere, &Said::NotThere, "1.95");
        assert_eq!(none.status, Status::Warning);
        assert!(none.remedy.unwrap().contains("1.95"));
        for (rustc, cargo, named) in [
            (version("1.95.0"), Said::NotThere, "cargo is not installed"),
            (
                Said::Broken("no default".to_owned()),
                version("1.95.0"),
                "rustc no default",
            ),
        ] {
            let finding = judge_rust(&rustc, &cargo, "1.95");
            assert_eq!(finding.status, Status::Failure);
            assert!(finding.found.contains(named), "{finding:?}");
        }
    }

    #[test]
    fn a_missing_target_is_a_failure_only_where_nothing_installs_it() {
        assert_eq!(judge_target(true, false).status, Status::Ok);
        let finding = judge_target(false, true);
        assert_eq!(finding.status, Status::Warning);
        assert!(finding.remedy.unwrap().contains("rustup target add"));
        let finding = judge_target(false, false);
        assert_eq!(finding.status, Status::Failure);
        assert!(finding.remedy.unwrap().contains("rustup.rs"));
    }
}
