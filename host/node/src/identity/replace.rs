//! Several files of a data directory replaced at once.
//!
//! The new ones are made in a folder beside the old; its renaming decides. From then on they are
//! moved into their places, by whoever opens the directory next if need be, and the old ones into
//! a folder of their own. So a crash leaves either all the old or all the new.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::private;

/// Makes the new files with `make`, in a folder that it is given, and puts them in the place of those
/// of the same names. Gives the folder of the old ones.
pub(super) fn replace<E: From<io::Error>>(
    dir: &Path,
    make: impl FnOnce(&Path) -> Result<(), E>,
    at_ms: u64,
) -> Result<PathBuf, E> {
    let draft = dir.join(DRAFT);
    sweep(dir)?;
    private::create_dir_all(&draft)?;
    make(&draft)?;
    for file in files(&draft)? {
        File::open(draft.join(file))?.sync_all()?;
    }
    // Written down, so that whoever ends it names it the same.
    private::create_dir_all(&draft.join(FORMER).join(at_ms.to_string()))?;
    sync(&draft)?;
    fs::rename(&draft, dir.join(READY))?;
    sync(dir)?;
    Ok(finish(dir)?.expect("it is ready"))
}

/// Ends a replacement that was decided on; gives the folder of the old files if there was one. Forgets
/// one that was not.
pub(super) fn finish(dir: &Path) -> io::Result<Option<PathBuf>> {
    sweep(dir)?;
    let ready = dir.join(READY);
    let former = ready.join(FORMER);
    if !ready.exists() {
        return Ok(None);
    }
    let Some(name) = files_or_folders(&former)?.pop() else {
        // All is in its place but for the end.
        fs::remove_dir_all(&ready)?;
        sync(dir)?;
        return Ok(None);
    };
    let kept = former.join(&name);
    for file in files(&ready)? {
        let (place, new) = (dir.join(&file), ready.join(&file));
        if place.exists() && !kept.join(&file).exists() {
            fs::rename(&place, kept.join(&file))?;
            sync(&kept)?;
        }
        fs::rename(new, &place)?;
    }
    sync(dir)?;
    let backup = dir.join(format!("{BACKUP}{name}"));
    fs::rename(&kept, &backup)?;
    fs::remove_dir_all(&ready)?;
    sync(dir)?;
    Ok(Some(backup))
}

/// Deletes what was never decided on.
fn sweep(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir.join(DRAFT)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn files(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = files_or_folders(folder)?;
    names.retain(|name| folder.join(name).is_file());
    Ok(names)
}

fn files_or_folders(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let name =
        |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    entries.map(name).collect()
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The new files, until they are decided on.
const DRAFT: &str = "replacement.draft";

/// The new files, from then on.
const READY: &str = "replacement";

/// In it, the folder of the old ones.
const FORMER: &str = "former";

/// What that one is called in the end, with the time behind it.
const BACKUP: &str = "before-recovery-";

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        for (file, text) in [("a", "old a"), ("b", "old b"), ("kept", "kept")] {
            fs::write(home.path().join(file), text).unwrap();
        }
        home
    }

    fn make(into: &Path) -> io::Result<()> {
        fs::write(into.join("a"), "new a")?;
        fs::write(into.join("b"), "new b")?;
        fs::write(into.join("c"), "new c")
    }

    fn read(dir: &Path) -> Vec<String> {
        let read = |file| fs::read_to_string(dir.join(file)).unwrap_or_default();
        ["a", "b", "c", "kept"].map(read).to_vec()
    }

    const OLD: [&str; 4] = ["old a", "old b", "", "kept"];
    const NEW: [&str; 4] = ["new a", "new b", "new c", "kept"];

    #[test]
    fn files_are_replaced_and_the_old_ones_kept() {
        let home = home();
        let backup = replace(home.path(), make, 7).unwrap();
        assert_eq!(read(home.path()), NEW);
        assert_eq!(backup, home.path().join("before-recovery-7"));
        assert_eq!(read(&backup), ["old a", "old b", "", ""]);
        assert!(!home.path().join(READY).exists());
        // And again.
        replace(home.path(), make, 8).unwrap();
        assert_eq!(finish(home.path()).unwrap(), None);
        assert_eq!(read(home.path()), NEW);
    }

    #[test]
    fn what_fails_before_it_is_decided_changes_nothing() {
        let home = home();
        let fails = |into: &Path| {
            make(into)?;
            Err(io::Error::other("no space"))
        };
        replace(home.path(), fails, 7).unwrap_err();
        assert_eq!(read(home.path()), OLD);
        // As after a crash: the draft is still there.
        assert!(home.path().join(DRAFT).exists());
        assert_eq!(finish(home.path()).unwrap(), None);
        assert_eq!(read(home.path()), OLD);
        assert!(!home.path().join(DRAFT).exists());
    }

    #[test]
    fn a_crash_anywhere_after_the_decision_is_ended_by_the_next_who_opens() {
        // Each step of the moving, as far as a crash may have let it get.
        for steps in 0..=7 {
            let home = home();
            let dir = home.path();
            let ready = dir.join(READY);
            let kept = ready.join(FORMER).join("7");
            fs::create_dir_all(&kept).unwrap();
            make(&ready).unwrap();
            let moves: [(PathBuf, PathBuf); 7] = [
                (dir.join("a"), kept.join("a")),
                (ready.join("a"), dir.join("a")),
                (dir.join("b"), kept.join("b")),
                (ready.join("b"), dir.join("b")),
                (ready.join("c"), dir.join("c")),
                (kept.clone(), dir.join("before-recovery-7")),
                (ready.join(FORMER), dir.join("removed")),
            ];
            for (from, to) in &moves[..steps] {
                fs::rename(from, to).unwrap();
            }
            finish(dir).unwrap();
            assert_eq!(read(dir), NEW, "after {steps} steps");
            let backup = dir.join("before-recovery-7");
            assert_eq!(read(&backup), ["old a", "old b", "", ""], "{steps}");
            assert!(!ready.exists(), "after {steps} steps");
        }
    }
}
