//! Why a request was not sent, said in the handler's log: the handler itself is told no more than that
//! it is denied.

use std::{fmt, net::IpAddr};

use holdfast_model::module::HttpGrant;
use wasmtime_wasi_http::Error;

use super::destination::Destination;
use crate::journal::{Journal, Level};

/// What kept a request from being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// No grant names its destination.
    NotGranted,
    /// A grant names it, but its addresses are not public, and no grant names those.
    NotPublic,
    /// A grant names it, but nothing can be waited for in the direct lane.
    DirectLane,
}

impl Denied {
    /// What a grant could have changed about this error; none where it had another reason.
    pub(super) fn of(error: &Error, to: &Destination, grants: &[HttpGrant]) -> Option<Self> {
        match error {
            Error::HttpRequestDenied if !to.is_granted(grants) => Some(Self::NotGranted),
            Error::DestinationIpProhibited => Some(Self::NotPublic),
            _ => None,
        }
    }

    /// Says it, and what to do about it.
    pub(super) fn tell(self, to: &Destination, journal: &Journal) {
        let grant = Grant(to);
        let text = match self {
            Self::NotGranted => format!(
                "outgoing HTTP to {grant} is denied: no grant names it; deploy the module with \
                 \"{grant}\" in grants.http of its holdfast.toml"
            ),
            Self::NotPublic => format!(
                "outgoing HTTP to {grant} is denied: its address is private, and private addresses \
                 need a grant that names the address, like \"10.0.0.1:{}\", in grants.http of \
                 holdfast.toml",
                to.port
            ),
            Self::DirectLane => format!(
                "outgoing HTTP to {grant} is denied: it is granted, but the module's lane is \
                 \"direct\", which cannot wait for an answer; deploy the module without `lane` in its \
                 holdfast.toml, or with lane = \"fiber\""
            ),
        };
        journal.log(Level::Warn, "", &text);
    }
}

/// A destination as a grant names it.
struct Grant<'a>(&'a Destination);

impl fmt::Display for Grant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Destination { host, port, .. } = self.0;
        match host.parse() {
            Ok(IpAddr::V6(addr)) => write!(f, "[{addr}]:{port}"),
            _ => write!(f, "{host}:{port}"),
        }
    }
}
