use std::{
    io::{self, Write as _},
    process::{Command, Stdio},
};

use super::{super::tests::commands, *};

fn pages() -> Vec<(String, String)> {
    let pages = commands().into_iter().map(|(name, command)| {
        let page = page(&command).unwrap();
        (name, String::from_utf8(page).unwrap())
    });
    pages.collect()
}

#[test]
fn every_page_has_its_parts() {
    for (name, page) in pages() {
        let title = name.replace(' ', "-");
        for part in [
            format!(".TH {} 1 ", title.to_uppercase()),
            format!("\n{} \\- ", title.replace('-', "\\-")),
            "HOLDFAST_SERVER".to_owned(),
            ".SH SYNOPSIS".to_owned(),
            ".SH DESCRIPTION".to_owned(),
            ".SH OPTIONS".to_owned(),
            ".SH EXAMPLES\n.nf".to_owned(),
        ] {
            assert!(page.contains(&part), "{name}: {part:?} is not in\n{page}");
        }
    }
}

#[test]
fn lines_are_filled_and_tags_and_examples_are_not() {
    let words = "word ".repeat(30);
    let tag = format!("\\fB{words}\\fR");
    let page = format!(
        ".TP\n{tag}\n{words}\n.br\n.sp\n.nf\n{words}\n.fi\n.PP\n.SH X\n{} .x\n.PP\n",
        "y".repeat(79)
    );
    let short = "word ".repeat(16);
    let (short, left) = (short.trim_end(), "word ".repeat(14));
    let expected = format!(
        ".TP\n{}\n{short}\n{}\n.sp\n.nf\n{}\n.fi\n.SH X\n{}\n\\&.x\n",
        tag.trim_end(),
        left.trim_end(),
        words.trim_end(),
        "y".repeat(79)
    );
    assert_eq!(tidied(&page), expected);
}

#[test]
fn what_is_indented_stays_as_it_is_and_all_else_is_text() {
    let page = sections("Forms:\n  .a  'b'\nSome text\nhere.\n\nExamples:\n  holdfast x").render();
    let expected = ".SH FORMS\n.nf\n\\&.a  \\*(Aqb\\*(Aq\n.fi\nSome text\nhere.\n.PP\n\
                    .SH EXAMPLES\n.nf\nholdfast x\n.fi\n";
    assert!(page.ends_with(expected), "{page}");
}

#[test]
fn every_page_fits_80_columns() {
    for (name, page) in pages() {
        let verbatim = page.split("\n.nf\n").skip(1);
        let verbatim = verbatim.flat_map(|rest| rest.split(".fi\n").next().unwrap_or("").lines());
        for line in verbatim {
            let shown = line.replace("\\*(Aq", "'").replace('\\', "");
            let columns = MARGIN + shown.chars().count();
            assert!(columns <= 80, "{name}: {columns} columns: {line}");
        }
        if let Some(shown) = rendered(&page) {
            assert!(shown.contains("EXAMPLES"), "{name}: {shown}");
            let wide = shown.lines().find(|line| line.chars().count() > 80);
            assert_eq!(wide, None, "{name}");
        }
    }
}

/// The page as a terminal of 80 columns shows it; none where there is no groff. Whatever groff warns
/// of fails the test.
fn rendered(page: &str) -> Option<String> {
    let started = Command::new("groff")
        .args(["-k", "-man", "-Tutf8", "-ww", "-rLL=80n", "-P-cbou"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut groff = match started {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        started => started.unwrap(),
    };
    let mut stdin = groff.stdin.take().unwrap();
    let page = page.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(page.as_bytes()));
    let output = groff.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Where the text of a section begins.
const MARGIN: usize = 7;
