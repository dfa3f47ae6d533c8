//! How a type looks as JSON, where derives cannot tell: text of a form, numbers within bounds.
//!
//! What such a schema says comes from the constants by which the type is parsed.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, RefOr, Schema,
        schema::{KnownFormat, SchemaFormat, Type},
    },
};

/// Gives a type this schema, under the name that it has.
macro_rules! schema {
    ($type:ty, $schema:expr) => {
        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                $schema.into()
            }
        }
        impl utoipa::ToSchema for $type {}
    };
}
pub(crate) use schema;

/// A text.
pub(crate) fn text(description: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
}

/// One of these texts.
pub(crate) fn one_of<'a>(
    description: &str,
    texts: impl IntoIterator<Item = &'a str>,
) -> ObjectBuilder {
    text(description).enum_values(Some(texts))
}

/// A whole number within bounds.
pub(crate) fn number(description: &str, min: u64, max: Option<u64>) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .description(Some(description))
        .minimum(Some(min as i64))
        .maximum(max.map(|max| max as i64))
}

/// A whole number within bounds, and what it is when it is absent: stands for the type of a field of
/// a query in its description.
pub(crate) struct Within<const MIN: u32, const MAX: u32, const DEFAULT: u32>;

impl<const MIN: u32, const MAX: u32, const DEFAULT: u32> PartialSchema
    for Within<MIN, MAX, DEFAULT>
{
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(MIN))
            .maximum(Some(MAX))
            .default(Some(DEFAULT.into()))
            .into()
    }
}

impl<const MIN: u32, const MAX: u32, const DEFAULT: u32> ToSchema for Within<MIN, MAX, DEFAULT> {}
