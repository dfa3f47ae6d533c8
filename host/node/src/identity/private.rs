//! Files and directories that nobody but the node's own user may read.
//!
//! Everything under a data directory is made through this, or by a process whose umask takes the bits of others
//! away; what an earlier version has left open is closed when the directory is opened.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::fs::Mode;

/// Takes the permissions of others away from all that this process makes from now on, also through libraries.
/// For a process of its own alone: it is a property of the whole process.
pub fn set_umask() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Makes a directory, and those above it, where they are missing.
pub(crate) fn create_dir_all(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIR).create(path)
}

/// Opens a file for writing, which is made where it is missing.
pub(crate) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.write(true).mode(FILE).open(path)
}

/// Makes a new file for reading and writing, or opens the one that is there.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    open(
        path,
        OpenOptions::new().read(true).create(true).truncate(false),
    )
}

/// Takes the permissions of others away from a directory and all in it. Gives how many were open, and one of
/// them. Does not follow links, nor go deeper than a node's files do.
pub(super) fn tighten(dir: &Path) -> io::Result<Option<(usize, PathBuf)>> {
    let mut open = None;
    tighten_below(dir, DEPTH_MAX, &mut open)?;
    Ok(open)
}

fn tighten_below(
    path: &Path,
    depth_left: u32,
    open: &mut Option<(usize, PathBuf)>,
) -> io::Result<()> {
    let about = match fs::symlink_metadata(path) {
        // Drafts come and go.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        about => about?,
    };
    if about.is_symlink() {
        return Ok(());
    }
    if about.mode() & OTHERS != 0 {
        let mode = about.mode() & 0o7777 & !OTHERS;
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        open.get_or_insert_with(|| (0, path.to_owned())).0 += 1;
    }
    if about.is_dir() && depth_left > 0 {
        for entry in fs::read_dir(path)? {
            tighten_below(&entry?.path(), depth_left - 1, open)?;
        }
    }
    Ok(())
}

/// Whether anybody but its owner may read a file.
pub(crate) fn is_open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|about| about.is_file() && about.mode() & OTHERS_READ != 0)
}

const FILE: u32 = 0o600;
const DIR: u32 = 0o700;
const OTHERS: u32 = 0o077;
const OTHERS_READ: u32 = 0o044;
const DEPTH_MAX: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_is_made_is_the_owners_alone() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("a/b");
        create_dir_all(&deep).unwrap();
        let file = deep.join("file");
        drop(open_or_create(&file).unwrap());
        assert_eq!((mode(&deep), mode(&file)), (0o700, 0o600));
        // One that is there is opened, and keeps what is in it.
        fs::write(&file, "text").unwrap();
        drop(open_or_create(&file).unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap(), "text");
        assert!(!is_open_to_others(&file));
    }

    #[test]
    fn what_was_open_is_closed_and_counted_and_links_are_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let other = elsewhere.path().join("other");
        fs::write(&other, "").unwrap();
        fs::set_permissions(&other, Permissions::from_mode(0o644)).unwrap();
        let dir = home.path().join("data");
        let inner = dir.join("modules");
        fs::create_dir_all(&inner).unwrap();
        let files = [dir.join("state"), inner.join("one")];
        for path in &files {
            fs::write(path, "").unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o664)).unwrap();
        }
        for path in [&dir, &inner] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        std::os::unix::fs::symlink(&other, dir.join("link")).unwrap();
        let (count, first) = tighten(&dir).unwrap().unwrap();
        assert_eq!((count, first), (4, dir.clone()));
        assert_eq!([mode(&dir), mode(&inner)], [0o700; 2]);
        assert_eq!(files.map(|path| mode(&path)), [0o600; 2]);
        assert_eq!(mode(&other), 0o644);
        assert!(is_open_to_others(&other));
        assert!(tighten(&dir).unwrap().is_none());
    }
}
