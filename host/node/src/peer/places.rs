//! Who may be in the middle of a handshake: limited places, of which the newest come first.
//!
//! Whoever connects and says nothing takes a place, without any secret. So each address has some only,
//! the addresses of known nodes have places of their own, and where none is left the handshake that
//! has lasted longest is given up: a real one takes a few round trips.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{Level, warn};

use super::Options;
use crate::telemetry::Repeated;

/// The handshakes under way.
pub(super) struct Places {
    taken: Mutex<Taken>,
    of_address_max: usize,
    of_strangers_max: usize,
    of_known_max: usize,
    reports: Repeated,
}

#[derive(Default)]
struct Taken {
    next: u64,
    /// By age, the oldest first.
    by_number: BTreeMap<u64, Holder>,
}

struct Holder {
    from: IpAddr,
    known: bool,
    given_up: CancellationToken,
}

/// A place, given back when dropped.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    given_up: CancellationToken,
}

impl Places {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            taken: Mutex::default(),
            of_address_max: options.handshakes_of_address_max,
            of_strangers_max: options.handshakes_max,
            of_known_max: options.handshakes_of_peers_max,
            reports: Repeated::new(Level::WARN, "peer handshakes given up, the oldest first"),
        }
    }

    /// A place for a connection from an address, which may be a known node's. The oldest handshake
    /// of the same address, or of the same kind of addresses, may have to go for it.
    pub(super) fn take(self: &Arc<Self>, from: IpAddr, known: bool) -> Place {
        let from = from.to_canonical();
        let max = match known {
            true => self.of_known_max,
            false => self.of_strangers_max,
        };
        let given_up = CancellationToken::new();
        let mut taken = self.taken.lock();
        let of_address = |holder: &Holder| holder.from == from;
        let of_kind = |holder: &Holder| holder.known == known;
        let too_many_of_address = || {
            let oldest = taken.oldest(self.of_address_max, of_address)?;
            Some((oldest, "too many of one address are unfinished"))
        };
        let too_many = || {
            let oldest = taken.oldest(max, of_kind)?;
            Some((oldest, "too many are unfinished"))
        };
        if let Some((oldest, why)) = too_many_of_address().or_else(too_many)
            && let Some(holder) = taken.by_number.remove(&oldest)
        {
            holder.given_up.cancel();
            if let Some(suppressed) = self.reports.pass() {
                warn!(
                    peer.ip = %holder.from, known, why, suppressed,
                    "peer handshakes given up, the oldest first"
                );
            }
        }
        taken.next += 1;
        let number = taken.next;
        let holder = Holder {
            from,
            known,
            given_up: given_up.clone(),
        };
        taken.by_number.insert(number, holder);
        Place {
            places: Arc::clone(self),
            number,
            given_up,
        }
    }
}

impl Taken {
    /// The oldest of these, if they have all places that they may have.
    fn oldest(&self, max: usize, these: impl Fn(&Holder) -> bool) -> Option<u64> {
        let mut these = self.by_number.iter().filter(|(_, holder)| these(holder));
        let oldest = these.next().map(|(number, _)| *number)?;
        (these.count() + 1 >= max).then_some(oldest)
    }
}

impl Place {
    /// Resolves when the place is somebody else's.
    pub(super) async fn given_up(&self) {
        self.given_up.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.lock().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Arc<Places> {
        Arc::new(Places::new(&Options {
            handshakes_max: 4,
            handshakes_of_peers_max: 3,
            handshakes_of_address_max: 2,
            ..Options::default()
        }))
    }

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn is_given_up(place: &Place) -> bool {
        place.given_up.is_cancelled()
    }

    #[test]
    fn the_oldest_handshake_of_an_address_goes_first() {
        let places = places();
        let mut taken: Vec<Place> = (0..3).map(|_| places.take(ip(1), false)).collect();
        let given_up: Vec<bool> = taken.iter().map(is_given_up).collect();
        assert_eq!(given_up, [true, false, false]);
        // One that is over makes room.
        drop(taken.pop());
        taken.push(places.take(ip(1), false));
        assert!(!is_given_up(&taken[1]));
    }

    #[test]
    fn many_addresses_cannot_take_the_places_of_known_nodes() {
        let places = places();
        let known = places.take(ip(200), true);
        let strangers: Vec<Place> = (0..50).map(|n| places.take(ip(n), false)).collect();
        let left = strangers.iter().filter(|place| !is_given_up(place)).count();
        assert_eq!(left, 4);
        assert!(!is_given_up(&known));
        let more: Vec<Place> = (201..204).map(|n| places.take(ip(n), true)).collect();
        assert!(is_given_up(&known), "the oldest of its kind");
        assert!(!more.iter().any(is_given_up));
        assert_eq!(
            strangers.iter().filter(|place| !is_given_up(place)).count(),
            4
        );
    }

    #[test]
    fn an_address_is_one_in_whatever_form_it_is_written() {
        let places = places();
        let first = places.take(ip(1), false);
        let mapped = IpAddr::V6(std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
        let _more = [places.take(mapped, false), places.take(mapped, false)];
        assert!(is_given_up(&first));
    }
}
