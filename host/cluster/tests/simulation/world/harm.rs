//! What goes wrong, done to the machines and wires; and how it ends.

use std::{collections::BTreeSet, time::Duration};

use holdfast_cluster::{evidence::Death, state::Owner};
use holdfast_model::Incarnation;

use super::{HOSTS_MAX, JOINERS, Machine, RECONNECT, World};
use crate::{
    faults::Blow,
    log::{Disk, decides},
    network::{Envelope, Message, Weather},
    story,
};

impl World<'_> {
    pub(super) fn suffer(&mut self, blow: Blow) {
        let now = self.now;
        let mut note = |host: Option<usize>, text: String| {
            self.story.note(now, host, None, format!("* {text}"));
        };
        match blow {
            Blow::Weather(weather) => {
                let Weather {
                    drop,
                    duplicate,
                    delay,
                    reorder,
                } = weather;
                note(
                    None,
                    format!(
                        "of messages {drop:.2} are lost, {duplicate:.2} doubled, {delay:.2} late; reordered: {reorder}"
                    ),
                );
                self.network.weather = weather;
            }
            Blow::Cut(links, after) => {
                note(None, format!("cut for {after:?}: {}", told(&links)));
                self.cuts.push((now + after, links));
            }
            Blow::Pause(host, after) => {
                note(Some(host), format!("stands still for {after:?}"));
                let until = Some(now + after);
                self.hosts[host].paused = self.hosts[host].paused.max(until);
            }
            Blow::Crash(host, after, then) => {
                self.crash(host, after, false);
                self.later
                    .extend(then.map(|(after, blow)| (now + after, *blow)));
            }
            Blow::LoseDisk(host, after) => {
                if self.survives_without(host) {
                    self.crash(host, after, true);
                }
            }
            Blow::Join => {
                if self.hosts.len() < self.config.nodes + JOINERS && self.hosts.len() < HOSTS_MAX {
                    let disk = self.disk();
                    self.add(disk);
                }
            }
            Blow::Drain(host, after) => {
                // Most nodes can take what others give away.
                if self.drains.len() * 3 < self.hosts.len() {
                    note(Some(host), format!("drains for {after:?}"));
                    self.clients
                        .drain(self.hosts[host].machine.disk().node, true);
                    self.drains.push((now + after, host));
                }
            }
            Blow::Lag(host, lags) => {
                note(Some(host), format!("applies late: {lags}"));
                self.hosts[host].lags = lags;
            }
        }
    }

    fn crash(&mut self, at: usize, after: Duration, empty: bool) {
        let Machine::Up(_) = &self.hosts[at].machine else {
            return;
        };
        let text = format!("* is killed for {after:?}, disk lost: {empty}");
        self.story.note(self.now, Some(at), None, text);
        let host = &mut self.hosts[at];
        let nothing = Machine::Down {
            disk: Box::new(Disk::new(story::node(0))),
            until: Duration::MAX,
            refused_at: self.now,
        };
        let Machine::Up(process) = std::mem::replace(&mut host.machine, nothing) else {
            return;
        };
        (host.paused, host.inbox) = (None, Vec::new());
        let mut disk = process.disk;
        // Its port refuses, in the name of the run that has ended.
        self.refuse(at, process.me);
        disk.incarnation.0 += 1;
        if empty {
            disk = self.disk();
        }
        self.hosts[at].machine = Machine::Down {
            disk: Box::new(disk),
            until: self.now + after,
            refused_at: self.now,
        };
    }

    /// Those who had a connection to the run, and reach its machine, learn that it has ended.
    fn refuse(&mut self, at: usize, ended: Owner) {
        let Owner { node, incarnation } = ended;
        for host in 0..self.hosts.len() {
            let Machine::Up(process) = &self.hosts[host].machine else {
                continue;
            };
            let known = process.contacts.get(&node).map(|(run, _)| *run);
            let cut = self.network.cut.contains(&(host, at));
            if known == Some(incarnation) && !cut {
                let envelope = Envelope {
                    from: node,
                    source: at,
                    host,
                    node: None,
                    message: Message::Refused(Death { node, incarnation }),
                };
                self.network.send(self.now, envelope);
            }
        }
    }

    /// Whether what is agreed on survives the loss of a machine's disk, whoever leads.
    fn survives_without(&self, lost: usize) -> bool {
        let disks = self.hosts.iter().map(|host| host.machine.disk());
        let kept: BTreeSet<_> = (0..)
            .zip(disks)
            .filter(|(host, _)| *host != lost)
            .collect::<Vec<_>>()
            .into_iter()
            .map(|(_, disk)| disk.node)
            .collect();
        self.hosts.iter().all(|host| {
            let sets = host.machine.disk().voters().1;
            sets.is_empty() || decides(sets, |node| kept.contains(node))
        })
    }

    pub(super) fn heal(&mut self) {
        let now = self.now;
        self.cuts.retain(|(until, _)| now < *until);
        self.network.cut = self
            .cuts
            .iter()
            .flat_map(|(_, links)| links)
            .copied()
            .collect();
        let (over, drains) = self
            .drains
            .iter()
            .copied()
            .partition(|(until, _)| *until <= now);
        self.drains = drains;
        let over: Vec<(Duration, usize)> = over;
        for (_, host) in over {
            self.clients
                .drain(self.hosts[host].machine.disk().node, false);
        }
        for host in 0..self.hosts.len() {
            let Machine::Down {
                disk, refused_at, ..
            } = &mut self.hosts[host].machine
            else {
                continue;
            };
            // Others try to connect again and again.
            if now >= refused_at.saturating_add(RECONNECT) && disk.incarnation.0 > 1 {
                *refused_at = now;
                let incarnation = Incarnation(disk.incarnation.0 - 1);
                let ended = Owner {
                    node: disk.node,
                    incarnation,
                };
                self.refuse(host, ended);
            }
        }
    }

    pub(super) fn calm_down(&mut self) {
        self.story.note(
            self.now,
            None,
            None,
            "* nothing goes wrong any more".to_owned(),
        );
        self.network.weather = Weather::default();
        self.cuts.clear();
        for drain in &mut self.drains {
            drain.0 = self.now;
        }
        for host in &mut self.hosts {
            (host.lags, host.paused) = (false, host.paused.map(|_| self.now));
            if let Machine::Down { until, .. } = &mut host.machine {
                *until = self.now;
            }
        }
    }
}

fn told(links: &BTreeSet<(usize, usize)>) -> String {
    let links = links.iter().map(|(from, to)| format!("{from}>{to}"));
    links.collect::<Vec<_>>().join(" ")
}
