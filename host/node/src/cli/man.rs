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
    let title = Man::new(command.clone()).get_filename();
    let title = title.trim_end_matches(".1").to_uppercase();
    let man = Man::new(command.clone());
    let man = man.title(title).date(DATE).source(SOURCE);
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
    let page = String::from_utf8(page).context("a page is text")?;
    Ok(tidied(&page).into_bytes())
}

/// The same page without what `mandoc -T lint` finds: paragraphs that are empty, and lines that are long or end in
/// white space.
fn tidied(page: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let (mut verbatim, mut tag) = (false, false);
    for line in page.lines().map(str::trim_end) {
        // An empty line is a space of one.
        let line = if line.is_empty() && !verbatim {
            ".sp"
        } else {
            line
        };
        let last = lines.last().map(String::as_str);
        match line {
            ".br" if last == Some(".sp") => continue,
            ".sp" | ".SH" if last == Some(".br") => drop(lines.pop()),
            _ if line.starts_with(".SH") && matches!(last, Some(".PP" | ".br" | ".sp")) => {
                lines.pop();
            }
            _ => {}
        }
        match line {
            ".nf" => verbatim = true,
            ".fi" => verbatim = false,
            _ => {}
        }
        // The line behind .TP is the tag, and no other is.
        if verbatim || tag || line.starts_with(['.', '\'']) {
            lines.push(line.to_owned());
        } else {
            lines.extend(filled(line));
        }
        tag = line == ".TP";
    }
    while lines.last().is_some_and(|line| line == ".PP") {
        lines.pop();
    }
    lines.join("\n") + "\n"
}

/// A text in lines that are not long, which are filled again when the page is shown.
fn filled(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let line = lines.last_mut().expect("there is one at least");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= LINE_BYTES_MAX {
            line.push(' ');
            line.push_str(word);
        } else {
            // At the beginning of a line it would be a command.
            let guard = if word.starts_with(['.', '\'']) {
                "\\&"
            } else {
                ""
            };
            lines.push(format!("{guard}{word}"));
        }
    }
    lines
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

/// When what the pages say was released, or written for a release to come.
const DATE: &str = "2026-12-01";

const INDENT: &str = "  ";

/// What mandoc takes for a long line is longer.
const LINE_BYTES_MAX: usize = 80;

const AFTER_HELP: &str = "\
Examples:
  holdfast man | man -l -
  holdfast man ~/.local/share/man/man1
  sudo holdfast man /usr/local/share/man/man1";

#[cfg(test)]
mod tests;
