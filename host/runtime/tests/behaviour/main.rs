//! What handlers can do to a node, and what a node does with handlers.

mod containment;
mod effects;
mod fence;
mod loading;
mod support;
