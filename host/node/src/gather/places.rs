//! Places for those who follow something: so many, and no one keeps another out for good.
//!
//! A client that has stopped reading looks like one that has nothing to read. So a place is sure for a while
//! only. When all are taken, whoever comes gets that of the reader who is behind longest, and where none
//! is, of the one who has been there longest; what it followed ends, and it may come again and go on
//! where it was.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The places. Clones share them.
#[derive(Clone)]
pub(crate) struct Places(Arc<Inner>);

struct Inner {
    max: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    /// In the order in which they came.
    readers: BTreeMap<u64, Reader>,
}

struct Reader {
    since: Instant,
    /// When it last came for more.
    came: Instant,
    over: CancellationToken,
}

/// A place, free again once it is dropped.
pub(crate) struct Place {
    places: Places,
    number: u64,
    over: CancellationToken,
    _ends: DropGuard,
}

impl Places {
    pub(crate) fn new(max: usize) -> Self {
        let taken = Mutex::default();
        Self(Arc::new(Inner { max, taken }))
    }

    /// A place until `stop`, or until another needs it more; none when there are none and those who have
    /// them came a moment ago.
    pub(crate) fn take(&self, stop: &CancellationToken) -> Option<Place> {
        self.take_at(Instant::now(), stop)
    }

    fn take_at(&self, now: Instant, stop: &CancellationToken) -> Option<Place> {
        let mut taken = self.0.taken.lock();
        if taken.readers.len() >= self.0.max {
            let slowest = taken.slowest(now)?;
            if let Some(reader) = taken.readers.remove(&slowest) {
                reader.over.cancel();
            }
        }
        let number = taken.next;
        taken.next += 1;
        let over = stop.child_token();
        let reader = Reader {
            since: now,
            came: now,
            over: over.clone(),
        };
        taken.readers.insert(number, reader);
        Some(Place {
            places: self.clone(),
            number,
            _ends: over.clone().drop_guard(),
            over,
        })
    }
}

impl Taken {
    /// Whose place goes first.
    fn slowest(&self, now: Instant) -> Option<u64> {
        let behind = |(_, reader): &(&u64, &Reader)| now - reader.came >= BEHIND;
        let behind = self.readers.iter().filter(behind);
        let behind = behind.min_by_key(|(_, reader)| reader.came);
        let sure = |(_, reader): &(&u64, &Reader)| now - reader.since >= SURE;
        let first = || self.readers.iter().next().filter(sure);
        behind.or_else(first).map(|(number, _)| *number)
    }
}

impl Place {
    /// Its reader comes for more.
    pub(crate) fn came(&self) {
        self.came_at(Instant::now());
    }

    fn came_at(&self, now: Instant) {
        if let Some(reader) = self.places.0.taken.lock().readers.get_mut(&self.number) {
            reader.came = now;
        }
    }

    /// Ends with the place: by itself, when another gets it, or when nobody follows any longer.
    pub(crate) fn over(&self) -> CancellationToken {
        self.over.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.0.taken.lock().readers.remove(&self.number);
    }
}

/// Who comes for more is told something every ten seconds, be it that there is nothing. Whoever has not
/// come for this long does not read.
const BEHIND: Duration = Duration::from_secs(25);

/// How long a place is sure for whoever reads.
const SURE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_does_not_read_makes_room_first() {
        let (places, stop) = (Places::new(3), CancellationToken::new());
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let take = |seconds| places.take_at(at(seconds), &stop);
        let held = [take(0).unwrap(), take(0).unwrap(), take(0).unwrap()];
        assert!(take(1).is_none(), "all came a moment ago");
        held[0].came_at(at(20));
        held[2].came_at(at(20));
        assert!(take(24).is_none());
        let fourth = take(26).unwrap();
        let over = held.each_ref().map(|place| place.over().is_cancelled());
        assert_eq!(over, [false, true, false]);
        assert!(take(26).is_none(), "the others read");
        drop(fourth);
        let fourth = take(26).unwrap();
        // One that is over frees no place of another.
        let [first, second, third] = held;
        drop(second);
        assert!(take(27).is_none());
        for place in [&first, &third, &fourth] {
            place.came_at(at(60));
        }
        let _fifth = take(61).unwrap();
        assert!(first.over().is_cancelled(), "it has been there longest");
        assert!(!third.over().is_cancelled());
        stop.cancel();
        assert!(third.over().is_cancelled());
    }
}
