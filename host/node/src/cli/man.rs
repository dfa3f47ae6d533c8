//! `holdfast man`: manual pages, made from what `--help` is made from.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use clap_mangen::Man;
use roff::{Roff, roman};
use serde::Serialize;

use super::{
    human,
    output::{self, Output},
};

/// Write the manual pages
///
/// One page for each command, to a folder; or the main one to standard output.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ManArgs {
    /// The folder, made when absent; pages that it has already are replaced.
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Written {
    dir: PathBuf,
    pages: Vec<String>,
}

/// Writes the pages of a command and of all below it.
pub(super) fn run(
    args: &ManArgs,
    mut command: clap::Command,
    output: &Output,
) -> anyhow::Result<()> {
    // Gives those below their full names, and options that all of them take.
    command.build();
    let Some(dir) = &args.dir else {
        return output::write(&page(&command)?);
    };
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let mut pages = Vec::new();
    write(&command, dir, &mut pages)?;
    pages.sort_unstable();
    let dir = dir.clone();
    output.show(&Written { dir, pages }, |written| {
        let pages = human::counted(written.pages.len() as u64, "page");
        format!("{pages} in {}", written.dir.display())
    })
}

fn write(command: &clap::Command, dir: &Path, pages: &mut Vec<String>) -> anyhow::Result<()> {
    for below in command.get_subcommands() {
        if below.get_name() != "help" {
            write(below, dir, pages)?;
        }
    }
    let name = Man::new(command.clone()).get_filename();
    let path = dir.join(&name);
    fs::write(&path, page(command)?).with_context(|| format!("write {}", path.display()))?;
    pages.push(name);
    Ok(())
}

/// The page of a command, in the language of `man(7)`.
pub(super) fn page(command: &clap::Command) -> anyhow::Result<Vec<u8>> {
    let man = Man::new(command.clone()).source(SOURCE);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command
        .get_subcommands()
        .any(|below| below.get_name() != "help")
    {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(help) = command.get_after_help() {
        sections(&help.to_string()).to_writer(&mut page)?;
    }
    Ok(page)
}

/// What stands below the options, like examples: each heading begins a section, and lines that are
/// indented stay as they are.
fn sections(help: &str) -> Roff {
    let mut roff = Roff::new();
    let mut verbatim = false;
    for line in help.lines() {
        let shown = line.strip_prefix(INDENT);
        if shown.is_some() != verbatim {
            verbatim = !verbatim;
            roff.control(if verbatim { "nf" } else { "fi" }, []);
        }
        match (shown, line.strip_suffix(':')) {
            (Some(shown), _) => roff.text([roman(shown)]),
            (None, Some(heading)) => roff.control("SH", [heading.to_uppercase().as_str()]),
            (None, None) if line.is_empty() => roff.control("PP", []),
            (None, None) => roff.text([roman(line)]),
        };
    }
    if verbatim {
        roff.control("fi", []);
    }
    roff
}

/// What the foot of a page says.
const SOURCE: &str = concat!("holdfast ", env!("CARGO_PKG_VERSION"));
const INDENT: &str = "  ";

const AFTER_HELP: &str = "\
Examples:
  holdfast man | man -l -
  holdfast man ~/.local/share/man/man1
  sudo holdfast man /usr/local/share/man/man1";

#[cfg(test)]
mod tests;
