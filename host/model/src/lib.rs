//! The words of Holdfast as types: identifiers, module settings, and what the HTTP API says.
//!
//! Everything is parsed at the edge: a value of one of these types is valid. Nothing here does
//! IO, reads a clock or knows any other crate of the project.

pub mod api;
pub mod call;
pub mod id;
pub mod json;
pub mod module;
pub mod node;
pub mod resource;
mod schema;

pub use id::{
    ClusterId, ClusterName, Epoch, Incarnation, InvalidName, InvalidResourceId, LabelKey,
    LabelValue, ModuleName, NodeId, ResourceId, Slot, Token, Zone,
};
pub use module::{Digest, Lane, Limits, OnLostQuorum, Settings};
pub use node::{InvalidLabel, InvalidLabels, InvalidWeight, Label, Labels, Weight};
pub use resource::{ResourceKey, Spec};
