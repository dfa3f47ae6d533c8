//! The demo's own handler: its source is in this binary and is built where the demo runs.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;

use super::{
    super::{build, human, scaffold},
    story::Story,
};

/// Builds the handler in the user's cache folder, where the next demo finds what this one built.
pub(super) async fn build(
    folder: &Path,
    story: &Story,
) -> anyhow::Result<(bytes::Bytes, Duration)> {
    let step = story.step("Build", "building the handler");
    let dir = cache().unwrap_or_else(|| folder.to_owned()).join("handler");
    let mut files = scaffold::sdk();
    files.push(scaffold::cargo_toml("demo"));
    files.push(scaffold::File::new("holdfast.toml", "name = \"demo\"\n"));
    files.push(scaffold::File::new(
        "src/lib.rs",
        include_str!("handler/src/lib.rs"),
    ));
    scaffold::write(&dir, &files)
        .with_context(|| format!("write the handler to {}", dir.display()))?;
    let built = build::component(&dir, Some(&dir.join("target")), &mut |progress| {
        if let build::Progress::Step(text) = progress {
            step.doing(text);
        }
    })
    .await;
    let built = match built {
        Err(build::Error::Cargo { status, said, .. }) => {
            anyhow::bail!(
                "build the handler in {}: cargo ended with {status}:\n{said}",
                dir.display()
            )
        }
        built => built.map_err(build::explain)?,
    };
    let size = human::bytes(built.bytes.len() as u64);
    let took = step.done(&format!("the handler, a component of {size}"), None)?;
    Ok((built.bytes, took))
}

/// `$XDG_CACHE_HOME/holdfast/demo-VERSION`, by default below `~/.cache`.
fn cache() -> Option<PathBuf> {
    let folder = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    let ours = cache.join(concat!("holdfast/demo-", env!("CARGO_PKG_VERSION")));
    std::fs::create_dir_all(&ours).ok()?;
    Some(ours)
}
