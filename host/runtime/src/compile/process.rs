//! Compiling in a process of its own.
//!
//! A compiler can be made to ask for any amount of memory and time, and what it has freed stays with the
//! allocator. So it runs in a child: it has limits, it can be killed, and all that it had goes back to the
//! system. Child and parent are the same program, or at least the same version of this crate: what the
//! child writes is machine code that the parent runs.
//!
//! The child reads the component from its standard input, after its length, and writes the code to its
//! standard output. Standard input stays open until it is done: its end means that nobody waits any
//! more. Standard error has what is wrong, when something is.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitCode, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, setpriority_process, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

use crate::inspect::LoadError;

/// A program that calls [`compile_stdin`] when it is started so.
#[derive(Clone, Debug)]
pub struct CompilerProcess {
    /// The program.
    pub program: PathBuf,
    /// Its arguments. The limit of memory in bytes is added to them.
    pub args: Vec<OsString>,
}

/// Compiles a component in a child, into a file. Dropping the future kills the child.
pub(super) async fn compile(
    process: &CompilerProcess,
    component: Bytes,
    output: File,
    memory_bytes_max: u64,
) -> Result<(), LoadError> {
    let failed =
        |what: &str, error: io::Error| LoadError::CompilerNotRun(format!("{what}: {error}"));
    let mut child = Command::new(&process.program)
        .args(&process.args)
        .arg(memory_bytes_max.to_string())
        // Nothing that the node knows is any of its business.
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed("start the compiler's process", error))?;
    let mut stdin = child.stdin.take().expect("it was asked for");
    let mut stderr = child.stderr.take().expect("it was asked for");
    let talk = async {
        let len = component.len() as u64;
        let sent = async {
            stdin.write_all(&len.to_le_bytes()).await?;
            stdin.write_all(&component).await
        };
        // One that ends before it has read everything says why.
        let sent: io::Result<()> = sent.await;
        let mut said = Vec::new();
        let read = (&mut stderr)
            .take(SAID_BYTES_MAX)
            .read_to_end(&mut said)
            .await;
        (sent.and(read.map(drop)), said)
    };
    let (talked, said) = talk.await;
    let status = child.wait().await;
    drop(stdin);
    let status = status.map_err(|error| failed("wait for the compiler's process", error))?;
    if status.success() {
        return talked.map_err(|error| failed("talk to the compiler's process", error));
    }
    Err(refusal(status, &said, memory_bytes_max))
}

fn refusal(status: ExitStatus, said: &[u8], memory_bytes_max: u64) -> LoadError {
    let said = String::from_utf8_lossy(said);
    let said = said.trim();
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(INVALID) => LoadError::malformed_text(said.to_owned()),
        Some(OUT_OF_MEMORY) => LoadError::CompilerOutOfMemory {
            max: memory_bytes_max,
        },
        _ => {
            let how = match status.signal() {
                Some(signal) => format!("it was ended by signal {signal}"),
                None => status.to_string(),
            };
            LoadError::CompilerPanicked(match said.lines().last() {
                Some(last) => format!("{how}; it said last: {last}"),
                None => how,
            })
        }
    }
}

/// What the child does: the whole of its process. `memory_bytes_max` is the last argument that it was
/// started with.
#[must_use]
pub fn compile_stdin(memory_bytes_max: u64) -> ExitCode {
    // What is not allowed costs nothing but that it is less polite, or leaves a dump.
    let _ = setpriority_process(None, NICENESS);
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
    let most = memory_bytes_max.saturating_mul(ADDRESSES_PER_BYTE);
    let most = Some(most.max(ADDRESSES_MIN));
    let addresses = Rlimit {
        current: most,
        maximum: most,
    };
    let _ = setrlimit(Resource::As, addresses);
    check_memory(memory_bytes_max);
    thread::spawn(move || {
        loop {
            thread::sleep(LOOK_EVERY);
            check_memory(memory_bytes_max);
        }
    });
    let read = read_component();
    let component = match read {
        Ok(component) => component,
        Err(error) => {
            eprintln!("read the component: {error}");
            return ExitCode::from(NOT_DONE);
        }
    };
    thread::spawn(|| {
        // Whatever comes, nobody is there to take the code.
        let _ = io::stdin().lock().read(&mut [0]);
        std::process::exit(NOT_DONE.into());
    });
    let code = match crate::engine::precompile(&component) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{}", error.root_cause());
            return ExitCode::from(INVALID);
        }
    };
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(&code).and_then(|()| stdout.flush()) {
        eprintln!("write the code: {error}");
        return ExitCode::from(NOT_DONE);
    }
    ExitCode::SUCCESS
}

fn read_component() -> io::Result<Vec<u8>> {
    let mut stdin = io::stdin().lock();
    let mut len = [0; 8];
    stdin.read_exact(&mut len)?;
    let len = u64::from_le_bytes(len);
    let mut component = Vec::new();
    stdin.take(len).read_to_end(&mut component)?;
    if component.len() as u64 != len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(component)
}

/// Ends the process when it has more memory than it may. What it allocates is no measure: allocators
/// reserve far more than they use.
fn check_memory(bytes_max: u64) {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    let bytes = pages.unwrap_or(0_u64) * rustix::param::page_size() as u64;
    if bytes > bytes_max {
        std::process::exit(OUT_OF_MEMORY.into());
    }
}

/// The component is not valid; standard error says why.
const INVALID: u8 = 3;
const OUT_OF_MEMORY: u8 = 4;
const NOT_DONE: u8 = 5;

/// Nothing waits for a compiler that a call could not wait for as well.
const NICENESS: i32 = 10;

/// At most so much of what a child says is read.
const SAID_BYTES_MAX: u64 = 16 << 10;

/// It maps at most so many bytes for each that it may use; past that it is a runaway.
const ADDRESSES_PER_BYTE: u64 = 4;
const ADDRESSES_MIN: u64 = 4 << 30;

/// How often it looks what it has: a compiler asks for some hundred MB a second.
const LOOK_EVERY: Duration = Duration::from_millis(20);
