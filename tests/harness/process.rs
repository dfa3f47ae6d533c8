//! One `holdfast start` process: launched, listened to, signalled, and never left behind.

use std::{
    fmt,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use holdfast_model::api::{Listening, NodeEvent};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use crate::roster::Roster;

/// How a process is to be started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The binary.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment beyond the test's own, out of which every `HOLDFAST_` variable is taken.
    pub env: Vec<(String, String)>,
    /// Where its standard error goes; appended to.
    pub log: PathBuf,
    /// The address that is this process's own, where there are such.
    pub addr: Option<IpAddr>,
}

/// A child process. Killed and reaped when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
    roster: Roster,
    first_line: mpsc::Receiver<String>,
    /// When each line came.
    lines: Arc<Mutex<Vec<Instant>>>,
    /// Told of each line but the first.
    anew: Arc<Mutex<Option<Hook>>>,
}

/// What is done each time that something happens.
type Hook = Box<dyn Fn() + Send>;

impl Process {
    /// Starts a process and enters it in the roster.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(launch: &Launch, roster: &Roster) -> Self {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&launch.log)
            .expect("the test's folder is writable");
        let mut command = Command::new(&launch.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HOLDFAST_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(&launch.args)
            .env(TEST, std::process::id().to_string())
            .envs(launch.env.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", launch.program.display()));
        roster.enter(child.id(), launch.addr);
        let stdout = child.stdout.take().expect("stdout is piped");
        let (tell, first_line) = mpsc::sync_channel(1);
        let lines = Arc::<Mutex<Vec<Instant>>>::default();
        let came = Arc::clone(&lines);
        let anew = Arc::<Mutex<Option<Box<dyn Fn() + Send>>>>::default();
        let tell_anew = Arc::clone(&anew);
        // Reads to the end, so that the node never waits for a reader. Ends with the process.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let first = {
                    let mut came = came.lock();
                    came.push(Instant::now());
                    came.len() == 1
                };
                if let Some(tell) = &*tell_anew.lock()
                    && !first
                {
                    tell();
                }
                let _ = tell.try_send(line);
            }
        });
        Self {
            child,
            log: launch.log.clone(),
            roster: roster.clone(),
            first_line,
            lines,
            anew,
        }
    }

    /// Does this each time the process says that it listens as a new run, before that one holds
    /// anything.
    pub fn each_new_run(&self, tell: impl Fn() + Send + 'static) {
        *self.anew.lock() = Some(Box::new(tell));
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it says where it listens.
    ///
    /// # Errors
    /// When it ends without saying so, with how it ended.
    ///
    /// # Panics
    /// When it says something else, or nothing within `deadline`.
    pub fn listening(&mut self, deadline: Duration) -> Result<Listening, ExitStatus> {
        match self.first_line.recv_timeout(deadline) {
            Ok(line) => match serde_json::from_str(&line) {
                Ok(NodeEvent::Listening(listening)) => {
                    assert_eq!(listening.pid, self.pid(), "the pid that the node says");
                    Ok(listening)
                }
                Err(error) => panic!("the node's first line is no event: {error}: {line}"),
            },
            Err(mpsc::RecvTimeoutError::Disconnected) => match self.ended(deadline) {
                Some(status) => Err(status),
                None => panic!("the node closed its standard output and lives on"),
            },
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!(
                    "the node does not listen after {deadline:?}; its log:\n{}",
                    self.log_tail()
                )
            }
        }
    }

    /// When it said that it listens, other than the first time: it has begun anew.
    #[must_use]
    pub fn begun_anew(&self) -> Vec<Instant> {
        self.lines.lock().iter().skip(1).copied().collect()
    }

    /// Waits for its end, at most `deadline`; none when it still runs.
    #[must_use]
    pub fn ended(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            let status = self.child.try_wait().expect("the process is our child");
            if status.is_some() {
                self.roster.leave(self.child.id());
                return status;
            }
            if start.elapsed() >= deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.expect("a child has a positive pid");
        kill_process(pid, signal).expect("an unreaped child can be signalled");
    }

    /// Everything it wrote to standard error, by every process that had this log.
    #[must_use]
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("child", &self.child)
            .field("log", &self.log)
            .finish_non_exhaustive()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process too. Neither call fails for a child that is not reaped,
        // and a reaped one is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.roster.leave(self.child.id());
    }
}

/// The last lines of a log file.
pub(crate) fn tail(log: &Path) -> String {
    let text = read(log);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn read(log: &Path) -> String {
    // Not from a pipe, which might never end.
    if !log.is_file() {
        return String::new();
    }
    String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
}

const TAIL_LINES: usize = 60;

/// Names the process id of the test to the binary under test, which ends with its parent if that
/// is it. The parent is the thread that started it: so nodes are started by the thread of the test.
pub const TEST: &str = "HOLDFAST_TEST_PROCESS";
