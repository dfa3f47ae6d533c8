//! What the examples import and export once they are components: exactly what their handlers use.

use std::collections::BTreeSet;

use holdfast_tests::component::build;
use wit_component::DecodedWasm;

#[test]
fn a_handler_that_makes_no_request_imports_no_http() {
    let [counter, webhook] = ["counter", "webhook"].map(|package| decode(&build(package)));
    assert!(!names_package(&counter.imports, "wasi:http"));
    assert!(names_package(&webhook.imports, "wasi:http"));
    for component in [&counter, &webhook] {
        assert!(names_package(&component.imports, "wasi:logging"));
        for refused in ["wasi:sockets", "wasi:filesystem"] {
            assert!(!names_package(&component.imports, refused), "{refused}");
        }
    }
}

#[test]
fn a_component_exports_the_interfaces_that_are_named_and_no_other() {
    let counter = decode(&build("counter"));
    assert_eq!(
        counter.exports,
        [
            "holdfast:handler/invocation@0.1.0",
            "holdfast:handler/resource-handler@0.1.0"
        ]
        .map(String::from)
        .into()
    );
}

struct Component {
    imports: BTreeSet<String>,
    exports: BTreeSet<String>,
}

fn names_package(interfaces: &BTreeSet<String>, package: &str) -> bool {
    interfaces
        .iter()
        .any(|interface| interface.split('/').next() == Some(package))
}

fn decode(bytes: &[u8]) -> Component {
    let DecodedWasm::Component(resolve, world) =
        wit_component::decode(bytes).expect("what was built is Wasm")
    else {
        panic!("a WIT package, not a component");
    };
    let world = &resolve.worlds[world];
    let names = |keys: Vec<_>| {
        keys.into_iter()
            .map(|key| resolve.name_world_key(key))
            .collect()
    };
    Component {
        imports: names(world.imports.keys().collect()),
        exports: names(world.exports.keys().collect()),
    }
}
