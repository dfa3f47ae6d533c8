//! Brings what peers ask to the part of the node that answers.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_cluster::state::Owner;

use super::reach::{self, Reach};
use crate::{
    control::{self, Control, TransportError},
    deploy::{self, FetchComponent, KeepComponent},
    dispatch::{self, AwaitHeld, CompiledYet, CountsOf, Dispatch, Reports},
    events::{Events, ReadEvents},
    gossip,
    logs::{ChangeLog, Logs, ReadLogs},
    modules::{self, Modules},
    peer::{Answer, CallError, Handler, Kind, Lane, PeerInfo, Peers, Reply},
    placement::{Allocate, ConditionsOf, Died, GiveVote, Placement, ReadDigests, Renew},
    restart::{Restart, Restarts},
    rpc::{self, Question},
};

/// What answers peers, once the node has it.
#[derive(Default)]
pub(super) struct Answers(ArcSwapOption<Parts>);

pub(super) struct Parts {
    pub(super) inbox: gossip::Inbox,
    pub(super) control: Control,
    pub(super) peers: Peers,
    pub(super) modules: Modules,
    pub(super) placement: Placement,
    pub(super) dispatch: Dispatch,
    pub(super) restarts: Restarts,
    pub(super) logs: Logs,
    pub(super) events: Events,
}

impl Answers {
    pub(super) fn open(&self, parts: Parts) {
        self.0.store(Some(Arc::new(parts)));
    }

    /// Lets go of the node, which has ended: its parts have this, and this has them.
    pub(super) fn close(&self) {
        self.0.store(None);
    }
}

impl Handler for Answers {
    fn handle(&self, peer: &PeerInfo, kind: Kind, payload: Bytes) -> Reply {
        let Some(parts) = self.0.load_full() else {
            return Reply::Ready(Err("the node is starting, or has ended".to_owned()));
        };
        let asker = Owner {
            node: peer.node,
            incarnation: peer.incarnation,
        };
        if kind == gossip::DELIVER {
            parts.inbox.take(&payload);
            return Reply::Ready(Ok(Bytes::new()));
        }
        if kind == dispatch::CALL {
            let called = dispatch::answer_call(&parts.dispatch, payload);
            // The guest may compute for as long as it likes.
            return Reply::Task(Box::pin(async move { Ok(called.await) }));
        }
        Reply::Pending(Box::pin(async move {
            match kind {
                CONTROL => {
                    let answered = parts.control.handle(asker.node, payload).await;
                    answered.map_err(|error| modules::chain(&error))
                }
                Reports::KIND => reply(&payload, async |q| parts.dispatch.reports(&q)).await,
                CountsOf::KIND => {
                    reply(&payload, async |_: CountsOf| parts.dispatch.counts()).await
                }
                ConditionsOf::KIND => {
                    let told = async |_: ConditionsOf| parts.placement.conditions();
                    reply(&payload, told).await
                }
                CompiledYet::KIND => {
                    reply(&payload, async |q| parts.dispatch.compiled_yet(&q)).await
                }
                AwaitHeld::KIND => {
                    reply(&payload, async |q| parts.dispatch.await_held(q).await).await
                }
                KeepComponent::KIND => {
                    let Parts { modules, peers, .. } = &*parts;
                    let keep = async |q| deploy::answer_keep(modules, peers, asker.node, q).await;
                    reply(&payload, keep).await
                }
                FetchComponent::KIND => {
                    reply(&payload, async |q| {
                        deploy::answer_fetch(&parts.modules, q).await
                    })
                    .await
                }
                Allocate::KIND => {
                    reply(&payload, async |q| parts.placement.answer_allocate(q).await).await
                }
                Renew::KIND => {
                    reply(&payload, async |q| parts.placement.answer_renew(asker, &q)).await
                }
                GiveVote::KIND => {
                    let give = async |GiveVote| parts.placement.answer_give_vote(asker.node);
                    reply(&payload, give).await
                }
                ReadDigests::KIND => {
                    reply(&payload, async |ReadDigests| {
                        parts.placement.answer_digests()
                    })
                    .await
                }
                Restart::KIND => {
                    reply(&payload, async |question: Restart| {
                        parts.restarts.answer(question).await
                    })
                    .await
                }
                ReadLogs::KIND => reply(&payload, async |q| parts.logs.answer(q).await).await,
                ReadEvents::KIND => reply(&payload, async |q| parts.events.answer(q).await).await,
                ChangeLog::KIND => reply(&payload, async |q| parts.logs.answer_change(&q)).await,
                Reach::KIND => {
                    reply(&payload, async |Reach| {
                        reach::answer(&parts.peers, asker.node)
                    })
                    .await
                }
                Died::KIND => reply(&payload, async |q| parts.placement.answer_died(q)).await,
                Kind(other) => Err(format!("this version knows no question of kind {other}")),
            }
        }))
    }
}

async fn reply<Q: Question>(payload: &[u8], answer: impl AsyncFnOnce(Q) -> Q::Answer) -> Answer {
    let question = rpc::read(payload).map_err(|error| format!("malformed question: {error}"))?;
    Ok(rpc::encode(&answer(question).await))
}

/// Carries the messages of the control state.
pub(super) struct Carrier(pub(super) Peers);

impl control::Transport for Carrier {
    fn call(
        &self,
        to: holdfast_model::NodeId,
        message: Bytes,
        timeout: std::time::Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let peers = self.0.clone();
        Box::pin(async move {
            let called = peers
                .call(to, Lane::Control, CONTROL, message, timeout)
                .await;
            called.map_err(|error| match error {
                CallError::TimedOut { .. } if error.may_have_run() => TransportError::TimedOut,
                error if error.may_have_run() => TransportError::Lost,
                _ => TransportError::NotSent,
            })
        })
    }
}

/// Kind of the control state's messages.
const CONTROL: Kind = Kind(1);
