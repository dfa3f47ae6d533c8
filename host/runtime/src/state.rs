//! What a store holds for its guest.
//!
//! Invariant: an instance that uses no capability pays for none; everything but the account of
//! memory and time is made at its first use.

use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::{
    budget::{Budget, Stop},
    capability::{http, plain},
    fibers::Fiber,
    follow::Follow,
    instance::ManagedResource,
    journal::Journal,
    memory::Memory,
    module::Grounds,
};

pub(crate) struct State {
    pub(crate) grounds: Arc<Grounds>,
    pub(crate) resource: ManagedResource,
    pub(crate) memory: Memory,
    pub(crate) budget: Budget,
    pub(crate) table: ResourceTable,
    /// Who follows the call of the moment; `http` has it too.
    pub(crate) follow: Option<Arc<dyn Follow>>,
    journal: Option<Arc<Journal>>,
    wasi: Option<Box<WasiCtx>>,
    pub(crate) http: Option<Box<http::Outbound>>,
    _fiber: Option<Fiber>,
}

impl State {
    /// `fiber`: its place, in the fiber lane. `stop` ends what the guest does.
    pub(crate) fn new(
        grounds: Arc<Grounds>,
        resource: ManagedResource,
        fiber: Option<Fiber>,
        stop: Stop,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(HOST_RESOURCES_MAX);
        Self {
            memory: Memory::new(grounds.limits.memory_bytes_max, grounds.memory.clone()),
            budget: Budget::new(grounds.lane, grounds.fence.clone(), stop),
            grounds,
            resource,
            table,
            follow: None,
            journal: None,
            wasi: None,
            http: None,
            _fiber: fiber,
        }
    }

    /// Calls from now on are followed by this, or by nobody.
    pub(crate) fn follow(&mut self, by: Option<Arc<dyn Follow>>) {
        if let Some(outbound) = &mut self.http {
            outbound.follow(by.clone());
        }
        self.follow = by;
    }

    /// The journal, made at first use.
    pub(crate) fn journal(&mut self) -> &Arc<Journal> {
        self.journal.get_or_insert_with(|| {
            Arc::new(Journal::new(
                self.grounds.name.clone(),
                self.resource.id.clone(),
                self.grounds.sink.clone(),
            ))
        })
    }

    /// The journal, if the guest has said anything yet.
    pub(crate) fn journal_so_far(&self) -> Option<&Journal> {
        self.journal.as_deref()
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        if self.wasi.is_none() {
            let journal = self.journal().clone();
            self.wasi = Some(Box::new(plain::context(&journal)));
        }
        WasiCtxView {
            ctx: self.wasi.as_mut().expect("made just above"),
            table: &mut self.table,
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(journal) = &self.journal {
            journal.flush();
        }
    }
}

/// Streams, pollables, requests and so on of one instance at the same time: what they hold is the
/// host's memory, outside of the instance's limit. A request takes about ten.
const HOST_RESOURCES_MAX: usize = 1_024;
