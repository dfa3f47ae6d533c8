//! Writes the type of a function as WIT would.

use wasmtime::component::{Type, types::ComponentFunc};

/// The signature, cut when types nest deeper than a person reads.
pub(super) fn of(func: &ComponentFunc) -> String {
    let params = func
        .params()
        .map(|(name, ty)| format!("{name}: {}", name_of(&ty, 0)));
    let params = join(params);
    let results = join(func.results().map(|ty| name_of(&ty, 0)));
    let asyncness = if func.async_() { "async " } else { "" };
    let arrow = if results.is_empty() { "" } else { " -> " };
    format!("{asyncness}func({params}){arrow}{results}")
}

fn name_of(ty: &Type, depth: usize) -> String {
    if depth > DEPTH_MAX {
        return "...".to_owned();
    }
    let inner = |ty: Type| name_of(&ty, depth + 1);
    let case = |name: &str, ty: Option<Type>| match ty {
        Some(ty) => format!("{name}({})", inner(ty)),
        None => name.to_owned(),
    };
    let plain = match ty {
        Type::Bool => "bool",
        Type::S8 => "s8",
        Type::U8 => "u8",
        Type::S16 => "s16",
        Type::U16 => "u16",
        Type::S32 => "s32",
        Type::U32 => "u32",
        Type::S64 => "s64",
        Type::U64 => "u64",
        Type::Float32 => "f32",
        Type::Float64 => "f64",
        Type::Char => "char",
        Type::String => "string",
        Type::ErrorContext => "error-context",
        Type::Future(_) => "future",
        Type::Stream(_) => "stream",
        Type::Own(_) => "own<resource>",
        Type::Borrow(_) => "borrow<resource>",
        Type::Map(map) => return format!("map<{}, {}>", inner(map.key()), inner(map.value())),
        Type::List(list) => return format!("list<{}>", inner(list.ty())),
        Type::FixedLengthList(list) => {
            return format!("list<{}, {}>", inner(list.ty()), list.len());
        }
        Type::Option(option) => return format!("option<{}>", inner(option.ty())),
        Type::Tuple(tuple) => return format!("tuple<{}>", join(tuple.types().map(inner))),
        Type::Enum(names) => return format!("enum {{ {} }}", join(names.names())),
        Type::Flags(names) => return format!("flags {{ {} }}", join(names.names())),
        Type::Record(record) => {
            let fields = record
                .fields()
                .map(|f| format!("{}: {}", f.name, inner(f.ty)));
            return format!("record {{ {} }}", join(fields));
        }
        Type::Variant(variant) => {
            let cases = variant.cases().map(|c| case(c.name, c.ty));
            return format!("variant {{ {} }}", join(cases));
        }
        Type::Result(result) => {
            return match (result.ok().map(inner), result.err().map(inner)) {
                (None, None) => "result".to_owned(),
                (Some(ok), None) => format!("result<{ok}>"),
                (None, Some(error)) => format!("result<_, {error}>"),
                (Some(ok), Some(error)) => format!("result<{ok}, {error}>"),
            };
        }
    };
    plain.to_owned()
}

fn join<T: AsRef<str>>(parts: impl Iterator<Item = T>) -> String {
    let mut text = String::new();
    for (n, part) in parts.enumerate() {
        if n == PARTS_MAX {
            text.push_str(", ...");
            break;
        }
        if n > 0 {
            text.push_str(", ");
        }
        text.push_str(part.as_ref());
    }
    text
}

const DEPTH_MAX: usize = 8;
const PARTS_MAX: usize = 32;
