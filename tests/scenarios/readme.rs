//! The README's tour, as it stands there, in an empty folder.

use std::{fmt::Write as _, fs, os::unix::fs::symlink, path::Path, process::Command};

use holdfast_tests::{
    component::{build, target_dir},
    netns,
};

use crate::BIN;

/// A command of the tour, and what it prints there.
#[derive(Debug)]
struct Step {
    command: String,
    prints: Vec<String>,
}

/// The commands of the page's section, in order.
fn steps(page: &str, section: &str) -> Vec<Step> {
    let begin = page.find(section).expect("the section is there") + section.len();
    let text = &page[begin..];
    let text = &text[..text.find("\n## ").unwrap_or(text.len())];
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ if !inside => {}
            line => match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step {
                    command: command.to_owned(),
                    prints: Vec::new(),
                }),
                None => {
                    let last = steps.last_mut().expect("a command comes first");
                    last.prints.push(line.to_owned());
                }
            },
        }
    }
    steps
}

/// A line without what is another thing each time: numbers, ids, paths, and how wide a column is.
fn shape(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let differs = word.contains(['…', '/']) || word.contains(|c: char| c.is_ascii_digit());
        if differs { "#" } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_tour_runs_as_it_stands() {
    // The ports that it takes are free in a network of its own.
    netns::test("readme::the_tour_runs_as_it_stands", 0, |_network| {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
        let page = fs::read_to_string(page).unwrap();
        let mut steps = steps(&page, "## Five minutes with a cluster");
        assert_eq!(steps[0].command, "cargo install --locked --path host/node");
        // It is this binary that would be installed.
        steps.remove(0);
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        symlink(BIN, bin.join("holdfast")).unwrap();
        // Whatever a handler depends on is on this machine once one of the workspace has been built.
        let _ = build("counter");

        let mut script = String::new();
        for (number, Step { command, .. }) in steps.iter().enumerate() {
            writeln!(script, "{command}\necho \"@{number} $?\"").unwrap();
            if command.contains("kill") {
                // A reader is slower than a failover.
                script.push_str(UNTIL_HELD);
            }
        }
        // As the page says at its end; and the shell waits for them, so that none is left.
        script.push_str("kill %1 %2 %3\nwait\n");
        let work = folder.path().join("work");
        fs::create_dir(&work).unwrap();
        let path = std::env::var("PATH").unwrap();
        let output = Command::new("bash")
            .args(["-c", &script])
            .current_dir(&work)
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("CARGO_NET_OFFLINE", "true")
            .env("CARGO_TARGET_DIR", target_dir().join("guests"))
            .env_remove("HOLDFAST_TEST_PROCESS")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let all = format!("{said}\n{}", String::from_utf8_lossy(&output.stderr));

        let mut rest: &str = &said;
        for (number, Step { command, prints }) in steps.iter().enumerate() {
            let (printed, after) = rest
                .split_once(&format!("@{number} "))
                .unwrap_or_else(|| panic!("{command} was not reached:\n{all}"));
            let (status, after) = after.split_once('\n').unwrap();
            assert_eq!(status, "0", "{command}:\n{all}");
            rest = after;
            // What is seen in the moment of a death is chance.
            if command.contains("kill") {
                continue;
            }
            let shapes: Vec<String> = printed.lines().map(shape).collect();
            for line in prints {
                let is_there = shapes.contains(&shape(line));
                assert!(
                    is_there,
                    "{command} does not print {line:?}, but\n{printed}"
                );
            }
        }
        // An answer of the handler, to the letter.
        assert!(
            all.contains(r#"{"text":"Good morning, Ada!","greeted":2}"#),
            "{all}"
        );
    });
}

/// Waits, at most half a minute, until everything is held.
const UNTIL_HELD: &str = "for _ in $(seq 150); do
    holdfast status | grep -q '1,001: 1,001 held' && break
    sleep 0.2
done
";

#[test]
fn a_line_is_compared_without_what_differs() {
    for (line, expected) in [
        ("my-bot/ada is held on 19acbb8b", "# is held on #"),
        ("version  1 (serves)", "version # (serves)"),
        ("nodes      3: 2 active, 1 down", "nodes # # active, # down"),
        ("component  …/my_bot.wasm", "component #"),
    ] {
        assert_eq!(shape(line), expected);
    }
}
