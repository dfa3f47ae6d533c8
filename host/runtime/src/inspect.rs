//! What a component is, before any of it runs: its envelope, imports, exports and size.
//!
//! Every error says what is wrong, where, and what to do, to someone who wrote the handler.

use std::time::Duration;

use holdfast_model::{Digest, Lane, Settings};
use wasmtime::component::{Component, ComponentExportIndex, types::ComponentItem};

use crate::{
    bindings::{
        HANDLE_SIGNATURE, INVOCATION, INVOKE_SIGNATURE, RESOURCE_HANDLER, TERMINATE_SIGNATURE,
    },
    capability,
    failure::Failure,
    memory::PARTS_MAX,
};

mod screen;
mod signature;

pub(crate) use self::screen::screen;

/// Why a component cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is too large.
    #[error("the component has {len} bytes; the node takes at most {max}")]
    TooLarge {
        /// Its size in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The bytes are not those of the digest.
    #[error("the component's digest is {found}, not {expected}")]
    WrongDigest {
        /// The digest it was named by.
        expected: Digest,
        /// The digest of its bytes.
        found: Digest,
    },
    /// It is no WebAssembly at all.
    #[error(
        "this is no WebAssembly: {}",
        if begins.is_empty() { "it is empty".to_owned() } else { format!("at offset 0 it has {begins:02x?} instead of [00, 61, 73, 6d]") }
    )]
    NotWasm {
        /// Its first bytes, four at most.
        begins: Vec<u8>,
    },
    /// It is a core module.
    #[error(
        "this is a core module, not a component; build the handler as a `cdylib` for the target \
         wasm32-wasip2, or wrap the module with `wasm-tools component new`"
    )]
    CoreModule,
    /// It uses what the component model has for asynchronous functions.
    #[error(
        "the component uses async functions, streams or futures of the component model (WASI 0.3), \
         and nodes run components of WASI 0.2: {}; {detail}{}",
        BUILD_WITHOUT_ASYNC,
        at(.offset)
    )]
    Async {
        /// What it uses.
        detail: String,
        /// Where in the file, in bytes.
        offset: Option<u64>,
    },
    /// It is no valid component.
    #[error("the component is not valid{}: {detail}", at(.offset))]
    Malformed {
        /// What is wrong.
        detail: String,
        /// Where in the file, in bytes.
        offset: Option<u64>,
    },
    /// Compiling it takes too long.
    #[error("compiling the component took more than {} s", .0.as_secs())]
    CompileTimeout(Duration),
    /// Other components are being compiled.
    #[error("other components kept the compiler busy for {} s; try again later", .0.as_secs())]
    CompilerBusy(Duration),
    /// Compiling it takes too much memory.
    #[error("compiling the component took more than {max} bytes of memory")]
    CompilerOutOfMemory {
        /// The limit in bytes.
        max: u64,
    },
    /// The compiler could not be run here: the node's own fault.
    #[error("the compiler could not be run: {0}")]
    CompilerNotRun(String),
    /// The compiled form could not be written: the node's own fault.
    #[error("the compiled component could not be kept: {0}")]
    NotKept(String),
    /// The compiler itself failed.
    #[error("the compiler failed on this component: {0}")]
    CompilerPanicked(String),
    /// The system refused what loading it needs: memory, mappings, file descriptors or threads. That
    /// says nothing against the component.
    #[error("the system refused what loading the component needs: {0}")]
    System(String),
    /// It imports interfaces, or functions of known interfaces, that the node does not have. All
    /// of them are named.
    #[error(
        "the component imports what handlers cannot have: {}{}",
        .0.join(", "),
        for_wasi_0_3(.0)
    )]
    UnknownImports(Vec<String>),
    /// It does not export `resource-handler`.
    #[error("the component does not export `{RESOURCE_HANDLER}`; it exports {}", list(.found))]
    MissingExport {
        /// The names that it exports.
        found: Vec<String>,
    },
    /// A function of an interface has another signature, or is absent.
    #[error("`{function}` of `{interface}` must be `{expected}`; the component has `{found}`")]
    WrongSignature {
        /// The exported interface.
        interface: &'static str,
        /// The function.
        function: &'static str,
        /// What it has to be, in WIT.
        expected: &'static str,
        /// What it is, in WIT.
        found: String,
    },
    /// Its imports do not fit the node's interfaces.
    #[error("the component's imports do not fit: {0}")]
    Link(String),
    /// It has too many parts.
    #[error("the component has {count} {what}; at most {max} are allowed")]
    TooManyParts {
        /// Which parts.
        what: &'static str,
        /// How many it has.
        count: u64,
        /// How many it may have.
        max: u64,
    },
    /// It begins with more memory than an instance may have.
    #[error(
        "an instance begins with {needed} bytes of memory and tables; limits.memory_bytes_max is \
         {limit}"
    )]
    MemoryAboveLimit {
        /// What it begins with, in bytes.
        needed: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Its start function failed.
    #[error("the component cannot be started")]
    Start(#[source] Failure),
}

impl LoadError {
    pub(crate) fn malformed(error: &wasmtime::Error) -> Self {
        Self::malformed_text(error.root_cause().to_string())
    }

    /// Reads what wasmtime says about a component.
    pub(crate) fn malformed_text(detail: String) -> Self {
        // As the standard library and rustix write what a system call answered.
        if detail.contains("(os error ") {
            return Self::System(detail);
        }
        let (detail, offset) = match detail.rsplit_once("(at offset 0x") {
            None => (detail, None),
            Some((text, offset)) => {
                let offset = u64::from_str_radix(offset.trim_end_matches(')'), 16);
                (text.trim_end().to_owned(), offset.ok())
            }
        };
        match detail.contains("component model async") {
            true => Self::Async { detail, offset },
            false => Self::Malformed { detail, offset },
        }
    }
}

/// What to do about a component with `async`, in each language.
const BUILD_WITHOUT_ASYNC: &str = "build it with plain `func` exports: in Rust for the target \
                                   wasm32-wasip2, without `async` in wit-bindgen; in Python and \
                                   JavaScript with `def` and functions that are not `async`, and \
                                   the WIT of WASI 0.2";

fn at(offset: &Option<u64>) -> String {
    offset.map_or_else(String::new, |offset| format!(" at byte {offset}"))
}

/// The remedy where what is unknown is of the next WASI.
fn for_wasi_0_3(imports: &[String]) -> String {
    let is_next = |name: &String| name.starts_with("wasi:") && name.contains("@0.3");
    match imports.iter().any(is_next) {
        true => format!("; it is built for WASI 0.3, and nodes have 0.2: {BUILD_WITHOUT_ASYNC}"),
        false => String::new(),
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "nothing".to_owned();
    }
    names.join(", ")
}

/// Checks what can be told from the first bytes.
pub(crate) fn envelope(bytes: &[u8], bytes_max: u64) -> Result<(), LoadError> {
    let len = bytes.len() as u64;
    if len > bytes_max {
        return Err(LoadError::TooLarge {
            len,
            max: bytes_max,
        });
    }
    match bytes {
        [b'\0', b'a', b's', b'm', _, _, 0, 0, ..] => Err(LoadError::CoreModule),
        [b'\0', b'a', b's', b'm', ..] => Ok(()),
        _ => Err(LoadError::NotWasm {
            begins: bytes[..bytes.len().min(4)].to_vec(),
        }),
    }
}

/// What a component has to do with its host.
pub(crate) struct Found {
    pub(crate) imports: Vec<String>,
    pub(crate) handle: Export,
    pub(crate) terminate: Export,
    pub(crate) invoke: Option<Export>,
}

/// An exported function.
pub(crate) struct Export {
    pub(crate) index: ComponentExportIndex,
    interface: &'static str,
    function: &'static str,
    expected: &'static str,
    /// Its own signature.
    found: String,
}

impl Export {
    pub(crate) fn wrong_signature(&self) -> LoadError {
        LoadError::WrongSignature {
            interface: self.interface,
            function: self.function,
            expected: self.expected,
            found: self.found.clone(),
        }
    }
}

impl Found {
    /// The lane of calls: as set, or the cheapest that can do what is imported and granted.
    pub(crate) fn lane(&self, settings: &Settings) -> Lane {
        let http = self
            .imports
            .iter()
            .any(|name| name.starts_with("wasi:http/outgoing-handler@"));
        settings.lane.unwrap_or({
            if http && !settings.grants.http.is_empty() {
                Lane::Fiber
            } else {
                Lane::Direct
            }
        })
    }
}

/// Looks at imports and exports. Signatures are compared later, on an instance.
pub(crate) fn component(component: &Component) -> Result<Found, LoadError> {
    let (ty, engine) = (component.component_type(), component.engine());
    let names = |(name, _): (&str, _)| name.to_owned();
    let imports: Vec<String> = ty.imports(engine).map(names).collect();
    let unknown: Vec<String> = imports
        .iter()
        .filter(|name| !capability::is_known(name))
        .cloned()
        .collect();
    if !unknown.is_empty() {
        return Err(LoadError::UnknownImports(unknown));
    }
    parts(component)?;
    let handler = component.get_export_index(None, RESOURCE_HANDLER);
    let Some(handler) = handler else {
        return Err(LoadError::MissingExport {
            found: ty.exports(engine).map(names).collect(),
        });
    };
    let find =
        |interface, function, expected| export(component, &handler, interface, function, expected);
    let invocation = component.get_export_index(None, INVOCATION);
    Ok(Found {
        handle: find(RESOURCE_HANDLER, "handle", HANDLE_SIGNATURE)?,
        terminate: find(RESOURCE_HANDLER, "terminate", TERMINATE_SIGNATURE)?,
        invoke: invocation
            .map(|at| export(component, &at, INVOCATION, "invoke", INVOKE_SIGNATURE))
            .transpose()?,
        imports,
    })
}

fn parts(component: &Component) -> Result<(), LoadError> {
    let max = PARTS_MAX as u64;
    // None: its core modules are imported, which `UnknownImports` has refused.
    let Some(required) = component.resources_required() else {
        return Ok(());
    };
    for (what, count) in [
        ("memories", required.num_memories),
        ("tables", required.num_tables),
    ] {
        let count = u64::from(count);
        if count > max {
            return Err(LoadError::TooManyParts { what, count, max });
        }
    }
    Ok(())
}

fn export(
    component: &Component,
    instance: &ComponentExportIndex,
    interface: &'static str,
    function: &'static str,
    expected: &'static str,
) -> Result<Export, LoadError> {
    match component.get_export(Some(instance), function) {
        Some((ComponentItem::ComponentFunc(ty), index)) => Ok(Export {
            index,
            interface,
            function,
            expected,
            found: signature::of(&ty),
        }),
        other => Err(LoadError::WrongSignature {
            interface,
            function,
            expected,
            found: if other.is_some() {
                "no function"
            } else {
                "nothing"
            }
            .to_owned(),
        }),
    }
}
