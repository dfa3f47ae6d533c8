//! `wasi:config/store`: the module's `config`.

use wasmtime::{
    StoreContextMut,
    component::{ComponentType, Linker, Lower},
};

use crate::state::State;

/// The names under which the interface goes about. All have the same shape.
pub(crate) const NAMES: [&str; 3] = [
    "wasi:config/store@0.2.0-rc.1",
    "wasi:config/store@0.2.0-draft-2024-09-27",
    "wasi:config/store@0.2.0-draft",
];

pub(crate) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    for name in NAMES {
        let mut store = linker.instance(name)?;
        store.func_wrap("get", get)?;
        store.func_wrap("get-all", get_all)?;
    }
    Ok(())
}

type Found<T> = wasmtime::Result<(Result<T, Error>,)>;

fn get(store: StoreContextMut<'_, State>, (key,): (String,)) -> Found<Option<String>> {
    Ok((Ok(store.data().grounds.config.get(&key).cloned()),))
}

fn get_all(store: StoreContextMut<'_, State>, (): ()) -> Found<Vec<(String, String)>> {
    let config = &store.data().grounds.config;
    let all = config.iter().map(|(k, v)| (k.clone(), v.clone()));
    Ok((Ok(all.collect()),))
}

/// `store.error`. Settings are in memory: neither happens here, but both are part of the type.
#[derive(ComponentType, Lower)]
#[component(variant)]
#[expect(
    dead_code,
    reason = "the cases make the type, and reading from memory never fails"
)]
enum Error {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}
