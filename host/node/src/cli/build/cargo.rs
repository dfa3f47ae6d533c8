//! Running cargo, and finding what it made.

use std::{
    collections::{BTreeSet, VecDeque},
    path::{Path, PathBuf},
    process::Stdio,
};

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

use super::{Error, Progress, TARGET, output, profile, tool};

/// What cargo has made.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// Components of the package.
    components: Vec<PathBuf>,
    /// The manifests of all packages of this machine that it is made of.
    packages: BTreeSet<PathBuf>,
}

/// Builds the package in `dir`; says where its component is, and of which packages of this machine it
/// is made.
pub(super) async fn build(
    dir: &Path,
    target_dir: Option<&Path>,
    report: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<(PathBuf, BTreeSet<PathBuf>), Error> {
    let run = |source| Error::Run {
        program: "cargo",
        source,
    };
    let mut command = tool("cargo", dir);
    command
        .args(["build", "--release", "--lib", "--target", TARGET])
        .arg("--message-format=json-render-diagnostics")
        .args([
            "--color",
            if output::colour_wanted_on_stderr() {
                "always"
            } else {
                "never"
            },
        ])
        .envs(profile::ENVIRONMENT)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(target_dir) = target_dir {
        command.arg("--target-dir").arg(target_dir);
    }
    let mut child = command.spawn().map_err(run)?;
    let messages = child.stdout.take().expect("stdout is piped");
    let words = child.stderr.take().expect("stderr is piped");
    // Both at once: cargo would stop at a pipe that is full.
    let (made, said) = tokio::join!(artifacts(messages, dir), listen(words, report));
    let status = child.wait().await.map_err(run)?;
    let mut made = made.map_err(run)?;
    if !status.success() {
        return Err(Error::Cargo {
            status,
            said: said.map_err(run)?,
            packages: made.packages,
        });
    }
    match (made.components.pop(), made.components.is_empty()) {
        (Some(path), true) => Ok((path, made.packages)),
        _ => Err(Error::NoComponent {
            dir: dir.to_owned(),
        }),
    }
}

/// Where the component of the package in `dir` is, as it was built last.
pub(super) async fn last(dir: &Path) -> Result<PathBuf, Error> {
    let no_component = || Error::NoComponent {
        dir: dir.to_owned(),
    };
    let said = tool("cargo", dir)
        .args(["metadata", "--format-version=1", "--no-deps"])
        .output()
        .await
        .map_err(|source| Error::Run {
            program: "cargo",
            source,
        })?;
    if !said.status.success() {
        return Err(Error::Cargo {
            status: said.status,
            said: String::from_utf8_lossy(&said.stderr).into_owned(),
            packages: BTreeSet::new(),
        });
    }
    let metadata: Metadata = serde_json::from_slice(&said.stdout).map_err(|_| no_component())?;
    let manifest = dir.join("Cargo.toml").canonicalize();
    let package = metadata
        .packages
        .into_iter()
        .find(|package| {
            manifest
                .as_ref()
                .is_ok_and(|path| *path == package.manifest_path)
        })
        .ok_or_else(no_component)?;
    let library = package
        .targets
        .into_iter()
        .find(|target| target.crate_types.iter().any(|kind| kind == "cdylib"))
        .ok_or_else(no_component)?;
    let folder = metadata.target_directory.join(TARGET).join("release");
    Ok(folder
        .join(library.name.replace('-', "_"))
        .with_extension("wasm"))
}

/// What `cargo metadata` says, as far as it matters.
#[derive(Deserialize)]
struct Metadata {
    target_directory: PathBuf,
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    manifest_path: PathBuf,
    targets: Vec<Library>,
}

#[derive(Deserialize)]
struct Library {
    name: String,
    crate_types: Vec<String>,
}

/// One of cargo's messages, as far as it matters.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    package_id: String,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// What cargo says that it has made of the package in `dir`.
async fn artifacts(messages: impl AsyncRead + Unpin, dir: &Path) -> std::io::Result<Made> {
    let manifest = dir.join("Cargo.toml").canonicalize()?;
    let mut made = Made::default();
    let mut lines = BufReader::new(messages).lines();
    while let Some(line) = lines.next_line().await? {
        let Ok(message) = serde_json::from_str::<Message>(&line) else {
            continue;
        };
        if message.package_id.contains("path+file://") && message.manifest_path.is_absolute() {
            made.packages.insert(message.manifest_path.clone());
        }
        made.components.extend(component_of(message, &manifest));
    }
    Ok(made)
}

fn component_of(message: Message, manifest: &Path) -> Option<PathBuf> {
    let ours = message.reason == "compiler-artifact"
        && message
            .manifest_path
            .canonicalize()
            .is_ok_and(|path| path == manifest);
    let mut files = message.filenames.into_iter();
    files.find(|file| ours && file.extension().is_some_and(|end| end == "wasm"))
}

/// Passes on what cargo says; returns the last of it.
async fn listen(
    words: impl AsyncRead + Unpin,
    report: &mut (dyn FnMut(Progress<'_>) + Send),
) -> std::io::Result<String> {
    let mut said = VecDeque::new();
    let mut lines = BufReader::new(words).lines();
    while let Some(line) = lines.next_line().await? {
        let plain = without_escapes(&line);
        let plain = plain.trim();
        if STATUS.iter().any(|word| plain.starts_with(word)) {
            report(Progress::Step(plain));
            continue;
        }
        report(Progress::Diagnostic(&line));
        if said.len() == SAID_LINES_MAX {
            said.pop_front();
        }
        said.push_back(line);
    }
    Ok(Vec::from(said).join("\n"))
}

/// The line without colours (ECMA-48 CSI sequences).
fn without_escapes(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut pieces = line.split("\u{1b}[");
    text.extend(pieces.next());
    for piece in pieces {
        let end = piece.find(|c: char| ('@'..='~').contains(&c));
        text.push_str(end.map_or("", |end| &piece[end + 1..]));
    }
    text
}

/// First words of lines that only tell how far cargo is.
const STATUS: [&str; 12] = [
    "Adding ",
    "Blocking ",
    "Building ",
    "Checking ",
    "Compiling ",
    "Downloaded ",
    "Downloading ",
    "Finished ",
    "Fresh ",
    "Installing ",
    "Locking ",
    "Updating ",
];

const SAID_LINES_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_is_the_packages_own_wasm_file() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = dir.path().join("Cargo.toml");
        std::fs::write(&manifest, "").unwrap();
        let manifest = manifest.canonicalize().unwrap();
        let message = |reason: &str, manifest: &Path, files: &[&str]| -> Message {
            serde_json::from_value(serde_json::json!({
                "reason": reason, "manifest_path": manifest, "filenames": files, "target": {},
            }))
            .unwrap()
        };
        let made = message(
            "compiler-artifact",
            &manifest,
            &["/t/liba.rlib", "/t/a.wasm"],
        );
        assert_eq!(component_of(made, &manifest), Some("/t/a.wasm".into()));
        for other in [
            message("build-finished", &manifest, &["/t/a.wasm"]),
            message("compiler-artifact", dir.path(), &["/t/b.wasm"]),
            message("compiler-artifact", &manifest, &["/t/liba.rlib"]),
        ] {
            assert_eq!(component_of(other, &manifest), None);
        }
    }

    #[tokio::test]
    async fn the_packages_of_this_machine_are_told_apart_from_those_of_a_registry() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("Cargo.toml"), "").unwrap();
        let mut words = String::new();
        for (id, manifest) in [
            (
                "registry+https://github.com/rust-lang/crates.io-index#serde@1.0.0",
                "/r/Cargo.toml",
            ),
            ("path+file:///work/lib#0.1.0", "/work/lib/Cargo.toml"),
            ("old 0.1.0 (path+file:///work/old)", "/work/old/Cargo.toml"),
        ] {
            let message = serde_json::json!({
                "reason": "compiler-message", "package_id": id, "manifest_path": manifest,
            });
            words.push_str(&format!("{message}\n"));
        }
        let made = artifacts(words.as_bytes(), dir.path()).await.unwrap();
        let expected = ["/work/lib/Cargo.toml", "/work/old/Cargo.toml"];
        assert_eq!(made.packages, expected.map(PathBuf::from).into());
    }

    #[tokio::test]
    async fn cargos_progress_is_told_apart_from_what_must_be_read() {
        let words = "   \u{1b}[1m\u{1b}[32mCompiling\u{1b}[0m a v0.1.0\nwarning: x\n --> y\n";
        let mut heard = Vec::new();
        let said = listen(words.as_bytes(), &mut |progress| {
            heard.push(match progress {
                Progress::Step(text) => format!("step {text}"),
                Progress::Diagnostic(text) => format!("read {text}"),
            });
        })
        .await
        .unwrap();
        assert_eq!(
            heard,
            ["step Compiling a v0.1.0", "read warning: x", "read  --> y"]
        );
        assert_eq!(said, "warning: x\n --> y");
    }
}
