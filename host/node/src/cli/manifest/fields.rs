//! Every field of `holdfast.toml`: what it takes, and what it means.

use holdfast_model::{Limits, Settings};
use serde_json::Value;

use super::super::human;

/// A field, for people. Its default, and the bounds of a limit, are those of the settings.
#[derive(Debug)]
pub(in crate::cli) struct Field {
    /// Its table and its name, with a dot between.
    pub(in crate::cli) path: &'static str,
    takes: Takes,
    pub(in crate::cli) meaning: &'static str,
    pub(in crate::cli) too_low: &'static str,
    pub(in crate::cli) too_high: &'static str,
}

#[derive(Debug)]
enum Takes {
    /// A whole number within the bounds of the limit.
    Number,
    /// What these words say, like this in the file.
    Like(&'static str, &'static str),
}

impl Field {
    /// What it takes, in Markdown.
    pub(in crate::cli) fn value(&self) -> String {
        match self.takes {
            Takes::Number => {
                let (min, max) = bounds(self.path);
                format!("{} to {}", human::count(min), human::count(max))
            }
            Takes::Like(words, example) => format!("{words}, like `{example}`"),
        }
    }

    /// What it is where the file does not say it, in Markdown.
    pub(in crate::cli) fn default(&self) -> String {
        let settings = serde_json::to_value(Settings::default()).expect("settings are JSON");
        let pointer = format!("/{}", self.path.replace('.', "/"));
        match settings.pointer(&pointer) {
            None if self.path == "name" => "must be given".to_owned(),
            None => "nothing".to_owned(),
            Some(Value::Null) => "chosen at deploy".to_owned(),
            Some(Value::Array(_) | Value::Object(_)) => "nothing".to_owned(),
            Some(Value::Number(number)) if self.path.ends_with("_bytes_max") => {
                let bytes = human::bytes(number.as_u64().unwrap_or_default());
                format!("`{number}` ({bytes})")
            }
            Some(value) => format!("`{value}`"),
        }
    }
}

fn bounds(path: &str) -> (u64, u64) {
    let of_this = |(name, ..): &&(&str, u64, u64)| path.ends_with(&format!(".{name}"));
    let (_, min, max) = Limits::BOUNDS
        .iter()
        .find(of_this)
        .expect("a limit has bounds");
    (*min, *max)
}

/// All fields, in the order of the file.
pub(in crate::cli) const FIELDS: &[Field] = &[
    Field {
        path: "name",
        takes: Takes::Like(
            "1 to 63 of a-z, 0-9 and '-', a letter or digit at both ends",
            "\"my-bot\"",
        ),
        meaning: "what the module is called in the cluster",
        too_low: "",
        too_high: "",
    },
    Field {
        path: "lane",
        takes: Takes::Like("`\"direct\"` or `\"fiber\"`", "\"fiber\""),
        meaning: "how calls run: [directly, or on a stack of their own that may wait]\
                  (HANDLERS.md#lanes). By default on a fiber if outgoing HTTP is imported and granted",
        too_low: "",
        too_high: "",
    },
    Field {
        path: "on_lost_quorum",
        takes: Takes::Like("`\"stop\"` or `\"continue\"`", "\"continue\""),
        meaning: "what becomes of instances [whose node reaches no majority of the voters]\
                  (HANDLERS.md#holdfasttoml): at most one of each resource, or at least one",
        too_low: "",
        too_high: "",
    },
    Field {
        path: "limits.memory_bytes_max",
        takes: Takes::Number,
        meaning: "linear memory and tables of one instance, added up",
        too_low: "allocations fail, the handler usually traps",
        too_high: "one leaking handler can fill the node",
    },
    Field {
        path: "limits.handle_timeout_ms",
        takes: Takes::Number,
        meaning: "time for one `handle`",
        too_low: "slow starts fail and are tried again",
        too_high: "a hanging start is noticed late",
    },
    Field {
        path: "limits.terminate_timeout_ms",
        takes: Takes::Number,
        meaning: "time for one `terminate`, then the instance is dropped",
        too_low: "handlers cannot finish their work",
        too_high: "a hanging one delays every move and every stop",
    },
    Field {
        path: "limits.call_timeout_ms",
        takes: Takes::Number,
        meaning: "time for one call, and how long its caller waits unless it names a shorter time",
        too_low: "slow calls end with 504, and their instance with them",
        too_high: "a hanging call holds up the queue of its resource",
    },
    Field {
        path: "limits.queue_calls_max",
        takes: Takes::Number,
        meaning: "calls that may wait for one resource",
        too_low: "bursts get 429",
        too_high: "a slow resource piles up requests that are late anyway",
    },
    Field {
        path: "limits.body_bytes_max",
        takes: Takes::Number,
        meaning: "body of one call or answer",
        too_low: "requests get 413, answers fail",
        too_high: "more memory for each call",
    },
    Field {
        path: "limits.stack_bytes_max",
        takes: Takes::Number,
        meaning: "call stack of one call, rounded up to a power of two",
        too_low: "deep recursion, as of parsers and interpreters, traps: `it used up its call stack`",
        too_high: "endless recursion takes as much memory before it traps; past 1 MiB calls cost a \
                   hand-over to another thread",
    },
    Field {
        path: "grants.http",
        takes: Takes::Like("a list of `host:port`", "[\"api.example.com:443\"]"),
        meaning: "where [outgoing HTTP](HANDLERS.md#outgoing-http) may go",
        too_low: "",
        too_high: "",
    },
    Field {
        path: "config",
        takes: Takes::Like("a table of texts", "{ region = \"eu\" }"),
        meaning: "what the handler reads with `ctx.config`",
        too_low: "",
        too_high: "",
    },
    Field {
        path: "resources",
        takes: Takes::Like(
            "a list of tables with `id` and, if it has one, `spec`",
            "[{ id = \"a\", spec = { room = \"hall\" } }]",
        ),
        meaning: "what `holdfast dev` allocates",
        too_low: "",
        too_high: "",
    },
];

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;
    use crate::cli::manifest::Manifest;

    fn parse(text: &str) -> Result<Manifest, String> {
        Manifest::parse(text, Path::new("holdfast.toml")).map_err(|error| error.to_string())
    }

    /// The paths of all settings, tables without fields of their own included.
    fn leaves(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value.as_object().filter(|fields| !fields.is_empty()) {
            Some(fields) => {
                for (name, value) in fields {
                    let path = if path.is_empty() {
                        name.clone()
                    } else {
                        format!("{path}.{name}")
                    };
                    leaves(value, &path, found);
                }
            }
            None => drop(found.insert(path.to_owned())),
        }
    }

    #[test]
    fn every_setting_has_its_line_and_every_line_its_setting() {
        let settings = serde_json::to_value(Settings::default()).unwrap();
        let mut expected = BTreeSet::from(["name", "resources"].map(str::to_owned));
        leaves(&settings, "", &mut expected);
        let listed: BTreeSet<String> = FIELDS.iter().map(|field| field.path.to_owned()).collect();
        assert_eq!(listed, expected);
        assert_eq!(listed.len(), FIELDS.len(), "one is listed twice");
    }

    #[test]
    fn the_parser_takes_every_field_that_is_listed_and_no_other() {
        for field in FIELDS.iter().filter(|field| field.path != "name") {
            let value = match field.takes {
                Takes::Number => bounds(field.path).1.to_string(),
                Takes::Like(_, example) => example.to_owned(),
            };
            let given = parse(&format!("name = \"a\"\n{} = {value}", field.path)).unwrap();
            assert_ne!(given, parse("name = \"a\"").unwrap(), "{}", field.path);
        }
        // Of what it does not know, the parser says what it does.
        for table in ["", "limits.", "grants."] {
            let error = parse(&format!("name = \"a\"\n{table}unknown = 1")).unwrap_err();
            let known: BTreeSet<&str> = error.split('`').skip(3).step_by(2).collect();
            let inside = FIELDS
                .iter()
                .filter_map(|field| field.path.strip_prefix(table));
            let listed: BTreeSet<&str> = inside.filter_map(|rest| rest.split('.').next()).collect();
            assert_eq!(known, listed, "{table}: {error}");
        }
    }
}
