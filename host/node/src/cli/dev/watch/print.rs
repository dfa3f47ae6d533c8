//! What a file is like: enough to tell whether its content is another one.

use std::{
    fs::{self, Metadata},
    hash::{Hash as _, Hasher as _},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use foldhash::quality::FixedState;

/// What a file, or a folder that is read as a whole, was like when it was looked at.
#[derive(Clone, Debug)]
pub(super) struct Print {
    /// What the system says of it; none where there is none.
    stamp: Option<Stamp>,
    /// Of its content.
    hash: u64,
}

/// What changes with the content. That something of it changed does not mean that the content has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

impl PartialEq for Print {
    fn eq(&self, other: &Self) -> bool {
        (self.exists(), self.hash) == (other.exists(), other.hash)
    }
}

impl Print {
    /// Looks at it, through symbolic links. What cannot be read is like what is not there.
    pub(super) fn of(path: &Path) -> Self {
        let absent = Self {
            stamp: None,
            hash: 0,
        };
        // Before the content: what is written in between is seen at the next look.
        let Ok(metadata) = fs::metadata(path) else {
            return absent;
        };
        let stamp = Some(Stamp::of(&metadata));
        let hash = match metadata.is_dir() {
            true => hash_of_folder(path),
            false => fs::read(path).map(|content| hash_of(&content)),
        };
        hash.map_or(absent, |hash| Self { stamp, hash })
    }

    pub(super) fn exists(&self) -> bool {
        self.stamp.is_some()
    }

    /// Whether it has the same content still; reads it only where it may have another.
    pub(super) fn is_still(&mut self, path: &Path) -> bool {
        let metadata = fs::metadata(path).ok();
        let is_dir = metadata.as_ref().is_some_and(Metadata::is_dir);
        if !is_dir && metadata.as_ref().map(Stamp::of) == self.stamp {
            return true;
        }
        let now = Self::of(path);
        let is_still = now == *self;
        if is_still {
            self.stamp = now.stamp;
        }
        is_still
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

fn hash_of(content: &[u8]) -> u64 {
    let mut hasher = std::hash::BuildHasher::build_hasher(&FixedState::default());
    content.hash(&mut hasher);
    hasher.finish()
}

/// Of what is in it, as the system tells it: names, lengths and times, some levels deep.
fn hash_of_folder(path: &Path) -> io::Result<u64> {
    let mut hasher = std::hash::BuildHasher::build_hasher(&FixedState::default());
    let mut folders = vec![path.to_owned()];
    let mut left = ENTRIES_MAX;
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> = fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries.into_iter().take(left) {
            left -= 1;
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            entry.path().hash(&mut hasher);
            if metadata.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let Stamp { len, modified, .. } = Stamp::of(&metadata);
            (len, modified).hash(&mut hasher);
        }
    }
    Ok(hasher.finish())
}

/// Of a folder with more, what comes later is not looked at.
const ENTRIES_MAX: usize = 10_000;
