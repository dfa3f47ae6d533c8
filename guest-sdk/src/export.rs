//! Makes a component of a handler.
//!
//! The state of the one resource lives in a slot that [`export!`](crate::export) declares in the
//! handler's crate; everything else is here, so that the macro stays thin.

use std::{cell::RefCell, thread::LocalKey};

#[cfg(target_family = "wasm")]
mod component;

/// The state of the resource, between `handle` and `terminate`.
pub type Slot<H> = RefCell<Option<H>>;

/// A handler that [`export!`](crate::export) has made a component of.
pub trait Exported {
    /// The handler.
    type Handler: crate::ResourceHandler;

    /// Where its state lives.
    fn slot() -> &'static LocalKey<Slot<Self::Handler>>;
}

/// Makes a component of a handler: `export!(Counter)`, or with optional interfaces
/// `export!(Counter with invocation)`.
///
/// The component exports `resource-handler` and the interfaces named, no other. Off wasm this only
/// checks that the handler implements their traits.
///
/// | interface | trait |
/// |---|---|
/// | `invocation` | [`Invocation`](crate::Invocation) |
///
/// A handler that lacks the trait of an interface named here does not compile:
///
/// ```compile_fail,E0277
/// use holdfast_guest::{Ctx, Resource, ResourceHandler, Result, export};
///
/// struct Mute;
///
/// #[derive(serde::Deserialize)]
/// struct Spec {}
///
/// impl ResourceHandler for Mute {
///     type Spec = Spec;
///     fn handle(_: &Ctx, _: Resource<Spec>) -> Result<Self> {
///         Ok(Self)
///     }
/// }
///
/// export!(Mute with invocation);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export {
    ($($handler:ident)::+ $(with $($interface:ident),+ $(,)?)?) => {
        // The handler's path is resolved in here: names that no crate has cannot hide it.
        const _: () = {
            ::std::thread_local! {
                static __HOLDFAST_SLOT: $crate::export::Slot<$($handler)::+> =
                    const { $crate::export::Slot::new(::core::option::Option::None) };
            }

            struct __HoldfastComponent;

            impl $crate::export::Exported for __HoldfastComponent {
                type Handler = $($handler)::+;
                fn slot() -> &'static ::std::thread::LocalKey<$crate::export::Slot<Self::Handler>> {
                    &__HOLDFAST_SLOT
                }
            }

            $crate::__export_interface!(__HoldfastComponent resource_handler);
            $($($crate::__export_interface!(__HoldfastComponent $interface);)+)?
        };
    };
}

/// One interface of [`export!`](crate::export).
#[doc(hidden)]
#[macro_export]
macro_rules! __export_interface {
    ($component:ident resource_handler) => {
        const _: () = $crate::export::is_handler::<$component>();
        #[cfg(target_family = "wasm")]
        $crate::bindings::handler::export!(
            $component with_types_in $crate::bindings::handler
        );
    };
    ($component:ident invocation) => {
        const _: () = $crate::export::is_invocable::<$component>();
        #[cfg(target_family = "wasm")]
        $crate::bindings::invocable::export!(
            $component with_types_in $crate::bindings::invocable
        );
    };
    ($component:ident $other:ident) => {
        ::core::compile_error!(::core::concat!(
            "there is no optional interface `",
            ::core::stringify!($other),
            "`; there is: invocation"
        ));
    };
}

/// Fails to compile for what is no handler.
pub const fn is_handler<E: Exported>() {}

/// Fails to compile for a handler that does not implement [`Invocation`](crate::Invocation).
pub const fn is_invocable<E: Exported<Handler: crate::Invocation>>() {}

#[cfg(test)]
mod tests {
    use crate::{Ctx, Resource, ResourceHandler, Result};

    #[derive(serde::Deserialize)]
    struct Spec {}

    /// Named like something that a macro might call its own.
    struct Component;

    impl ResourceHandler for Component {
        type Spec = Spec;

        fn handle(_: &Ctx, _: Resource<Spec>) -> Result<Self> {
            Ok(Self)
        }
    }

    export!(Component);

    #[test]
    fn a_handler_may_have_any_name() {
        let resource = Resource::new("a", Spec {});
        assert!(Component::handle(&Ctx::test(), resource).is_ok());
    }
}
