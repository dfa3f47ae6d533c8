//! The files of a new handler: templates beside this file, and the SDK and interfaces that this
//! very binary was built with. `.holdfast/` of a project is ours: each build brings it to this state.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use holdfast_model::ModuleName;
use include_dir::{Dir, DirEntry, include_dir};

static SDK: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../guest-sdk/src");
static WIT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../wit");

/// A file to be written: its path below the project's folder, and what is in it.
pub(super) struct File {
    path: PathBuf,
    content: Vec<u8>,
}

impl File {
    pub(super) fn new(path: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            content: content.into(),
        }
    }
}

/// A whole project for a handler of this name.
pub(super) fn project(name: &ModuleName) -> Vec<File> {
    let render = |template: &str| render(template, name.as_str());
    let mut files = vec![
        File::new(
            ".gitignore",
            render(include_str!("scaffold/gitignore.tmpl")),
        ),
        File::new(
            "Cargo.toml",
            render(include_str!("scaffold/Cargo.toml.tmpl")),
        ),
        File::new("README.md", render(include_str!("scaffold/README.md.tmpl"))),
        File::new(
            "holdfast.toml",
            render(include_str!("scaffold/holdfast.toml.tmpl")),
        ),
        File::new("src/lib.rs", render(include_str!("scaffold/lib.rs.tmpl"))),
    ];
    files.extend(sdk());
    files
}

/// `Cargo.toml` of a package of this name that uses the SDK of [`sdk`].
pub(super) fn cargo_toml(name: &str) -> File {
    let content = render(include_str!("scaffold/Cargo.toml.tmpl"), name);
    File::new("Cargo.toml", content)
}

/// The SDK and the interfaces, below `.holdfast/`.
pub(super) fn sdk() -> Vec<File> {
    let cargo_toml = render(include_str!("scaffold/sdk-Cargo.toml.tmpl"), "");
    let ours = Path::new(OURS);
    let mut files = vec![File::new(ours.join("guest-sdk/Cargo.toml"), cargo_toml)];
    collect(&SDK, &ours.join("guest-sdk/src"), &mut files);
    collect(&WIT, &ours.join("wit"), &mut files);
    files
}

/// What became of the SDK of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refreshed {
    /// There is none of ours, or it is what this binary has.
    Same,
    /// It was another one.
    Replaced,
    /// It was not there, though the package is built with it.
    Restored,
}

/// Brings the SDK of a project to what this binary has. A package that is not built with it has none,
/// and gets none.
pub(super) fn refresh(project: &Path) -> io::Result<Refreshed> {
    let there = project.join(OURS).join("guest-sdk/Cargo.toml").is_file();
    if !there && !is_built_with_ours(project) {
        return Ok(Refreshed::Same);
    }
    Ok(match (write(project, &sdk())?, there) {
        (false, _) => Refreshed::Same,
        (true, true) => Refreshed::Replaced,
        (true, false) => Refreshed::Restored,
    })
}

/// Whether the package names a dependency in our folder. One whose Cargo.toml makes no sense does not:
/// cargo says what is wrong with it.
fn is_built_with_ours(project: &Path) -> bool {
    let text = fs::read_to_string(project.join("Cargo.toml")).unwrap_or_default();
    let Ok(package) = text.parse::<toml::Table>() else {
        return false;
    };
    let dependencies = package
        .get("dependencies")
        .and_then(|table| table.as_table());
    let in_ours = |dependency: &toml::Value| {
        let path = dependency.get("path").and_then(|path| path.as_str());
        path.is_some_and(|path| Path::new(path).starts_with(OURS))
    };
    dependencies.is_some_and(|table| table.values().any(in_ours))
}

/// Writes the files below `dir`, takes away what else is in its `.holdfast/`, and says whether
/// anything changed. Files that are there with the same content are not touched, so that they do
/// not look changed to a build.
pub(super) fn write(dir: &Path, files: &[File]) -> io::Result<bool> {
    let mut changed = prune(dir, Path::new(OURS), files)?;
    for file in files {
        let path = dir.join(&file.path);
        if fs::read(&path).is_ok_and(|present| present == file.content) {
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.content)?;
        changed = true;
    }
    Ok(changed)
}

/// Removes what is in `dir/below` and not among the files: a source of an earlier SDK would be
/// compiled into this one, or be taken for an interface of it.
fn prune(dir: &Path, below: &Path, files: &[File]) -> io::Result<bool> {
    let entries = match fs::read_dir(dir.join(below)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut changed = false;
    for entry in entries {
        let entry = entry?;
        let path = below.join(entry.file_name());
        let is_dir = entry.file_type()?.is_dir();
        let leads = |file: &File| file.path.starts_with(&path) && is_dir == (file.path != path);
        if files.iter().any(leads) {
            changed |= is_dir && prune(dir, &path, files)?;
        } else {
            if is_dir {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
            changed = true;
        }
    }
    Ok(changed)
}

fn collect(dir: &Dir<'_>, below: &Path, files: &mut Vec<File>) {
    for entry in dir.entries() {
        match entry {
            DirEntry::Dir(dir) => collect(dir, below, files),
            DirEntry::File(file) => files.push(File::new(below.join(file.path()), file.contents())),
        }
    }
}

fn render(template: &str, name: &str) -> String {
    template
        .replace("{{name}}", name)
        .replace("{{sdk_version}}", env!("CARGO_PKG_VERSION"))
}

/// The folder that is ours in every project: everything below it comes from [`sdk`].
const OURS: &str = ".holdfast";

#[cfg(test)]
mod tests {
    use super::*;

    fn text<'a>(files: &'a [File], path: &str) -> &'a str {
        let file = files.iter().find(|file| file.path == Path::new(path));
        std::str::from_utf8(&file.unwrap().content).unwrap()
    }

    #[test]
    fn a_project_has_all_its_files_and_no_placeholder() {
        let files = project(&"my-counter".parse().unwrap());
        assert!(text(&files, "Cargo.toml").contains("name = \"my-counter\""));
        assert!(text(&files, "src/lib.rs").contains("module `my-counter`"));
        assert!(text(&files, ".holdfast/guest-sdk/src/bindings.rs").contains("../wit"));
        assert!(text(&files, ".holdfast/wit/world.wit").contains("world handler"));
        for file in &files {
            let content = String::from_utf8_lossy(&file.content);
            assert!(!content.contains("{{name"), "{}", file.path.display());
            assert!(!content.contains("{{sdk_"), "{}", file.path.display());
        }
    }

    #[test]
    fn the_manifest_of_a_project_is_valid() {
        let files = project(&"a".parse().unwrap());
        let manifest = text(&files, "holdfast.toml");
        let manifest = super::super::manifest::Manifest::parse(manifest, Path::new("m")).unwrap();
        assert_eq!(manifest.name.as_str(), "a");
        assert_eq!(manifest.settings, Default::default());
    }

    #[test]
    fn the_templates_ask_for_the_libraries_of_the_workspace() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
        let read = |path: &str| -> toml::Table {
            let text = fs::read_to_string(format!("{root}{path}")).unwrap();
            text.parse().unwrap()
        };
        let template = |text: &str| -> toml::Table { render(text, "a").parse().unwrap() };
        let sdk = template(include_str!("scaffold/sdk-Cargo.toml.tmpl"));
        let project = template(include_str!("scaffold/Cargo.toml.tmpl"));
        let original = read("guest-sdk/Cargo.toml");
        let workspace = read("Cargo.toml");

        const WASM: &str = "cfg(target_family = \"wasm\")";
        let plain = |table: &toml::Table| table["dependencies"].as_table().unwrap().clone();
        let wasm = |table: &toml::Table| plain(table["target"][WASM].as_table().unwrap());
        let names = |table: toml::Table| -> Vec<String> { table.keys().cloned().collect() };
        assert_eq!(names(plain(&sdk)), names(plain(&original)));
        assert_eq!(names(wasm(&sdk)), names(wasm(&original)));

        let version = |value: &toml::Value| match value {
            toml::Value::String(version) => version.clone(),
            table => table["version"].as_str().unwrap().to_owned(),
        };
        let mut compared = 0;
        for table in [plain(&sdk), wasm(&sdk), plain(&project)] {
            for (name, asked) in &table {
                if name == "holdfast-guest" {
                    continue;
                }
                let ours = &workspace["workspace"]["dependencies"][name];
                assert_eq!(version(asked), version(ours), "{name}");
                compared += 1;
            }
        }
        assert_eq!(compared, 7);
        let package = |key: &str| workspace["workspace"]["package"][key].clone();
        for key in ["version", "edition", "rust-version", "license"] {
            assert_eq!(sdk["package"][key], package(key), "{key}");
        }
        assert_eq!(project["package"]["edition"], package("edition"));
    }

    #[test]
    fn files_with_the_same_content_are_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let files = [File::new("a/b", "x")];
        write(dir.path(), &files).unwrap();
        let path = dir.path().join("a/b");
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        let old = before - std::time::Duration::from_secs(60);
        fs::File::open(&path).unwrap().set_modified(old).unwrap();
        write(dir.path(), &files).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), old);
        write(dir.path(), &[File::new("a/b", "y")]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"y");
    }

    #[test]
    fn a_project_of_another_version_gets_the_sdk_of_this_one() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        write(dir.path(), &project(&"a".parse().unwrap())).unwrap();
        assert_eq!(refresh(dir.path()).unwrap(), Refreshed::Same);

        fs::write(at(".holdfast/guest-sdk/src/lib.rs"), "old").unwrap();
        fs::write(at(".holdfast/guest-sdk/src/gone.rs"), "old").unwrap();
        fs::create_dir_all(at(".holdfast/wit/deps/gone")).unwrap();
        fs::write(at(".holdfast/wit/deps/gone/gone.wit"), "old").unwrap();
        // A folder where a file belongs.
        fs::remove_file(at(".holdfast/wit/world.wit")).unwrap();
        fs::create_dir(at(".holdfast/wit/world.wit")).unwrap();
        fs::write(at("src/lib.rs"), "mine").unwrap();
        fs::write(at("src/more.rs"), "mine").unwrap();
        assert_eq!(refresh(dir.path()).unwrap(), Refreshed::Replaced);

        for file in sdk() {
            assert_eq!(fs::read(dir.path().join(&file.path)).unwrap(), file.content);
        }
        assert!(!at(".holdfast/guest-sdk/src/gone.rs").exists());
        assert!(!at(".holdfast/wit/deps/gone").exists());
        for path in ["src/lib.rs", "src/more.rs"] {
            assert_eq!(fs::read(at(path)).unwrap(), b"mine", "{path}");
        }
        assert_eq!(refresh(dir.path()).unwrap(), Refreshed::Same);

        // Left out of version control, or deleted.
        fs::remove_dir_all(at(OURS)).unwrap();
        assert_eq!(refresh(dir.path()).unwrap(), Refreshed::Restored);
        for file in sdk() {
            assert_eq!(fs::read(dir.path().join(&file.path)).unwrap(), file.content);
        }
    }

    #[test]
    fn a_package_that_is_not_of_ours_gets_no_sdk() {
        let dir = tempfile::tempdir().unwrap();
        for manifest in ["", "not toml", "[dependencies]\nholdfast-guest = \"1\""] {
            fs::write(dir.path().join("Cargo.toml"), manifest).unwrap();
            assert_eq!(refresh(dir.path()).unwrap(), Refreshed::Same, "{manifest}");
        }
        assert!(!dir.path().join(OURS).exists());
    }
}
