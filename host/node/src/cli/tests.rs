use holdfast_cluster::state::ClusterSettings;

use super::*;

/// Every command, with the names that lead to it.
pub(super) fn commands() -> Vec<(String, clap::Command)> {
    fn walk(path: &str, command: clap::Command, all: &mut Vec<(String, clap::Command)>) {
        for below in command.get_subcommands() {
            walk(&format!("{path} {}", below.get_name()), below.clone(), all);
        }
        all.push((path.to_owned(), command));
    }
    let mut all = Vec::new();
    let mut line = command();
    line.build();
    walk("holdfast", line, &mut all);
    all.retain(|(path, _)| !path.split(' ').any(|part| part == "help"));
    all
}

fn parse(line: &str) -> Result<Line, clap::Error> {
    Line::try_parse_from(line.split(' '))
}

#[test]
fn the_command_line_is_consistent() {
    command().debug_assert();
}

#[test]
fn every_command_has_a_description_and_examples() {
    for (path, command) in commands() {
        assert!(command.get_about().is_some(), "{path} has no description");
        let help = command.get_after_help().map(ToString::to_string);
        assert!(
            help.is_some_and(|help| help.contains("Examples:")),
            "{path} has no examples"
        );
        for argument in command.get_arguments() {
            let name = argument.get_id();
            assert!(
                argument.get_help().is_some(),
                "{path}: {name} is not described"
            );
        }
    }
}

#[test]
fn examples_in_the_help_can_be_parsed() {
    let mut seen = 0;
    for (path, command) in commands() {
        let help = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        for line in joined(&help).lines() {
            let line = line.trim();
            let Some(start) = line.find("holdfast ") else {
                continue;
            };
            // What a shell would see, as far as the examples need it, without the remark after it.
            let words = line[start..].split(['|', '>']).next().unwrap();
            let words = words.split("  ").next().unwrap().split(' ');
            let plain = words
                .filter(|word| !word.is_empty())
                .map(|word| word.trim_matches('\''));
            if let Err(error) = Line::try_parse_from(plain) {
                let shown = matches!(error.kind(), clap::error::ErrorKind::DisplayHelp);
                assert!(shown, "{path}: {line}: {error}");
            }
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen} examples were found");
}

/// The text with each command on one line, as a backslash at the end of a line says.
fn joined(help: &str) -> String {
    let mut pieces = help.split("\\\n");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| text + piece.trim_start())
}

#[test]
fn help_fits_80_columns() {
    for (path, mut command) in commands() {
        let help = command
            .clone()
            .term_width(80)
            .render_long_help()
            .to_string();
        assert!(
            help.lines().all(|line| line.chars().count() <= 80),
            "{path}: {help}"
        );
        // Clap would break a longer line of an example in two.
        let examples = command.get_after_help().map(ToString::to_string);
        for line in examples.unwrap_or_default().lines() {
            assert!(line.chars().count() <= 80, "{path}: {line}");
        }
        assert!(!command.render_help().to_string().is_empty());
    }
}

/// What is said in two places is said alike: of each, what the help and a page of the handbook have.
#[test]
fn the_help_and_the_handbook_agree() {
    let operating = include_str!("../../../../docs/OPERATING.md").replace('\n', " ");
    let commands = commands();
    for (path, help, page) in [
        (
            "holdfast nodes remove",
            "start elsewhere once its lease is over, within 4 seconds of its last sign of life",
            "starts elsewhere when its lease is over: within 4 s of its last sign of life",
        ),
        (
            "holdfast nodes remove",
            "One that still answers is not removed: drain it first",
            "A node that still answers is removed only once it is drained and empty",
        ),
        (
            "holdfast start",
            "started again, it finds them without --seed",
            "`--seed` only helps: the node knows its peers from its disk",
        ),
        (
            "holdfast start",
            "With data of a cluster already there it changes nothing",
            "`--bootstrap` changes nothing any more",
        ),
    ] {
        let command = commands.iter().find(|(at, _)| at == path);
        let (_, mut command) = command.expect("there is such a command").clone();
        let said = command.render_long_help().to_string();
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(help), "{path} does not say {help:?}: {said}");
        assert!(
            operating.contains(page),
            "the handbook does not say {page:?}"
        );
    }
}

#[test]
fn global_options_stand_before_and_after_the_command() {
    for line in [
        "holdfast --server http://a:1 --format json status",
        "holdfast status --server http://a:1 --format json",
    ] {
        let line = parse(line).unwrap();
        assert_eq!(line.session.server, "http://a:1");
        assert_eq!(line.session.format, Format::Json);
    }
}

#[test]
fn a_node_is_started_with_the_documented_defaults() {
    let line = parse("holdfast start --data-dir d --cluster-name office").unwrap();
    let Command::Start(args) = line.command else {
        panic!("it is `start`");
    };
    assert_eq!(args.listen.to_string(), "127.0.0.1:7301");
    assert_eq!(args.http.to_string(), "127.0.0.1:7300");
    assert_eq!(args.drain_timeout, std::time::Duration::from_secs(30));
    assert_eq!(args.stable_after, ClusterSettings::DEFAULT.stable_after);
    assert_eq!((args.weight.get(), args.starts_max), (100, 256));
    assert!(!args.bootstrap && args.seeds.is_empty() && !args.exit_with_stdin);
    assert!(args.otlp_endpoint.is_none(), "traces are off");
}

#[test]
fn mistakes_are_named() {
    for (line, named) in [
        (
            "holdfast start --data-dir d --cluster-name Office",
            "cluster name \"Office\"",
        ),
        (
            "holdfast start --data-dir d --cluster-name a --seed node-1",
            "HOST:PORT",
        ),
        (
            "holdfast start --data-dir d --cluster-name a --seed ::1:7301",
            "HOST:PORT",
        ),
        (
            "holdfast start --data-dir d --cluster-name a --seed a:0",
            "HOST:PORT",
        ),
        (
            "holdfast start --data-dir d --cluster-name a --drain-timeout 30",
            "time unit",
        ),
        (
            "holdfast start --data-dir d --cluster-name a --starts-max 0",
            "1..=65536",
        ),
        (
            "holdfast start --data-dir d --cluster-name a --weight 101",
            "0 to 100",
        ),
        (
            "holdfast start --data-dir d --cluster-name a --zone a/b",
            "zone \"a/b\"",
        ),
        (
            "holdfast start --data-dir d --cluster-name a --label disk",
            "disk=ssd",
        ),
        (
            "holdfast start --data-dir d --cluster-name a --otlp-endpoint localhost:4317",
            "like http://127.0.0.1:4318",
        ),
        (
            "holdfast start --data-dir d --cluster-name a --trace-ratio 10%",
            "from 0 to 1",
        ),
        ("holdfast start --cluster-name a", "--data-dir"),
        ("holdfast modules get No", "module name \"No\""),
        ("holdfast resources list a --status happy", "quarantined"),
        (
            "holdfast events --type node-dwon",
            "did you mean node-down?",
        ),
        ("holdfast events --type nonsense", "docs/EVENTS.md"),
        ("holdfast resources list a --limit 0", "1..=1000"),
        ("holdfast deploy --set limits", "must look like"),
        ("holdfast drain a --cancel --wait", "cannot be used"),
        ("holdfast drain a --cancel --deadline 1m", "cannot be used"),
        ("holdfast plan --weight a=101", "0 to 100"),
        ("holdfast plan --join 0", "1..=100"),
        ("holdfast plan --zone b", "--join"),
        ("holdfast nodes set a --weight 101", "0 to 100"),
        ("holdfast nodes set a", "--weight"),
        ("holdfast demo --nodes 2", "3..=9"),
        ("holdfast drain a --timeout 5s", "--wait"),
        ("holdfast modules remove a --timeout 5s", "--wait"),
        ("holdfast resources allocate a/b --timeout 5s", "--wait"),
        ("holdfast resources deallocate a/b --timeout 5s", "--wait"),
        ("holdfast frobnicate", "unrecognized"),
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(named), "{line}: {error}");
    }
}
