//! What can be told of a component by reading it once, before anything of it is compiled.
//!
//! Compiling is what costs: a component of 4 MB can ask for gigabytes and half a minute. So what is
//! refused anyway is refused here, in milliseconds: one that lacks the handler's interface or imports what
//! there is not, and one that has more parts than handlers of any language have. What is let through is
//! not valid yet.

use wasmparser::{
    BinaryReaderError, ComponentExternName, FromReader, Parser, Payload, SectionLimited, Validator,
    WasmFeatures,
};

use super::LoadError;
use crate::{bindings::RESOURCE_HANDLER, capability};

/// Counts over a component and all that is nested in it.
#[derive(Default)]
struct Counts {
    depth: u64,
    imports: Vec<String>,
    exports: Vec<String>,
    functions: u64,
    types: u64,
    items: u64,
    parts: u64,
    segments: u64,
}

/// Reads the component through.
pub(crate) fn screen(component: &[u8]) -> Result<(), LoadError> {
    let mut counts = Counts::default();
    for payload in Parser::new(0).parse_all(component) {
        counts.count(&payload.map_err(|error| malformed(&error))?)?;
    }
    let unknown = |name: &String| !capability::is_known(name);
    let unknown: Vec<String> = counts.imports.into_iter().filter(unknown).collect();
    if !unknown.is_empty() {
        return Err(LoadError::UnknownImports(unknown));
    }
    if !counts.exports.iter().any(|name| is_handler(name)) {
        // What cannot be read at all says more than what it lacks.
        let features = WasmFeatures::default().difference(WasmFeatures::CM_ASYNC);
        let valid = Validator::new_with_features(features).validate_all(component);
        valid.map_err(|error| LoadError::malformed_text(error.to_string()))?;
        return Err(LoadError::MissingExport {
            found: counts.exports,
        });
    }
    Ok(())
}

impl Counts {
    fn count(&mut self, payload: &Payload<'_>) -> Result<(), LoadError> {
        match payload {
            Payload::Version { .. } => {
                self.depth += 1;
                self.parts += 1;
                within("levels of nesting", self.depth, DEPTH_MAX)?;
                within("modules and components", self.parts, PARTS_MAX)
            }
            Payload::End(_) => {
                self.depth = self.depth.saturating_sub(1);
                Ok(())
            }
            Payload::CodeSectionEntry(body) => {
                self.functions += 1;
                within("functions", self.functions, FUNCTIONS_MAX)?;
                let len = body.range().len() as u64;
                within("bytes in one function", len, FUNCTION_BYTES_MAX)
            }
            Payload::TypeSection(section) => self.types(section),
            Payload::CoreTypeSection(section) => self.types(section),
            Payload::ComponentTypeSection(section) => self.types(section),
            Payload::DataSection(section) => self.segments(section),
            Payload::ElementSection(section) => self.segments(section),
            Payload::ImportSection(section) => self.items(section),
            Payload::FunctionSection(section) => self.items(section),
            Payload::TableSection(section) => self.items(section),
            Payload::MemorySection(section) => self.items(section),
            Payload::TagSection(section) => self.items(section),
            Payload::GlobalSection(section) => self.items(section),
            Payload::ExportSection(section) => self.items(section),
            Payload::InstanceSection(section) => self.items(section),
            Payload::ComponentInstanceSection(section) => self.items(section),
            Payload::ComponentAliasSection(section) => self.items(section),
            Payload::ComponentCanonicalSection(section) => self.items(section),
            Payload::ComponentImportSection(section) => {
                self.items(section)?;
                if self.depth == 1 {
                    let imports = section.clone().into_iter();
                    let names = imports.map(|import| import.map(|import| named(&import.name)));
                    self.imports.extend(collected(names)?);
                }
                Ok(())
            }
            Payload::ComponentExportSection(section) => {
                self.items(section)?;
                if self.depth == 1 {
                    let exports = section.clone().into_iter();
                    let names = exports.map(|export| export.map(|export| named(&export.name)));
                    self.exports.extend(collected(names)?);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn types<'a, T: FromReader<'a>>(
        &mut self,
        section: &SectionLimited<'a, T>,
    ) -> Result<(), LoadError> {
        self.types += u64::from(section.count());
        within("types", self.types, TYPES_MAX)
    }

    fn segments<'a, T: FromReader<'a>>(
        &mut self,
        section: &SectionLimited<'a, T>,
    ) -> Result<(), LoadError> {
        self.segments += u64::from(section.count());
        within("segments of data and elements", self.segments, SEGMENTS_MAX)
    }

    fn items<'a, T: FromReader<'a>>(
        &mut self,
        section: &SectionLimited<'a, T>,
    ) -> Result<(), LoadError> {
        self.items += u64::from(section.count());
        within("imports, exports and definitions", self.items, ITEMS_MAX)
    }
}

fn within(what: &'static str, count: u64, max: u64) -> Result<(), LoadError> {
    if count <= max {
        return Ok(());
    }
    Err(LoadError::TooManyParts { what, count, max })
}

fn named(name: &ComponentExternName<'_>) -> String {
    name.name.to_owned()
}

fn collected(
    names: impl Iterator<Item = Result<String, BinaryReaderError>>,
) -> Result<Vec<String>, LoadError> {
    names
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(&error))
}

/// Whether it is the handler's interface, of this version or a patch of it.
fn is_handler(name: &str) -> bool {
    let minor = |name: &str| name.rsplit_once('.').map(|(minor, _)| minor.to_owned());
    minor(name) == minor(RESOURCE_HANDLER)
}

fn malformed(error: &BinaryReaderError) -> LoadError {
    LoadError::Malformed {
        detail: error.message().to_owned(),
        offset: Some(error.offset() as u64),
    }
}

/// Functions of all modules together. An interpreter of JavaScript or Python has some 30,000; empty
/// ones cost the compiler 8 KiB each.
const FUNCTIONS_MAX: u64 = 65_536;
/// The largest known, the loop of an interpreter, has some 200 KB.
const FUNCTION_BYTES_MAX: u64 = 4 << 20;
const TYPES_MAX: u64 = 32_768;
const ITEMS_MAX: u64 = 262_144;
const SEGMENTS_MAX: u64 = 65_536;
/// Modules and components in one another and beside one another. A component of an interpreted
/// language has about twenty.
const PARTS_MAX: u64 = 512;
const DEPTH_MAX: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(wat: &str) -> (&'static str, u64) {
        match screen(&wat::parse_str(wat).unwrap()) {
            Err(LoadError::TooManyParts { what, max, .. }) => (what, max),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn more_parts_than_any_handler_has_are_refused() {
        let functions = "(func)".repeat(65_537);
        let wat = format!("(component (core module {functions}))");
        assert_eq!(refusal(&wat), ("functions", FUNCTIONS_MAX));
        let types: String = (0..32_769).map(|_| "(type (func))").collect();
        let wat = format!("(component (core module {types}))");
        assert_eq!(refusal(&wat), ("types", TYPES_MAX));
        let data = "(data \"\")".repeat(65_537);
        let wat = format!("(component (core module (memory 1) {data}))");
        assert_eq!(
            refusal(&wat),
            ("segments of data and elements", SEGMENTS_MAX)
        );
        let nested = format!("{}{}", "(component ".repeat(17), ")".repeat(17));
        assert_eq!(refusal(&nested), ("levels of nesting", DEPTH_MAX));
        let many = format!("(component {})", "(core module)".repeat(512));
        assert_eq!(refusal(&many), ("modules and components", PARTS_MAX));
    }

    #[test]
    fn patches_of_the_interface_fit() {
        for (name, fits) in [
            ("holdfast:handler/resource-handler@0.1.0", true),
            ("holdfast:handler/resource-handler@0.1.9", true),
            ("holdfast:handler/resource-handler@0.2.0", false),
            ("holdfast:handler/resource-handler", false),
            ("a:b/c@0.1.0", false),
        ] {
            assert_eq!(is_handler(name), fits, "{name}");
        }
    }
}
