//! `wasi:http/outgoing-handler`: requests to granted destinations.
//!
//! Invariant: no name is resolved and no connection made unless a grant allows the destination,
//! and a connection goes to the very address that was checked. Without grants, and in the direct
//! lane, every request answers `HTTP-request-denied` at once. Redirects are the guest's business.

use std::sync::Arc;

use holdfast_model::{Lane, module::HttpGrant};
use tokio::sync::Semaphore;
use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource},
};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttp, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
    WasiHttpView,
    p2::{
        bindings::http::{
            outgoing_handler,
            types::{self, ErrorCode},
        },
        types::{HostFutureIncomingResponse, HostOutgoingRequest},
    },
};

use self::{denied::Denied, destination::Destination};
use crate::{fence::Fence, follow::Follow, journal::Journal, state::State};

mod client;
mod denied;
mod destination;
mod pool;
mod share;

pub use client::CONNECTIONS_MAX;
pub(crate) use client::Client;
pub(crate) use share::Share;

/// What one instance needs for its requests. Made at first use.
pub(crate) struct Outbound {
    context: WasiHttpCtx,
    hooks: Hooks,
}

struct Hooks {
    client: Arc<Client>,
    grants: Arc<[HttpGrant]>,
    /// Requests of this instance under way.
    permits: Arc<Semaphore>,
    share: Arc<Share>,
    fence: Fence,
    /// Where it is said which grant a request lacks.
    journal: Arc<Journal>,
    /// Who follows the call of the moment.
    follow: Option<Arc<dyn Follow>>,
}

impl Outbound {
    /// The requests from now on are followed by this, or by nobody.
    pub(crate) fn follow(&mut self, by: Option<Arc<dyn Follow>>) {
        self.hooks.follow = by;
    }
}

pub(crate) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let options = types::LinkOptions::default();
    types::add_to_linker::<_, WasiHttp>(linker, &options, State::http)?;
    linker
        .instance("wasi:http/outgoing-handler@0.2.12")?
        .func_wrap("handle", handle)
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let journal = self.journal().clone();
        let grounds = &self.grounds;
        let outbound = self.http.get_or_insert_with(|| {
            let mut context = WasiHttpCtx::new();
            context.set_field_size_limit(FIELDS_BYTES_MAX);
            Box::new(Outbound {
                context,
                hooks: Hooks {
                    client: grounds.http.clone(),
                    grants: grounds.grants.clone(),
                    permits: Arc::new(Semaphore::new(REQUESTS_PER_INSTANCE_MAX)),
                    share: grounds.http_share.clone(),
                    fence: grounds.fence.clone(),
                    journal,
                    follow: self.follow.clone(),
                },
            })
        });
        WasiHttpCtxView {
            hooks: &mut outbound.hooks,
            table: &mut self.table,
            ctx: &mut outbound.context,
        }
    }
}

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let (client, grants) = (self.client.clone(), self.grants.clone());
        let (permit, share) = (self.permits.clone().try_acquire_owned(), self.share.clone());
        let fence = self.fence.clone();
        let journal = self.journal.clone();
        let destination = Destination::of(request.uri());
        let (mut head, body) = request.into_parts();
        let follow = self.follow.clone();
        let followed = follow.and_then(|follow| follow.request(&mut head));
        let request = http::Request::from_parts(head, body);
        Box::new(async move {
            let sent = async {
                let permit = permit.map_err(|_| Error::ConnectionLimitReached)?;
                let options = options.unwrap_or_default();
                client
                    .send(&grants, request, options, permit, &share, &fence)
                    .await
            };
            let sent = sent.await;
            if let (Ok(destination), Err(error)) = (&destination, &sent)
                && let Some(why) = Denied::of(error, destination, &grants)
            {
                why.tell(destination, &journal);
            }
            if let Some(followed) = followed {
                followed.ended(match &sent {
                    Ok(response) => Ok(response.status()),
                    Err(error) => Err(error),
                });
            }
            let response = sent?;
            // The connection is driven by a task of the client: nothing is left to do here.
            let io: Box<dyn Future<Output = Result<(), Error>> + Send> = Box::new(async { Ok(()) });
            Ok((response, io))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES_MAX
    }
}

type Sent = Result<
    (
        http::Response<WasiBody>,
        Box<dyn Future<Output = Result<(), Error>> + Send>,
    ),
    Error,
>;

/// Denies what cannot be granted before anything is spawned: in the direct lane nobody could wait
/// for the answer.
fn handle(
    mut store: StoreContextMut<'_, State>,
    (request, options): (
        Resource<HostOutgoingRequest>,
        Option<Resource<RequestOptions>>,
    ),
) -> wasmtime::Result<(Result<Resource<HostFutureIncomingResponse>, ErrorCode>,)> {
    let state = store.data_mut();
    let open = state.grounds.lane == Lane::Fiber && !state.grounds.grants.is_empty();
    if !open {
        let request = state.table.delete(request)?;
        let destination = request.authority.as_deref().map(|authority| {
            let tls = !matches!(request.scheme, Some(types::Scheme::Http));
            Destination::at(tls, authority)
        });
        if let Some(Ok(destination)) = destination {
            let why = match destination.is_granted(&state.grounds.grants) {
                true => Denied::DirectLane,
                false => Denied::NotGranted,
            };
            why.tell(&destination, state.journal());
        }
        return Ok((Err(ErrorCode::HttpRequestDenied),));
    }
    match outgoing_handler::Host::handle(&mut state.http(), request, options) {
        Ok(response) => Ok((Ok(response),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}

/// Of the headers of one request or answer. Servers and proxies take 8 to 16 KiB.
const FIELDS_BYTES_MAX: usize = 16 << 10;
/// What the host keeps of a body that the guest writes and nobody reads yet.
const BODY_CHUNK_BYTES_MAX: usize = 64 << 10;
/// Requests of one instance at the same time, until their answers have been read.
const REQUESTS_PER_INSTANCE_MAX: usize = 32;
