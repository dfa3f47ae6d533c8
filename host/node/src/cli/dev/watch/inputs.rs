//! Which files a build reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::print::Print;
use crate::cli::manifest::Manifest;

/// What a build of a package reads.
pub(super) struct Inputs {
    /// The folder of the package.
    root: PathBuf,
    /// The folders of all packages on this machine that it is made of, its own among them.
    packages: BTreeSet<PathBuf>,
    /// What cargo said that the last build has read; none where that failed, or there was none.
    sources: Option<BTreeSet<PathBuf>>,
    /// What cargo said at last before a build failed.
    former: BTreeSet<PathBuf>,
}

impl Inputs {
    pub(super) fn of(root: PathBuf) -> Self {
        Self {
            packages: BTreeSet::from([root.clone()]),
            root,
            sources: None,
            former: BTreeSet::new(),
        }
    }

    /// Learns what a build has read.
    pub(super) fn learn(&mut self, manifests: &BTreeSet<PathBuf>, dep_info: Option<&Path>) {
        let folders = manifests.iter().filter_map(|manifest| manifest.parent());
        self.packages.extend(folders.map(Path::to_owned));
        let sources = dep_info.and_then(|path| read_dep_info(&self.root, path));
        if let Some(sources) = &sources {
            self.former.clone_from(sources);
        }
        self.sources = sources;
    }

    /// Files that are there or may come to be.
    pub(super) fn paths(&self) -> BTreeSet<PathBuf> {
        let mut paths = self.former.clone();
        for package in &self.packages {
            paths.extend(OF_PACKAGE.iter().map(|name| package.join(name)));
            // The settings of cargo and the toolchain are looked for in all folders above.
            for folder in package.ancestors() {
                paths.extend(OF_FOLDER.iter().map(|name| folder.join(name)));
            }
            if self.sources.is_none() {
                add_sources(package, DEPTH_MAX, &mut paths);
            }
        }
        paths.insert(self.root.join(Manifest::FILE));
        paths
    }

    pub(super) fn prints(&self) -> BTreeMap<PathBuf, Print> {
        let paths = self.paths().into_iter();
        paths
            .map(|path| {
                let print = Print::of(&path);
                (path, print)
            })
            .collect()
    }

    /// The folders in which something has to happen when one of the files changes, also where a folder
    /// takes the place of another: those of the files and those of the folders, as they are named and as
    /// they are behind symbolic links.
    pub(super) fn folders(&self) -> BTreeSet<PathBuf> {
        let mut folders = BTreeSet::new();
        for path in self.paths() {
            let real = path.canonicalize().ok().filter(|real| *real != path);
            for path in [Some(path), real].into_iter().flatten() {
                let package = self
                    .packages
                    .iter()
                    .find(|package| path.starts_with(package));
                let named = self.former.contains(&path);
                let above = path.ancestors().skip(1);
                let above: Vec<&Path> = match package {
                    Some(package) => above.take_while(|it| it.starts_with(package)).collect(),
                    None if named => above.take(FOLDERS_ABOVE).collect(),
                    // What is looked for in all folders up to the root, or behind a symbolic link.
                    None => above.take(1).filter(|_| path.is_file()).collect(),
                };
                let itself = [path.as_path()].into_iter().filter(|path| path.is_dir());
                let all = above.into_iter().chain(itself);
                folders.extend(all.filter(|folder| folder.is_dir()).map(Path::to_owned));
            }
        }
        folders
    }

    /// Whether the build itself brings the file up to date.
    pub(super) fn is_ours(&self, path: &Path) -> bool {
        let is_lock = path.file_name().is_some_and(|name| name == "Cargo.lock");
        is_lock || path.starts_with(self.root.join(".holdfast"))
    }
}

/// The files that cargo's dep-info names, without what builds made.
fn read_dep_info(root: &Path, path: &Path) -> Option<BTreeSet<PathBuf>> {
    let text = fs::read_to_string(path).ok()?;
    let mut build_folders = BTreeMap::new();
    let sources = parse_dep_info(&text).into_iter();
    // Paths are absolute, unless the settings of cargo name a folder that they begin at.
    let sources = sources.map(|source| root.join(source));
    let sources = sources.filter(|source| !is_made(source, &mut build_folders));
    Some(sources.collect())
}

/// The prerequisites of all rules of a Makefile, as cargo writes it.
fn parse_dep_info(text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((_, prerequisites)) = line.split_once(": ") else {
            continue;
        };
        let mut name = String::new();
        let mut chars = prerequisites.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => name.extend(chars.next()),
                ' ' if !name.is_empty() => found.push(std::mem::take(&mut name).into()),
                ' ' => {}
                c => name.push(c),
            }
        }
        if !name.is_empty() {
            found.push(name.into());
        }
    }
    found
}

/// Whether a file is in a folder that cargo builds in: it marks that, whatever its name is.
fn is_made(path: &Path, known: &mut BTreeMap<PathBuf, bool>) -> bool {
    path.ancestors().skip(1).any(|folder| {
        if let Some(known) = known.get(folder) {
            return *known;
        }
        let is_marked = folder.join(MARK).is_file();
        known.insert(folder.to_owned(), is_marked);
        is_marked
    })
}

/// All sources below a folder, but for those that are hidden or made by a build.
fn add_sources(folder: &Path, depth: usize, paths: &mut BTreeSet<PathBuf>) {
    if folder.join(MARK).is_file() {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(['.', '#']) || paths.len() >= SOURCES_MAX {
            continue;
        }
        // Behind symbolic links too, to a depth at which they cannot lead round in circles for long.
        if path.is_dir() {
            if depth > 0 {
                add_sources(&path, depth - 1, paths);
            }
        } else if path
            .extension()
            .is_some_and(|end| SOURCES.iter().any(|source| end == *source))
        {
            paths.insert(path);
        }
    }
}

/// What every package has or may come to have.
const OF_PACKAGE: [&str; 3] = ["Cargo.toml", "Cargo.lock", "build.rs"];
/// What every folder above a package may have.
const OF_FOLDER: [&str; 4] = [
    ".cargo/config.toml",
    ".cargo/config",
    "rust-toolchain.toml",
    "rust-toolchain",
];
/// What a folder has that cargo builds in (<https://bford.info/cachedir>).
const MARK: &str = "CACHEDIR.TAG";
/// Ends of the names of sources. What else a build reads is known once one has succeeded.
const SOURCES: [&str; 3] = ["rs", "toml", "wit"];
/// How deep sources are looked for.
const DEPTH_MAX: usize = 12;
/// How many of them are looked at.
const SOURCES_MAX: usize = 10_000;
/// Of a file outside of all packages: its folder, and the one above, where another may take its place.
const FOLDERS_ABOVE: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dep_info_is_read_as_cargo_writes_it() {
        let text = "/t/my bot.wasm: /h/src/lib.rs /h/a\\ b/c.rs /h/d\\\\e.json\n\
                    /t/lib.rlib: ../x.rs\n\n# env-dep:A=b\n";
        let expected = ["/h/src/lib.rs", "/h/a b/c.rs", "/h/d\\e.json", "../x.rs"];
        assert_eq!(parse_dep_info(text), expected.map(PathBuf::from));
    }

    #[test]
    fn what_builds_make_is_no_source_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for file in [
            "src/lib.rs",
            "src/deep/a.rs",
            "src/.hidden.rs",
            "notes.txt",
            "dev.log",
            "out/CACHEDIR.TAG",
            "out/wasm32-wasip2/release/build/x/out/made.rs",
        ] {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let mut inputs = Inputs::of(root.clone());
        let paths = inputs.paths();
        for (file, counts) in [
            ("src/lib.rs", true),
            ("src/deep/a.rs", true),
            ("Cargo.toml", true),
            ("build.rs", true),
            ("holdfast.toml", true),
            (".cargo/config.toml", true),
            ("src/.hidden.rs", false),
            ("notes.txt", false),
            ("dev.log", false),
            ("out/wasm32-wasip2/release/build/x/out/made.rs", false),
        ] {
            assert_eq!(paths.contains(&root.join(file)), counts, "{file}");
        }
        let folders = inputs.folders();
        assert!(folders.contains(&root.join("src/deep")), "{folders:?}");
        assert!(
            !folders
                .iter()
                .any(|folder| folder.starts_with(root.join("out")))
        );

        // Once cargo has said what it reads, that counts.
        let dep_info = root.join("out/it.d");
        let made = root.join("out/wasm32-wasip2/release/build/x/out/made.rs");
        let line = format!(
            "/t/it.wasm: {0}/src/lib.rs {0}/notes.txt {1}\n",
            root.display(),
            made.display()
        );
        fs::write(&dep_info, line).unwrap();
        inputs.learn(&BTreeSet::new(), Some(&dep_info));
        let paths = inputs.paths();
        for (file, counts) in [
            ("src/lib.rs", true),
            ("notes.txt", true),
            ("src/deep/a.rs", false),
        ] {
            assert_eq!(paths.contains(&root.join(file)), counts, "{file}");
        }
        assert!(!paths.contains(&made));
    }
}
