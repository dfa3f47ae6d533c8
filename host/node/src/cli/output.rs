//! Where results go: tables for people, JSON for programs.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use clap::builder::styling::AnsiColor;
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use holdfast_model::api::{NodeStatus, ResourceStatus};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::human;
use crate::telemetry;

/// How results are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Tables and sentences.
    #[default]
    Table,
    /// One JSON document; one a line where a list streams.
    Json,
}

/// Standard output, as the user wants it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    format: Format,
    colour: bool,
    /// Columns to fit tables into; none where lines may be as long as they like.
    width: Option<u16>,
}

impl Output {
    /// Standard output in this format. Colours and wrapped cells only on a terminal, so that
    /// each line of a pipe is a whole row.
    pub(super) fn new(format: Format) -> Self {
        let terminal = io::stdout().is_terminal();
        Self {
            format,
            colour: terminal && colour_wanted(),
            width: terminal.then(|| Table::new().width().unwrap_or(80)),
        }
    }

    /// Output of tests: a table of 80 columns without colours.
    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self {
            format: Format::Table,
            colour: false,
            width: Some(80),
        }
    }

    pub(super) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// A text in a colour, where colours are wanted.
    pub(super) fn coloured(self, text: impl Display, colour: AnsiColor) -> String {
        if !self.colour {
            return text.to_string();
        }
        let style = colour.on_default();
        format!("{style}{text}{style:#}")
    }

    /// Writes a value: as a line of JSON, or as the text that `show` makes of it.
    pub(super) fn show<T: Serialize>(
        self,
        value: &T,
        show: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        if self.is_json() {
            self.json(value)
        } else {
            let mut text = show(value);
            if !text.ends_with('\n') {
                text.push('\n');
            }
            write(text.as_bytes())
        }
    }

    pub(super) fn json(self, value: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec(value)?;
        text.push(b'\n');
        write(&text)
    }

    /// Writes a warning to standard error, where it does not mix with the result.
    pub(super) fn warn(self, text: &str) {
        if self.is_json() {
            eprintln!("{}", serde_json::json!({"warning": text}));
        } else {
            eprintln!("warning: {text}");
        }
    }

    /// Writes a sentence for people.
    pub(super) fn say(self, text: impl AsRef<str>) -> anyhow::Result<()> {
        if self.is_json() {
            return Ok(());
        }
        write(format!("{}\n", text.as_ref()).as_bytes())
    }

    /// A table with these columns; a name that begins with `>` is aligned to the right.
    pub(super) fn table(
        self,
        columns: &[&str],
        rows: impl IntoIterator<Item = Vec<Cell>>,
    ) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        match self.width {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic);
                table.set_width(width);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(columns.iter().map(|name| name.trim_start_matches('>')));
        table.add_rows(rows);
        for (at, name) in columns.iter().enumerate() {
            if let Some(column) = table.column_mut(at) {
                let gap = if at + 1 < columns.len() { 2 } else { 0 };
                column.set_padding((0, gap));
                if name.starts_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        table
            .lines()
            .map(|line| format!("{}\n", line.trim_end()))
            .collect()
    }

    /// Pairs of names and values, one a line; on a terminal a long value goes on below itself.
    pub(super) fn pairs<'a>(self, pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
        let pairs: Vec<_> = pairs.into_iter().collect();
        let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let indent = width + 2;
        pairs
            .iter()
            .map(|(name, value)| {
                let value = self
                    .wrapped(value, indent)
                    .join(&format!("\n{:indent$}", ""));
                format!("{name:width$}  {value}\n")
            })
            .collect()
    }

    /// A text for people, in lines that fit the terminal.
    pub(super) fn paragraph(self, text: &str) -> String {
        self.wrapped(text, 0).join("\n")
    }

    /// Lines that fit the terminal beside an indent of so many columns; one where there is none.
    fn wrapped(self, text: &str, indent: usize) -> Vec<String> {
        match self.width {
            Some(width) => human::wrap(text, usize::from(width).saturating_sub(indent)),
            None => vec![text.to_owned()],
        }
    }
}

/// Writes to standard output.
pub(super) fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()?;
    Ok(())
}

/// A handler's text without what would control the terminal, or look like a line that is not the
/// handler's: further lines are indented.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\n    "),
            c if telemetry::is_misleading(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// Ends the line after raw bytes on a terminal, so that the prompt stands on a line of its own.
pub(super) fn end_line(written: &[u8]) -> anyhow::Result<()> {
    if io::stdout().is_terminal() && !written.is_empty() && !written.ends_with(b"\n") {
        return write(b"\n");
    }
    Ok(())
}

/// A line on standard error that says what is being waited for; nothing where that is no terminal.
pub(super) fn spinner(text: impl Into<String>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(
        ProgressStyle::with_template("{spinner} {msg}").expect("the template is a constant"),
    );
    bar.set_message(text.into());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// A bar on standard error; nothing where that is no terminal.
pub(super) fn progress(total: Option<u64>, text: impl Into<String>) -> ProgressBar {
    let template = match total {
        Some(_) => "{spinner} {msg} {wide_bar} {human_pos}/{human_len}",
        None => "{spinner} {msg} {human_pos}",
    };
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
    bar.set_message(text.into());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// A cell in the colour of a resource's status.
pub(super) fn resource_status(status: ResourceStatus) -> Cell {
    let colour = match status {
        ResourceStatus::Held => Color::Green,
        ResourceStatus::Starting | ResourceStatus::Moving | ResourceStatus::Stopping => {
            Color::Yellow
        }
        ResourceStatus::Failed
        | ResourceStatus::Quarantined
        | ResourceStatus::Unowned
        | ResourceStatus::Unreachable => Color::Red,
    };
    Cell::new(status).fg(colour)
}

/// A cell in the colour of a node's status.
pub(super) fn node_status(status: NodeStatus) -> Cell {
    let colour = match status {
        NodeStatus::Active => Color::Green,
        NodeStatus::Draining | NodeStatus::Restarting => Color::Yellow,
        NodeStatus::Down | NodeStatus::Unreachable => Color::Red,
    };
    Cell::new(status).fg(colour)
}

/// Whether standard error is a terminal on which colours are wanted.
pub(super) fn colour_wanted_on_stderr() -> bool {
    io::stderr().is_terminal() && colour_wanted()
}

/// Whether the user wants colours at all (<https://no-color.org>).
fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_no_borders_and_no_trailing_spaces() {
        let rows = [["a", "1"], ["bcd", "1,000"]].map(|row| row.map(Cell::new).to_vec());
        let table = Output::plain().table(&["NAME", ">COUNT", "X"], rows);
        assert_eq!(table, "NAME  COUNT  X\na         1\nbcd   1,000\n");
    }

    #[test]
    fn on_a_terminal_long_cells_wrap_within_its_width() {
        let rows = [vec![Cell::new("x".repeat(200)), Cell::new("held")]];
        let table = Output::plain().table(&["ID", "STATUS"], rows);
        assert!(table.lines().count() > 2, "{table}");
        assert!(table.lines().all(|line| line.len() <= 80), "{table}");
    }

    #[test]
    fn in_a_pipe_every_row_is_one_line() {
        let output = Output {
            width: None,
            ..Output::plain()
        };
        let rows = [vec![Cell::new("x".repeat(200)), Cell::new("held")]];
        assert_eq!(output.table(&["ID", "STATUS"], rows).lines().count(), 2);
    }

    #[test]
    fn what_a_handler_says_looks_like_no_other_line() {
        for (said, shown) in [
            ("plain\tü", "plain\tü"),
            ("a\n2026-01-01 ERROR", "a\n    2026-01-01 ERROR"),
            ("a\r\u{1b}[2K\u{2028}b", r"a\r\u{1b}[2K\u{2028}b"),
        ] {
            assert_eq!(printable(said), shown);
        }
    }

    #[test]
    fn pairs_are_aligned() {
        let pairs = [("a", "1".to_owned()), ("long", "2".to_owned())];
        assert_eq!(Output::plain().pairs(pairs), "a     1\nlong  2\n");
    }

    #[test]
    fn long_values_go_on_below_themselves_on_a_terminal_only() {
        let pairs = || [("a", "word ".repeat(40).trim().to_owned())];
        let text = Output::plain().pairs(pairs());
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        assert!(
            text.lines().skip(1).all(|line| line.starts_with("   w")),
            "{text}"
        );
        let pipe = Output {
            width: None,
            ..Output::plain()
        };
        assert_eq!(pipe.pairs(pairs()).lines().count(), 1);
    }
}
