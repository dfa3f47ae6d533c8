//! `holdfast.toml`: what stands beside a handler and says how it is deployed.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use holdfast_model::{
    Lane, Limits, ModuleName, OnLostQuorum, ResourceId, Settings, Spec,
    module::{Grants, OutOfBounds},
};
use serde::Deserialize;
use toml::Spanned;

mod fields;

pub(super) use fields::{FIELDS, Field};

/// A manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Name of the module.
    pub name: ModuleName,
    /// Its settings. What the file leaves out has its default.
    pub settings: Settings,
    /// What `holdfast dev` allocates.
    pub resources: BTreeMap<ResourceId, Spec>,
}

/// Why there is no good manifest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is no manifest.
    #[error("{}:{line}:{column}: {message}", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
}

impl Manifest {
    /// Name of the file.
    pub const FILE: &str = "holdfast.toml";

    /// Reads the manifest in a folder.
    ///
    /// # Errors
    /// When there is none, or when it says something that cannot be.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(Self::FILE);
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, &path),
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    /// Reads a manifest from text; `path` is named in errors.
    ///
    /// # Errors
    /// When it says something that cannot be.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let fault = |at: usize, message: String| {
            let (line, column) = position(text, at);
            Error::Parse {
                path: path.to_owned(),
                line,
                column,
                message,
            }
        };
        let file: File = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            fault(at, error.message().to_owned())
        })?;
        if let Err(error) = file.limits.check() {
            return Err(fault(offset_of(text, &error), error.to_string()));
        }
        let mut resources = BTreeMap::new();
        for Listed { id, spec } in file.resources {
            let (at, id) = (id.span().start, id.into_inner());
            let spec = match spec {
                None => Spec::default(),
                Some(spec) => {
                    let at = spec.span().start;
                    let json = json(toml::Value::Table(spec.into_inner())).to_string();
                    let spec = Spec::from_json(json.as_bytes());
                    spec.map_err(|error| fault(at, format!("spec of {id}: {error}")))?
                }
            };
            if resources.contains_key(&id) {
                return Err(fault(at, format!("resource {id} is listed twice")));
            }
            resources.insert(id, spec);
        }
        Ok(Self {
            resources,
            name: file.name,
            settings: Settings {
                limits: file.limits,
                grants: file.grants,
                config: file.config,
                lane: file.lane,
                on_lost_quorum: file.on_lost_quorum,
            },
        })
    }
}

/// The file. Its fields are those of [`Settings`], repeated because serde cannot flatten a struct
/// and refuse unknown fields at once.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: ModuleName,
    #[serde(default)]
    lane: Option<Lane>,
    #[serde(default)]
    on_lost_quorum: OnLostQuorum,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    grants: Grants,
    #[serde(default)]
    config: BTreeMap<String, String>,
    #[serde(default)]
    resources: Vec<Listed>,
}

/// A resource that the file lists.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    id: Spanned<ResourceId>,
    #[serde(default)]
    spec: Option<Spanned<toml::Table>>,
}

/// The same value as JSON, in which points in time are texts, and numbers that are none are null.
fn json(value: toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => values.into_iter().map(json).collect(),
        toml::Value::Table(table) => {
            let members = table.into_iter().map(|(name, value)| (name, json(value)));
            serde_json::Value::Object(members.collect())
        }
    }
}

/// Where the value of a limit stands: a limit is an integer, so its name begins its line, or stands
/// in an inline table or a dotted key.
fn offset_of(text: &str, error: &OutOfBounds) -> usize {
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let code = line.split('#').next().unwrap_or_default();
        if let Some(at) = code.find(error.field) {
            return offset + at;
        }
        offset += line.len();
    }
    0
}

fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before[start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Manifest, Error> {
        Manifest::parse(text, Path::new("x/holdfast.toml"))
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let manifest = parse("name = \"counter\"").unwrap();
        assert_eq!(manifest.name.as_str(), "counter");
        assert_eq!(manifest.settings, Settings::default());
    }

    #[test]
    fn every_setting_can_be_given() {
        let manifest = parse(
            r#"
            name = "counter"
            lane = "fiber"
            on_lost_quorum = "continue"
            [limits]
            memory_bytes_max = 1_048_576
            [grants]
            http = ["api.example.com:443"]
            [config]
            region = "eu"
            [[resources]]
            id = "a"
            [[resources]]
            id = "b/c"
            spec = { start = 40, at = 2026-11-25T10:00:00Z, deep = [{ x = 1.5 }, true] }
            "#,
        )
        .unwrap();
        let specs: Vec<_> = manifest
            .resources
            .iter()
            .map(|(id, spec)| (id.as_str(), spec.as_str()))
            .collect();
        let expected = r#"{"at":"2026-11-25T10:00:00Z","deep":[{"x":1.5},true],"start":40}"#;
        assert_eq!(specs, [("a", "{}"), ("b/c", expected)]);
        let settings = manifest.settings;
        assert_eq!(settings.lane, Some(Lane::Fiber));
        assert_eq!(settings.on_lost_quorum, OnLostQuorum::Continue);
        assert_eq!(settings.limits.memory_bytes_max, 1 << 20);
        assert_eq!(settings.grants.http[0].to_string(), "api.example.com:443");
        assert_eq!(settings.config["region"], "eu");
    }

    #[test]
    fn errors_name_file_line_and_column() {
        for (text, expected) in [
            ("", "x/holdfast.toml:1:1: missing field `name`"),
            ("name = \"A\"", "x/holdfast.toml:1:8: module name \"A\""),
            (
                "name = \"a\"\nlimit = 1",
                "x/holdfast.toml:2:1: unknown field `limit`",
            ),
            (
                "name = \"a\"\n[limits]\nmemory = 1",
                "x/holdfast.toml:3:1: unknown field `memory`",
            ),
            ("name = \"ü\" x", "x/holdfast.toml:1:12:"),
            (
                "name = \"a\"\n[limits]\n# queue_calls_max\n  queue_calls_max = 0",
                "x/holdfast.toml:4:3: limits.queue_calls_max is 0",
            ),
            (
                "name = \"a\"\non_lost_quorum = \"go\"",
                "x/holdfast.toml:2:18: unknown variant `go`",
            ),
            (
                "name = \"a\"\n[[resources]]\nid = \"\"",
                "x/holdfast.toml:3:6: a resource id must not be empty",
            ),
            (
                "name = \"a\"\n[[resources]]\nid = \"x\"\n[[resources]]\nid = \"x\"",
                "x/holdfast.toml:5:6: resource x is listed twice",
            ),
            (
                "name = \"a\"\n[[resources]]\nid = \"x\"\nspecs = {}",
                "x/holdfast.toml:4:1: unknown field `specs`",
            ),
            (
                "name = \"a\"\n[grants]\nhttp = [\"nonsense\"]",
                "x/holdfast.toml:3:",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Manifest::read(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("holdfast.toml"), "{error}");
    }
}
