//! The architecture as tests: who may use whom, what must not be there, how long a file may be.
//!
//! Each rule says what is wrong, where, and what to do instead. The tables here are the law: a new
//! crate or module is given its place in them.

#![expect(
    clippy::unwrap_used,
    reason = "these are tests, and their helpers are outside of test functions"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use holdfast_tests::source::{Named, code_of, paths, production_of};
use serde_json::Value;

/// A folder of crates, and which crates of ours they may use.
struct Row {
    /// The folder; `/*` at the end stands for any name.
    folder: &'static str,
    uses: &'static [&'static str],
    /// What their tests may use beside that.
    tests_use: &'static [&'static str],
}

const fn row(
    folder: &'static str,
    uses: &'static [&'static str],
    tests_use: &'static [&'static str],
) -> Row {
    Row {
        folder,
        uses,
        tests_use,
    }
}

const CRATES: &[Row] = &[
    row("host/model", &[], &[]),
    row("host/cluster", &["holdfast-model"], &[]),
    row(
        "host/runtime",
        &["holdfast-model"],
        &["holdfast-test-components"],
    ),
    row(
        "host/node",
        &["holdfast-model", "holdfast-cluster", "holdfast-runtime"],
        &["holdfast-test-components"],
    ),
    row("guest-sdk", &[], &[]),
    row("examples/*", &["holdfast-guest"], &[]),
    row("tests/guests/*", &["holdfast-guest"], &[]),
    row("tests/components", &[], &[]),
    row(
        "tests",
        &["holdfast", "holdfast-model", "holdfast-test-components"],
        &[],
    ),
];

/// The pure crates, and what they may use of the world: crates without IO.
const PURE: &[(&str, &[&str])] = &[
    (
        "host/model",
        &[
            "bytes",
            "percent-encoding",
            "serde",
            "serde_bytes",
            "serde_json",
            "sha2",
            "thiserror",
            "utoipa",
            "uuid",
            "xxhash-rust",
        ],
    ),
    (
        "host/cluster",
        &[
            "bytes",
            "foca",
            "holdfast-model",
            "postcard",
            "rand",
            "rmp-serde",
            "serde",
            "thiserror",
            "uuid",
            "xxhash-rust",
        ],
    ),
];

/// Libraries that nothing which a pure crate uses may bring along.
const WITH_IO: &[&str] = &[
    "hyper", "mio", "redb", "reqwest", "rustix", "socket2", "tokio", "wasmtime",
];

/// What would make a pure crate read a clock, a socket, a file or a global.
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "dbg!",
    "eprint!",
    "eprintln!",
    "print!",
    "println!",
    "std::env",
    "std::fs",
    "std::io",
    "std::os",
    "std::process",
    "std::thread",
    "thread_local!",
    "tokio",
];

/// What would make `host/cluster` decide by chance. The model may, to make an id.
const RANDOM: &[&str] = &[
    "ClusterId::random",
    "NodeId::random",
    "Uuid::new_v4",
    "Uuid::now_v7",
    "rand::random",
    "rand::rng",
    "sys_rng",
    "thread_rng",
];

/// Libraries that certain places alone name, by the beginning of their names.
const HOMES: &[(&str, &[&str])] = &[
    ("wasmtime", &["host/runtime"]),
    (
        "openraft",
        &[
            "host/node/src/control",
            "host/cluster/tests/simulation/consensus",
        ],
    ),
    ("redb", &["host/node/src/control", "tests/scenarios/copies"]),
    (
        "opentelemetry",
        &["host/node/src/traces", "tests/harness/traces"],
    ),
];

/// Where leases, and contacts with a quorum, are measured.
const LEASE_CLOCKS: &[&str] = &[
    "host/node/src/clock.rs",
    "host/node/src/placement/lease.rs",
    "host/node/src/placement/quorum.rs",
    "host/runtime/src/fence.rs",
];

/// The modules of the node, in order: each uses only those before it.
const NODE_ORDER: &[&str] = &[
    "clock",
    "conditions",
    "priority",
    "identity",
    "token",
    "telemetry",
    "self_test",
    "start_faults",
    "metrics",
    "traces",
    "config",
    "recent",
    "control",
    "modules",
    "recover",
    "rejoin",
    "peer",
    "gossip",
    "rpc",
    "gather",
    "placement",
    "restart",
    "logs",
    "events",
    "dispatch",
    "deploy",
    "admin",
    "server",
    "client",
    "embed",
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
}

/// A package of the workspace, as its manifest says.
#[derive(Default)]
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
fn may_use(folder: &str) -> Option<&'static Row> {
    CRATES.iter().find(|row| {
        let in_folder = |parent| {
            folder
                .strip_prefix(parent)
                .is_some_and(|name| !name.contains('/'))
        };
        folder == row.folder || row.folder.strip_suffix('*').is_some_and(in_folder)
    })
}

#[track_caller]
fn assert_none(wrong: &[String], rule: &str) {
    let list = wrong.join("\n  ");
    assert!(wrong.is_empty(), "{rule}\nbut not here:\n  {list}\n");
}

#[test]
fn crates_use_each_other_in_one_direction_only() {
    assert_none(
        &wrong_directions(&packages()),
        "A crate uses only the crates that CRATES (tests/tidy.rs) allows it: model <- cluster, \
         runtime <- node, and guests use the SDK alone. Move what is shared into the lower crate.",
    );
}

fn wrong_directions(packages: &[Package]) -> Vec<String> {
    let ours: Vec<&str> = packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let mut wrong = Vec::new();
    for package in packages {
        let folder = &package.folder;
        let Some(row) = may_use(folder) else {
            wrong.push(format!("{folder} has no row in CRATES of tests/tidy.rs"));
            continue;
        };
        for (name, kind) in &package.dependencies {
            let name = name.as_str();
            let allowed =
                row.uses.contains(&name) || (kind == "dev" && row.tests_use.contains(&name));
            if ours.contains(&name) && !allowed {
                wrong.push(format!("{folder} depends on {name}"));
            }
        }
    }
    wrong
}

#[test]
fn a_wrong_direction_is_seen() {
    let package = |name: &str, folder: &str, uses: &str, kind: Value| Package {
        name: name.to_owned(),
        folder: folder.to_owned(),
        dependencies: vec![(uses.to_owned(), kind)],
        ..Package::default()
    };
    for (folder, uses, kind, fits) in [
        ("host/cluster", "holdfast-model", Value::Null, true),
        ("host/cluster", "holdfast-runtime", Value::Null, false),
        ("host/model", "holdfast-cluster", "dev".into(), false),
        (
            "host/runtime",
            "holdfast-test-components",
            "dev".into(),
            true,
        ),
        (
            "host/runtime",
            "holdfast-test-components",
            Value::Null,
            false,
        ),
        (
            "host/runtime",
            "holdfast-test-components",
            "build".into(),
            false,
        ),
        ("host/new", "serde", Value::Null, false),
        ("examples/new", "holdfast-guest", Value::Null, true),
        ("examples/new/deeper", "holdfast-guest", Value::Null, false),
    ] {
        let used = package(uses, "guest-sdk", "serde", Value::Null);
        let user = package("user", folder, uses, kind.clone());
        let wrong = wrong_directions(&[used, user]);
        assert_eq!(
            wrong.is_empty(),
            fits,
            "{folder}, {uses}, {kind}: {wrong:?}"
        );
    }
}

#[test]
fn the_model_and_the_cluster_are_pure() {
    let (packages, sources) = (packages(), sources());
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let lock: toml::Table = lock.parse().unwrap();
    let mut wrong = Vec::new();
    for (folder, uses) in PURE {
        let package = packages.iter().find(|package| package.folder == *folder);
        wrong.extend(foreign(package.unwrap(), uses));
        for library in *uses {
            let brought = brought_along(&lock, library).into_iter();
            let with_io = brought.filter(|name| WITH_IO.contains(&name.as_str()));
            wrong.extend(with_io.map(|name| format!("{folder} gets {name} through {library}")));
        }
        let inside = |source: &&Source| source.path.starts_with(&format!("{folder}/"));
        for source in sources.iter().filter(inside) {
            let random = if *folder == "host/cluster" {
                RANDOM
            } else {
                &[]
            };
            let found = impurities(source.production(), &[IMPURE, random]).into_iter();
            wrong.extend(found.map(|(line, what)| format!("{}:{line}: {what}", source.path)));
        }
    }
    assert_none(
        &wrong,
        "host/model and host/cluster do no IO and read no clock and no global, and chance has no part \
         in what host/cluster decides, so that it can be simulated: take time, randomness and messages as parameters, give decisions back as \
         values. A library that does none either has its place in PURE (tests/tidy.rs).",
    );
}

/// What a package depends on beside these, tests aside.
fn foreign(package: &Package, uses: &[&str]) -> Vec<String> {
    let used = package
        .dependencies
        .iter()
        .filter(|(_, kind)| kind != "dev");
    let foreign = used.filter(|(name, _)| !uses.contains(&name.as_str()));
    foreign
        .map(|(name, _)| format!("{} depends on {name}", package.folder))
        .collect()
}

/// Every library that this one uses in turn, as the lock file has it.
fn brought_along(lock: &toml::Table, library: &str) -> BTreeSet<String> {
    let locked = lock["package"].as_array().unwrap();
    let mut found = BTreeSet::new();
    let mut left = vec![library.to_owned()];
    while let Some(next) = left.pop() {
        for package in locked
            .iter()
            .filter(|it| it["name"].as_str() == Some(&next))
        {
            let uses = package.get("dependencies").and_then(toml::Value::as_array);
            for used in uses.into_iter().flatten() {
                // A name; its version follows where there are several.
                let used = used.as_str().unwrap().split(' ').next().unwrap();
                if found.insert(used.to_owned()) {
                    left.push(used.to_owned());
                }
            }
        }
    }
    found
}

/// What in this code does IO or reads a clock or a global: line and words.
fn impurities(code: &str, refused: &[&[&str]]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for named in paths(code) {
        for words in refused.concat().iter().filter(|words| named.has(words)) {
            found.push((named.line, (*words).to_owned()));
        }
        // These would let it pass under a name that is not looked for.
        let hides = named.path == "std::*" || named.path.ends_with("::Instant::*");
        if named.imported && (named.path == "std" || hides) {
            found.push((named.line, format!("use {}", named.path)));
        }
        if named.renamed && named.segments().next() == Some("std") {
            found.push((named.line, format!("use {} as …", named.path)));
        }
    }
    found
}

#[test]
fn an_impurity_is_seen_however_it_is_written() {
    for code in [
        "fn f() { std::fs::read(p) }",
        "use std::{env, fmt};",
        "use std::{\n    collections::{BTreeMap, btree_map},\n    fs::{self, File},\n};",
        "use std::{self, fmt};",
        "use std as s;",
        "use std::{time as t};",
        "use std::time::Instant as I;",
        "use std::*;",
        "use ::std::thread;",
        "use std::time; fn f() { time::Instant::now() }",
        "fn f() { uuid::Uuid::new_v4() }",
        "fn f() { NodeId::random() }",
        "use rand::{Rng, rng};",
        "use tokio::time::sleep;",
        "fn f() { println!() }",
    ] {
        assert!(!impurities(code, &[IMPURE, RANDOM]).is_empty(), "{code}");
    }
    for code in [
        "use std::{collections::BTreeMap, fmt::{self, Write as _}, time::Duration};",
        "fn f(now: Instant) -> Instant { now + self.env.fs }",
        "fn f(rng: &mut impl rand::Rng) { rng.random() }",
        "use crate::state as s;",
    ] {
        assert_eq!(impurities(code, &[IMPURE, RANDOM]), [], "{code}");
    }
}

#[test]
fn a_library_with_io_is_seen_through_others() {
    let lock = "[[package]]\nname = \"a\"\ndependencies = [\"b 1.0.0\"]\n\
                [[package]]\nname = \"b\"\ndependencies = [\"tokio\", \"a\"]\n\
                [[package]]\nname = \"tokio\"\n[[package]]\nname = \"c\"";
    let lock: toml::Table = lock.parse().unwrap();
    assert!(brought_along(&lock, "a").contains("tokio"));
    assert!(brought_along(&lock, "c").is_empty());
    let package = Package {
        dependencies: vec![
            ("a".to_owned(), Value::Null),
            ("t".to_owned(), "dev".into()),
        ],
        ..Package::default()
    };
    assert_eq!(foreign(&package, &["a"]), [""; 0]);
    assert_eq!(foreign(&package, &["b"]).len(), 1);
}

#[test]
fn some_libraries_are_named_in_one_place_alone() {
    let mut wrong = Vec::new();
    for package in packages() {
        for (name, _) in &package.dependencies {
            wrong.extend(strays(&package.folder, name).map(|home| {
                format!(
                    "{} depends on {name}, whose place is {home}",
                    package.folder
                )
            }));
        }
    }
    for source in sources() {
        for named in paths(&source.code) {
            let path = source.path.trim_end_matches(".rs");
            let strays = named.segments().flat_map(|segment| strays(path, segment));
            wrong.extend(strays.map(|home| {
                let (path, line) = (&source.path, named.line);
                format!("{path}:{line}: {}, whose place is {home}", named.path)
            }));
        }
    }
    assert_none(
        &wrong,
        "Only host/runtime names wasmtime, and only the control module of host/node names redb and, \
         beside a simulation, openraft (HOMES of tests/tidy.rs): give them a method in our own words and call that.",
    );
}

/// The places that a library of this name belongs into, when `place` is neither there nor above one.
fn strays(place: &str, name: &str) -> impl Iterator<Item = String> {
    let within = |inner: &str, outer: &str| {
        let rest = inner.strip_prefix(outer);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let strays = HOMES.iter().filter(move |(library, homes)| {
        // A package is above the module that its dependency is for; a source file is not.
        let is_file = place.contains("/src/") || place.contains("/tests/");
        let fits = |home: &&str| within(place, home) || !is_file && within(home, place);
        name.starts_with(library) && !homes.iter().any(fits)
    });
    let homes = strays.map(|(_, homes)| homes.join(" or "));
    homes.collect::<Vec<_>>().into_iter()
}

#[test]
fn a_library_outside_of_its_place_is_seen() {
    for (place, name, fits) in [
        ("host/node/src/control", "redb", true),
        ("host/node/src/control/log/writer", "openraft", true),
        ("host/node/src/controls", "redb", false),
        ("host/node/src/server", "openraft", false),
        ("host/node", "redb", true),
        ("host/runtime", "wasmtime-wasi", true),
        ("host/runtime/tests/behaviour/main", "wasmtime", true),
        ("host/node/src/server", "wasmtime_wasi", false),
        ("host/cluster", "redb", false),
        ("host/cluster/src/state", "openraft", false),
        ("host/cluster/tests/simulation", "openraft", false),
        (
            "host/cluster/tests/simulation/consensus/disk",
            "openraft",
            true,
        ),
        ("tests", "wasmtime", false),
        ("tests", "serde", true),
    ] {
        assert_eq!(strays(place, name).count() == 0, fits, "{place}: {name}");
    }
}

#[test]
fn the_architecture_names_the_modules_of_the_node_in_their_order() {
    let page = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let table = page.split("### `host/node`").nth(1).unwrap();
    let rows = table.lines().skip_while(|line| !line.starts_with("| `"));
    let rows = rows.take_while(|line| line.starts_with('|'));
    let names = rows.flat_map(|row| {
        let cell = row.split('|').nth(1).unwrap();
        cell.split('`').skip(1).step_by(2).collect::<Vec<_>>()
    });
    assert_eq!(names.collect::<Vec<_>>(), NODE_ORDER);
}

#[test]
fn modules_of_the_node_use_only_those_before_them() {
    let mut wrong = Vec::new();
    for source in &sources() {
        if let Some(inside) = source.path.strip_prefix("host/node/src/")
            && source.is_production()
        {
            let found = wrong_order(inside, source.production()).into_iter();
            wrong.extend(found.map(|what| format!("host/node/src/{inside}{what}")));
        }
    }
    assert_none(
        &wrong,
        "A module of host/node uses only modules before it in NODE_ORDER (tests/tidy.rs), and \
         only cli and embed use client. What is below reports upward by what it returns, by a watch \
         channel, or through a trait that it defines.",
    );
}

/// What a file of the node, by its path from `src`, uses against [`NODE_ORDER`].
fn wrong_order(inside: &str, code: &str) -> Vec<String> {
    let rank = |name: &str| NODE_ORDER.iter().position(|module| *module == name);
    let place: Vec<&str> = inside.trim_end_matches(".rs").split('/').collect();
    let module = place[0];
    if matches!(module, "lib" | "main") {
        return Vec::new();
    }
    let Some(own) = rank(module) else {
        return vec![" has no place in NODE_ORDER of tests/tidy.rs".to_owned()];
    };
    let mut wrong = Vec::new();
    for named in paths(code) {
        // `pub(crate)` and `pub(super)` name nothing.
        if !named.imported && !named.path.contains("::") {
            continue;
        }
        let Some(name) = from_the_root(&named, place.len()) else {
            continue;
        };
        let fits = match rank(name) {
            Some(_) if name == "client" => matches!(module, "client" | "cli" | "embed"),
            Some(other) => other <= own,
            // An item of the crate's root: there are none but modules.
            None => false,
        };
        if !fits {
            wrong.push(format!(":{}: {module} uses {name}", named.line));
        }
    }
    wrong
}

/// The module below the crate's root that a path leads to, from a file so many modules deep; none
/// when it does not go by the root.
fn from_the_root(named: &Named, depth: usize) -> Option<&str> {
    let mut segments = named.segments().skip_while(|segment| *segment == "self");
    let mut next = segments.next()?;
    if next == "crate" {
        return Some(segments.next().unwrap_or("everything"));
    }
    for _ in 0..depth {
        if next != "super" {
            return None;
        }
        next = segments.next().unwrap_or("everything");
    }
    Some(next)
}

#[test]
fn a_use_against_the_order_is_seen_however_it_is_written() {
    for (file, code, fits) in [
        ("gossip.rs", "use crate::{clock, peer::Endpoint};", true),
        ("gossip.rs", "use crate::{clock, dispatch::Table};", false),
        ("gossip.rs", "use super::dispatch;", false),
        (
            "gossip.rs",
            "fn f() { self::super::dispatch::run() }",
            false,
        ),
        ("gossip.rs", "use crate as all;", false),
        ("gossip.rs", "use crate::*;", false),
        ("gossip.rs", "pub(crate) fn f() {}", true),
        ("gossip/seal.rs", "use super::Gossip;", true),
        ("gossip/seal.rs", "use super::super::dispatch;", false),
        (
            "gossip/seal.rs",
            "use super::{super::{dispatch::Table}};",
            false,
        ),
        ("gossip/seal.rs", "use super::super::peer;", true),
        (
            "cli/demo/play.rs",
            "use super::super::{build, output};",
            true,
        ),
        ("cli/demo/play.rs", "use super::super::super::start;", false),
        ("cli.rs", "use crate::client::Client;", true),
        ("start.rs", "use crate::client::Client;", false),
        ("unknown.rs", "", false),
    ] {
        let wrong = wrong_order(file, code);
        assert_eq!(wrong.is_empty(), fits, "{file}: {code}: {wrong:?}");
    }
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

#[test]
fn leases_are_measured_by_a_clock_that_goes_on_while_the_machine_sleeps() {
    let sources = sources();
    let mut wrong = Vec::new();
    for path in LEASE_CLOCKS {
        let source = sources.iter().find(|source| source.path == *path);
        let source = source.unwrap_or_else(|| panic!("{path} is not where it was"));
        let found = clocks_that_stop(source.production()).into_iter();
        wrong.extend(found.map(|(line, what)| format!("{path}:{line}: {what}")));
    }
    assert_none(
        &wrong,
        "`Instant` stands still while the machine is suspended, and a lease does not: measure by \
         clock::boot_time (CLOCK_BOOTTIME). `Instant` may only say how long a question may take: \
         `(Instant::now() + …).into_std()`.",
    );
}

/// Where code measures by a clock that stands still during a suspend: line and words.
fn clocks_that_stop(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let limits = text.matches("(Instant::now() + ").count();
        let limits = if text.contains(").into_std()") {
            limits
        } else {
            0
        };
        if text.matches("Instant::now()").count() > limits {
            found.push((line + 1, "Instant::now()".to_owned()));
        }
        for words in [".elapsed()", "duration_since(Instant"] {
            if text.contains(words) {
                found.push((line + 1, words.to_owned()));
            }
        }
        let clocks = text.split("ClockId::").skip(1);
        if clocks
            .filter(|clock| !clock.starts_with("Boottime"))
            .count()
            > 0
        {
            found.push((line + 1, "another ClockId than Boottime".to_owned()));
        }
    }
    found
}

#[test]
fn a_clock_that_stops_is_seen() {
    for (code, stops) in [
        ("let deadline = (Instant::now() + LIMIT).into_std();", false),
        ("let now = clock_gettime(ClockId::Boottime);", false),
        ("let asked = Instant::now();", true),
        ("let until = Instant::now() + ttl;", true),
        ("holder.answered(asked.elapsed(), answer)", true),
        ("let now = clock_gettime(ClockId::Monotonic);", true),
    ] {
        assert_eq!(!clocks_that_stop(code).is_empty(), stops, "{code}");
    }
}

#[test]
fn every_test_that_the_protocol_names_exists() {
    let page = fs::read_to_string(root().join("docs/PROTOCOL.md")).unwrap();
    let sources = sources();
    let exists = |test: &&str| {
        let heads = [format!("fn {test}("), format!("fn {test}<")];
        let has = |source: &Source| heads.iter().any(|head| source.code.contains(head));
        sources.iter().any(has)
    };
    let named: BTreeSet<&str> = tests_named(&page).collect();
    assert!(named.len() > 100, "the tests are not where they were");
    let missing = named.iter().filter(|test| !exists(test));
    let missing: Vec<String> = missing.map(|test| format!("there is no {test}")).collect();
    assert_none(
        &missing,
        "docs/PROTOCOL.md names for each rule the tests that fail when it is broken. Whoever renames \
         or replaces one changes the page too.",
    );
}

/// What a page says in code that reads like a sentence, as names of tests do.
fn tests_named(page: &str) -> impl Iterator<Item = &str> {
    let code = page.split('`').skip(1).step_by(2);
    code.filter(|code| {
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        code.chars().all(word) && code.matches('_').count() >= 3
    })
}

#[test]
fn a_test_named_on_a_page_is_told_from_other_code() {
    let page =
        "The rule of `lease_ttl` and `cluster::lease`: `a_b_c_d`, `CLOCK_A_B_C`, `it_is_so_x`.";
    let named: Vec<&str> = tests_named(page).collect();
    assert_eq!(named, ["a_b_c_d", "it_is_so_x"]);
}
