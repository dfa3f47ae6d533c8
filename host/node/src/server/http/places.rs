//! Who may have a connection: gives places, and takes them from whom they are of the least use to.
//!
//! One task has this, which also looks after all connections from time to time: no connection has a timer.
//! A connection that has brought a request which may be answered is *admitted*. When no place is free, those
//! that are not admitted and ask nothing now go first, the ones that have waited longest before the others; but
//! an eighth of the places is theirs as long as admitted ones are idle, or nobody could connect any more.
//! Whoever is being answered keeps the place. What comes when all are being answered gets a spare place, in
//! which the node says that it lives, and that it has no room.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    patience::Patience,
    state::{Phase, State, Verdict},
};
use crate::config::HttpOptions;

pub(super) struct Places {
    options: HttpOptions,
    open: Vec<Entry>,
    /// Connections of each client that are not admitted, as of the last sweep and what came since.
    unadmitted: HashMap<IpAddr, u32>,
}

struct Entry {
    state: Arc<State>,
    client: IpAddr,
    spare: bool,
    patience: Patience,
}

/// A place for a connection.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) state: Arc<State>,
    /// It is for what everybody may ask.
    pub(super) spare: bool,
}

/// What became of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) why: Verdict,
    pub(super) count: u64,
}

impl Places {
    pub(super) fn new(options: HttpOptions) -> Self {
        Self {
            options,
            open: Vec::new(),
            unadmitted: HashMap::new(),
        }
    }

    /// How soon all connections are to be looked at again.
    pub(super) fn sweep_interval(&self) -> Duration {
        let options = &self.options;
        let shortest = options
            .head_timeout
            .min(options.idle_timeout)
            .min(options.stall_timeout);
        (shortest / 4).clamp(SWEEP_MIN, SWEEP_MAX)
    }

    /// Connections that are open.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether one more connection gets at least a spare place.
    pub(super) fn has_room(&mut self) -> bool {
        let most = self.options.connections_max as usize + 2 * SPARE;
        if self.open.len() >= most {
            self.forget_ended();
        }
        self.open.len() < most
    }

    /// Gives a place to a new connection; none when not even a spare one is left. Tells how many others have
    /// to end for it.
    pub(super) fn take(&mut self, client: IpAddr, now: Instant) -> (Option<Place>, usize) {
        let client = network_of(client);
        let max = self.options.connections_max as usize;
        let per_client_max = self.options.connections_per_client_max;
        let mut evicted = 0;
        if self.unadmitted.get(&client).copied().unwrap_or(0) >= per_client_max {
            evicted += self.crowd_out(client, now);
        }
        let mut spare = false;
        if self.open.len() >= max {
            self.forget_ended();
            if self.taken() >= max {
                let went = self.evict(now);
                evicted += went;
                spare = went == 0;
            }
        }
        if self.open.len() >= max + SPARE {
            // Who has a spare place longest has been answered, or does not ask.
            let oldest = self.open.iter().find(|entry| {
                entry.spare && entry.state.verdict().is_none() && !entry.state.has_ended()
            });
            if let Some(entry) = oldest {
                entry.state.condemn(Verdict::NoPlace);
                evicted += 1;
            }
        }
        if self.open.len() >= max + 2 * SPARE {
            return (None, evicted);
        }
        *self.unadmitted.entry(client).or_default() += 1;
        let state = Arc::<State>::default();
        self.open.push(Entry {
            state: Arc::clone(&state),
            client,
            spare,
            patience: Patience::new(now),
        });
        (Some(Place { state, spare }), evicted)
    }

    /// Looks at all connections, and ends those that have waited for too long.
    pub(super) fn sweep(&mut self, now: Instant) -> Vec<Ended> {
        self.forget_ended();
        self.unadmitted.clear();
        let mut ended = Vec::<Ended>::new();
        for entry in &mut self.open {
            if !entry.state.is_admitted() {
                *self.unadmitted.entry(entry.client).or_default() += 1;
            }
            let seen = entry.state.look();
            let verdict = entry.patience.look(now, &seen, &self.options);
            let Some(why) = verdict.filter(|_| entry.state.verdict().is_none()) else {
                continue;
            };
            entry.state.condemn(why);
            match ended.iter_mut().find(|ended| ended.why == why) {
                Some(ended) => ended.count += 1,
                None => ended.push(Ended { why, count: 1 }),
            }
        }
        ended
    }

    fn forget_ended(&mut self) {
        self.open.retain(|entry| !entry.state.has_ended());
    }

    /// Places that nobody is about to leave.
    fn taken(&self) -> usize {
        let stay = |entry: &&Entry| !entry.spare && entry.state.verdict() != Some(Verdict::NoPlace);
        self.open.iter().filter(stay).count()
    }

    /// Makes room among the connections of a client that are not admitted.
    fn crowd_out(&mut self, client: IpAddr, now: Instant) -> usize {
        let max = self.options.connections_per_client_max as usize;
        let mut theirs = self.idle(now, |entry| {
            entry.client == client && !entry.state.is_admitted()
        });
        // The count was of the last sweep.
        self.unadmitted.insert(client, theirs.len() as u32);
        if theirs.len() < max {
            return 0;
        }
        let evicted = self.condemn_oldest(&mut theirs, max / BATCH);
        self.unadmitted
            .insert(client, (theirs.len() - evicted) as u32);
        evicted
    }

    /// Makes room among all.
    fn evict(&mut self, now: Instant) -> usize {
        let max = self.options.connections_max as usize;
        let mut unadmitted = self.idle(now, |entry| !entry.spare && !entry.state.is_admitted());
        let mut admitted = self.idle(now, |entry| !entry.spare && entry.state.is_admitted());
        let of_newcomers = unadmitted.len() > max / NEWCOMERS || admitted.is_empty();
        let go = match of_newcomers {
            true => &mut unadmitted,
            false => &mut admitted,
        };
        self.condemn_oldest(go, max / BATCH)
    }

    /// Since when those are idle which are not being answered, and are like this.
    fn idle(&mut self, now: Instant, like: impl Fn(&Entry) -> bool) -> Vec<(Instant, usize)> {
        let options = &self.options;
        let mut idle = Vec::new();
        for (at, entry) in self.open.iter_mut().enumerate() {
            let state = &entry.state;
            if state.has_ended() || state.verdict() == Some(Verdict::NoPlace) || !like(entry) {
                continue;
            }
            let seen = entry.state.look();
            let admitted = entry.state.is_admitted();
            let goes = match seen.phase {
                // Who has shown the token gets the time for a request that has begun.
                Phase::Waiting => !(admitted && (seen.in_head || seen.blocked)),
                Phase::Lingering => true,
                Phase::Answering | Phase::Reading => false,
            };
            if goes {
                // What it did since the last sweep is seen now. Its verdict is for the next one.
                let _ = entry.patience.look(now, &seen, options);
                idle.push((entry.patience.since(), at));
            }
        }
        idle
    }

    fn condemn_oldest(&self, idle: &mut [(Instant, usize)], count: usize) -> usize {
        let count = count.max(1).min(idle.len());
        if count == 0 {
            return 0;
        }
        idle.select_nth_unstable(count - 1);
        for (_, at) in &idle[..count] {
            self.open[*at].state.condemn(Verdict::NoPlace);
        }
        count
    }
}

/// What one client has for itself: an address, or with IPv6 a network.
fn network_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// Connections beyond the limit, each for one answer. As many again may be about to close.
pub(super) const SPARE: usize = 32;

/// The part of the places that those get who are not admitted yet, while admitted ones are idle.
const NEWCOMERS: usize = 8;

/// The part of the places that is cleared at once, so that not every new connection costs a look at all.
const BATCH: usize = 64;

const SWEEP_MIN: Duration = Duration::from_millis(50);
const SWEEP_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn places(connections_max: u32, connections_per_client_max: u32) -> Places {
        Places::new(HttpOptions {
            connections_max,
            connections_per_client_max,
            ..HttpOptions::default()
        })
    }

    fn take(places: &mut Places) -> Place {
        places.take(LOCAL, Instant::now()).0.unwrap()
    }

    fn is_told_to_go(place: &Place) -> bool {
        place.state.verdict() == Some(Verdict::NoPlace)
    }

    #[test]
    fn who_has_shown_nothing_goes_first_and_the_oldest_of_them() {
        let mut places = places(4, 100);
        let all: Vec<Place> = (0..4).map(|_| take(&mut places)).collect();
        all[0].state.admit();
        let more = take(&mut places);
        assert!(!more.spare);
        let gone: Vec<bool> = all.iter().map(is_told_to_go).collect();
        assert_eq!(gone, [false, true, false, false]);
    }

    #[test]
    fn idle_ones_go_when_those_that_are_new_are_few() {
        let mut places = places(16, 100);
        let all: Vec<Place> = (0..16).map(|_| take(&mut places)).collect();
        for place in &all {
            place.state.admit();
        }
        // Two newcomers may be there at once.
        for admitted in &all[..3] {
            let newcomer = take(&mut places);
            assert!(!newcomer.spare);
            assert!(is_told_to_go(admitted), "{all:?}");
        }
        assert!(!is_told_to_go(&all[3]));
    }

    #[test]
    fn who_is_answered_stays_and_the_next_get_a_spare_place_and_no_more() {
        let mut places = places(2, 100);
        let all: Vec<Place> = (0..2).map(|_| take(&mut places)).collect();
        let _answering = all.each_answering();
        let spare = take(&mut places);
        assert!(spare.spare);
        assert!(!all.iter().any(is_told_to_go));
        for _ in 1..SPARE {
            assert!(take(&mut places).spare);
        }
        assert!(!is_told_to_go(&spare));
        // As many again when the first ones are told to go, and then no more.
        for _ in 0..SPARE {
            assert!(take(&mut places).spare);
        }
        assert!(is_told_to_go(&spare));
        assert!(places.take(LOCAL, Instant::now()).0.is_none());
        spare.state.end();
        assert!(take(&mut places).spare);
    }

    #[test]
    fn one_client_cannot_take_all_places_without_a_token() {
        let mut places = places(1_000, 4);
        let other = take(&mut places);
        let crowd: IpAddr = "10.0.0.1".parse().unwrap();
        let now = Instant::now();
        let all: Vec<Place> = (0..10)
            .map(|_| places.take(crowd, now).0.unwrap())
            .collect();
        assert_eq!(all.iter().filter(|place| is_told_to_go(place)).count(), 6);
        assert!(is_told_to_go(&all[0]) && !is_told_to_go(&all[9]));
        assert!(!is_told_to_go(&other));
        // With a token it can.
        let shown: Vec<Place> = (0..10)
            .map(|_| {
                let place = places.take(crowd, now).0.unwrap();
                place.state.admit();
                place
            })
            .collect();
        assert!(!shown.iter().any(is_told_to_go));
    }

    #[test]
    fn a_network_is_one_client() {
        let of = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }

    #[test]
    fn a_sweep_forgets_who_has_ended_and_ends_who_is_idle() {
        let mut places = places(10, 10);
        let (idle, ended) = (take(&mut places), take(&mut places));
        ended.state.end();
        let later = Instant::now() + Duration::from_secs(1);
        assert!(places.sweep(later).is_empty());
        assert_eq!(places.len(), 1);
        let much_later = later + HttpOptions::default().idle_timeout;
        let told = Ended {
            why: Verdict::Idle,
            count: 1,
        };
        assert_eq!(places.sweep(much_later), [told]);
        assert_eq!(idle.state.verdict(), Some(Verdict::Idle));
        assert!(places.sweep(much_later).is_empty());
    }

    trait EachAnswering {
        fn each_answering(&self) -> Vec<super::super::state::Answering>;
    }

    impl EachAnswering for Vec<Place> {
        fn each_answering(&self) -> Vec<super::super::state::Answering> {
            self.iter()
                .map(|place| super::super::state::Answering::begin(&place.state))
                .collect()
        }
    }
}
