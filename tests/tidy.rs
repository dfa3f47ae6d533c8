//! The architecture as tests: who may use whom, what must not be there, how long a file may be.
//!
//! Each rule says what is wrong, where, and what to do instead. The tables here are the law: a new
//! crate or module is given its place in them.

#![expect(
    clippy::unwrap_used,
    reason = "these are tests, and their helpers are outside of test functions"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use holdfast_tests::source::{code_of, crate_paths, production_of};
use serde_json::Value;

/// Which crates of ours each crate may use, by folder.
const CRATES: &[(&str, &[&str])] = &[
    ("host/model", &[]),
    ("host/cluster", &["holdfast-model"]),
    (
        "host/runtime",
        &["holdfast-model", "holdfast-test-components"],
    ),
    (
        "host/node",
        &["holdfast-model", "holdfast-cluster", "holdfast-runtime"],
    ),
    ("guest-sdk", &[]),
    ("guest-sdk/macros", &[]),
    ("examples/*", &["holdfast-guest"]),
    ("tests/guests/*", &["holdfast-guest"]),
    ("tests/components", &[]),
    (
        "tests",
        &["holdfast", "holdfast-model", "holdfast-test-components"],
    ),
];

/// What the pure core may use of the world: crates without IO.
const CLUSTER_USES: &[&str] = &[
    "bytes",
    "foca",
    "holdfast-model",
    "postcard",
    "rand",
    "serde",
    "thiserror",
    "uuid",
    "xxhash-rust",
];

/// What would make the pure core read a clock, a socket, a file or a global.
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "println!",
    "rand::random",
    "rand::rng",
    "std::env",
    "std::fs",
    "std::process",
    "std::thread",
    "sys_rng",
    "thread_rng",
    "tokio",
    "Uuid::new_v4",
];

/// The modules of the node, in order: each uses only those before it.
const NODE_ORDER: &[&str] = &[
    "clock",
    "identity",
    "token",
    "config",
    "telemetry",
    "control",
    "modules",
    "peer",
    "gossip",
    "rpc",
    "placement",
    "dispatch",
    "deploy",
    "admin",
    "server",
    "client",
    "cli",
    "start",
];

/// Longest production file, in lines.
const FILE_LINES_MAX: usize = 500;

/// A source file of the workspace.
struct Source {
    /// From the root, with `/`.
    path: String,
    text: String,
    code: String,
}

impl Source {
    /// Whether it is built into the product, unlike tests and their harness.
    fn is_production(&self) -> bool {
        let is_test = |part: &str| matches!(part, "tests" | "tests.rs" | "benches");
        !self.path.split('/').any(is_test)
    }

    fn production(&self) -> &str {
        if self.is_production() {
            production_of(&self.code)
        } else {
            ""
        }
    }

    /// Where these words stand in the production code: `path:line`.
    fn places(&self, words: &str) -> Vec<String> {
        let code = self.production();
        let line = |(at, _): (usize, &str)| code[..at].matches('\n').count() + 1;
        let places = code.match_indices(words).map(line);
        places.map(|line| format!("{}:{line}", self.path)).collect()
    }
}

/// A package of the workspace, as its manifest says.
struct Package {
    name: String,
    folder: String,
    manifest: String,
    /// Name and kind (`null` for a normal one) of each dependency.
    dependencies: Vec<(String, Value)>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["host", "guest-sdk", "examples", "tests"] {
        collect(&root().join(folder), folder, &mut found);
    }
    assert!(found.len() > 30, "the sources are not where they were");
    found
}

fn collect(folder: &Path, name: &str, found: &mut Vec<Source>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let file = entry.file_name().into_string().unwrap();
        let path = format!("{name}/{file}");
        if entry.path().is_dir() {
            if file != "target" {
                collect(&entry.path(), &path, found);
            }
        } else if file.ends_with(".rs") {
            let text = fs::read_to_string(entry.path()).unwrap();
            let code = code_of(&text);
            found.push(Source { path, text, code });
        }
    }
}

fn packages() -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root())
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {error}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let workspace = text(&metadata["workspace_root"]);
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| {
            let manifest = text(&package["manifest_path"]);
            let folder = manifest.strip_prefix(&workspace).unwrap();
            let folder = folder
                .trim_start_matches('/')
                .trim_end_matches("/Cargo.toml");
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            Package {
                name: text(&package["name"]),
                folder: folder.to_owned(),
                dependencies: dependencies
                    .map(|it| (text(&it["name"]), it["kind"].clone()))
                    .collect(),
                manifest: fs::read_to_string(&manifest).unwrap(),
            }
        })
        .collect()
}

/// The row of [`CRATES`] for a folder.
fn may_use(folder: &str) -> Option<&'static [&'static str]> {
    let row = CRATES.iter().find(|(pattern, _)| {
        let in_folder = |parent| {
            folder
                .strip_prefix(parent)
                .is_some_and(|name| !name.contains('/'))
        };
        folder == *pattern || pattern.strip_suffix('*').is_some_and(in_folder)
    });
    row.map(|(_, uses)| *uses)
}

#[track_caller]
fn assert_none(wrong: &[String], rule: &str) {
    let list = wrong.join("\n  ");
    assert!(wrong.is_empty(), "{rule}\nbut not here:\n  {list}\n");
}

#[test]
fn crates_use_each_other_in_one_direction_only() {
    let packages = packages();
    let ours: Vec<&str> = packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let mut wrong = Vec::new();
    for package in &packages {
        let Some(allowed) = may_use(&package.folder) else {
            wrong.push(format!(
                "{} has no row in CRATES of tests/tidy.rs",
                package.folder
            ));
            continue;
        };
        for (name, _) in &package.dependencies {
            if ours.contains(&name.as_str()) && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{} depends on {name}", package.folder));
            }
        }
    }
    assert_none(
        &wrong,
        "A crate uses only the crates that CRATES (tests/tidy.rs) allows it: model <- cluster, \
         runtime <- node, and guests use the SDK alone. Move what is shared into the lower crate.",
    );
}

#[test]
fn the_cluster_crate_is_pure() {
    let packages = packages();
    let cluster = packages
        .iter()
        .find(|package| package.folder == "host/cluster")
        .unwrap();
    let mut wrong: Vec<String> = cluster
        .dependencies
        .iter()
        .filter(|(name, kind)| kind.is_null() && !CLUSTER_USES.contains(&name.as_str()))
        .map(|(name, _)| format!("host/cluster depends on {name}"))
        .collect();
    for source in sources()
        .iter()
        .filter(|source| source.path.starts_with("host/cluster/"))
    {
        for words in IMPURE {
            let places = source.places(words).into_iter();
            wrong.extend(places.map(|place| format!("{place}: {words}")));
        }
    }
    assert_none(
        &wrong,
        "host/cluster does no IO and reads no clock and no global, so that it can be simulated: \
         take time, randomness and messages as parameters, give decisions back as values.",
    );
}

#[test]
fn the_runtime_alone_names_wasmtime() {
    let mut wrong = Vec::new();
    for package in packages()
        .iter()
        .filter(|package| package.folder != "host/runtime")
    {
        let names = package
            .dependencies
            .iter()
            .filter(|(name, _)| name.starts_with("wasmtime"));
        wrong.extend(names.map(|(name, _)| format!("{} depends on {name}", package.folder)));
    }
    for source in sources() {
        if !source.path.starts_with("host/runtime/") {
            for words in ["wasmtime::", "wasmtime_wasi", "use wasmtime"] {
                let places = source.places(words).into_iter();
                wrong.extend(places.map(|place| format!("{place}: {words}")));
            }
        }
    }
    assert_none(
        &wrong,
        "Only host/runtime names wasmtime: give it a method in our own words and call that.",
    );
}

#[test]
fn modules_of_the_node_use_only_those_before_them() {
    let rank: BTreeMap<&str, usize> = NODE_ORDER.iter().zip(0..).map(|(m, i)| (*m, i)).collect();
    let mut wrong = Vec::new();
    for source in &sources() {
        let Some(inside) = source.path.strip_prefix("host/node/src/") else {
            continue;
        };
        let module = inside
            .split('/')
            .next()
            .unwrap_or(inside)
            .trim_end_matches(".rs");
        if matches!(module, "lib" | "main") || !source.is_production() {
            continue;
        }
        let Some(own) = rank.get(module) else {
            wrong.push(format!(
                "{} has no place in NODE_ORDER of tests/tidy.rs",
                source.path
            ));
            continue;
        };
        for (line, name) in crate_paths(source.production()) {
            let fits = match rank.get(name.as_str()) {
                Some(_) if name == "client" => matches!(module, "client" | "cli"),
                Some(other) => other <= own,
                // An item of the crate's root: there are none but modules.
                None => false,
            };
            if !fits {
                wrong.push(format!("{}:{line}: {module} uses {name}", source.path));
            }
        }
        if !inside.contains('/') {
            let places = source.places("super::").into_iter();
            wrong.extend(places.map(|place| format!("{place}: write crate:: instead of super::")));
        }
    }
    assert_none(
        &wrong,
        "A module of host/node uses only modules before it in NODE_ORDER (tests/tidy.rs), and \
         only cli uses client. What is below reports upward by what it returns, by a watch \
         channel, or through a trait that it defines.",
    );
}

#[test]
fn production_files_are_short() {
    let sources = sources();
    let long = sources
        .iter()
        .filter(|source| source.is_production())
        .filter_map(|source| {
            let lines = source.text.lines().count();
            (lines > FILE_LINES_MAX).then(|| format!("{}: {lines} lines", source.path))
        });
    assert_none(
        &long.collect::<Vec<_>>(),
        "A production file has at most 500 lines: split it by what its parts are responsible for, \
         or move its tests into a sibling `tests.rs`.",
    );
}

#[test]
fn every_crate_has_the_lints_of_the_workspace() {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let lints = workspace
        .split("\n[")
        .filter(|table| table.starts_with("workspace.lints"));
    let lints = lints.flat_map(|table| table.lines().skip(1));
    let lints: Vec<&str> = lints
        .filter_map(|line| Some(line.split_once(" =")?.0))
        .collect();
    assert!(lints.contains(&"unwrap_used"), "{lints:?}");
    let mut wrong = Vec::new();
    for package in packages() {
        let inherits = package.manifest.contains("[lints]\nworkspace = true");
        let repeats = |lint: &&str| package.manifest.contains(&format!("\n{lint} = "));
        // The runtime cannot inherit what it must make an exception of: `unsafe_code`.
        let excepted = package.folder == "host/runtime" && lints.iter().all(repeats);
        if !inherits && !excepted {
            wrong.push(package.folder);
        }
    }
    assert_none(
        &wrong,
        "Every crate has `[lints] workspace = true` in its manifest; host/runtime, where unsafe \
         code is expected in one place, repeats every lint of the workspace.",
    );
}

#[test]
fn nothing_is_left_undone_or_switched_off() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (number, line) in (1..).zip(source.code.lines()) {
            for words in ["#[ignore", "todo!(", "unimplemented!("] {
                if line.contains(words) {
                    wrong.push(format!("{}:{number}: {words}", source.path));
                }
            }
        }
    }
    assert_none(
        &wrong,
        "No test is ignored and no code is left to be written: finish it or take it out.",
    );
}

#[test]
fn modules_are_files_named_after_them() {
    let sources = sources();
    let named_mod = sources
        .iter()
        .filter(|source| source.path.ends_with("/mod.rs"));
    assert_none(
        &named_mod
            .map(|source| source.path.clone())
            .collect::<Vec<_>>(),
        "A module `foo` is `foo.rs` beside a folder `foo/`, not `foo/mod.rs`: editors show names.",
    );
}

#[test]
fn every_production_file_begins_by_saying_what_it_is_for() {
    let sources = sources();
    let mute = sources
        .iter()
        .filter(|source| source.is_production() && !source.text.starts_with("//!"));
    assert_none(
        &mute.map(|source| source.path.clone()).collect::<Vec<_>>(),
        "A file begins with `//!`: its responsibility, then its invariant and what is absent.",
    );
}

#[test]
fn every_example_can_be_deployed_and_explains_itself() {
    let mut wrong = Vec::new();
    for package in packages()
        .iter()
        .filter(|package| package.folder.starts_with("examples/"))
    {
        for file in ["holdfast.toml", "README.md"] {
            if !root().join(&package.folder).join(file).is_file() {
                wrong.push(format!("{}/{file} is missing", package.folder));
            }
        }
    }
    assert_none(
        &wrong,
        "An example has a holdfast.toml, so that `holdfast deploy` takes it, and a README.md that \
         says what it shows.",
    );
}
