//! What goes wrong, done to the machines and wires; and how it ends.

use std::{collections::BTreeSet, time::Duration};

use holdfast_cluster::{
    evidence::Death,
    state::{Owner, SettingsChange, Standing},
};
use holdfast_model::NodeId;
use rand::RngExt;

use super::{HOSTS_MAX, Host, JOINERS, Machine, RECONNECT, Removal, Restart, World};
use crate::{
    faults::{Blow, Silence, Who},
    log::decides,
    network::{Envelope, Message, Weather},
    node::{Bug, TERMS},
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
            Blow::CutDatagrams(links, after) => {
                note(
                    None,
                    format!("datagrams are lost for {after:?}: {}", told(&links)),
                );
                self.cuts_of_datagrams.push((now + after, links));
            }
            Blow::Pause(who, after) => {
                if let Some(host) = self.host(who) {
                    self.pause(host, after);
                }
            }
            Blow::Silence(silence) => self.silences.push((silence, None)),
            Blow::Crash(who, after) => {
                if let Some(host) = self.host(who) {
                    self.crash(host, after, "is killed");
                }
            }
            Blow::Reboot(host, after) => {
                self.crash(host, after, "is switched off");
                self.hosts[host].boot += 1;
                if let Machine::Down { refuses, .. } = &mut self.hosts[host].machine {
                    *refuses = None;
                }
            }
            Blow::LoseDisk(host, after) => {
                // A removal may leave an even number of voters, which survive one loss less.
                if self.removals.is_empty() && self.survives_without(host) {
                    self.lost = now;
                    self.crash(host, after, "is killed, and its disk lost,");
                    self.replace(host);
                }
            }
            Blow::Join => {
                if self.hosts.len() < self.config.nodes + JOINERS && self.hosts.len() < HOSTS_MAX {
                    let disk = self.disk(&[]);
                    self.add(disk);
                }
            }
            Blow::Drain(host, after) => {
                // Most nodes can take what others give away.
                if self.drains.len() * 3 < self.hosts.len() {
                    self.note(host, format!("* drains for {after:?}"));
                    self.clients.drain(self.hosts[host].node, true);
                    self.drains.push((now + after, host));
                }
            }
            Blow::Weigh(host, weight) => {
                self.note(host, format!("* has weight {weight} from now on"));
                self.clients.weigh(self.hosts[host].node, weight);
            }
            Blow::Lag(who, after) => {
                let Some(host) = self.host(who) else { return };
                self.note(host, format!("* applies late for {after:?}"));
                self.hosts[host].lags = now + after;
            }
            Blow::Stall(who, after) => {
                let Some(host) = self.host(who) else { return };
                self.note(host, format!("* has a slow disk for {after:?}"));
                self.hosts[host].stalls = now + after;
            }
            Blow::Handover(host) => {
                let to = self.hosts[host].node;
                let Some(leader) = self.host(Who::Leader) else {
                    return;
                };
                self.hosts[leader].inbox.push(Envelope {
                    from: to,
                    source: leader,
                    host: leader,
                    node: None,
                    message: Message::HandOver(to),
                });
            }
            Blow::Remove(host, drained) => {
                let node = self.hosts[host].node;
                let active = |node: &NodeId| self.checker.state.active(*node).is_some();
                let left = self.checker.state.nodes().keys().filter(|n| active(n));
                let known = self.lost == Duration::ZERO || now > self.lost + LOSS_KNOWN;
                let free = self.removals.is_empty() && known;
                if free && active(&node) && left.count() > REMAIN {
                    self.note(host, "* is to be removed".to_owned());
                    if drained {
                        self.clients.drain(node, true);
                    }
                    self.removals.insert(
                        node,
                        Removal {
                            drained,
                            asked: false,
                        },
                    );
                }
            }
            Blow::Restart(host, after) => {
                if let Machine::Up(process) = &self.hosts[host].machine {
                    let me = process.me;
                    self.note(host, "* is to restart".to_owned());
                    let number = self.clients.restart(me);
                    self.restarts.push(Restart {
                        host,
                        run: me,
                        number,
                        said: now,
                        after,
                    });
                }
            }
            Blow::Terms((ttl, guard)) => {
                let text = format!("* leases are to last {ttl} ms, with guards of {guard} ms");
                self.story.note(now, None, None, text);
                self.clients.set(SettingsChange {
                    lease_ttl: Some(Duration::from_millis(ttl)),
                    lease_guard: Some(Duration::from_millis(guard)),
                    ..SettingsChange::default()
                });
            }
        }
    }

    fn pause(&mut self, host: usize, after: Duration) {
        self.note(host, format!("* stands still for {after:?}"));
        let until = Some(self.now + after);
        let host = &mut self.hosts[host];
        host.paused = host.paused.max(until);
        if let Machine::Up(process) = &mut host.machine {
            process.log.stand_still(true);
        }
    }

    /// Catches those that have joined and have no lease yet; kills leaders whose time has come.
    pub(super) fn silence(&mut self) {
        let silences = std::mem::take(&mut self.silences);
        for (silence, run) in silences {
            let Machine::Up(process) = &self.hosts[silence.host].machine else {
                self.silences
                    .extend(run.is_none().then_some((silence, run)));
                continue;
            };
            let (me, waits) = (process.me, process.waits());
            if run.is_none() && waits && self.checker.state.is_member(me) {
                self.pause(silence.host, TERMS.silence_max() * 2);
                self.silences.push((silence, Some(me)));
            } else if waits || run.is_none() {
                // The run that it waits for may not have begun.
                self.silences.push((silence, run));
            }
        }
        let now = self.now;
        for (_, host) in self
            .doomed
            .extract_if(.., |(at, _)| *at <= now)
            .collect::<Vec<_>>()
        {
            self.crash(host, Duration::from_secs(1), "is killed");
        }
    }

    /// A leader gives up on these.
    pub(super) fn give_up(&mut self, leader: usize, runs: &[Owner]) {
        let caught =
            |(_, run): &mut (Silence, Option<Owner>)| run.is_some_and(|run| runs.contains(&run));
        let caught: Vec<_> = self.silences.extract_if(.., caught).collect();
        for (silence, _) in caught {
            let Silence {
                host,
                goes_on,
                leader_ends,
                lags,
            } = silence;
            self.hosts[host].paused = Some(self.now + goes_on);
            self.doomed
                .extend(leader_ends.map(|after| (self.now + after, leader)));
            for host in 0..self.hosts.len() {
                if lags && self.rng.random_bool(0.5) {
                    self.note(host, "* applies late".to_owned());
                    self.hosts[host].lags = self.now + TERMS.ttl;
                }
            }
        }
    }

    fn note(&mut self, host: usize, text: String) {
        self.story.note(self.now, Some(host), None, text);
    }

    fn host(&self, who: Who) -> Option<usize> {
        let leads = |host: &Host| match &host.machine {
            Machine::Up(process) => process.log.lead().is_some(),
            Machine::Down { .. } => false,
        };
        match who {
            Who::Host(host) => Some(host),
            Who::Leader => self.hosts.iter().position(leads),
        }
    }

    /// Ends those whose word that they restart was acknowledged. Who gave it may have given up waiting,
    /// and finds it in the state: then it is given again, until it is acknowledged, since the leader
    /// may not know of it yet and take the end for a death.
    pub(super) fn restart(&mut self) {
        for mut restart in std::mem::take(&mut self.restarts) {
            let Restart {
                host, run, number, ..
            } = restart;
            let Machine::Up(process) = &self.hosts[host].machine else {
                continue;
            };
            if process.me != run {
                continue;
            }
            let known = process.state.nodes().get(&run.node);
            let said = known.is_some_and(|known| {
                known.incarnation == run.incarnation && known.standing == Standing::Restarting
            });
            let heard = said && self.config.bug != Some(Bug::ForgetsItsRestart);
            if heard && !self.clients.waits_for(number) && !self.clients.was_served(number) {
                restart.number = self.clients.restart(run);
            }
            if !self.clients.was_served(number) || self.hosts[host].paused.is_some() {
                self.restarts.push(restart);
            } else {
                if process.is_granted(self.hosts[host].clock.now(self.now)) {
                    self.checker.reserve(run, restart.said, self.now);
                }
                self.crash(host, restart.after, "restarts");
            }
        }
    }

    /// Goes on with what an operator does to take nodes out of the cluster: they are drained first,
    /// and their machines come back as new ones in the end.
    pub(super) fn remove_nodes(&mut self) {
        let state = &self.checker.state;
        let slots = |node: NodeId| {
            let modules = state.modules().values();
            let slots = modules.flat_map(|module| module.slots.values());
            slots
                .filter(|slot| slot.owner.is_some_and(|owner| owner.node == node))
                .count()
        };
        let mut gone = Vec::new();
        for (node, removal) in &mut self.removals {
            let Some(known) = state.nodes().get(node) else {
                continue;
            };
            match known.standing {
                Standing::Removed => gone.push(*node),
                _ if !removal.asked && (!removal.drained || slots(*node) == 0) => {
                    removal.asked = true;
                    self.clients.remove(*node, known.incarnation);
                }
                _ => {}
            }
        }
        for node in gone {
            let votes = self.hosts.iter().any(|host| {
                let sets = host.machine.quorums();
                sets.iter().any(|set| set.contains(&node))
            });
            if !votes {
                self.removals.remove(&node);
                if let Some(host) = self.hosts.iter().position(|host| host.node == node) {
                    self.crash(host, Duration::from_millis(500), "is removed");
                    self.replace(host);
                }
            }
        }
    }

    /// Its process ends at once, if it lives, and is started again on the same disk.
    fn crash(&mut self, at: usize, after: Duration, how: &str) {
        if matches!(self.hosts[at].machine, Machine::Down { .. }) {
            return;
        }
        self.note(at, format!("* {how} for {after:?}"));
        let host = &mut self.hosts[at];
        (host.paused, host.inbox) = (None, Vec::new());
        let down = Machine::Down {
            disk: None,
            until: self.now + after,
            refuses: None,
        };
        let Machine::Up(process) = std::mem::replace(&mut host.machine, down) else {
            return;
        };
        let ended = process.me;
        if let Machine::Down { disk, refuses, .. } = &mut host.machine {
            *disk = Some(process.kill());
            // Its port refuses, in the name of the run that has ended.
            *refuses = Some((ended, self.now));
        }
        self.refuse(at, ended);
    }

    /// Another disk in a machine that is down: another node.
    fn replace(&mut self, at: usize) {
        let fresh = self.disk(&[]);
        let host = &mut self.hosts[at];
        if let Machine::Down { disk, .. } = &mut host.machine {
            host.node = fresh.me.node;
            *disk = Some(fresh);
        }
    }

    /// Those who had a connection to the run, and reach its machine, learn that it has ended.
    fn refuse(&mut self, at: usize, ended: Owner) {
        let Owner { node, incarnation } = ended;
        for host in 0..self.hosts.len() {
            let Machine::Up(process) = &self.hosts[host].machine else {
                continue;
            };
            let known = process.contacts.get(&node).map(|known| known.incarnation);
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
        let others = (0..).zip(&self.hosts).filter(|(host, _)| *host != lost);
        let kept: BTreeSet<NodeId> = others.map(|(_, host)| host.node).collect();
        self.hosts.iter().all(|host| {
            let sets = host.machine.quorums();
            sets.is_empty() || decides(&sets, |node| kept.contains(node))
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
        self.cuts_of_datagrams.retain(|(until, _)| now < *until);
        self.network.without_datagrams = self
            .cuts_of_datagrams
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
            let node = self.hosts[host].node;
            if !self.removals.contains_key(&node) {
                self.clients.drain(node, false);
            }
        }
        for host in 0..self.hosts.len() {
            // Others try to connect again and again.
            if let Machine::Down { refuses, .. } = &mut self.hosts[host].machine
                && let Some((ended, last)) = refuses
                && now >= *last + RECONNECT
            {
                let ended = *ended;
                *last = now;
                self.refuse(host, ended);
            }
        }
    }

    pub(super) fn calm_down(&mut self) {
        self.calm_since = Some(self.now);
        for restart in &mut self.restarts {
            restart.after = restart.after.min(Duration::from_millis(500));
        }
        self.silences.clear();
        self.doomed.clear();
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
            (host.lags, host.stalls) = (self.now, self.now);
            host.paused = host.paused.map(|_| self.now);
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

/// After this time everybody knows that a disk was lost, and counts on its node no more.
const LOSS_KNOWN: Duration = Duration::from_secs(3);

/// Nodes that stay, whatever an operator removes.
const REMAIN: usize = 3;
