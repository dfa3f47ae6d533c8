//! Compiled components on disk, one file per digest.
//!
//! Invariant: a file is used only if its name says its checksum and this version of the engine with
//! these settings; anything else counts as absent.

use std::{
    collections::HashSet,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    io::Read as _,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use holdfast_model::Digest;
use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, component::Component};

pub(crate) struct Cache {
    dir: PathBuf,
    /// What follows the digests of component and code in a file's name.
    suffix: String,
    bytes_max: u64,
    writes: AtomicU64,
}

impl Cache {
    /// Opens the folder, and removes what other versions and interrupted writes left there.
    pub(crate) fn open(dir: PathBuf, engine: &Engine, bytes_max: u64) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)?;
        check_owner(&dir)?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let suffix = format!("-{:016x}-mapped.cwasm", hasher.finish());
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or("");
            let ours = name.ends_with(".cwasm") || name.ends_with(TEMPORARY);
            if ours && !name.ends_with(&suffix) {
                fs::remove_file(&path)?;
            }
        }
        Ok(Self {
            dir,
            suffix,
            bytes_max,
            writes: AtomicU64::new(0),
        })
    }

    /// The component, if a sound file has it. Its code is mapped and not read: memory pressure may let
    /// go of it, and all processes share it.
    pub(crate) fn read(&self, engine: &Engine, digest: &Digest) -> Option<Component> {
        let path = self.find(digest)?;
        let sound = checksum(&path).is_ok_and(|found| self.path(digest, found) == path);
        let component = sound.then(|| map(engine, &path)).flatten();
        match component {
            // Those used last are the last to go.
            Some(_) => touch(&path),
            None => drop(fs::remove_file(&path)),
        }
        component
    }

    /// A file to write the code of a component to, for [`Self::keep`].
    pub(crate) fn draft(&self, digest: &Digest) -> io::Result<Draft> {
        let write = self.writes.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{}-{write}{TEMPORARY}", digest.hex(), std::process::id());
        let path = self.dir.join(name);
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600);
        let file = file.open(&path)?;
        Ok(Draft { path, file })
    }

    /// Keeps what was written. Other readers and writers of the file see it whole or not at all. Gives
    /// the component.
    pub(crate) fn keep(
        &self,
        engine: &Engine,
        digest: &Digest,
        draft: Draft,
    ) -> io::Result<Component> {
        // No fsync: a file that a power loss cut short fails its checksum.
        let path = self.path(digest, checksum(&draft.path)?);
        fs::rename(&draft.path, &path)?;
        map(engine, &path).ok_or_else(|| {
            // Of no use to anybody.
            let _ = fs::remove_file(&path);
            io::Error::other("the code cannot be loaded")
        })
    }

    /// Removes the file of a digest.
    pub(crate) fn remove(&self, digest: &Digest) {
        if let Some(path) = self.find(digest) {
            // Another may have been faster.
            let _ = fs::remove_file(path);
        }
    }

    /// Removes the files of all digests but these, unless they are younger than `age`.
    pub(crate) fn retain(&self, used: &HashSet<Digest>, age: Duration) -> io::Result<()> {
        for entry in self.entries()? {
            if !entry.is_of(used) && is_older(entry.used, age) {
                fs::remove_file(&entry.path)?;
            }
        }
        Ok(())
    }

    /// Removes files until all together have at most as many bytes as they may: those first that were
    /// used longest ago, and none of these digests.
    pub(crate) fn shrink(&self, in_use: &HashSet<Digest>) -> io::Result<()> {
        let mut entries = self.entries()?;
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        entries.sort_by_key(|entry| entry.used);
        for entry in entries {
            if bytes <= self.bytes_max {
                break;
            }
            if !entry.is_of(in_use) {
                fs::remove_file(&entry.path)?;
                bytes -= entry.bytes;
            }
        }
        Ok(())
    }

    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(name) = name.filter(|name| name.ends_with(&self.suffix)) else {
                continue;
            };
            let digest = name.split('-').next().unwrap_or("").to_owned();
            // One that has gone meanwhile is none.
            let Ok(about) = fs::metadata(&path) else {
                continue;
            };
            entries.push(Entry {
                digest,
                bytes: about.len(),
                used: about.modified()?,
                path,
            });
        }
        Ok(entries)
    }

    fn find(&self, digest: &Digest) -> Option<PathBuf> {
        let digest = digest.hex();
        let mut entries = self.entries().ok()?.into_iter();
        let found = entries.find(|entry| entry.digest == digest);
        found.map(|entry| entry.path)
    }

    /// The file of a digest whose code has this checksum.
    fn path(&self, digest: &Digest, code: Digest) -> PathBuf {
        let name = format!("{}-{}{}", digest.hex(), code.hex(), self.suffix);
        self.dir.join(name)
    }
}

/// Code that is not kept yet; removed when it never is.
pub(crate) struct Draft {
    path: PathBuf,
    pub(crate) file: fs::File,
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Usually it has another name by now.
        let _ = fs::remove_file(&self.path);
    }
}

/// A file of the cache.
struct Entry {
    path: PathBuf,
    digest: String,
    bytes: u64,
    used: SystemTime,
}

impl Entry {
    fn is_of(&self, digests: &HashSet<Digest>) -> bool {
        digests.iter().any(|digest| digest.hex() == self.digest)
    }
}

/// The digest of a file, read piece by piece.
fn checksum(path: &Path) -> io::Result<Digest> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 256 << 10];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Digest(hasher.finalize().into())),
            read => hasher.update(&piece[..read]),
        }
    }
}

fn touch(path: &Path) {
    // Where it fails the file is the first to go, and compiled again.
    let opened = fs::OpenOptions::new().append(true).open(path);
    let _ = opened.and_then(|file| file.set_modified(SystemTime::now()));
}

/// Whoever may write in the folder decides what this process executes.
fn check_owner(dir: &Path) -> io::Result<()> {
    let (found, me) = (fs::metadata(dir)?, rustix::process::geteuid().as_raw());
    if found.uid() == me && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "what it holds is executed, so it must belong to this user (id {me}) and nobody else \
             may write there; it belongs to {} with mode {:o}. Change that (chown {me}, chmod 700), \
             or remove it: it is made anew",
            found.uid(),
            found.mode() & 0o7777
        ),
    ))
}

/// A time in the future counts as young: the clock may have been set back.
fn is_older(used: SystemTime, age: Duration) -> bool {
    SystemTime::now()
        .duration_since(used)
        .is_ok_and(|found| found >= age)
}

#[expect(
    unsafe_code,
    reason = "machine code cannot be checked; see the comment"
)]
fn map(engine: &Engine, path: &Path) -> Option<Component> {
    // SAFETY: the file is what `Component::serialize` of this version made: its name has the hash of
    // version and settings, which wasmtime checks once more, and its checksum, which held or was just
    // computed. It lies in a folder that only this user may write, who could replace this program as
    // well, and this program only ever renames and removes files there.
    let mapped = unsafe { Component::deserialize_file(engine, path) };
    mapped.ok().or_else(|| {
        // Where files of this folder must not be executed, a copy in memory may.
        let code = fs::read(path).ok()?;
        // SAFETY: the same.
        unsafe { Component::deserialize(engine, code) }.ok()
    })
}

const TEMPORARY: &str = ".cwasm-tmp";
