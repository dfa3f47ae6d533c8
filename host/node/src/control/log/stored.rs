//! The form of the log in its file: entries by index, single values by name, each sealed.
//!
//! Whoever reads finds what is missing or altered, and says what to do about it.

use std::io;

use bytes::Bytes;
use holdfast_cluster::codec::{decode, encode};
use redb::{ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};

use super::super::{
    seal::{seal, unseal},
    types::{Entry, LogId},
};

/// Entries as they are stored, by index.
pub(crate) type Encoded = Vec<(u64, Bytes)>;

pub(crate) fn decode_all(
    stored: Encoded,
    recent: Encoded,
    bytes_max: usize,
) -> io::Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::with_capacity(stored.len() + recent.len());
    let mut bytes = 0;
    for (index, value) in stored.into_iter().chain(recent) {
        if bytes >= bytes_max {
            break;
        }
        bytes += value.len();
        if let Some(last) = entries.last() {
            follows(Some(last.log_id), index)?;
        }
        entries.push(read_entry(index, &value)?);
    }
    Ok(entries)
}

/// An entry as it is stored.
pub(crate) fn stored_entry(entry: &Entry) -> Vec<u8> {
    seal(&entry.log_id.index.to_be_bytes(), &encode(entry))
}

pub(crate) fn read_entry(index: u64, bytes: &[u8]) -> io::Result<Entry> {
    let damaged = |what: &str| damaged(&format!("entry {index} is damaged: {what}"));
    let bytes =
        unseal(&index.to_be_bytes(), bytes).map_err(|altered| damaged(&altered.to_string()))?;
    let entry: Entry = decode(bytes).map_err(|error| damaged(&error.to_string()))?;
    if entry.log_id.index == index {
        Ok(entry)
    } else {
        Err(damaged("it has another index"))
    }
}

/// Makes sure that an entry comes right after the last one.
pub(crate) fn follows(last: Option<LogId>, index: u64) -> io::Result<()> {
    let expected = last.map_or(0, |last| last.index + 1);
    match index == expected {
        true => Ok(()),
        false => Err(damaged(&format!(
            "entry {expected} is missing, {index} is there"
        ))),
    }
}

/// A value of the log as it is stored under a name.
pub(crate) fn sealed<T: Serialize>(name: &str, value: &T) -> Vec<u8> {
    seal(name.as_bytes(), &encode(value))
}

pub(crate) fn read_value<T: DeserializeOwned>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<T>, Box<dyn std::error::Error + Send + Sync>> {
    let Some(stored) = meta.get(name)? else {
        return Ok(None);
    };
    let wrong = |what: &str| damaged(&format!("its {name} is damaged: {what}"));
    let value = unseal(name.as_bytes(), stored.value());
    let value = value.map_err(|altered| wrong(&altered.to_string()))?;
    Ok(Some(
        decode(value).map_err(|error| wrong(&error.to_string()))?,
    ))
}

/// What is wrong with the stored log, for whoever reads why the node has ended.
fn damaged(what: &str) -> io::Error {
    let text = format!("the stored log is damaged: {what}; see `holdfast rejoin --help`");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Names of the single values.
pub(crate) const VOTE: &str = "vote";
pub(crate) const PURGED: &str = "purged";
pub(crate) const COMMITTED: &str = "committed";

/// Entries by index.
pub(crate) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
