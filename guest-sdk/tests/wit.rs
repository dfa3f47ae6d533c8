//! The interfaces in `wit/` are one package that parses, with every item documented.

use std::path::Path;

use wit_parser::{Resolve, TypeDefKind, WorldItem};

#[test]
fn the_interfaces_are_one_package_with_a_world_for_each_choice_of_exports() {
    let (resolve, package) = parse();
    let package = &resolve.packages[package];
    assert_eq!(package.name.to_string(), "holdfast:handler@0.1.0");
    let worlds: Vec<_> = package.worlds.keys().collect();
    assert_eq!(worlds, ["handler", "invocable"]);

    let exports = |world: &str| -> Vec<_> {
        let world = &resolve.worlds[package.worlds[world]];
        let keys = world.exports.keys();
        keys.map(|key| resolve.name_world_key(key)).collect()
    };
    assert_eq!(
        exports("handler"),
        ["holdfast:handler/resource-handler@0.1.0"]
    );
    assert_eq!(exports("invocable"), ["holdfast:handler/invocation@0.1.0"]);
}

#[test]
fn every_item_of_ours_is_documented() {
    let (resolve, package) = parse();
    let mut bare = Vec::new();
    let mut check = |docs: &wit_parser::Docs, name: String| {
        if docs.contents.is_none() {
            bare.push(name);
        }
    };
    let package = &resolve.packages[package];
    for (name, world) in &package.worlds {
        let world = &resolve.worlds[*world];
        check(&world.docs, format!("world {name}"));
        for (key, item) in world.imports.iter().chain(&world.exports) {
            // What an import brings along has its documentation where it is declared.
            let named =
                matches!(item, WorldItem::Interface { docs, .. } if docs.contents.is_some());
            let ours = resolve.name_world_key(key).starts_with("holdfast:");
            assert!(named || !ours || world.exports.contains_key(key), "{key:?}");
        }
    }
    for (name, interface) in &package.interfaces {
        let interface = &resolve.interfaces[*interface];
        check(&interface.docs, format!("interface {name}"));
        for (function, item) in &interface.functions {
            check(&item.docs, format!("{name}.{function}"));
        }
        for (typename, item) in &interface.types {
            let item = &resolve.types[*item];
            check(&item.docs, format!("{name}.{typename}"));
            let member = |member: &str| format!("{name}.{typename}.{member}");
            match &item.kind {
                TypeDefKind::Record(record) => {
                    let fields = record.fields.iter();
                    fields.for_each(|field| check(&field.docs, member(&field.name)));
                }
                TypeDefKind::Variant(variant) => {
                    let cases = variant.cases.iter();
                    cases.for_each(|case| check(&case.docs, member(&case.name)));
                }
                TypeDefKind::Enum(choice) => {
                    let cases = choice.cases.iter();
                    cases.for_each(|case| check(&case.docs, member(&case.name)));
                }
                _ => {}
            }
        }
    }
    assert!(bare.is_empty(), "without documentation: {bare:?}");
}

fn parse() -> (Resolve, wit_parser::PackageId) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(folder).expect("`wit/` parses");
    (resolve, package)
}
