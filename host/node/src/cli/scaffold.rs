//! The files of a new handler: templates beside this file, and the SDK and interfaces that this
//! very binary was built with, so that handler and node always fit each other.

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
    let type_name = type_name(name.as_str());
    let render = |template: &str| render(template, name.as_str(), &type_name);
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
    let content = render(include_str!("scaffold/Cargo.toml.tmpl"), name, "");
    File::new("Cargo.toml", content)
}

/// The SDK and the interfaces, below `.holdfast/`.
pub(super) fn sdk() -> Vec<File> {
    let cargo_toml = render(include_str!("scaffold/sdk-Cargo.toml.tmpl"), "", "");
    let mut files = vec![File::new(".holdfast/guest-sdk/Cargo.toml", cargo_toml)];
    collect(&SDK, Path::new(".holdfast/guest-sdk/src"), &mut files);
    collect(&WIT, Path::new(".holdfast/wit"), &mut files);
    files
}

/// Writes the files below `dir`. Those that are there with the same content are not touched, so
/// that they do not look changed to a build.
pub(super) fn write(dir: &Path, files: &[File]) -> io::Result<()> {
    for file in files {
        let path = dir.join(&file.path);
        if fs::read(&path).is_ok_and(|present| present == file.content) {
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.content)?;
    }
    Ok(())
}

fn collect(dir: &Dir<'_>, below: &Path, files: &mut Vec<File>) {
    for entry in dir.entries() {
        match entry {
            DirEntry::Dir(dir) => collect(dir, below, files),
            DirEntry::File(file) => files.push(File::new(below.join(file.path()), file.contents())),
        }
    }
}

fn render(template: &str, name: &str, type_name: &str) -> String {
    template
        .replace("{{name}}", name)
        .replace("{{type_name}}", type_name)
        .replace("{{sdk_version}}", env!("CARGO_PKG_VERSION"))
}

/// The name in Rust's style for types, kept apart from what the template imports or defines.
fn type_name(name: &str) -> String {
    let mut text = String::new();
    for part in name.split('-') {
        let mut chars = part.chars();
        text.extend(chars.next().map(|first| first.to_ascii_uppercase()));
        text.push_str(chars.as_str());
    }
    if TAKEN.contains(&text.as_str()) {
        text.insert_str(0, "My");
    }
    text
}

const TAKEN: [&str; 17] = [
    "Ctx",
    "Deserialize",
    "Err",
    "Greeting",
    "Invocation",
    "InvokeError",
    "None",
    "Ok",
    "Option",
    "Request",
    "Resource",
    "ResourceHandler",
    "Response",
    "Result",
    "Self",
    "Some",
    "Spec",
];

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
        assert!(text(&files, "src/lib.rs").contains("struct MyCounter"));
        assert!(text(&files, ".holdfast/guest-sdk/src/bindings.rs").contains("../wit"));
        assert!(text(&files, ".holdfast/wit/world.wit").contains("world handler"));
        for file in &files {
            let content = String::from_utf8_lossy(&file.content);
            assert!(!content.contains("{{name"), "{}", file.path.display());
            assert!(!content.contains("{{type_"), "{}", file.path.display());
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
    fn the_embedded_sdk_asks_for_the_libraries_of_the_workspace() {
        let template: toml::Table = render(include_str!("scaffold/sdk-Cargo.toml.tmpl"), "", "")
            .parse()
            .unwrap();
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
        let read = |path: &str| -> toml::Table {
            let text = fs::read_to_string(format!("{root}{path}")).unwrap();
            text.parse().unwrap()
        };
        let (sdk, workspace) = (read("guest-sdk/Cargo.toml"), read("Cargo.toml"));
        let names = |table: &toml::Table| -> Vec<String> {
            let plain = table["dependencies"].as_table().unwrap().keys();
            let wasm = table["target"]["cfg(target_family = \"wasm\")"]["dependencies"].as_table();
            plain.chain(wasm.unwrap().keys()).cloned().collect()
        };
        assert_eq!(names(&template), names(&sdk));
        let version = |value: &toml::Value| match value {
            toml::Value::String(version) => version.clone(),
            table => table["version"].as_str().unwrap().to_owned(),
        };
        let wasm = "cfg(target_family = \"wasm\")";
        assert_eq!(
            version(&template["target"][wasm]["dependencies"]["wit-bindgen"]),
            version(&workspace["workspace"]["dependencies"]["wit-bindgen"]),
        );
    }

    #[test]
    fn type_names_do_not_hide_what_the_template_uses() {
        for (name, expected) in [
            ("a", "A"),
            ("my-bot-2", "MyBot2"),
            ("resource", "MyResource"),
        ] {
            assert_eq!(type_name(name), expected);
        }
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
}
