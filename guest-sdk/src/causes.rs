//! Says what was being done when an error came up, where it is returned.

use std::fmt::Display;

use anyhow::anyhow;

use crate::{classify, invocation, resource};

/// Puts what was being done before the text of an error: of any error, and of the SDK's own, which
/// keep their kind. The same as that of [`anyhow`](mod@anyhow), for those too.
///
/// ```
/// use holdfast_guest::{Context as _, Error, Result};
///
/// fn register() -> Result<()> {
///     Err(Error::fatal("no such account"))
/// }
///
/// assert_eq!(
///     register().context("register the hook"),
///     Err(Error::fatal("register the hook: no such account"))
/// );
/// ```
pub trait Context<T> {
    /// What the error is then.
    type Error;

    /// Puts this before the text of the error.
    ///
    /// # Errors
    /// The error, with the text before it.
    fn context<C: Display + Send + Sync + 'static>(self, doing: C) -> Result<T, Self::Error>;

    /// The same, of a text that is made only when there is an error.
    ///
    /// # Errors
    /// The error, with the text before it.
    fn with_context<C, F>(self, doing: F) -> Result<T, Self::Error>
    where
        C: Display + Send + Sync + 'static,
        F: FnOnce() -> C;
}

impl<T, E: Told> Context<T> for Result<T, E> {
    type Error = E::More;

    fn context<C: Display + Send + Sync + 'static>(self, doing: C) -> Result<T, E::More> {
        self.with_context(|| doing)
    }

    fn with_context<C, F>(self, doing: F) -> Result<T, E::More>
    where
        C: Display + Send + Sync + 'static,
        F: FnOnce() -> C,
    {
        self.map_err(|error| error.before(doing()))
    }
}

/// Of what is absent, the text is the whole error.
impl<T> Context<T> for Option<T> {
    type Error = anyhow::Error;

    fn context<C: Display + Send + Sync + 'static>(self, doing: C) -> anyhow::Result<T> {
        self.with_context(|| doing)
    }

    fn with_context<C, F>(self, doing: F) -> anyhow::Result<T>
    where
        C: Display + Send + Sync + 'static,
        F: FnOnce() -> C,
    {
        self.ok_or_else(|| anyhow!("{}", doing()))
    }
}

/// An error that functions of a handler return. One trait for all of them, and not an implementation
/// of [`Context`] for each: the compiler could not infer `T` in `text.parse().context("…")` then.
pub trait Told {
    /// What it is with a text before its own.
    type More;

    /// The error and all its causes on one line.
    fn into_text(self) -> String;

    /// The error with this before its text.
    fn before<C: Display + Send + Sync + 'static>(self, doing: C) -> Self::More;
}

impl<E: Into<anyhow::Error>> Told for E {
    type More = anyhow::Error;

    fn into_text(self) -> String {
        classify::chain(self)
    }

    fn before<C: Display + Send + Sync + 'static>(self, doing: C) -> anyhow::Error {
        self.into().context(doing)
    }
}

impl Told for resource::Error {
    type More = Self;

    fn into_text(self) -> String {
        self.into_text()
    }

    fn before<C: Display + Send + Sync + 'static>(self, doing: C) -> Self {
        self.map_text(|text| format!("{doing}: {text}"))
    }
}

impl Told for invocation::Error {
    type More = Self;

    fn into_text(self) -> String {
        self.into_text()
    }

    fn before<C: Display + Send + Sync + 'static>(self, doing: C) -> Self {
        self.map_text(|text| format!("{doing}: {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_takes_a_context_and_the_sdks_own_keep_their_kind() {
        let handled: resource::Result<()> = Err(resource::Error::fatal("no"));
        let expected = Err(resource::Error::fatal("join the room: no"));
        assert_eq!(handled.context("join the room"), expected);
        let invoked: Result<(), _> = Err(invocation::Error::conflict("no"));
        let expected = Err(invocation::Error::conflict("close a: no"));
        assert_eq!(invoked.with_context(|| format!("close {}", 'a')), expected);
        let other = "x".parse::<u8>().context("read the port").unwrap_err();
        let text = "read the port: invalid digit found in string";
        assert_eq!(format!("{other:#}"), text);
        let absent = None::<u8>.context("there is no port").unwrap_err();
        assert_eq!(absent.to_string(), "there is no port");
    }
}
