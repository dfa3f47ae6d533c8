//! The WASI 0.2 of a plain program: clocks, random numbers, stdio, streams and polling.
//!
//! Files and sockets are linked, because whole worlds are imported, but there are none: no
//! directory is open, and making a socket or resolving a name is denied.
//!
//! In the direct lane a wait must be over at once. Each of these functions is the asynchronous one
//! of `wasmtime-wasi`, polled a single time; one that is not ready traps and names the remedy.

use std::sync::Arc;

use futures_util::FutureExt;
use holdfast_model::Lane;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::{
    WasiCtx, WasiView,
    cli::{WasiCli, WasiCliView},
    clocks::{WasiClocks, WasiClocksView},
    filesystem::{WasiFilesystem, WasiFilesystemView},
    p2::{
        DynInputStream, DynOutputStream, DynPollable, StreamError, StreamResult, UdpSocket,
        bindings::{
            cli, clocks, filesystem, io as waiting, random,
            sockets::{self, network::ErrorCode, network::IpAddressFamily},
            sync::{self, io as immediate},
        },
    },
    random::WasiRandom,
    sockets::{WasiSockets, WasiSocketsView},
};

use crate::{
    capability::stdio::Stdio,
    journal::{Journal, Source},
    state::State,
};

/// The context of one instance. Environment, arguments and stdin are empty.
pub(crate) fn context(journal: &Arc<Journal>) -> WasiCtx {
    let stdio = |source| Stdio {
        journal: journal.clone(),
        source,
    };
    WasiCtx::builder()
        .stdout(stdio(Source::Stdout))
        .stderr(stdio(Source::Stderr))
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(RANDOM_BYTES_MAX)
        .build()
}

/// Of one request for random bytes: making them cannot be interrupted.
const RANDOM_BYTES_MAX: u64 = 64 << 10;

pub(crate) fn link(l: &mut Linker<State>, lane: Lane) -> wasmtime::Result<()> {
    clocks::wall_clock::add_to_linker::<_, WasiClocks>(l, State::clocks)?;
    clocks::monotonic_clock::add_to_linker::<_, WasiClocks>(l, State::clocks)?;
    random::random::add_to_linker::<_, WasiRandom>(l, |s| s.ctx().ctx.random())?;
    random::insecure::add_to_linker::<_, WasiRandom>(l, |s| s.ctx().ctx.random())?;
    random::insecure_seed::add_to_linker::<_, WasiRandom>(l, |s| s.ctx().ctx.random())?;
    cli::environment::add_to_linker::<_, WasiCli>(l, State::cli)?;
    cli::exit::add_to_linker::<_, WasiCli>(l, State::cli)?;
    cli::stdin::add_to_linker::<_, WasiCli>(l, State::cli)?;
    cli::stdout::add_to_linker::<_, WasiCli>(l, State::cli)?;
    cli::stderr::add_to_linker::<_, WasiCli>(l, State::cli)?;
    cli::terminal_input::add_to_linker::<_, WasiCli>(l, State::cli)?;
    cli::terminal_output::add_to_linker::<_, WasiCli>(l, State::cli)?;
    cli::terminal_stdin::add_to_linker::<_, WasiCli>(l, State::cli)?;
    cli::terminal_stdout::add_to_linker::<_, WasiCli>(l, State::cli)?;
    cli::terminal_stderr::add_to_linker::<_, WasiCli>(l, State::cli)?;
    waiting::error::add_to_linker::<_, Table>(l, |s| s.ctx().table)?;
    filesystem::preopens::add_to_linker::<_, WasiFilesystem>(l, State::filesystem)?;
    let options = sockets::network::LinkOptions::default();
    sockets::network::add_to_linker::<_, WasiSockets>(l, &options, State::sockets)?;
    sockets::instance_network::add_to_linker::<_, WasiSockets>(l, State::sockets)?;
    sockets::ip_name_lookup::add_to_linker::<_, WasiSockets>(l, State::sockets)?;
    sockets::tcp_create_socket::add_to_linker::<_, WasiSockets>(l, State::sockets)?;
    l.instance("wasi:sockets/udp-create-socket@0.2.12")?
        .func_wrap("create-udp-socket", |_, (_,): (IpAddressFamily,)| {
            Ok((Err::<Resource<UdpSocket>, _>(ErrorCode::AccessDenied),))
        })?;
    match lane {
        Lane::Direct => {
            immediate::poll::add_to_linker::<_, AtOnce<'static>>(l, |s| AtOnce(s.ctx().table))?;
            immediate::streams::add_to_linker::<_, AtOnce<'static>>(l, |s| AtOnce(s.ctx().table))?;
            // Nothing in these three is ever reached: there is no descriptor and no socket.
            sync::filesystem::types::add_to_linker::<_, WasiFilesystem>(l, State::filesystem)?;
            sync::sockets::tcp::add_to_linker::<_, WasiSockets>(l, State::sockets)?;
            sync::sockets::udp::add_to_linker::<_, WasiSockets>(l, State::sockets)
        }
        Lane::Fiber => {
            waiting::poll::add_to_linker::<_, Table>(l, |s| s.ctx().table)?;
            waiting::streams::add_to_linker::<_, Table>(l, |s| s.ctx().table)?;
            filesystem::types::add_to_linker::<_, WasiFilesystem>(l, State::filesystem)?;
            sockets::tcp::add_to_linker::<_, WasiSockets>(l, State::sockets)?;
            sockets::udp::add_to_linker::<_, WasiSockets>(l, State::sockets)
        }
    }
}

struct Table;

impl HasData for Table {
    type Data<'a> = &'a mut ResourceTable;
}

/// Streams and polling where every wait must be over at once.
struct AtOnce<'a>(&'a mut ResourceTable);

impl HasData for AtOnce<'static> {
    type Data<'a> = AtOnce<'a>;
}

/// What a future has to say now.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    // A spent budget of cooperation would make what is ready look as if it were not.
    tokio::task::unconstrained(future).now_or_never()
}

fn poll_once<T>(future: impl Future<Output = wasmtime::Result<T>>) -> wasmtime::Result<T> {
    now(future).unwrap_or_else(|| Err(wasmtime::Error::msg(MUST_NOT_WAIT)))
}

fn stream_once<T>(future: impl Future<Output = StreamResult<T>>) -> StreamResult<T> {
    now(future).unwrap_or_else(|| Err(StreamError::trap(MUST_NOT_WAIT)))
}

/// Says what to do, since whoever reads it wrote the handler.
pub(crate) const MUST_NOT_WAIT: &str = "the handler waited for something that was not ready, \
    which the direct lane cannot do; set `lane = \"fiber\"` in holdfast.toml if it has to wait";

impl immediate::poll::Host for AtOnce<'_> {
    fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        poll_once(waiting::poll::Host::poll(self.0, pollables))
    }
}

impl immediate::poll::HostPollable for AtOnce<'_> {
    fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        poll_once(waiting::poll::HostPollable::ready(self.0, pollable))
    }

    fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        poll_once(waiting::poll::HostPollable::block(self.0, pollable))
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        waiting::poll::HostPollable::drop(self.0, pollable)
    }
}

impl immediate::streams::Host for AtOnce<'_> {
    fn convert_stream_error(
        &mut self,
        error: StreamError,
    ) -> wasmtime::Result<immediate::streams::StreamError> {
        immediate::streams::Host::convert_stream_error(self.0, error)
    }
}

use waiting::streams::{HostInputStream as Input, HostOutputStream as Output};

impl immediate::streams::HostOutputStream for AtOnce<'_> {
    fn drop(&mut self, stream: Resource<DynOutputStream>) -> wasmtime::Result<()> {
        poll_once(Output::drop(self.0, stream))
    }

    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        Output::check_write(self.0, stream)
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        Output::write(self.0, stream, bytes)
    }

    fn blocking_write_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        bytes: Vec<u8>,
    ) -> StreamResult<()> {
        stream_once(Output::blocking_write_and_flush(self.0, stream, bytes))
    }

    fn blocking_write_zeroes_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        len: u64,
    ) -> StreamResult<()> {
        stream_once(Output::blocking_write_zeroes_and_flush(self.0, stream, len))
    }

    fn subscribe(
        &mut self,
        stream: Resource<DynOutputStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        Output::subscribe(self.0, stream)
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        Output::write_zeroes(self.0, stream, len)
    }

    fn flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        Output::flush(self.0, stream)
    }

    fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        stream_once(Output::blocking_flush(self.0, stream))
    }

    fn splice(
        &mut self,
        to: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        Output::splice(self.0, to, from, len)
    }

    fn blocking_splice(
        &mut self,
        to: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        stream_once(Output::blocking_splice(self.0, to, from, len))
    }
}

impl immediate::streams::HostInputStream for AtOnce<'_> {
    fn drop(&mut self, stream: Resource<DynInputStream>) -> wasmtime::Result<()> {
        poll_once(Input::drop(self.0, stream))
    }

    fn read(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        Input::read(self.0, stream, len)
    }

    fn blocking_read(
        &mut self,
        stream: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<Vec<u8>> {
        stream_once(Input::blocking_read(self.0, stream, len))
    }

    fn skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        Input::skip(self.0, stream, len)
    }

    fn blocking_skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        stream_once(Input::blocking_skip(self.0, stream, len))
    }

    fn subscribe(
        &mut self,
        stream: Resource<DynInputStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        Input::subscribe(self.0, stream)
    }
}
