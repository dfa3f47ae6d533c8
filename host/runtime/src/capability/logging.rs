//! `wasi:logging/logging`: messages to the node's log, with module and resource added.

use wasmtime::{StoreContextMut, component::Linker};

use crate::{journal::Level, state::State};

/// The names under which the interface goes about. All have the same shape.
pub(crate) const NAMES: [&str; 2] = ["wasi:logging/logging@0.1.0-draft", "wasi:logging/logging"];

pub(crate) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    for name in NAMES {
        linker.instance(name)?.func_wrap("log", log)?;
    }
    Ok(())
}

fn log(
    mut store: StoreContextMut<'_, State>,
    (level, context, message): (Level, String, String),
) -> wasmtime::Result<()> {
    store.data_mut().journal().log(level, &context, &message);
    Ok(())
}
