//! The two clocks of a node.

use std::{
    collections::BTreeSet,
    io,
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{process::Command, time::timeout};

use super::{super::human, Finding};
use crate::client::Client;

pub(super) fn judge_boot(readable: io::Result<()>) -> Finding {
    const CHECK: &str = "boot-clock";
    match readable {
        Ok(()) => Finding::ok(CHECK, "CLOCK_BOOTTIME can be read"),
        Err(error) => Finding::failure(
            CHECK,
            format!("CLOCK_BOOTTIME cannot be read: {error}"),
            "leases are measured by it: use a kernel that has it (Linux 2.6.39 and later), and a \
             sandbox that allows clock_gettime",
        ),
    }
}

/// What is known of the wall clock.
#[derive(Debug)]
pub(super) struct Wall {
    now: SystemTime,
    /// Whether a time server sets it, as far as the system says.
    synchronized: Option<bool>,
    others: Vec<Other>,
}

/// The wall clock of another node.
#[derive(Debug)]
struct Other {
    server: String,
    /// How far it is from ours; a date has whole seconds, so within about one.
    apart: Duration,
    ahead: bool,
}

/// Asks the nodes whose HTTP APIs these are. One on this machine has the same clock, and is passed
/// over; one that does not answer says nothing.
pub(super) async fn look(servers: BTreeSet<String>) -> Wall {
    let servers = servers.into_iter().filter(|server| !is_here(server));
    let asked = futures_util::future::join_all(servers.map(other));
    let (others, synchronized) = tokio::join!(asked, synchronized());
    Wall {
        now: SystemTime::now(),
        synchronized,
        others: others.into_iter().flatten().collect(),
    }
}

fn is_here(server: &str) -> bool {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let addr = bare.parse::<std::net::IpAddr>();
    host == "localhost" || addr.is_ok_and(|addr| addr.is_loopback() || addr.is_unspecified())
}

async fn other(server: String) -> Option<Other> {
    let client = Client::new(&server).ok()?.with_timeout(PATIENCE);
    let asked = SystemTime::now();
    let theirs = client.date().await.ok()??;
    Some(Other::of(server, asked, SystemTime::now(), theirs))
}

impl Other {
    /// Of a node that was asked and answered at these times, and said a whole second.
    fn of(server: String, asked: SystemTime, answered: SystemTime, date: SystemTime) -> Self {
        let took = answered.duration_since(asked).unwrap_or_default();
        let ours = asked + took / 2;
        let theirs = date + Duration::from_millis(500);
        let ahead = theirs.duration_since(ours);
        Self {
            server,
            ahead: ahead.is_ok(),
            apart: ahead.unwrap_or_else(|behind| behind.duration()),
        }
    }
}

/// What systemd knows of the kernel's clock, whichever program sets it.
async fn synchronized() -> Option<bool> {
    let mut command = Command::new("timedatectl");
    command
        .args(["show", "--property=NTPSynchronized", "--value"])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let said = timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    match said.stdout.trim_ascii() {
        b"yes" => Some(true),
        b"no" => Some(false),
        _ => None,
    }
}

impl Wall {
    pub(super) fn judge(&self) -> Finding {
        const CHECK: &str = "wall-clock";
        const SET_IT: &str = "have a time server set it: chrony, or `timedatectl set-ntp true`";
        let time = humantime::format_rfc3339_seconds(self.now);
        if self.now < UNIX_EPOCH + MADE {
            return Finding::failure(
                CHECK,
                format!("{time} is before this program was made"),
                format!("handlers reach no TLS server with it: {SET_IT}"),
            );
        }
        let worst = self.others.iter().max_by_key(|other| other.apart);
        if let Some(other) = worst.filter(|other| other.apart > APART_MAX) {
            let side = if other.ahead { "behind" } else { "ahead of" };
            return Finding::warning(
                CHECK,
                format!(
                    "{time}, {} {side} {}",
                    human::duration(other.apart),
                    other.server
                ),
                format!("nothing is decided by it, but times in logs do not fit: {SET_IT}"),
            );
        }
        let compared = match self.others.len() {
            0 => "compared with no other machine".to_owned(),
            n => format!("as on {}", human::counted(n as u64, "other machine")),
        };
        match self.synchronized {
            Some(false) => Finding::warning(
                CHECK,
                format!("{time}, {compared}, set by no time server"),
                SET_IT,
            ),
            Some(true) => Finding::ok(CHECK, format!("{time}, {compared}, set by a time server")),
            None => Finding::ok(CHECK, format!("{time}, {compared}")),
        }
    }
}

/// A clock before this, 2026, was never set.
const MADE: Duration = Duration::from_secs(1_767_225_600);
/// More than the whole seconds of a date, and the time on the way, can make up.
const APART_MAX: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::{super::Status, *};

    fn at(ms: u64) -> SystemTime {
        UNIX_EPOCH + MADE + Duration::from_millis(ms)
    }

    fn wall(apart_s: &[u64], synchronized: Option<bool>) -> Wall {
        let others = apart_s.iter().map(|apart| Other {
            server: format!("node-{apart}:7300"),
            apart: Duration::from_secs(*apart),
            ahead: false,
        });
        Wall {
            now: at(0),
            synchronized,
            others: others.collect(),
        }
    }

    #[test]
    fn a_clock_that_leases_need_must_be_there() {
        assert_eq!(judge_boot(Ok(())).status, Status::Ok);
        let refused = judge_boot(Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(refused.status, Status::Failure);
    }

    #[test]
    fn a_clock_that_was_never_set_is_a_failure() {
        let never_set = Wall {
            now: UNIX_EPOCH + Duration::from_secs(5),
            ..wall(&[], Some(true))
        };
        assert_eq!(never_set.judge().status, Status::Failure);
    }

    #[test]
    fn a_clock_that_differs_from_the_others_is_a_warning_that_names_the_farthest() {
        for (apart_s, synchronized, status, named) in [
            (&[][..], None, Status::Ok, "compared with no other machine"),
            (&[1, 2], Some(true), Status::Ok, "as on 2 other machines"),
            (&[0], Some(false), Status::Warning, "set by no time server"),
            (
                &[3, 90, 1],
                Some(true),
                Status::Warning,
                "1m 30s ahead of node-90:7300",
            ),
        ] {
            let finding = wall(apart_s, synchronized).judge();
            assert_eq!(finding.status, status, "{finding:?}");
            assert!(finding.found.contains(named), "{finding:?}");
        }
    }

    #[test]
    fn the_way_of_an_answer_and_the_rounding_of_its_date_are_counted_in() {
        // Asked at 10.0, answered at 11.0: said at about 10.5, as 10.
        let same = Other::of("a".to_owned(), at(10_000), at(11_000), at(10_000));
        assert_eq!(same.apart, Duration::ZERO);
        let late = Other::of("a".to_owned(), at(10_000), at(11_000), at(2_000));
        assert_eq!((late.apart, late.ahead), (Duration::from_secs(8), false));
        let early = Other::of("a".to_owned(), at(10_000), at(11_000), at(13_000));
        assert_eq!((early.apart, early.ahead), (Duration::from_secs(3), true));
    }

    #[test]
    fn a_node_on_this_machine_has_the_same_clock() {
        for (server, here) in [
            ("127.0.0.1:7300", true),
            ("localhost:7300", true),
            ("[::1]:7300", true),
            ("10.0.0.1:7300", false),
            ("node-1", false),
        ] {
            assert_eq!(is_here(server), here, "{server}");
        }
    }
}
