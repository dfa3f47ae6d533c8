//! What signals tell the process: to stop, to restart, to read again what it was given.
//!
//! Invariant: a second signal to stop ends the process, whatever is stuck in it. The thread here waits
//! for nothing of the node, and if even that were stuck, a third one ends the process within the
//! signal's own handler.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc as std_mpsc,
    },
    thread,
};

use futures_util::{Stream, StreamExt as _, stream};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2},
    flag,
    iterator::Signals,
    low_level,
};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::{restart::Ending, telemetry};

/// Listens from now on. Gives the ends that are asked for, and each wish to read things again.
pub(super) fn listen() -> io::Result<(
    impl Stream<Item = Ending> + Send + 'static,
    std_mpsc::Receiver<()>,
)> {
    let ends_at_once = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        flag::register_conditional_shutdown(signal, SIGNALLED, ends_at_once.clone())?;
    }
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR2, SIGHUP])?;
    let (tell, told) = mpsc::channel(SIGNALS_MAX);
    let (read_again, wishes) = std_mpsc::sync_channel(1);
    // Ends with the process.
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut stopping = false;
            for signal in signals.forever() {
                let name = low_level::signal_name(signal).unwrap_or("unknown");
                let ending = match signal {
                    SIGHUP => {
                        info!(signal = name, "told to reload");
                        // Full: it is about to.
                        let _ = read_again.try_send(());
                        continue;
                    }
                    SIGUSR2 => Ending::Restart,
                    _ => Ending::Stop,
                };
                if ending == Ending::Stop && stopping {
                    ends_at_once.store(true, Relaxed);
                    warn!(signal = name, "told to stop a second time: ending at once");
                    telemetry::flush();
                    // Not `exit`, which waits for others that are ending the process.
                    low_level::exit(SIGNALLED);
                }
                stopping |= ending == Ending::Stop;
                match ending {
                    Ending::Stop => info!(signal = name, "told to stop"),
                    Ending::Restart => info!(signal = name, "told to restart"),
                }
                // Full: the node is about to look at as many.
                let _ = tell.try_send(ending);
            }
        })?;
    let told = stream::unfold(told, async |mut told| Some((told.recv().await?, told)));
    Ok((told.chain(stream::pending()), wishes))
}

/// Signals that may wait for the node; it looks at one while it announces a restart.
const SIGNALS_MAX: usize = 4;

/// Exit code of a process that a second signal ended.
const SIGNALLED: i32 = 130;
