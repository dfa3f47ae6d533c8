//! One node: the real membership, state, handover and lease of a process, and what the host does
//! to hold them together.
//!
//! Invariant: an instance is there only while the handover and the lease say so; unless a [`Bug`]
//! is switched on.

mod hold;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use holdfast_cluster::{
    evidence::{Death, Evidence},
    handover::{Handover, Now, SlotKey},
    lease::{Answer, Holder, Terms},
    membership::{self, Member, Membership, Options},
    placement::stability::Stability,
    state::{Changes, Command, Decision, Key, Owner, Position},
};
use holdfast_model::{Incarnation, NodeId, Token};
use rand::{RngExt, rngs::ChaCha8Rng};

use crate::{
    leader::Leading,
    log::{Disk, ELECTION_MAX, ELECTION_MIN, Raft, What},
    network::{Envelope, Message, To},
    story,
};

/// The terms of all leases.
pub(crate) const TERMS: Terms = Terms {
    ttl: Duration::from_millis(3_000),
    guard: Duration::from_millis(500),
    contact: ELECTION_MAX,
};

/// A mistake that the nodes make on purpose, to see whether it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A node goes on when its lease is over.
    RunsPastDeadline,
    /// A new leader takes silence for death at once.
    NoWaitAfterElection,
    /// A slot is released while it still ends.
    ReleasesBeforeStopped,
    /// A slot whose release was not answered runs again under the same token.
    RunsAfterRelease,
    /// The leader puts the present token into releases.
    TokenUnchecked,
}

/// What a node did in a step.
#[derive(Default)]
pub(crate) struct Out {
    pub(crate) sends: Vec<(To, Message)>,
    pub(crate) notes: Vec<(Option<SlotKey>, String)>,
    /// Clients whose wish is committed and applied.
    pub(crate) served: Vec<u64>,
    /// By term and index of a placement: who was in reach when it was decided on.
    pub(crate) placed: Vec<((u64, u64), BTreeSet<NodeId>)>,
}

impl Out {
    pub(crate) fn note(&mut self, text: String) {
        self.notes.push((None, text));
    }
}

pub(crate) struct Instance {
    pub(crate) token: Token,
    /// When it will have terminated.
    pub(crate) ends: Option<Now>,
}

/// A node while its process lives.
pub(crate) struct Process {
    pub(crate) disk: Disk,
    pub(crate) me: Owner,
    pub(crate) addr: SocketAddr,
    pub(crate) raft: Raft,
    pub(crate) leading: Option<Leading>,
    pub(crate) evidence: Evidence,
    /// Runs of other nodes that a connection stood to lately.
    pub(crate) contacts: BTreeMap<NodeId, (Incarnation, Now)>,
    pub(crate) handover: Handover,
    pub(crate) instances: BTreeMap<SlotKey, Instance>,
    pub(crate) membership: Membership,
    /// Who has been in reach for how long.
    pub(crate) stability: Stability,
    pub(crate) bug: Option<Bug>,
    /// Whether what is committed is applied late.
    pub(crate) lags: bool,
    /// How much of the log was compared with that of others.
    pub(crate) compared: u64,
    peers: Vec<SocketAddr>,
    holder: Holder,
    until: Option<Now>,
    tokens: BTreeMap<SlotKey, Token>,
    proposed: BTreeMap<SlotKey, Now>,
    commits: VecDeque<(u64, Now)>,
    ask_at: Now,
    hello_at: Now,
    tell_at: Now,
    rng: ChaCha8Rng,
}

impl Process {
    /// Starts a process on a disk; `peers` are the addresses of all machines.
    pub(crate) fn start(
        disk: Disk,
        now: Now,
        addr: SocketAddr,
        peers: Vec<SocketAddr>,
        mut rng: ChaCha8Rng,
        bug: Option<Bug>,
        out: &mut Out,
    ) -> Self {
        let me = Owner {
            node: disk.node,
            incarnation: disk.incarnation,
        };
        let raft = Raft::new(&disk, now, patience(&mut rng));
        let mut process = Self {
            me,
            addr,
            raft,
            leading: None,
            evidence: Evidence::default(),
            contacts: BTreeMap::new(),
            handover: Handover::new(me, RELEASE_RETRY),
            instances: BTreeMap::new(),
            membership: member(me, addr, &mut rng),
            stability: Stability::default(),
            bug,
            lags: false,
            compared: disk.applied,
            peers,
            holder: Holder::default(),
            until: None,
            tokens: BTreeMap::new(),
            proposed: BTreeMap::new(),
            commits: VecDeque::new(),
            ask_at: now + Duration::from_millis(rng.random_range(0..500)),
            hello_at: now,
            tell_at: now,
            disk,
            rng,
        };
        process.begin(now, out);
        process
    }

    /// Begins an incarnation that runs nothing yet.
    fn begin(&mut self, now: Now, out: &mut Out) {
        out.note(format!("begins as {}", story::run(self.me)));
        let seeds = membership::Event::Announce(self.peers.clone());
        let actions = self.membership.step(now, seeds);
        self.gossip(actions, out);
        let slots: Vec<SlotKey> = self.slots();
        self.view(now, slots, out);
    }

    fn slots(&self) -> Vec<SlotKey> {
        let modules = self.disk.state.modules().iter();
        let of_module = modules.flat_map(|(name, module)| {
            let slots = module.slots.keys();
            slots.map(|slot| (name.clone(), *slot))
        });
        of_module.collect()
    }

    /// The slots that run here now, as far as this node is concerned: up to the end of what was
    /// past the check of the lease when it ended.
    pub(crate) fn running(&self, now: Now) -> impl Iterator<Item = (&SlotKey, Token)> {
        let fenced = self.until.is_none_or(|until| now >= until + PAST_CHECK);
        let runs = !fenced || self.bug == Some(Bug::RunsPastDeadline);
        let instances = self.instances.iter().filter(move |_| runs);
        instances.map(|(key, instance)| (key, instance.token))
    }

    /// Handles what came, and the time.
    pub(crate) fn step(&mut self, now: Now, inbox: Vec<Envelope>, out: &mut Out) {
        for envelope in inbox {
            self.receive(now, envelope, out);
        }
        let mut followers: BTreeSet<NodeId> = self.contacts.keys().copied().collect();
        followers.retain(|node| self.in_contact(*node, now));
        let patience = patience(&mut self.rng);
        self.raft.tick(&mut self.disk, now, &followers, patience);
        self.apply(now, out);
        self.lead(now, out);
        self.hold(now, out);
        self.tick(now, out);
        for (to, message) in self.raft.sent() {
            out.sends.push((To::Node(to), Message::Raft(message)));
        }
    }

    fn receive(&mut self, now: Now, envelope: Envelope, out: &mut Out) {
        let from = envelope.from;
        match envelope.message {
            Message::Gossip(packet) => {
                let packet = membership::Event::Packet(&packet);
                let actions = self.membership.step(now, packet);
                self.gossip(actions, out);
            }
            Message::Hello(Owner { node, incarnation }) => {
                let known = self
                    .contacts
                    .get(&node)
                    .map(|(incarnation, _)| *incarnation);
                if known <= Some(incarnation) {
                    self.contacts.insert(node, (incarnation, now));
                }
                if let Some(incarnation) = known.filter(|known| *known < incarnation) {
                    self.evidence.replaced(Death { node, incarnation });
                }
            }
            Message::Raft(message) => {
                let patience = patience(&mut self.rng);
                self.raft
                    .receive(&mut self.disk, now, from, message, patience);
            }
            Message::Ask(asker, asked) => {
                let answer = self.answer(now, asker);
                let answered = Message::Answered(asker, asked, answer);
                out.sends.push((To::Node(asker.node), answered));
            }
            Message::Answered(asker, asked, answer) if asker == self.me => {
                self.holder.answered(asked, now, answer);
            }
            Message::Answered(..) => {}
            Message::Propose(command) => self.propose(command, out),
            Message::Serve(number, command) => self.serve(now, number, command, out),
            Message::Died(deaths) => {
                for death in deaths {
                    self.evidence.add(death);
                }
            }
            Message::Refused(death) => self.evidence.add(death),
        }
    }

    /// Applies what is committed, some of it late.
    fn apply(&mut self, now: Now, out: &mut Out) {
        let noticed = self.commits.back().map_or(self.disk.applied, |(to, _)| *to);
        if self.raft.commit > noticed {
            let lag = if self.lags { 0..700 } else { 0..25 };
            let lag = Duration::from_millis(self.rng.random_range(lag));
            self.commits.push_back((self.raft.commit, now + lag));
        }
        let mut changes = Changes::new();
        while let Some((to, _)) = self.commits.pop_front_if(|(_, at)| *at <= now) {
            while self.disk.applied < to {
                let entry = self.disk.log[self.disk.applied as usize].clone();
                self.disk.applied += 1;
                let at = Position {
                    index: self.disk.applied,
                    term: entry.term,
                };
                if let What::Command(command) = &entry.what {
                    self.disk.state.apply(at, command.clone(), &mut changes);
                }
                if let Some(leading) = &mut self.leading {
                    out.served.extend(leading.applied(at));
                }
            }
        }
        if changes.is_empty() {
            return;
        }
        if let Some(leading) = &mut self.leading {
            leading.look();
        }
        let slots = changes.into_iter().filter_map(|key| match key {
            Key::Slot(module, slot) => Some((module, slot)),
            Key::Cluster | Key::Node(_) | Key::Module(_) | Key::Resource(..) => None,
        });
        self.view(now, slots.collect(), out);
    }

    fn view(&mut self, now: Now, slots: Vec<SlotKey>, out: &mut Out) {
        for key in slots {
            let state = self.disk.state.slot(&key.0, key.1).cloned();
            let actions = self.handover.view(now, &key, state.as_ref());
            self.act(now, actions, out);
        }
    }

    fn tick(&mut self, now: Now, out: &mut Out) {
        let ended = self.instances.iter();
        let ended: Vec<SlotKey> = ended
            .filter(|(_, instance)| instance.ends.is_some_and(|ends| ends <= now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in ended {
            self.instances.remove(&key);
            self.stopped(now, &key, out);
        }
        let actions = self.handover.tick(now);
        self.act(now, actions, out);
        while self.membership.next_tick().is_some_and(|at| at <= now) {
            let actions = self.membership.step(now, membership::Event::Tick);
            self.gossip(actions, out);
        }
        if now >= self.hello_at {
            self.hello_at = now + HELLO;
            out.sends.push((To::Everybody, Message::Hello(self.me)));
        }
        if now >= self.tell_at {
            self.tell_at = now + TELL;
            let deaths = self.evidence.pending(&self.disk.state);
            let leader = self.raft.leader.filter(|leader| *leader != self.me.node);
            if let Some(leader) = leader.filter(|_| !deaths.is_empty()) {
                out.sends.push((To::Node(leader), Message::Died(deaths)));
            }
        }
    }

    fn gossip(&mut self, actions: Vec<membership::Action>, out: &mut Out) {
        for action in actions {
            match action {
                membership::Action::Send { to, packet } => {
                    assert!(packet.len() <= Options::default().packet_bytes_max);
                    let host = self.peers.iter().position(|peer| *peer == to);
                    let host = host.expect("gossip goes to machines of the cluster");
                    out.sends.push((To::Host(host), Message::Gossip(packet)));
                }
                membership::Action::Down(member) => {
                    out.note(format!("takes {} for dead", story::name(member.node)));
                }
                membership::Action::Up(_)
                | membership::Action::Renamed { .. }
                | membership::Action::Refuted
                | membership::Action::Refused(_) => {}
            }
        }
    }

    pub(crate) fn in_contact(&self, node: NodeId, now: Now) -> bool {
        let contact = self.contacts.get(&node);
        contact.is_some_and(|(_, at)| now < *at + CONTACT_LOST)
    }

    /// What became of the evidence, for the bounds of queues.
    pub(crate) fn pending_deaths(&mut self) -> usize {
        self.evidence.pending(&self.disk.state).len()
    }

    fn answer(&mut self, now: Now, asker: Owner) -> Answer {
        let contact = self.raft.contact(&self.disk, now);
        match &mut self.leading {
            Some(leading) => leading.answer(now, contact, asker, &self.disk),
            None => Answer::NotNow,
        }
    }

    /// Appends a command, if this node leads.
    fn propose(&mut self, mut command: Command, out: &mut Out) {
        if self.bug == Some(Bug::TokenUnchecked)
            && let Command::Release { slots, .. } = &mut command
        {
            for (module, slot, token) in slots {
                let present = self.disk.state.slot(module, *slot);
                *token = present.map_or(*token, |state| state.token);
            }
        }
        let what = What::Command(command);
        if self.raft.propose(&mut self.disk, what).is_none() {
            out.note("was taken for the leader".to_owned());
        }
    }

    /// Sees to a client's wish: as the leader, or through it.
    fn serve(&mut self, now: Now, number: u64, mut command: Command, out: &mut Out) {
        let Some(leader) = self.raft.leader else {
            return;
        };
        if leader != self.me.node {
            let serve = Message::Serve(number, command);
            out.sends.push((To::Node(leader), serve));
            return;
        }
        let live = self.live(now);
        if let Command::Allocate {
            module,
            entries,
            placed,
            ..
        } = &mut command
        {
            let ids = entries.iter().map(|(id, _)| id);
            *placed = self.disk.state.place(module, ids, &live);
        }
        let index = self.raft.propose(&mut self.disk, What::Command(command));
        if let (Some(index), Some(leading)) = (index, &mut self.leading) {
            leading.serves(index, number);
        }
    }

    /// The nodes that answer: gossip sees them, and a connection to that very run stands.
    pub(crate) fn live(&self, now: Now) -> BTreeSet<NodeId> {
        self.reached(now).map(|run| run.node).collect()
    }

    /// The runs of nodes that answer, this one included.
    pub(crate) fn reached(&self, now: Now) -> impl Iterator<Item = Owner> {
        let members = self.membership.members();
        let answers = move |member: &Member| {
            let contact = self.contacts.get(&member.node);
            contact.is_some_and(|(incarnation, _)| *incarnation == member.incarnation)
                && self.in_contact(member.node, now)
        };
        let run = |member: Member| Owner {
            node: member.node,
            incarnation: member.incarnation,
        };
        members.filter(answers).map(run).chain([self.me])
    }

    pub(crate) fn decide(&mut self, decision: Decision) -> Option<u64> {
        let term = self.disk.term;
        let command = Command::Decide { term, decision };
        self.raft.propose(&mut self.disk, What::Command(command))
    }
}

fn member(
    Owner { node, incarnation }: Owner,
    addr: SocketAddr,
    rng: &mut ChaCha8Rng,
) -> Membership {
    let own = Member {
        node,
        incarnation,
        addr,
    };
    // As ever, but halves that lost each other meet again within a short simulation.
    let options = Options {
        announce_alone_max: Duration::from_secs(2),
        announce_absent: Duration::from_secs(4),
        ..Options::default()
    };
    Membership::new(own, options, rng.random()).expect("the options are valid")
}

fn patience(rng: &mut ChaCha8Rng) -> Duration {
    rng.random_range(ELECTION_MIN..ELECTION_MAX)
}

/// How long what was past the check of the lease may go on, as the terms have it.
const PAST_CHECK: Duration = Duration::from_millis(50);

const RELEASE_RETRY: Duration = Duration::from_millis(500);
const HELLO: Duration = Duration::from_millis(400);
const CONTACT_LOST: Duration = Duration::from_millis(1_500);
const TELL: Duration = Duration::from_millis(250);
