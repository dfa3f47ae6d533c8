//! Generated bindings: one world for what every handler has, one tiny world for each optional
//! export, so that a component declares only the exports that [`export!`](crate::export) names.

#![allow(missing_docs, unreachable_pub, reason = "generated code")]

pub mod handler {
    wit_bindgen::generate!({
        world: "handler",
        path: "../wit",
        pub_export_macro: true,
        generate_all,
    });
}

pub mod invocable {
    wit_bindgen::generate!({
        world: "invocable",
        path: "../wit",
        pub_export_macro: true,
        generate_all,
    });
}
