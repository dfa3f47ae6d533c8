//! Says what kind of failure an error is, where it is returned.

use crate::{invocation, resource};

/// Marks the error of a result with what it means to the host.
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
    /// It will not succeed: set the resource aside until it is changed or redeployed.
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

impl<T, E: Into<anyhow::Error>> Classify<T> for Result<T, E> {
    fn fatal(self) -> Result<T, resource::Error> {
        self.map_err(|error| resource::Error::Fatal(chain(error)))
    }

    fn invalid(self) -> Result<T, invocation::Error> {
        self.map_err(|error| invocation::Error::Invalid(chain(error)))
    }

    fn not_found(self) -> Result<T, invocation::Error> {
        self.map_err(|error| invocation::Error::NotFound(chain(error)))
    }

    fn conflict(self) -> Result<T, invocation::Error> {
        self.map_err(|error| invocation::Error::Conflict(chain(error)))
    }

    fn unavailable(self) -> Result<T, invocation::Error> {
        self.map_err(|error| invocation::Error::Unavailable(chain(error)))
    }
}

/// An error and all its causes on one line.
pub(crate) fn chain(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}
