//! Says what kind of failure an error is, where it is returned.

use crate::{causes::Told, invocation, resource};

/// Marks the error of a result with what it means to the host: of any error, and of the SDK's own,
/// which helpers of a handler return.
///
/// ```
/// use holdfast_guest::{Classify as _, Context as _, Error};
///
/// fn port(text: &str) -> holdfast_guest::Result<u16> {
///     text.parse().context("read the port").fatal()
/// }
///
/// assert_eq!(
///     port("x"),
///     Err(Error::fatal("read the port: invalid digit found in string"))
/// );
/// ```
pub trait Classify<T> {
    /// It will not succeed: quarantine the resource until it is changed or redeployed.
    ///
    /// # Errors
    /// The error, as [`Error::Fatal`](resource::Error::Fatal).
    fn fatal(self) -> Result<T, resource::Error>;

    /// The request makes no sense.
    ///
    /// # Errors
    /// The error, as [`InvokeError::Invalid`](invocation::Error::Invalid).
    fn invalid(self) -> Result<T, invocation::Error>;

    /// What the request names does not exist.
    ///
    /// # Errors
    /// The error, as [`InvokeError::NotFound`](invocation::Error::NotFound).
    fn not_found(self) -> Result<T, invocation::Error>;

    /// The request does not fit the resource's present state.
    ///
    /// # Errors
    /// The error, as [`InvokeError::Conflict`](invocation::Error::Conflict).
    fn conflict(self) -> Result<T, invocation::Error>;

    /// It cannot be done now; trying later may help.
    ///
    /// # Errors
    /// The error, as [`InvokeError::Unavailable`](invocation::Error::Unavailable).
    fn unavailable(self) -> Result<T, invocation::Error>;
}

impl<T, E: Told> Classify<T> for Result<T, E> {
    fn fatal(self) -> Result<T, resource::Error> {
        self.map_err(|error| resource::Error::Fatal(error.into_text()))
    }

    fn invalid(self) -> Result<T, invocation::Error> {
        self.map_err(|error| invocation::Error::Invalid(error.into_text()))
    }

    fn not_found(self) -> Result<T, invocation::Error> {
        self.map_err(|error| invocation::Error::NotFound(error.into_text()))
    }

    fn conflict(self) -> Result<T, invocation::Error> {
        self.map_err(|error| invocation::Error::Conflict(error.into_text()))
    }

    fn unavailable(self) -> Result<T, invocation::Error> {
        self.map_err(|error| invocation::Error::Unavailable(error.into_text()))
    }
}

/// An error and all its causes on one line.
pub(crate) fn chain(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(found: bool) -> resource::Result<u8> {
        match found {
            true => Ok(1),
            false => Err(resource::Error::retry("the registry is down")),
        }
    }

    fn check(ok: bool) -> Result<(), invocation::Error> {
        match ok {
            true => Ok(()),
            false => Err(invocation::Error::conflict("it is closed")),
        }
    }

    #[test]
    fn errors_of_helpers_go_through_the_question_mark_in_every_function_of_a_handler() {
        fn handle() -> resource::Result<u8> {
            check(true)?;
            let found = lookup(true).fatal()?;
            check(false)?;
            Ok(found)
        }
        fn invoke() -> Result<u8, invocation::Error> {
            check(true)?;
            Ok(lookup(false)?)
        }
        assert_eq!(handle(), Err(resource::Error::retry("it is closed")));
        let failed = invocation::Error::failed("the registry is down");
        assert_eq!(invoke(), Err(failed));
    }

    #[test]
    fn errors_of_helpers_are_classified_where_they_are_returned() {
        use invocation::Error as Invoke;
        let text = "the registry is down";
        let of = || lookup(false);
        assert_eq!(of().fatal(), Err(resource::Error::fatal(text)));
        assert_eq!(of().invalid(), Err(Invoke::invalid(text)));
        assert_eq!(of().not_found(), Err(Invoke::not_found(text)));
        assert_eq!(of().conflict(), Err(Invoke::conflict(text)));
        assert_eq!(of().unavailable(), Err(Invoke::unavailable(text)));
        let of = || check(false);
        assert_eq!(of().fatal(), Err(resource::Error::fatal("it is closed")));
        assert_eq!(of().unavailable(), Err(Invoke::unavailable("it is closed")));
        assert_eq!(format!("{}", of().unwrap_err()), "it is closed");
        assert_eq!(format!("{}", lookup(false).unwrap_err()), text);
    }
}
