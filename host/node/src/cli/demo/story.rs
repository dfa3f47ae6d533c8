//! What the demo tells, step by step.

use std::{
    io::{self, Write as _},
    time::{Duration, Instant},
};

use indicatif::ProgressBar;

use super::super::{human, output};

/// The teller: to standard output, or to standard error where that has the summary.
pub(super) struct Story {
    to_stderr: bool,
}

/// A step that is being done.
pub(super) struct Step<'a> {
    story: &'a Story,
    name: &'static str,
    spinner: ProgressBar,
    started: Instant,
}

impl Story {
    pub(super) fn new(to_stderr: bool) -> Self {
        Self { to_stderr }
    }

    pub(super) fn say(&self, text: &str) -> anyhow::Result<()> {
        let line = format!("{text}\n");
        if self.to_stderr {
            // What matters is on standard output; nobody need read along.
            let _ = io::stderr().write_all(line.as_bytes());
            return Ok(());
        }
        output::write(line.as_bytes())
    }

    pub(super) fn step(&self, name: &'static str, doing: &str) -> Step<'_> {
        Step {
            story: self,
            name,
            spinner: output::spinner(format!("{name}: {doing}")),
            started: Instant::now(),
        }
    }
}

impl Step<'_> {
    /// Says how far it is.
    pub(super) fn doing(&self, text: &str) {
        self.spinner.set_message(format!("{}: {text}", self.name));
    }

    /// Ends the step, with what was done. The time is that since the step began, unless given.
    pub(super) fn done(self, what: &str, took: Option<Duration>) -> anyhow::Result<Duration> {
        self.spinner.finish_and_clear();
        let took = took.unwrap_or_else(|| self.started.elapsed());
        self.story
            .say(&line(self.name, what, &human::duration(took)))?;
        Ok(took)
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.spinner.finish_and_clear();
    }
}

/// A line of 80 columns: name, what was done, time. What does not fit goes on in further lines.
fn line(name: &str, what: &str, took: &str) -> String {
    let lines = human::wrap(what, WHAT_COLUMNS);
    let first = format!("{name:<10}{:<WHAT_COLUMNS$}  {took:>8}", lines[0]);
    let rest = lines[1..].iter().map(|line| format!("\n{:10}{line}", ""));
    std::iter::once(first).chain(rest).collect()
}

/// How the resources are spread, as bars.
pub(super) fn bars(shares: &[(String, u64)]) -> String {
    let most = shares.iter().map(|(_, n)| *n).max().unwrap_or(0).max(1);
    let lines: Vec<String> = shares
        .iter()
        .map(|(name, n)| {
            let width = (*n as usize * BAR_COLUMNS).div_ceil(most as usize);
            let bar = "█".repeat(width);
            format!(
                "          {name:<18} {bar:<BAR_COLUMNS$} {:>8}",
                human::count(*n)
            )
        })
        .collect();
    lines.join("\n")
}

const WHAT_COLUMNS: usize = 60;
const BAR_COLUMNS: usize = 41;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_fits_80_columns() {
        let what = "word ".repeat(30);
        let text = line("Allocate", what.trim(), "12m 59s");
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        assert!(text.lines().next().unwrap().ends_with("12m 59s"), "{text}");
        assert_eq!(text.lines().count(), 3);
        assert_eq!(line("Kill", "it", "1 ms").len(), 80);
    }

    #[test]
    fn bars_show_shares() {
        let text = bars(&[
            ("node 1 (9f3a0000)".into(), 500),
            ("node 2".into(), 250),
            ("node 3".into(), 0),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines.iter().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        let count = |line: &str| line.matches('█').count();
        assert_eq!(
            [count(lines[0]), count(lines[1]), count(lines[2])],
            [41, 21, 0]
        );
    }
}
