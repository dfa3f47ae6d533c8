//! The interfaces in `wit/` are one package that parses, with every item documented, of the shape
//! that `wit.golden` says: what changes it shows there, for every handler depends on it.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use wit_parser::{
    Docs, Function, Interface, Resolve, Type, TypeDef, TypeDefKind, TypeId, World, WorldItem,
};

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
    let items = items(&resolve, package);
    assert_eq!(bare(&items), [""; 0], "without documentation");
    // Once resolved, an import that stands in the text looks like those that it brings along.
    let text = fs::read_to_string(folder().join("world.wit")).expect("the worlds are in a file");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    for pair in lines.windows(2) {
        let is_bare = pair[1].starts_with("import ") && !pair[0].starts_with("///");
        assert!(!is_bare, "without documentation: {}", pair[1]);
    }
}

#[test]
fn an_item_without_documentation_is_found_wherever_it_is() {
    let mut resolve = Resolve::default();
    let wit = "package holdfast:handler@0.1.0;
        interface i {
            record r { a: u8 }
            variant v { b, c(r) }
            enum e { d }
            flags f { g }
            type t = list<u8>;
            resource s { h: func(); }
            k: func(x: r) -> option<e>;
        }
        world w { import l: func(); export i; }";
    let package = resolve.push_str("it.wit", wit).expect("it parses");
    let items = items(&resolve, package);
    let expected = "interface i|i: enum e|i: enum e.d|i: flags f|i: flags f.g|\
         i: func [method]s.h(self: borrow<s>)|i: func k(x: r) -> option<e>|\
         i: record r|i: record r.a: u8|i: resource s|i: type t = list<u8>|\
         i: variant v|i: variant v.b|i: variant v.c(r)|w: export holdfast:handler/i@0.1.0|world w|w: import l()";
    let mut expected: Vec<_> = expected.split('|').collect();
    expected.sort_unstable();
    assert_eq!(bare(&items), expected);
}

/// To accept a change: `BLESS=1 cargo test -p holdfast-guest --test wit`.
#[test]
fn the_shape_of_the_package_is_the_golden_one() {
    let (resolve, package) = parse();
    let mut shape = String::new();
    for item in items(&resolve, package) {
        writeln!(shape, "{}", item.text).expect("a string takes it");
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wit.golden");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&golden, &shape).expect("the golden file can be written");
    }
    let expected = fs::read_to_string(&golden).expect("the golden file is there");
    assert_eq!(
        shape, expected,
        "the interfaces changed. Handlers in use were built with the former ones; if it is meant, \
         accept it: BLESS=1 cargo test -p holdfast-guest --test wit"
    );
}

/// Something of the package that people read about.
struct Item {
    /// What it is, where, and of which types.
    text: String,
    documented: bool,
}

fn bare(items: &[Item]) -> Vec<&str> {
    let bare = items.iter().filter(|item| !item.documented);
    let mut bare: Vec<_> = bare.map(|item| item.text.as_str()).collect();
    bare.sort_unstable();
    bare
}

/// Every item that is declared in the package.
fn items(resolve: &Resolve, package: wit_parser::PackageId) -> Vec<Item> {
    let mut items = Items {
        resolve,
        found: Vec::new(),
    };
    let package = &resolve.packages[package];
    for (name, interface) in &package.interfaces {
        items.interface(name, &resolve.interfaces[*interface]);
    }
    for (name, world) in &package.worlds {
        items.world(name, &resolve.worlds[*world], package);
    }
    items.found
}

struct Items<'a> {
    resolve: &'a Resolve,
    found: Vec<Item>,
}

impl Items<'_> {
    fn add(&mut self, docs: &Docs, text: String) {
        let words = docs.contents.as_deref().unwrap_or_default();
        self.found.push(Item {
            text,
            documented: !words.trim().is_empty(),
        });
    }

    fn interface(&mut self, name: &str, interface: &Interface) {
        self.add(&interface.docs, format!("interface {name}"));
        for (typename, id) in &interface.types {
            self.definition(name, typename, &self.resolve.types[*id]);
        }
        for function in interface.functions.values() {
            let text = format!("{name}: func {}", self.signature(function));
            self.add(&function.docs, text);
        }
    }

    fn definition(&mut self, place: &str, name: &str, definition: &TypeDef) {
        let kind = definition.kind.as_str();
        let head = match &definition.kind {
            TypeDefKind::Record(_)
            | TypeDefKind::Variant(_)
            | TypeDefKind::Enum(_)
            | TypeDefKind::Flags(_)
            | TypeDefKind::Resource => format!("{place}: {kind} {name}"),
            alias => format!("{place}: type {name} = {}", self.kind(alias)),
        };
        self.add(&definition.docs, head.clone());
        match &definition.kind {
            TypeDefKind::Record(record) => {
                for field in &record.fields {
                    let text = format!("{head}.{}: {}", field.name, self.name(&field.ty));
                    self.add(&field.docs, text);
                }
            }
            TypeDefKind::Variant(variant) => {
                for case in &variant.cases {
                    let payload = case.ty.as_ref().map(|ty| format!("({})", self.name(ty)));
                    let payload = payload.unwrap_or_default();
                    self.add(&case.docs, format!("{head}.{}{payload}", case.name));
                }
            }
            TypeDefKind::Enum(choice) => {
                for case in &choice.cases {
                    self.add(&case.docs, format!("{head}.{}", case.name));
                }
            }
            TypeDefKind::Flags(flags) => {
                for flag in &flags.flags {
                    self.add(&flag.docs, format!("{head}.{}", flag.name));
                }
            }
            _ => {}
        }
    }

    fn world(&mut self, name: &str, world: &World, package: &wit_parser::Package) {
        self.add(&world.docs, format!("world {name}"));
        let imports = world.imports.iter().map(|item| ("import", item));
        let exports = world.exports.iter().map(|item| ("export", item));
        for (verb, (key, item)) in imports.chain(exports) {
            let key = self.resolve.name_world_key(key);
            match item {
                WorldItem::Interface { id, docs, .. } => {
                    let text = format!("{name}: {verb} {key}");
                    let declared = &self.resolve.interfaces[*id];
                    let is_ours = package.interfaces.values().any(|ours| ours == id);
                    // An interface of ours says what it is for where it is declared; one of others
                    // has its words here, unless another import has brought it along.
                    let docs = if is_ours { &declared.docs } else { docs };
                    if is_ours || docs.contents.is_some() {
                        self.add(docs, text);
                    }
                }
                WorldItem::Function(function) => {
                    let text = format!("{name}: {verb} {}", self.signature(function));
                    self.add(&function.docs, text);
                }
                WorldItem::Type { id, .. } => {
                    self.definition(name, &key, &self.resolve.types[*id]);
                }
            }
        }
    }

    fn signature(&self, function: &Function) -> String {
        let params = function.params.iter();
        let params = params.map(|param| format!("{}: {}", param.name, self.name(&param.ty)));
        let params = params.collect::<Vec<_>>().join(", ");
        match &function.result {
            Some(result) => format!("{}({params}) -> {}", function.name, self.name(result)),
            None => format!("{}({params})", function.name),
        }
    }

    fn name(&self, ty: &Type) -> String {
        match ty {
            Type::Id(id) => self.definition_name(*id),
            primitive => format!("{primitive:?}").to_lowercase(),
        }
    }

    fn definition_name(&self, id: TypeId) -> String {
        let definition = &self.resolve.types[id];
        match &definition.name {
            Some(name) => name.clone(),
            None => self.kind(&definition.kind),
        }
    }

    fn kind(&self, kind: &TypeDefKind) -> String {
        let or_none = |ty: &Option<Type>| ty.as_ref().map_or("_".to_owned(), |ty| self.name(ty));
        match kind {
            TypeDefKind::Type(ty) => self.name(ty),
            TypeDefKind::List(ty) => format!("list<{}>", self.name(ty)),
            TypeDefKind::Option(ty) => format!("option<{}>", self.name(ty)),
            TypeDefKind::Result(it) => {
                format!("result<{}, {}>", or_none(&it.ok), or_none(&it.err))
            }
            TypeDefKind::Tuple(tuple) => {
                let parts: Vec<_> = tuple.types.iter().map(|ty| self.name(ty)).collect();
                format!("tuple<{}>", parts.join(", "))
            }
            TypeDefKind::Handle(wit_parser::Handle::Borrow(id)) => {
                format!("borrow<{}>", self.definition_name(*id))
            }
            TypeDefKind::Handle(wit_parser::Handle::Own(id)) => self.definition_name(*id),
            other => panic!(
                "the golden file has no words for a type of kind {}",
                other.as_str()
            ),
        }
    }
}

fn parse() -> (Resolve, wit_parser::PackageId) {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(folder()).expect("`wit/` parses");
    (resolve, package)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit")
}
