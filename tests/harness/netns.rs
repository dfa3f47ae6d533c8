//! Network namespaces: each node on a host of its own, behind a switch that loses what it is told to.
//!
//! A test that needs them runs its story in a process with a fresh network ([`inside`]). That is
//! where the observer and the clients are, and the two switches:
//!
//! ```text
//!            bridge `cluster`: 10.90.0.0/24, what nftables drops is lost here
//!      +---------+---------+---------+---------+
//!   node 0     node 1    node 2    node 3    node 4      a namespace each
//!      +---------+---------+---------+---------+
//!            bridge `outside`: 10.91.0.0/16, never disturbed ---- collector, clients (10.91.0.1)
//! ```
//!
//! Nothing has a name outside of that process, nothing of the machine's own network changes, and
//! nothing can be left behind: the kernel removes a namespace, its links and its rules with the last
//! process in it, however that ended.

use std::{
    env,
    ffi::OsStr,
    fmt::Write as _,
    io::{self, BufRead as _, BufReader, Write as _},
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Runs a test's `story` [`inside`] a network of these many hosts.
///
/// `test` is the name of the calling test. Where networks cannot be made the story is left out, and
/// standard error says why; with `CI=true` that is a failure.
///
/// # Panics
/// When the story fails.
#[track_caller]
pub fn test(test: &str, hosts: usize, story: impl FnOnce(Network)) {
    if let Err(reason) = inside(["--exact", test, "--nocapture"], hosts, story) {
        let ci = env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci, "{test} cannot run, and must in CI: {reason}");
        // Past the capturing of output: a test that did not run must not look like one that did.
        let _ = writeln!(io::stderr(), "SKIPPED {test}: {reason}");
    }
}

/// Runs `story` in a process of its own, whose network is new and empty but for these many hosts:
/// this binary again, with arguments that bring it here.
///
/// # Errors
/// When networks cannot be made: why.
///
/// # Panics
/// When the story fails.
#[track_caller]
pub fn inside(
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    hosts: usize,
    story: impl FnOnce(Network),
) -> Result<(), String> {
    if let Some(parent) = env::var_os(INSIDE) {
        let this = getppid().map(|pid| pid.as_raw_nonzero().to_string());
        if this.is_some_and(|this| parent == *this) {
            set_parent_process_death_signal(Some(Signal::KILL)).expect("Linux knows it");
        }
        story(Network::new(hosts));
        return Ok(());
    }
    let mut process = Unshare::found()?
        .command()
        .arg(env::current_exe().expect("a process knows its binary"))
        .args(args)
        .env(INSIDE, std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("`unshare` was there just now");
    let stdout = process.stdout.take().expect("it is piped");
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        println!("{line}");
    }
    let status = process.wait().expect("it is our child");
    assert!(
        status.success(),
        "the story failed in its network: {status}"
    );
    Ok(())
}

/// Hosts at two switches.
#[derive(Debug)]
pub struct Network {
    hosts: Vec<Host>,
}

/// What the switch of the cluster does with packets from one host to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Who sends.
    pub from: usize,
    /// Who does not get it.
    pub to: usize,
    /// How many of a thousand are lost.
    pub permille: u32,
}

impl Network {
    /// Makes the switches and the hosts in the network of this process.
    fn new(hosts: usize) -> Self {
        let mut batch = String::from("link set lo up\n");
        for bridge in [CLUSTER, OUTSIDE] {
            let _ = writeln!(batch, "link add {bridge} type bridge");
            let _ = writeln!(batch, "link set {bridge} up");
        }
        let _ = writeln!(batch, "addr add {}/16 dev {OUTSIDE}", Self::observer());
        ip(None, &batch);
        let hosts = (0..hosts).map(Host::new).collect();
        Self { hosts }
    }

    /// The address of whoever is outside: the collector, clients.
    #[must_use]
    pub fn observer() -> Ipv4Addr {
        Ipv4Addr::new(10, 91, 0, 1)
    }

    /// The address of a host at the switch that can be told to lose packets.
    #[must_use]
    pub fn cluster(&self, host: usize) -> Ipv4Addr {
        assert!(host < self.hosts.len(), "there is no host {host}");
        Ipv4Addr::new(10, 90, 0, octet(host + 1))
    }

    /// Gives a host another address outside, which nobody has had before and nobody will have after:
    /// it stands for the process that is about to start there.
    #[must_use]
    pub fn readdress(&self, host: usize) -> Ipv4Addr {
        let Host { holder, runs } = &self.hosts[host];
        let run = runs.fetch_add(1, Ordering::Relaxed);
        assert!(run < RUNS_MAX, "a host has less than {RUNS_MAX} runs");
        let number = u32::try_from((host + 1) * RUNS_MAX + run).expect("both are small");
        let addr = Ipv4Addr::from_bits(u32::from(Self::observer()) - 1 + number);
        let batch = format!("addr flush dev {OUTSIDE}\naddr add {addr}/16 dev {OUTSIDE}\n");
        ip(Some(holder.id()), &batch);
        addr
    }

    /// The command that runs a program on a host, as the very process that it starts: put the program
    /// and its arguments behind it.
    #[must_use]
    pub fn enter(&self, host: usize) -> Vec<String> {
        let net = format!("--net=/proc/{}/ns/net", self.hosts[host].holder.id());
        vec!["nsenter".to_owned(), net, "--".to_owned()]
    }

    /// From now on exactly this is lost, without a word to anyone. Gives how many packets were lost by
    /// what was in force until now.
    pub fn lose(&self, losses: &[Loss]) -> u64 {
        let lost = self.lost();
        let mut rules = String::new();
        for loss in losses {
            let (from, to) = (self.cluster(loss.from), self.cluster(loss.to));
            let chance = match loss.permille {
                1000.. => String::new(),
                permille => format!("numgen random mod 1000 < {permille} "),
            };
            let _ = writeln!(rules, "ip saddr {from} ip daddr {to} {chance}counter drop");
        }
        // One transaction: there is no moment between the old rules and the new.
        let script = format!(
            "table bridge faults\n\
             delete table bridge faults\n\
             table bridge faults {{ chain switch {{\n\
             type filter hook forward priority 0; policy accept;\n{rules}}}\n}}\n"
        );
        feed(Command::new("nft").args(["-f", "-"]), &script);
        lost
    }

    /// From now on no UDP gets from one of these hosts to the other, in either direction, though
    /// everything else does. In place of what was blocked before.
    pub fn block_udp(&self, between: &[(usize, usize)]) {
        let mut rules = String::new();
        for (a, b) in between {
            for (from, to) in [(a, b), (b, a)] {
                let (from, to) = (self.cluster(*from), self.cluster(*to));
                let _ = writeln!(rules, "ip saddr {from} ip daddr {to} ip protocol udp drop");
            }
        }
        let script = format!(
            "table bridge firewall\n\
             delete table bridge firewall\n\
             table bridge firewall {{ chain switch {{\n\
             type filter hook forward priority 1; policy accept;\n{rules}}}\n}}\n"
        );
        feed(Command::new("nft").args(["-f", "-"]), &script);
    }

    fn lost(&self) -> u64 {
        let rules = feed(Command::new("nft").args(["list", "ruleset"]), "");
        let mut words = rules.split_whitespace();
        let mut lost = 0;
        while words.any(|word| word == "packets") {
            let count = words.next().and_then(|word| word.parse::<u64>().ok());
            lost += count.expect("`counter packets N bytes N`");
        }
        lost
    }
}

/// A network namespace, held by a process that does nothing and ends with its standard input.
#[derive(Debug)]
struct Host {
    holder: Child,
    /// How many processes have had an address of their own here.
    runs: AtomicUsize,
}

impl Host {
    fn new(number: usize) -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "echo here; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`unshare` was there just now");
        // Until it says so it may still be in our own namespace.
        let stdout = holder.stdout.as_mut().expect("it is piped");
        let mut line = String::new();
        let told = BufReader::new(stdout).read_line(&mut line);
        assert_eq!(told.ok().zip(Some(&*line)), Some((5, "here\n")), "a holder");
        let pid = holder.id();
        let mut batch = String::new();
        for link in [CLUSTER, OUTSIDE] {
            let _ = writeln!(
                batch,
                "link add {link}{number} type veth peer name {link} netns {pid}"
            );
            let _ = writeln!(batch, "link set {link}{number} master {link} up");
        }
        ip(None, &batch);
        let addr = Ipv4Addr::new(10, 90, 0, octet(number + 1));
        let batch = format!(
            "link set lo up\naddr add {addr}/24 dev {CLUSTER}\n\
             link set {CLUSTER} up\nlink set {OUTSIDE} up\n"
        );
        ip(Some(pid), &batch);
        let runs = AtomicUsize::new(0);
        Self { holder, runs }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Neither fails for a child that was not waited for.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// How this process may make network namespaces.
#[derive(Clone, Copy, Debug)]
struct Unshare {
    /// As the root of a user namespace, which takes no privilege.
    as_user: bool,
}

impl Unshare {
    /// # Errors
    /// What is missing, in words.
    fn found() -> Result<Self, String> {
        for (tool, package) in TOOLS {
            let run = Command::new(tool).arg("--version").output();
            if run.is_err() {
                return Err(format!("`{tool}` is missing: install {package}"));
            }
        }
        let mut words = String::new();
        for as_user in [false, true] {
            let found = Self { as_user };
            // Not every kernel that has namespaces can filter on a bridge.
            let probe = "ip link add probe type bridge && nft add table bridge probe";
            let run = found.command().args(["sh", "-c", probe]).output();
            let run = run.expect("`unshare` was there just now");
            if run.status.success() {
                return Ok(found);
            }
            words += &String::from_utf8_lossy(&run.stderr);
        }
        Err(format!(
            "network namespaces need root, or a kernel that gives them to users: {}",
            words.trim().replace('\n', "; ")
        ))
    }

    fn command(self) -> Command {
        let mut command = Command::new("unshare");
        if self.as_user {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--net", "--"]);
        command
    }
}

/// Runs a batch of `ip` in the network of a process, or in this one.
fn ip(pid: Option<u32>, batch: &str) {
    let mut command = match pid {
        None => Command::new("ip"),
        Some(pid) => {
            let mut command = Command::new("nsenter");
            command.args([&format!("--net=/proc/{pid}/ns/net"), "--", "ip"]);
            command
        }
    };
    feed(command.args(["-batch", "-"]), batch);
}

/// Runs a command with this standard input to its end, and gives what it says.
fn feed(command: &mut Command, input: &str) -> String {
    let mut run = || -> io::Result<_> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        child.wait_with_output()
    };
    let output = run().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} of\n{input}\nsays: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn octet(number: usize) -> u8 {
    u8::try_from(number).expect("a network has a handful of hosts")
}

/// The link of a host to the switch that can be told to lose packets, and that switch.
const CLUSTER: &str = "cluster";
/// The same that cannot.
const OUTSIDE: &str = "outside";

const TOOLS: [(&str, &str); 4] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
];

/// A host's share of the addresses outside.
const RUNS_MAX: usize = 4096;

/// Names the process id of its parent to the process in which its story runs.
const INSIDE: &str = "TEST_INSIDE_ITS_NETWORK";
