//! `holdfast new`: begins a handler.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use holdfast_model::ModuleName;
use serde::Serialize;

use super::{failure::Failure, output::Output, scaffold};

/// Begin a handler: a package with an example, its tests and all it needs to build
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct NewArgs {
    /// Name of the module, and of its folder: a-z, 0-9 and '-', at most 63 characters, and
    /// the first is a letter.
    name: ModuleName,

    /// Where to put it, instead of a folder of its name here. It must be empty or absent.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Made {
    module: ModuleName,
    path: PathBuf,
}

pub(super) fn run(args: &NewArgs, output: &Output) -> anyhow::Result<()> {
    output.show(&make(args)?, describe)
}

fn make(NewArgs { name, dir }: &NewArgs) -> anyhow::Result<Made> {
    check(name)?;
    let path = dir.clone().unwrap_or_else(|| name.as_str().into());
    let empty = match std::fs::read_dir(&path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(error).with_context(|| format!("look into {}", path.display())),
    };
    if !empty {
        let taken = Failure::new(format!("{} exists and is not empty", path.display()));
        return Err(taken.hint("choose another folder with --dir DIR").into());
    }
    scaffold::write(&path, &scaffold::project(name))
        .with_context(|| format!("write the files of {name} to {}", path.display()))?;
    Ok(Made {
        module: name.clone(),
        path,
    })
}

fn describe(Made { module, path }: &Made) -> String {
    let folder = path.display();
    let test = format!("cd {folder} && cargo test");
    let width = test.chars().count();
    format!(
        "Made {folder}: its logic is in src/lib.rs, its settings in holdfast.toml.\n\nNext:\n  \
         {test}  # natively, without a node\n  \
         {:width$}  # on a node of its own, while you write it\n  \
         holdfast resources allocate {module} a --wait\n  \
         holdfast invoke {module} a Ada",
        "holdfast dev"
    )
}

/// A module's name that cannot be the name of a Rust package.
fn check(name: &ModuleName) -> Result<(), Failure> {
    let text = name.as_str();
    let problem = if text.starts_with(|c: char| c.is_ascii_digit()) {
        "begins with a digit"
    } else if DEPENDENCIES.contains(&text) {
        "is the name of a package that it uses"
    } else if BUILT_IN.contains(&text) {
        "is the name of one of Rust's own"
    } else {
        return Ok(());
    };
    let refused = Failure::new(format!(
        "{text} cannot be the name of a Rust package: it {problem}"
    ));
    Err(refused
        .hint("choose another name; the module's own can be changed in holdfast.toml afterwards"))
}

const DEPENDENCIES: [&str; 2] = ["holdfast-guest", "serde"];
const BUILT_IN: [&str; 5] = ["alloc", "core", "proc-macro", "std", "test"];

const AFTER_HELP: &str = "\
Examples:
  holdfast new counter
  holdfast new counter --dir handlers/counter";

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str, dir: &std::path::Path) -> anyhow::Result<Made> {
        let args = NewArgs {
            name: name.parse().unwrap(),
            dir: Some(dir.to_owned()),
        };
        make(&args)
    }

    #[test]
    fn nothing_that_exists_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        new("counter", dir.path()).unwrap();
        assert!(dir.path().join("src/lib.rs").exists());
        let error = new("counter", dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("exists and is not empty"), "{error}");
    }

    #[test]
    fn names_that_cargo_refuses_are_refused_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "1-counter",
            "serde",
            "holdfast-guest",
            "alloc",
            "core",
            "proc-macro",
            "std",
            "test",
        ] {
            let error = new(name, &dir.path().join("x")).unwrap_err().to_string();
            assert!(
                error.contains("cannot be the name of a Rust package"),
                "{error}"
            );
            assert!(!dir.path().join("x").exists());
        }
    }
}
