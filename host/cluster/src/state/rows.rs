//! The state as rows of a key-value store, so that a change costs what it touches.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_model::{Epoch, ModuleName, NodeId, ResourceId, Slot, Token};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Cluster, Module, ModuleAbout, Owner, Resource, SlotState, State};
use crate::codec::{self, encode};

/// Name of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Cluster and epoch.
    Cluster,
    /// A node.
    Node(NodeId),
    /// A module, apart from its slots and resources.
    Module(ModuleName),
    /// A slot.
    Slot(ModuleName, Slot),
    /// A resource.
    Resource(ModuleName, ResourceId),
}

/// The rows that were changed, each once.
pub type Changes = BTreeSet<Key>;

/// A row that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("row {row} of the stored state cannot be read")]
pub struct CorruptRow {
    /// Its key, as far as it is readable.
    pub row: String,
    /// What is wrong, when the value is.
    #[source]
    pub source: Option<codec::Error>,
}

impl Key {
    /// The key as bytes: a letter for the kind, then the names, with NUL between them.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let join = |kind: u8, module: &ModuleName, rest: &[u8]| {
            let mut bytes = vec![kind];
            bytes.extend_from_slice(module.as_str().as_bytes());
            bytes.push(0);
            bytes.extend_from_slice(rest);
            bytes
        };
        match self {
            Self::Cluster => vec![b'c'],
            Self::Node(node) => [b"n".as_slice(), node.0.as_bytes()].concat(),
            Self::Module(module) => join(b'm', module, &[]),
            Self::Slot(module, slot) => join(b's', module, &slot.0.to_be_bytes()),
            Self::Resource(module, id) => join(b'r', module, id.as_str().as_bytes()),
        }
    }

    /// Reads a key.
    ///
    /// # Errors
    /// When the bytes are no key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CorruptRow> {
        parse(bytes).ok_or_else(|| CorruptRow {
            row: String::from_utf8_lossy(bytes).into_owned(),
            source: None,
        })
    }
}

fn parse(bytes: &[u8]) -> Option<Key> {
    let (kind, rest) = bytes.split_first()?;
    match kind {
        b'c' if rest.is_empty() => return Some(Key::Cluster),
        b'n' => {
            let uuid = <[u8; 16]>::try_from(rest).ok()?;
            return Some(Key::Node(NodeId(uuid::Uuid::from_bytes(uuid))));
        }
        _ => {}
    }
    let at = rest.iter().position(|byte| *byte == 0)?;
    let module = std::str::from_utf8(&rest[..at]).ok()?.parse().ok()?;
    let rest = &rest[at + 1..];
    match kind {
        b'm' if rest.is_empty() => Some(Key::Module(module)),
        b's' => Some(Key::Slot(
            module,
            Slot(u16::from_be_bytes(rest.try_into().ok()?)),
        )),
        b'r' => Some(Key::Resource(
            module,
            std::str::from_utf8(rest).ok()?.parse().ok()?,
        )),
        _ => None,
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterRow {
    cluster: Option<Cluster>,
    epoch: Epoch,
}

/// A slot without its resources, which have rows of their own.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SlotRow {
    owner: Option<Owner>,
    next: Option<NodeId>,
    token: Token,
}

impl State {
    /// A row's present value; none when it does not exist.
    #[must_use]
    pub fn row(&self, key: &Key) -> Option<Vec<u8>> {
        match key {
            Key::Cluster => Some(encode(&ClusterRow {
                cluster: self.cluster.clone(),
                epoch: self.epoch,
            })),
            Key::Node(node) => self.nodes.get(node).map(encode),
            Key::Module(module) => self.modules.get(module).map(|module| encode(&module.about)),
            Key::Slot(module, slot) => self.slot(module, *slot).map(|state| {
                encode(&SlotRow {
                    owner: state.owner,
                    next: state.next,
                    token: state.token,
                })
            }),
            Key::Resource(module, id) => self.resource(module, id).map(encode),
        }
    }

    /// Rebuilds a state from all its rows, in any order.
    ///
    /// # Errors
    /// When a row cannot be read, or belongs to nothing.
    pub fn from_rows(
        rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, CorruptRow> {
        let mut state = Self::default();
        let mut abouts: BTreeMap<ModuleName, ModuleAbout> = BTreeMap::new();
        let mut slots: Vec<(ModuleName, Slot, SlotRow)> = Vec::new();
        let mut resources: Vec<(ModuleName, ResourceId, Resource)> = Vec::new();
        for (key, value) in rows {
            let key = Key::from_bytes(&key)?;
            match &key {
                Key::Cluster => {
                    let row: ClusterRow = decode(&key, &value)?;
                    (state.cluster, state.epoch) = (row.cluster, row.epoch);
                }
                Key::Node(node) => {
                    state.nodes.insert(*node, decode(&key, &value)?);
                }
                Key::Module(module) => {
                    abouts.insert(module.clone(), decode(&key, &value)?);
                }
                Key::Slot(module, slot) => {
                    slots.push((module.clone(), *slot, decode(&key, &value)?));
                }
                Key::Resource(module, id) => {
                    resources.push((module.clone(), id.clone(), decode(&key, &value)?));
                }
            }
        }
        for (name, about) in abouts {
            let module = Module {
                about,
                resources: BTreeMap::new(),
                slots: BTreeMap::new(),
            };
            state.modules.insert(name, module);
        }
        let orphan = |key: Key| CorruptRow {
            row: format!("{key:?}"),
            source: None,
        };
        for (name, slot, SlotRow { owner, next, token }) in slots {
            let module = state.modules.get_mut(&name);
            let module = module.ok_or_else(|| orphan(Key::Slot(name, slot)))?;
            let resources = BTreeSet::new();
            module.slots.insert(
                slot,
                SlotState {
                    owner,
                    next,
                    token,
                    resources,
                },
            );
        }
        for (name, id, resource) in resources {
            let module = state.modules.get_mut(&name);
            let found = module.and_then(|m| Some((&mut m.resources, m.slots.get_mut(&id.slot())?)));
            let (resources, slot) = found.ok_or_else(|| orphan(Key::Resource(name, id.clone())))?;
            slot.resources.insert(id.clone());
            resources.insert(id, resource);
        }
        Ok(state)
    }

    /// The keys of all rows.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        let modules = self.modules.iter().flat_map(|(name, module)| {
            std::iter::once(Key::Module(name.clone()))
                .chain(
                    module
                        .slots
                        .keys()
                        .map(|slot| Key::Slot(name.clone(), *slot)),
                )
                .chain(
                    module
                        .resources
                        .keys()
                        .map(|id| Key::Resource(name.clone(), id.clone())),
                )
        });
        std::iter::once(Key::Cluster)
            .chain(self.nodes.keys().map(|id| Key::Node(*id)))
            .chain(modules)
    }
}

fn decode<T: DeserializeOwned>(key: &Key, value: &[u8]) -> Result<T, CorruptRow> {
    codec::decode(value).map_err(|source| CorruptRow {
        row: format!("{key:?}"),
        source: Some(source),
    })
}
