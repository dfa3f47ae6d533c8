use std::{fs, os::unix::fs::symlink};

use super::*;

/// A package in a folder, watched, of which a build has read what is in `src`.
struct Package {
    _dir: tempfile::TempDir,
    root: PathBuf,
    watch: Watch,
}

impl Package {
    fn of(files: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let package = |watch| Self {
            _dir: dir,
            root: root.clone(),
            watch,
        };
        for file in files {
            write(&root, file, "first");
        }
        package(Watch::begin(&root).unwrap())
    }

    fn write(&self, file: &str, content: &str) {
        write(&self.root, file, content);
    }

    /// A build that reads these files, and does this meanwhile.
    fn build(&mut self, reads: &[&str], meanwhile: impl FnOnce(&Path)) {
        self.watch.building();
        meanwhile(&self.root);
        let sources = reads
            .iter()
            .map(|file| format!(" {}", self.root.join(file).display()));
        let line = format!("x.wasm:{}\n", sources.collect::<String>());
        write(&self.root, "target/CACHEDIR.TAG", "");
        write(&self.root, "target/x.d", &line);
        let dep_info = self.root.join("target/x.d");
        self.watch.built(&BTreeSet::new(), Some(&dep_info));
    }

    fn fail(&mut self) {
        self.watch.building();
        self.watch.built(&BTreeSet::new(), None);
    }

    async fn changes(&mut self) {
        let changed = tokio::time::timeout(LONG, self.watch.changed());
        changed
            .await
            .expect("it does not hear of the change")
            .unwrap();
    }

    /// Whether anything that it does not hear of by itself would count.
    fn is_quiet(&mut self) -> bool {
        self.watch.arm();
        !self.watch.differs()
    }
}

fn write(root: &Path, file: &str, content: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_cargo_says_that_it_reads_is_watched_and_nothing_else() {
    let mut package = Package::of(&["src/lib.rs", "src/other.rs", "data.json"]);
    package.build(&["src/lib.rs", "data.json"], |_| {});
    for file in [
        "src/other.rs",
        "dev.log",
        "target/x.wasm",
        "README.md",
        "src/new.rs",
    ] {
        package.write(file, "second");
    }
    assert!(package.is_quiet());
    for file in [
        "src/lib.rs",
        "data.json",
        "Cargo.toml",
        "holdfast.toml",
        "build.rs",
    ] {
        package.write(file, "second");
        package.changes().await;
        package.build(&["src/lib.rs", "data.json"], |_| {});
        assert!(package.is_quiet(), "{file}");
        // Saved once more as it is.
        package.write(file, "second");
        assert!(package.is_quiet(), "{file}");
    }
    fs::remove_file(package.root.join("data.json")).unwrap();
    package.changes().await;
}

#[tokio::test]
async fn what_changes_while_it_is_built_is_built_again() {
    let mut package = Package::of(&["src/lib.rs"]);
    package.build(&["src/lib.rs"], |root| write(root, "src/lib.rs", "second"));
    package.changes().await;
    package.build(&["src/lib.rs"], |_| {});
    assert!(package.is_quiet());
}

#[tokio::test]
async fn what_a_build_script_writes_among_the_sources_does_not_build_for_ever() {
    let reads = ["src/lib.rs", "src/made.rs"];
    let mut package = Package::of(&["src/lib.rs", "build.rs"]);
    let mut builds = 0;
    while builds < 3 || !package.is_quiet() {
        builds += 1;
        assert!(builds < 10, "it builds for ever");
        let time = format!("built at {builds}");
        package.build(&reads, |root| write(root, "src/made.rs", &time));
    }
    // What somebody else writes there counts.
    package.write("src/made.rs", "mine");
    package.changes().await;
    // A script that writes the same again changes nothing.
    let mut package = Package::of(&["src/lib.rs", "build.rs"]);
    for _ in 0..2 {
        package.build(&reads, |root| write(root, "src/made.rs", "the same"));
        assert!(package.is_quiet());
    }
    // What the build brings up to date itself counts where somebody else changes it.
    package.build(&reads, |root| write(root, "Cargo.lock", "1"));
    assert!(package.is_quiet());
    package.write("Cargo.lock", "2");
    package.changes().await;
}

#[tokio::test]
async fn a_folder_that_another_takes_the_place_of_is_heard_again() {
    let mut package = Package::of(&["src/deep/a.rs"]);
    package.build(&["src/deep/a.rs"], |_| {});
    // As a change of branch does, twice.
    for content in ["second", "third"] {
        fs::rename(package.root.join("src"), package.root.join(content)).unwrap();
        package.write("src/deep/a.rs", content);
        package.changes().await;
        package.build(&["src/deep/a.rs"], |_| {});
        package.write("src/deep/a.rs", "as it goes on");
        package.changes().await;
        package.build(&["src/deep/a.rs"], |_| {});
    }
}

#[tokio::test]
async fn sources_behind_symbolic_links_and_in_other_folders_are_watched() {
    let elsewhere = tempfile::tempdir().unwrap();
    let elsewhere = elsewhere.path().canonicalize().unwrap();
    write(&elsewhere, "shared/lib.rs", "first");
    write(&elsewhere, "dependency/src/lib.rs", "first");
    let mut package = Package::of(&["Cargo.toml"]);
    symlink(elsewhere.join("shared"), package.root.join("src")).unwrap();
    let dependency = elsewhere.join("dependency/src/lib.rs");
    let reads = ["src/lib.rs", dependency.to_str().unwrap()];
    package.build(&reads, |_| {});
    assert!(package.is_quiet());
    for file in ["shared/lib.rs", "dependency/src/lib.rs"] {
        write(&elsewhere, file, "second");
        package.changes().await;
        package.build(&reads, |_| {});
    }
    // The link leads elsewhere from now on.
    write(&elsewhere, "another/lib.rs", "third");
    fs::remove_file(package.root.join("src")).unwrap();
    symlink(elsewhere.join("another"), package.root.join("src")).unwrap();
    package.changes().await;
}

#[tokio::test]
async fn after_a_build_that_failed_every_new_source_counts() {
    let mut package = Package::of(&["src/lib.rs"]);
    package.fail();
    package.write("dev.log", "it failed");
    assert!(package.is_quiet());
    package.write("src/missing.rs", "here it is");
    package.changes().await;
    package.fail();
    assert!(package.is_quiet());
}
