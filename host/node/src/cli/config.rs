//! `holdfast config`: the reference of everything that a node and a module can be told.
//!
//! Nothing is written down here: the options are those of `holdfast start` as the command line
//! describes them, and the fields of `holdfast.toml` are those of its parser.

use std::fmt::Write as _;

use super::{
    human,
    manifest::{FIELDS, Field},
    output,
    start::SECRET_VARIABLE,
};

/// `start` is the command of that name, built.
pub(super) fn run(start: &clap::Command) -> anyhow::Result<()> {
    output::write(reference(start).as_bytes())
}

fn reference(start: &clap::Command) -> String {
    let mut page = HEAD.to_owned();
    let options: Vec<&clap::Arg> = start.get_arguments().filter(is_for_nodes).collect();
    page.push_str("\n| option | variable | default |\n|---|---|---|\n");
    for option in &options {
        let variable = variable(option).map_or(String::new(), |name| format!("`{name}`"));
        let _ = writeln!(
            page,
            "| {} | {variable} | {} |",
            usage(option),
            default(option)
        );
    }
    for option in &options {
        describe(option, &mut page);
    }
    page.push_str(MANIFEST);
    page.push_str(
        "\n| field | value | default | meaning | too low | too high |\n|---|---|---|---|---|---|\n",
    );
    for field in FIELDS {
        page.push_str(&row(field));
    }
    page
}

/// Not those by which other commands find a node, nor those for tests.
fn is_for_nodes(option: &&clap::Arg) -> bool {
    !option.is_hide_set() && !matches!(option.get_id().as_str(), "help" | "version" | "server")
}

/// `--data-dir DIR`, as code.
fn usage(option: &clap::Arg) -> String {
    let name = option.get_long().unwrap_or_default();
    let values = option.get_value_names().unwrap_or_default();
    match (option.get_action().takes_values(), values.first()) {
        (true, Some(value)) => format!("`--{name} {value}`"),
        _ => format!("`--{name}`"),
    }
}

fn variable(option: &clap::Arg) -> Option<String> {
    match option.get_id().as_str() {
        // Not the option's value but what is in its file.
        "secret_file" => Some(SECRET_VARIABLE.to_owned()),
        _ => option
            .get_env()
            .map(|name| name.to_string_lossy().into_owned()),
    }
}

fn default(option: &clap::Arg) -> String {
    let defaults = option.get_default_values();
    match (defaults.first(), option.is_required_set()) {
        _ if !option.get_action().takes_values() => "off".to_owned(),
        (Some(value), _) => format!("`{}`", value.to_string_lossy()),
        (None, true) => "must be given".to_owned(),
        (None, false) => String::new(),
    }
}

fn describe(option: &clap::Arg, page: &mut String) {
    let _ = write!(page, "\n### {}\n", usage(option));
    let help = option.get_long_help().or_else(|| option.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    for paragraph in help.split("\n\n") {
        let end = if paragraph.ends_with(['.', ':', '?']) {
            ""
        } else {
            "."
        };
        let text = format!("{}{end}", paragraph.replace('\n', " "));
        let _ = write!(page, "\n{}\n", human::wrap(&text, COLUMNS).join("\n"));
    }
    let values = option.get_possible_values();
    let mut described = values
        .iter()
        .filter_map(|value| Some((value, value.get_help()?)))
        .peekable();
    if described.peek().is_some() {
        page.push('\n');
    }
    for (value, help) in described {
        let _ = writeln!(page, "- `{}`: {help}", value.get_name());
    }
}

fn row(field: &Field) -> String {
    let Field {
        path,
        meaning,
        too_low,
        too_high,
        ..
    } = field;
    format!(
        "| `{path}` | {} | {} | {meaning} | {too_low} | {too_high} |\n",
        field.value(),
        field.default()
    )
}

const COLUMNS: usize = 120;

const HEAD: &str = "\
# Configuration

Everything that a node and a module can be told. `holdfast config` prints this page, made from the code.

There is no configuration file of a node: it is told by options, and by variables of its environment where an option has
one; the option goes before the variable. What changes while a cluster runs is in
[settings of the cluster](OPERATING.md#what-survives-what).

## A node: `holdfast start`
";

const MANIFEST: &str = "
## A module: `holdfast.toml`

It stands beside `Cargo.toml`, and `holdfast deploy` brings it along. Unknown fields are refused, with line and column.
`--set FIELD=VALUE` of `holdfast deploy` changes one without touching the file. Sizes are in bytes, times in milliseconds.
";

#[cfg(test)]
mod tests;
