//! What guests may import: one module per capability.
//!
//! Invariant: every interface named in [`KNOWN`] is linked in both lanes, and nothing else is.
//! What is known but not granted is linked to an implementation that denies access, because
//! components of JavaScript and Python import their whole world.

use holdfast_model::Lane;
use wasmtime::{
    Engine,
    component::{Component, Linker, types::ComponentItem},
};

use crate::state::State;

pub(crate) mod config;
pub(crate) mod http;
pub(crate) mod logging;
pub(crate) mod plain;
pub(crate) mod stdio;

/// Everything that a guest of this lane may import.
pub(crate) fn linker(engine: &Engine, lane: Lane) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    plain::link(&mut linker, lane)?;
    http::link(&mut linker)?;
    logging::link(&mut linker)?;
    config::link(&mut linker)?;
    Ok(linker)
}

/// Whether an import of this name is linked.
pub(crate) fn is_known(import: &str) -> bool {
    if DRAFTS.contains(&import) {
        return true;
    }
    // Releases of one minor version are compatible; prereleases are with nothing else.
    let Some((interface, version)) = import.split_once('@') else {
        return false;
    };
    let patch = version.strip_prefix("0.2.");
    let is_release = patch.is_some_and(|patch| patch.parse::<u32>().is_ok());
    is_release && KNOWN.contains(&interface)
}

/// All functions of known interfaces that the component imports and the linker does not have, as
/// `interface#function`.
pub(crate) fn missing(linker: &Linker<State>, component: &Component) -> Vec<String> {
    let (ty, engine) = (component.component_type(), component.engine());
    let mut linker = linker.clone();
    let mut missing = Vec::new();
    for (import, item) in ty.imports(engine) {
        let ComponentItem::ComponentInstance(interface) = item.ty else {
            continue;
        };
        let linked = match import.split_once('@') {
            Some((name, _)) if KNOWN.contains(&name) => format!("{name}@{RELEASE}"),
            _ => import.to_owned(),
        };
        let Ok(mut instance) = linker.instance(&linked) else {
            continue;
        };
        for (function, item) in interface.exports(engine) {
            let is_function = matches!(item.ty, ComponentItem::ComponentFunc(_));
            // A linker cannot be asked what it has, but it takes no name twice.
            if is_function && instance.func_new(function, |_, _, _, _| Ok(())).is_ok() {
                missing.push(format!("{import}#{function}"));
            }
        }
    }
    missing
}

/// The release of WASI 0.2 under which its interfaces are linked.
const RELEASE: &str = "0.2.12";

/// Interfaces of WASI 0.2 that are linked.
const KNOWN: [&str; 29] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// Names without a release: each one is linked by itself.
const DRAFTS: [&str; 5] = [
    logging::NAMES[0],
    logging::NAMES[1],
    config::NAMES[0],
    config::NAMES[1],
    config::NAMES[2],
];
