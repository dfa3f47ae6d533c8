//! Whose connection is this: the process at the other end of a TCP connection on this machine.
//!
//! The kernel says it, so no node can be wrong about itself: `sock_diag` (netlink) gives the inode
//! of the socket with exactly these two addresses, and the process that has that inode among its
//! files is the one. An exact lookup, because `/proc/net/tcp` walks the kernel's whole table of
//! sockets (milliseconds) each time it is read.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
    netlink::{self, SocketAddrNetlink},
    recv, sendto, socket_with,
};

/// The process among `pids` that has the connection from `local` to `remote`, as seen by itself.
///
/// None when the connection is gone, or belongs to another process.
///
/// # Errors
/// When the kernel does not answer such questions.
pub fn process_of(local: SocketAddr, remote: SocketAddr, pids: &[u32]) -> io::Result<Option<u32>> {
    let Some(inode) = inode_of(local, remote)? else {
        return Ok(None);
    };
    let link = format!("socket:[{inode}]");
    let has = |pid: &u32| has_open(*pid, Path::new(&link));
    Ok(pids.iter().copied().find(has))
}

fn has_open(pid: u32, link: &Path) -> bool {
    // A process that has ended meanwhile has nothing open.
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    files
        .flatten()
        .any(|file| fs::read_link(file.path()).is_ok_and(|target| target == link))
}

fn inode_of(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(
        &socket,
        &question(local, remote),
        SendFlags::empty(),
        &kernel,
    )?;
    let mut answer = [0; 512];
    let (len, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    read(&answer[..len])
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2` of linux/inet_diag.h.
fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let mut text = Vec::with_capacity(QUESTION_BYTES as usize);
    text.extend(QUESTION_BYTES.to_ne_bytes());
    text.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    text.extend(NLM_F_REQUEST.to_ne_bytes());
    text.extend([0; 8]); // sequence and port: one question per socket
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    text.extend([family, IPPROTO_TCP, 0, 0]);
    text.extend(u32::MAX.to_ne_bytes()); // in any state
    text.extend(local.port().to_be_bytes());
    text.extend(remote.port().to_be_bytes());
    for addr in [local, remote] {
        let mut bytes = [0; 16];
        match addr.ip() {
            IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes = ip.octets(),
        }
        text.extend(bytes);
    }
    text.extend(0u32.to_ne_bytes()); // any interface
    text.extend([0xff; 8]); // no cookie
    text
}

/// `struct nlmsghdr`, then `struct inet_diag_msg` or `struct nlmsgerr`.
fn read(answer: &[u8]) -> io::Result<Option<u32>> {
    let word = |at: usize| -> io::Result<[u8; 4]> {
        let bytes = answer.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "short netlink answer"))
    };
    let kind = u16::from_ne_bytes([word(4)?[0], word(4)?[1]]);
    match kind {
        SOCK_DIAG_BY_FAMILY => {
            let inode = u32::from_ne_bytes(word(INODE_AT)?);
            // A socket that no process has any more (TIME_WAIT) has no inode.
            Ok((inode != 0).then_some(inode))
        }
        _ => match i32::from_ne_bytes(word(16)?) {
            ENOENT => Ok(None),
            code => Err(io::Error::from_raw_os_error(-code)),
        },
    }
}

const QUESTION_BYTES: u32 = 72;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const ENOENT: i32 = -2;
const INODE_AT: usize = 84;

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_process_of_a_connection_is_found_among_those_asked_about() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = listener.local_addr().unwrap();
        let stream = TcpStream::connect(near).unwrap();
        let far = stream.local_addr().unwrap();
        let this = std::process::id();

        assert_eq!(process_of(far, near, &[1, this]).unwrap(), Some(this));
        assert_eq!(process_of(far, near, &[]).unwrap(), None);
        drop((stream, listener));
        assert_eq!(process_of(far, near, &[this]).unwrap(), None);
    }
}
