//! What happens in the cluster, told to whoever watches.
//!
//! Two sources. What the log tells is the same on every node, and every node has it by itself. What
//! becomes of instances is known where they are ([`Teller`]), and asked of all nodes while somebody
//! watches. A [`Cursor`] says how much of each was read, so that whoever lost the connection can go
//! on through any node.
//!
//! Invariant: telling never waits and takes bounded memory. What is forgotten unread is said to be
//! missed.

mod cursor;
mod teller;
#[cfg(test)]
mod tests;
mod told;

use std::sync::Arc;

use holdfast_cluster::state::{self, Owner};
use holdfast_model::{
    ModuleName, NodeId, ResourceId,
    api::{Event, EventType, Happening},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::told::told;
pub use self::{
    cursor::{Cursor, InvalidCursor},
    teller::Teller,
};
use crate::{
    clock::now_ms,
    control::Control,
    gather::{
        self, PAGE, PAGES_WAITING, Page, Place, Places, Position, Positions, Read, Reader, WAIT,
    },
    modules::chain,
    peer::{Kind, Lane, Peers},
    placement::Placement,
    recent::Recent,
    rpc::{self, Question},
};

/// The events of a cluster. Cheap to clone.
#[derive(Clone)]
pub struct Events(Arc<Inner>);

struct Inner {
    me: Owner,
    own: Arc<Own>,
    control: Control,
    peers: Peers,
    placement: Placement,
    watchers: Places,
    /// Nobody watches any longer then.
    stop: CancellationToken,
}

/// What has happened to the instances of this node.
type Own = Recent<(u64, Happening)>;

/// Which events are wanted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Filter {
    pub(crate) kind: Option<EventType>,
    pub(crate) module: Option<ModuleName>,
    pub(crate) resource: Option<ResourceId>,
}

/// Where to begin.
pub(crate) enum From {
    /// With what happens from now on.
    Now,
    /// With all that is known.
    Oldest,
    /// Where somebody has stopped reading.
    After(Cursor),
}

/// Asks a node what has happened to its instances.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReadEvents {
    filter: Filter,
    after: Position,
}

/// An event on its way, as it is written in the end: the wire's format cannot read its form back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    number: u64,
    pub(crate) kind: EventType,
    /// An [`Event`].
    pub(crate) json: Box<str>,
}

impl Question for ReadEvents {
    const KIND: Kind = Kind(14);
    const LANE: Lane = Lane::Data;
    type Answer = Page<Item>;
}

/// Events as they happen, each with the position after it.
pub(crate) struct Watched {
    instances: mpsc::Receiver<Read<Item>>,
    /// Events of the log, and how far it was read with them.
    log: mpsc::Receiver<(Vec<Item>, u64)>,
    cursor: Cursor,
    /// What is known to be missed before anything is heard.
    missed: Vec<Item>,
    // Ends the tasks when it is dropped.
    _tasks: JoinSet<()>,
    place: Place,
}

impl Events {
    /// The events that `teller` tells on this node, those of the others, and those of the log. Nobody
    /// watches any longer once `stop` is cancelled.
    #[must_use]
    pub fn new(
        me: Owner,
        teller: &Teller,
        control: Control,
        peers: Peers,
        placement: Placement,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            me,
            own: Arc::clone(&teller.own),
            control,
            peers,
            placement,
            watchers: Places::new(WATCHERS_MAX),
            stop,
        }))
    }

    /// Watches what happens; none when as many as can be do, and came a moment ago.
    pub(crate) async fn watch(&self, filter: Filter, from: From) -> Option<Watched> {
        let place = self.0.watchers.take(&self.0.stop)?;
        let happened = self.0.control.happened();
        let reader = Instances {
            events: self.clone(),
            filter: filter.clone(),
        };
        let mut missed = Vec::new();
        let cursor = match from {
            // Where everybody is now, before anything is told: without it whoever goes on from what
            // is told would not know where to.
            From::Now => Cursor {
                log: happened.newest(),
                instances: gather::present(&reader, reader.nodes()).await,
            },
            From::Oldest => Cursor {
                log: happened.forgotten(),
                instances: Positions::default(),
            },
            From::After(cursor) => {
                let unknown = cursor.instances.unknown();
                let what = unknown.map(|node| Happening::Missed { node: Some(node) });
                missed.extend(what.map(|what| Item::of(0, now_ms(), what)));
                cursor
            }
        };
        let mut tasks = JoinSet::new();
        let (tell, instances) = mpsc::channel(PAGES_WAITING);
        let (positions, stop) = (cursor.instances.0.clone(), place.over());
        gather::follow(&mut tasks, reader, positions, tell, stop.clone());
        let (tell, log) = mpsc::channel(PAGES_WAITING);
        let after = cursor.log;
        tasks.spawn(async move {
            let followed = follow_log(&happened, &filter, after, tell);
            let _ = stop.run_until_cancelled(followed).await;
        });
        Some(Watched {
            instances,
            log,
            cursor,
            missed,
            _tasks: tasks,
            place,
        })
    }

    /// Answers a peer.
    pub(crate) async fn answer(&self, question: ReadEvents) -> Page<Item> {
        let ReadEvents { filter, after } = question;
        let (me, own) = (self.0.me, &self.0.own);
        let position = |number| Position {
            incarnation: me.incarnation,
            number,
        };
        if after == Position::NOW {
            return Page {
                items: Vec::new(),
                position: position(own.newest()),
                missed: false,
            };
        }
        let is_ours = after.incarnation == me.incarnation;
        // The run that was read before is over, with what it had not told yet.
        let mut missed = !is_ours && after != Position::START;
        let from = if is_ours {
            after.number
        } else {
            own.forgotten()
        };
        let (mut items, mut number) = (Vec::new(), from);
        if !missed {
            let wanted = |event: &(u64, Happening)| filter.passes(&event.1).then(|| event.clone());
            let read = own.after(from, PAGE, WAIT, wanted);
            if let Some(batch) = self.0.stop.run_until_cancelled(read).await {
                let told = batch.items.into_iter();
                items.extend(told.map(|(number, (at_ms, what))| Item::of(number, at_ms, what)));
                (number, missed) = (batch.after, batch.missed);
            }
        }
        if missed {
            let what = Happening::Missed {
                node: Some(me.node),
            };
            items.insert(0, Item::of(from, now_ms(), what));
        }
        Page {
            items,
            position: position(number),
            missed: false,
        }
    }
}

/// Reads what has happened to instances.
#[derive(Clone)]
struct Instances {
    events: Events,
    filter: Filter,
}

impl Reader for Instances {
    type Item = Item;

    fn nodes(&self) -> Vec<NodeId> {
        self.events.0.placement.live().into_iter().collect()
    }

    async fn read(&self, node: NodeId, after: Position) -> Result<Page<Item>, String> {
        let question = ReadEvents {
            filter: self.filter.clone(),
            after,
        };
        let inner = &self.events.0;
        if node == inner.me.node {
            return Ok(self.events.answer(question).await);
        }
        let asked = rpc::ask(&inner.peers, node, &question, WAIT + gather::ASK).await;
        asked.map_err(|error| chain(&error))
    }
}

async fn follow_log(
    happened: &crate::control::Happened,
    filter: &Filter,
    mut after: u64,
    tell: mpsc::Sender<(Vec<Item>, u64)>,
) {
    loop {
        let wanted = |(at_ms, event): &(u64, state::Event)| {
            let what = told(event.clone());
            filter.passes(&what).then_some((*at_ms, what))
        };
        let batch = happened.after(after, PAGE, WAIT, wanted);
        let batch = tokio::select! {
            batch = batch => batch,
            // Whoever watched has left.
            () = tell.closed() => return,
        };
        let mut items = Vec::with_capacity(batch.items.len());
        if batch.missed {
            items.push(Item::of(after, now_ms(), Happening::Missed { node: None }));
        }
        let told = batch.items.into_iter();
        items.extend(told.map(|(number, (at_ms, what))| Item::of(number, at_ms, what)));
        let is_news = batch.after != after || !items.is_empty();
        after = batch.after;
        if is_news && tell.send((items, after)).await.is_err() {
            return;
        }
    }
}

impl Watched {
    /// How far it has read: from there whoever watches can go on, through any node.
    pub(crate) fn cursor(&self) -> String {
        self.cursor.to_string()
    }

    /// The next events, each with the cursor after it; none when the node stops, or another has its
    /// place. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Vec<(Item, String)>> {
        self.place.came();
        if !self.missed.is_empty() {
            let id = self.cursor.to_string();
            let missed = self.missed.drain(..);
            return Some(missed.map(|item| (item, id.clone())).collect());
        }
        loop {
            let told: Vec<_> = tokio::select! {
                Some((items, after)) = self.log.recv() => {
                    let cursor = &mut self.cursor;
                    let told = items.into_iter().map(|item| {
                        cursor.log = item.number;
                        let id = cursor.to_string();
                        (item, id)
                    });
                    let told = told.collect();
                    self.cursor.log = after;
                    told
                }
                Some(Read { node, page }) = self.instances.recv() => {
                    // A node that does not answer is told of by the log, if it matters.
                    let Ok(Page { items, position, .. }) = page else { continue };
                    let cursor = &mut self.cursor;
                    let told = items.into_iter().map(|item| {
                        let at = Position { number: item.number, ..position };
                        cursor.instances.0.insert(node, at);
                        let id = cursor.to_string();
                        (item, id)
                    });
                    let told = told.collect();
                    self.cursor.instances.0.insert(node, position);
                    told
                }
                else => return None,
            };
            if !told.is_empty() {
                return Some(told);
            }
        }
    }
}

impl Filter {
    fn passes(&self, happening: &Happening) -> bool {
        let Self {
            kind,
            module,
            resource,
        } = self;
        let is_kind = kind.is_none_or(|kind| kind == happening.kind());
        let is_module = |module| happening.module() == Some(module);
        let is_about = |resource| happening.is_about(resource);
        is_kind && module.as_ref().is_none_or(is_module) && resource.as_ref().is_none_or(is_about)
    }
}

impl Item {
    fn of(number: u64, at_ms: u64, what: Happening) -> Self {
        let kind = what.kind();
        let json = serde_json::to_string(&Event { at_ms, what });
        Self {
            number,
            kind,
            json: json.expect("texts and numbers").into(),
        }
    }
}

/// How many may watch through one node: each of them has a question at every other.
const WATCHERS_MAX: usize = 32;
