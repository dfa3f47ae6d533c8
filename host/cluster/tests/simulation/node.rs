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
    lease::{Grants, Holder, RENEW_EVERY, Terms},
    membership::{self, Member, Membership, Options},
    placement::stability::Stability,
    state::{Changes, Command, Key, Owner, Position, State},
};
use holdfast_model::{Incarnation, NodeId, Token};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use crate::{
    leader::Leading,
    log::{Committed, ELECTION_MAX, Entry, Lead, Log, Proposal, Store, What},
    network::{Envelope, Message, To},
    story,
};

/// The terms of all leases, until an operator changes them.
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
    /// A leader grants to those whose end it is about to propose.
    GrantsCondemned,
    /// A leader grants before it knows what earlier ones decided.
    GrantsUnknowing,
    /// A thread that took an earlier term for the present one has that one's leases begin anew.
    GrantsInOlderTerm,
    /// A leader counts silence by shorter leases from the moment that they are granted.
    OutlastsNothing,
    /// A disk's promises are made before it keeps them.
    AcksBeforeFlush,
    /// A node whose restart nobody acknowledged in time goes on, whatever its state says.
    ForgetsItsRestart,
}

/// What a node did in a step.
#[derive(Default)]
pub(crate) struct Out {
    pub(crate) sends: Vec<(To, Message)>,
    pub(crate) notes: Vec<(Option<SlotKey>, String)>,
    /// What this node knows to be committed, since the step before.
    pub(crate) committed: Vec<Committed>,
    /// Runs that this node, as leader, gives up.
    pub(crate) given_up: Vec<Owner>,
    /// The leadership is being handed over.
    pub(crate) hands_over: bool,
    /// Clients whose wish is committed and applied.
    pub(crate) served: Vec<u64>,
    /// By number of a proposed placement: who was in reach when it was decided on.
    pub(crate) placed: Vec<(u64, BTreeSet<NodeId>)>,
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

/// What a node keeps through a crash.
pub(crate) struct Disk {
    /// Its run, or the next one when none is there.
    pub(crate) me: Owner,
    pub(crate) store: Box<dyn Store>,
}

/// A node while its process lives.
pub(crate) struct Process {
    pub(crate) me: Owner,
    /// The boot of the kernel that it runs under.
    pub(crate) boot: u64,
    pub(crate) addr: SocketAddr,
    pub(crate) log: Box<dyn Log>,
    /// Everything up to `applied`.
    pub(crate) state: State,
    pub(crate) applied: u64,
    pub(crate) leading: Option<Leading>,
    /// The leases of the term that it leads, or led last.
    pub(crate) grants: Grants,
    /// The terms that it has led.
    pub(crate) led: Vec<Lead>,
    /// The runs that it has given up, and in which term.
    pub(crate) gave_up: BTreeSet<(u64, Owner)>,
    /// One of those that it has granted a lease all the same.
    pub(crate) granted_after_all: Option<Owner>,
    pub(crate) evidence: Evidence,
    /// Runs of other nodes that a connection stood to lately.
    pub(crate) contacts: BTreeMap<NodeId, Contact>,
    pub(crate) handover: Handover,
    pub(crate) instances: BTreeMap<SlotKey, Instance>,
    pub(crate) membership: Membership,
    /// Who has been in reach for how long.
    pub(crate) stability: Stability,
    pub(crate) bug: Option<Bug>,
    /// Whether what is committed is applied late.
    pub(crate) lags: bool,
    peers: Vec<SocketAddr>,
    holder: Holder,
    until: Option<Now>,
    tokens: BTreeMap<SlotKey, Token>,
    proposed: BTreeMap<SlotKey, Now>,
    /// What is committed, and when it is applied.
    commits: VecDeque<(Now, Committed)>,
    /// The leader that was asked last.
    asked: Option<NodeId>,
    ask_at: Now,
    hello_at: Now,
    tell_at: Now,
    pub(crate) rng: ChaCha8Rng,
}

/// A connection to another node's process.
#[derive(Clone, Copy)]
pub(crate) struct Contact {
    pub(crate) incarnation: Incarnation,
    pub(crate) boot: u64,
    /// The machine that it is on.
    pub(crate) host: usize,
    pub(crate) at: Now,
}

/// Where a process runs.
pub(crate) struct Place {
    pub(crate) addr: SocketAddr,
    pub(crate) boot: u64,
    /// The addresses of all machines.
    pub(crate) peers: Vec<SocketAddr>,
}

impl Process {
    /// Starts a process on a disk.
    pub(crate) fn start(
        disk: Disk,
        now: Now,
        place: Place,
        mut rng: ChaCha8Rng,
        bug: Option<Bug>,
        out: &mut Out,
    ) -> Self {
        let me = disk.me;
        let Place { addr, boot, peers } = place;
        let careless = bug == Some(Bug::AcksBeforeFlush);
        let of_log = ChaCha8Rng::seed_from_u64(rng.random());
        let (log, checkpoint) = disk.store.open(now, of_log, careless);
        let mut process = Self {
            me,
            boot,
            addr,
            log,
            state: checkpoint.state.clone(),
            applied: checkpoint.at.index,
            leading: None,
            grants: Grants::default(),
            led: Vec::new(),
            gave_up: BTreeSet::new(),
            granted_after_all: None,
            evidence: Evidence::default(),
            contacts: BTreeMap::new(),
            handover: Handover::new(me, RELEASE_RETRY),
            instances: BTreeMap::new(),
            membership: member(me, addr, &mut rng),
            stability: Stability::default(),
            bug,
            lags: false,
            peers,
            holder: Holder::default(),
            until: None,
            tokens: BTreeMap::new(),
            proposed: BTreeMap::new(),
            commits: VecDeque::new(),
            asked: None,
            ask_at: now,
            hello_at: now,
            tell_at: now,
            rng,
        };
        process.begin(now, out);
        process
    }

    /// Ends it without a word; its next run gets another incarnation.
    pub(crate) fn kill(self) -> Disk {
        let mut me = self.me;
        me.incarnation.0 += 1;
        let store = self.log.kill();
        Disk { me, store }
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
        let modules = self.state.modules().iter();
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

    /// Whether it was granted something within the time between two questions, or a little more.
    pub(crate) fn is_granted(&self, now: Now) -> bool {
        let terms = self.state.cluster().map(|cluster| cluster.settings.lease);
        let terms = terms.unwrap_or(TERMS);
        let fresh = now + terms.ttl - terms.guard - RENEW_EVERY - HELLO;
        self.until.is_some_and(|until| until >= fresh)
    }

    /// Whether it may not run anything yet.
    pub(crate) fn waits(&self) -> bool {
        self.until.is_none()
    }

    /// Handles what came, and the time.
    pub(crate) fn step(&mut self, now: Now, inbox: Vec<Envelope>, out: &mut Out) {
        for envelope in inbox {
            self.receive(now, envelope, out);
        }
        let mut followers: BTreeSet<NodeId> = self.contacts.keys().copied().collect();
        followers.retain(|node| self.in_contact(*node, now));
        self.log.tick(now, &followers);
        self.apply(now, out);
        self.lead(now, out);
        self.hold(now, out);
        self.tick(now, out);
        for (to, message) in self.log.sent(now) {
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
            Message::GossipDelivered(packet, deaf) => {
                let packet = &packet[..];
                let delivered = membership::Event::Delivered { packet, deaf };
                let actions = self.membership.step(now, delivered);
                self.gossip(actions, out);
            }
            Message::Hello(run, boot) => self.meet(now, run, boot, envelope.source),
            Message::Raft(message) => self.log.receive(now, from, message),
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
            Message::Refused(death) => {
                let ended = |contact: &Contact| contact.incarnation == death.incarnation;
                if self.contacts.get(&death.node).is_some_and(ended) {
                    self.contacts.remove(&death.node);
                }
                self.evidence.add(death);
            }
            Message::HandOver(to) => self.hand_over(now, to, out),
        }
    }

    /// Another run shows that it is there. One that it follows on has ended before, which the lock
    /// of the data directory proves under one boot of one kernel.
    fn meet(&mut self, now: Now, Owner { node, incarnation }: Owner, boot: u64, host: usize) {
        let known = self.contacts.get(&node).copied();
        if known.is_none_or(|known| known.incarnation <= incarnation) {
            let contact = Contact {
                incarnation,
                boot,
                host,
                at: now,
            };
            self.contacts.insert(node, contact);
        }
        if let Some(known) = known.filter(|known| known.incarnation < incarnation)
            && known.boot == boot
        {
            self.evidence.replaced(Death {
                node,
                incarnation: known.incarnation,
            });
        }
    }

    /// Applies what is committed, some of it late.
    fn apply(&mut self, now: Now, out: &mut Out) {
        let lag = if self.lags { 0..700 } else { 0..25 };
        let at = now + Duration::from_millis(self.rng.random_range(lag));
        while let Some(committed) = self.log.next() {
            out.committed.push(committed.clone());
            self.commits.push_back((at, committed));
        }
        let mut changes = Changes::new();
        while let Some((_, committed)) = self.commits.pop_front_if(|(at, _)| *at <= now) {
            let at = match committed {
                Committed::Entry(at, entry) => {
                    self.apply_entry(at, &entry, &mut changes, out);
                    at
                }
                Committed::State(checkpoint) => {
                    changes.extend(self.state.keys().chain(checkpoint.state.keys()));
                    self.state = checkpoint.state.clone();
                    out.note("takes over a state".to_owned());
                    checkpoint.at
                }
            };
            self.applied = at.index;
            self.log.applied(at, &self.state);
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

    fn apply_entry(&mut self, at: Position, entry: &Entry, changes: &mut Changes, out: &mut Out) {
        let Proposal { number, what } = &*entry.proposal;
        if let What::Command(command) = what {
            self.state.apply(at, command.clone(), changes);
        }
        if let Some(leading) = &mut self.leading {
            out.served.extend(leading.applied(*number));
        }
    }

    fn view(&mut self, now: Now, slots: Vec<SlotKey>, out: &mut Out) {
        for key in slots {
            let state = self.state.slot(&key.0, key.1).cloned();
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
            let hello = Message::Hello(self.me, self.boot);
            out.sends.push((To::Everybody, hello));
            let connected = self.connections(now);
            let connected = membership::Event::Connected(connected);
            let actions = self.membership.step(now, connected);
            self.gossip(actions, out);
        }
        if now >= self.tell_at {
            self.tell_at = now + TELL;
            let deaths = self.evidence.pending(&self.state);
            let leader = self.log.leader().filter(|leader| *leader != self.me.node);
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
                membership::Action::Deliver { to, packet, deaf } => {
                    let delivered = Message::GossipDelivered(packet, deaf);
                    out.sends.push((To::Node(to), delivered));
                }
                membership::Action::Down(member) => {
                    out.note(format!("takes {} for dead", story::name(member.node)));
                }
                membership::Action::Up(_)
                | membership::Action::Renamed { .. }
                | membership::Action::Refuted
                | membership::Action::Twin { .. }
                | membership::Action::Refused(_) => {}
            }
        }
    }

    /// The nodes to which connections stand, and where their datagrams go.
    fn connections(&self, now: Now) -> Vec<(NodeId, SocketAddr)> {
        let connected = self.contacts.iter();
        let connected = connected.filter(|(node, _)| self.in_contact(**node, now));
        let at = connected.map(|(node, contact)| (*node, self.peers[contact.host]));
        at.filter(|(node, _)| *node != self.me.node).collect()
    }

    pub(crate) fn in_contact(&self, node: NodeId, now: Now) -> bool {
        in_contact(&self.contacts, node, now)
    }

    /// What became of the evidence, for the bounds of queues.
    pub(crate) fn pending_deaths(&mut self) -> usize {
        self.evidence.pending(&self.state).len()
    }

    /// Has something appended, if this node leads; gives its number.
    pub(crate) fn append(&mut self, command: Command) -> Option<u64> {
        let number = self.rng.random();
        let what = What::Command(command);
        self.log
            .propose(Proposal { number, what })
            .then_some(number)
    }

    /// Appends a command, if this node leads.
    fn propose(&mut self, mut command: Command, out: &mut Out) {
        if self.bug == Some(Bug::TokenUnchecked)
            && let Command::Release { slots, .. } = &mut command
        {
            for (module, slot, token) in slots {
                let present = self.state.slot(module, *slot);
                *token = present.map_or(*token, |state| state.token);
            }
        }
        if self.append(command).is_none() {
            out.note("was taken for the leader".to_owned());
        }
    }

    /// Sees to a client's wish: as the leader, or through it.
    fn serve(&mut self, now: Now, number: u64, mut command: Command, out: &mut Out) {
        let Some(leader) = self.log.leader() else {
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
            *placed = self.state.place(module, ids, &live);
        }
        let appended = self.append(command);
        if let (Some(appended), Some(leading)) = (appended, &mut self.leading) {
            leading.serves(appended, number);
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
            contact.is_some_and(|contact| contact.incarnation == member.incarnation)
                && self.in_contact(member.node, now)
        };
        let run = |member: Member| Owner {
            node: member.node,
            incarnation: member.incarnation,
        };
        members.filter(answers).map(run).chain([self.me])
    }
}

pub(crate) fn in_contact(contacts: &BTreeMap<NodeId, Contact>, node: NodeId, now: Now) -> bool {
    let contact = contacts.get(&node);
    contact.is_some_and(|contact| now < contact.at + CONTACT_LOST)
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

/// How long what was past the check of the lease may go on, as the terms have it.
const PAST_CHECK: Duration = Duration::from_millis(50);

const RELEASE_RETRY: Duration = Duration::from_millis(500);
const HELLO: Duration = Duration::from_millis(400);
const CONTACT_LOST: Duration = Duration::from_millis(1_500);
const TELL: Duration = Duration::from_millis(250);
