//! The archive of `holdfast modules export`: a tar file, written and read from its beginning to its
//! end, so that it may be a pipe and of any length.
//!
//! | entry | has |
//! |---|---|
//! | `holdfast-export.json` | the format, and what was to be exported ([`Head`]); first |
//! | `MODULE/module.json` | the version and its settings ([`ModuleHead`]) |
//! | `MODULE/component.wasm` | the component |
//! | `MODULE/resources/000001.ndjson` … | the resources, `{"id":…,"spec":…}` a line, as `holdfast resources import` reads them |
//! | `complete.json` | what was exported ([`Foot`]); last. Without it the archive is cut off |
//!
//! Invariant: neither side holds more of it than a piece of the resources, or one component.

use std::{
    io::{self, BufReader, Read, Write},
    path::Path,
};

use bytes::Bytes;
use holdfast_model::{ClusterId, ClusterName, Digest, ModuleName, Settings};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::super::resources::records::{self, Record};

/// The first entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// [`FORMAT`].
    pub(super) format: u32,
    /// The version of Holdfast that wrote it.
    pub(super) holdfast: String,
    /// When, in milliseconds since the Unix epoch.
    pub(super) exported_at_ms: u64,
    /// From which cluster.
    pub(super) cluster: ClusterId,
    /// Its name.
    pub(super) cluster_name: ClusterName,
    /// Which modules.
    pub(super) modules: Vec<ModuleName>,
}

/// What an archive says of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ModuleHead {
    /// Its name.
    pub(super) module: ModuleName,
    /// The number of the version, for people: it gets another where it is imported.
    pub(super) version: u64,
    /// Digest of the component.
    pub(super) digest: Digest,
    /// Length of the component.
    pub(super) size_bytes: u64,
    /// The version's settings.
    pub(super) settings: Settings,
}

/// The last entry of an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Foot {
    /// How many modules it has.
    pub(super) modules: u64,
    /// How many resources.
    pub(super) resources: u64,
}

/// An archive that is being written.
pub(super) struct Writer<W> {
    out: W,
    mtime: u64,
    /// How much of the present entry is still to come, and how much it has.
    left: u64,
    size: u64,
}

impl<W: Write> Writer<W> {
    /// Begins an archive.
    pub(super) fn new(out: W, head: &Head) -> io::Result<Self> {
        let mut writer = Self {
            out,
            mtime: head.exported_at_ms / 1_000,
            left: 0,
            size: 0,
        };
        writer.json(HEAD, head)?;
        Ok(writer)
    }

    pub(super) fn module(&mut self, head: &ModuleHead) -> io::Result<()> {
        self.json(&format!("{}/{MODULE}", head.module), head)
    }

    /// Begins a component, whose bytes come by [`Writer::piece`].
    pub(super) fn component(&mut self, module: &ModuleName, size: u64) -> io::Result<()> {
        self.begin(&format!("{module}/{COMPONENT}"), size)
    }

    /// More of the present entry.
    pub(super) fn piece(&mut self, bytes: &[u8]) -> io::Result<()> {
        let len = bytes.len() as u64;
        let left = self.left.checked_sub(len);
        self.left = left.ok_or_else(|| invalid("there is more of an entry than was said"))?;
        self.out.write_all(bytes)?;
        if self.left == 0 {
            let padding = self.size.next_multiple_of(BLOCK) - self.size;
            let zeros = [0; BLOCK as usize];
            self.out.write_all(&zeros[..padding as usize])?;
        }
        Ok(())
    }

    /// A piece of a module's resources, the pieces counted from 1.
    pub(super) fn resources(
        &mut self,
        module: &ModuleName,
        piece: u64,
        lines: &[u8],
    ) -> io::Result<()> {
        let name = format!("{module}/{RESOURCES}{piece:06}.ndjson");
        self.begin(&name, lines.len() as u64)?;
        self.piece(lines)
    }

    /// Ends the archive.
    pub(super) fn finish(mut self, foot: Foot) -> io::Result<W> {
        self.json(FOOT, &foot)?;
        self.out.write_all(&[0; 2 * BLOCK as usize])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn json(&mut self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(value)?;
        text.push(b'\n');
        self.begin(name, text.len() as u64)?;
        self.piece(&text)
    }

    fn begin(&mut self, name: &str, size: u64) -> io::Result<()> {
        if self.left > 0 {
            return Err(invalid("the entry before is not complete"));
        }
        let mut header = tar::Header::new_ustar();
        header.set_path(name)?;
        header.set_size(size);
        header.set_mode(0o600);
        header.set_mtime(self.mtime);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        (self.left, self.size) = (size, size);
        self.out.write_all(header.as_bytes())
    }
}

/// What an archive has, in its order.
pub(super) enum Item {
    Head(Head),
    Module(Box<ModuleHead>),
    Component(Bytes),
    /// A resource of the module before, or what stands in its place.
    Resource(Record),
    Foot(Foot),
}

/// Calls `each` with what an archive has, until it returns false.
///
/// # Errors
/// When it is no archive of this format, is damaged, or ends before its end.
pub(super) fn read(input: impl Read, mut each: impl FnMut(Item) -> bool) -> io::Result<()> {
    let mut archive = tar::Archive::new(input);
    let mut present: Option<ModuleHead> = None;
    let mut resources = 0;
    let mut seen_head = false;
    for entry in archive.entries()? {
        let entry = entry.map_err(not_read)?;
        let path = entry.path()?.into_owned();
        if entry.header().entry_type().is_dir() {
            continue;
        }
        let item = match place(&path) {
            Place::Head if !seen_head => {
                seen_head = true;
                Item::Head(head(entry)?)
            }
            Place::Foot => {
                let foot = json(FOOT, entry)?;
                each(Item::Foot(foot));
                return Ok(());
            }
            _ if !seen_head => {
                let why = "it does not begin as `holdfast modules export` writes it";
                return Err(invalid(why));
            }
            Place::Module(name) => {
                let head: ModuleHead = json(MODULE, entry)?;
                if head.module.as_str() != name {
                    let why = format!("{}: it is about {}", path.display(), head.module);
                    return Err(invalid(why));
                }
                (present, resources) = (Some(head.clone()), 0);
                Item::Module(Box::new(head))
            }
            Place::Component(name) => Item::Component(component(of(&present, name)?, entry)?),
            Place::Resources(name) => {
                of(&present, name)?;
                let mut wanted = true;
                records::read(BufReader::new(entry), |record| {
                    resources += 1;
                    let at = resources;
                    wanted = each(Item::Resource(Record { at, ..record }));
                    wanted
                })?;
                if !wanted {
                    return Ok(());
                }
                continue;
            }
            Place::Head | Place::Elsewhere => {
                let why = format!("{} has no place in it", path.display());
                return Err(invalid(why));
            }
        };
        if !each(item) {
            return Ok(());
        }
    }
    Err(invalid(match seen_head {
        true => "it ends before its end: it was cut off while it was written or copied",
        false => "it is empty",
    }))
}

enum Place<'a> {
    Head,
    Module(&'a str),
    Component(&'a str),
    Resources(&'a str),
    Foot,
    Elsewhere,
}

fn place(path: &Path) -> Place<'_> {
    let Some(path) = path.to_str() else {
        return Place::Elsewhere;
    };
    // As `tar` writes it that packs a folder again.
    let path = path.strip_prefix("./").unwrap_or(path);
    match path.split_once('/') {
        None if path == HEAD => Place::Head,
        None if path == FOOT => Place::Foot,
        Some((module, MODULE)) => Place::Module(module),
        Some((module, COMPONENT)) => Place::Component(module),
        Some((module, rest)) if rest.starts_with(RESOURCES) => Place::Resources(module),
        _ => Place::Elsewhere,
    }
}

fn head(entry: impl Read) -> io::Result<Head> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let text = text(HEAD, entry)?;
    let Format { format } = serde_json::from_slice(&text).map_err(|e| bad(HEAD, &e))?;
    if format != FORMAT {
        return Err(invalid(format!(
            "it has format {format}, and this version of holdfast reads format {FORMAT}"
        )));
    }
    serde_json::from_slice(&text).map_err(|error| bad(HEAD, &error))
}

fn of<'a>(present: &'a Option<ModuleHead>, name: &str) -> io::Result<&'a ModuleHead> {
    let present = present.as_ref();
    let present = present.filter(|head| head.module.as_str() == name);
    present.ok_or_else(|| {
        invalid(format!(
            "{name}/{MODULE} does not come before the rest of it"
        ))
    })
}

fn component(head: &ModuleHead, mut entry: impl Read) -> io::Result<Bytes> {
    let module = &head.module;
    if head.size_bytes > COMPONENT_BYTES_MAX {
        let size = head.size_bytes;
        return Err(invalid(format!(
            "the component of {module} has {size} bytes"
        )));
    }
    let mut bytes = Vec::with_capacity(head.size_bytes as usize);
    let mut limited = (&mut entry).take(head.size_bytes + 1);
    limited.read_to_end(&mut bytes).map_err(not_read)?;
    if (bytes.len() as u64) < head.size_bytes {
        return Err(invalid(CUT_OFF));
    }
    if Digest::of(&bytes) != head.digest {
        return Err(invalid(format!(
            "the component of {module} is damaged: it is not {}",
            head.digest
        )));
    }
    Ok(bytes.into())
}

fn json<T: DeserializeOwned>(name: &str, entry: impl Read) -> io::Result<T> {
    serde_json::from_slice(&text(name, entry)?).map_err(|error| bad(name, &error))
}

fn text(name: &str, entry: impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut limited = entry.take(JSON_BYTES_MAX + 1);
    limited.read_to_end(&mut text).map_err(not_read)?;
    if text.len() as u64 > JSON_BYTES_MAX {
        return Err(invalid(format!("{name} is too long")));
    }
    Ok(text)
}

fn bad(name: &str, error: &serde_json::Error) -> io::Error {
    match error.is_eof() {
        true => invalid(CUT_OFF),
        false => invalid(format!("{name}: {error}")),
    }
}

fn not_read(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => invalid(CUT_OFF),
        // What the library says between two entries has no kind.
        _ if error.to_string().starts_with("unexpected EOF") => invalid(CUT_OFF),
        _ => error,
    }
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// What is wrong with an archive that ends within an entry.
const CUT_OFF: &str = "it ends in the middle of an entry";

/// The format of archives. Another number: what this version reads would be read wrongly.
pub(super) const FORMAT: u32 = 1;

const HEAD: &str = "holdfast-export.json";
const FOOT: &str = "complete.json";
const MODULE: &str = "module.json";
const COMPONENT: &str = "component.wasm";
const RESOURCES: &str = "resources/";

/// Size of a block of a tar file.
const BLOCK: u64 = 512;

/// Longest JSON of an entry: the head names every module.
const JSON_BYTES_MAX: u64 = 16 << 20;

/// Longest component; a node takes much less.
const COMPONENT_BYTES_MAX: u64 = 1 << 30;

#[cfg(test)]
mod tests;
