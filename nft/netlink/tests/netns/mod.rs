//! Network namespaces and `nft` for the tests of this crate.

#![allow(dead_code, unreachable_pub, missing_docs)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Output};

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use tortie_nft::Refused;
use tortie_nft_netlink::Error;

use crate::support::suite::Refusal;

impl Refusal for Error {
    fn refusal(&self) -> Option<(usize, tortie_nft::Reason)> {
        match self {
            Error::Refused(Refused { command, reason, .. }) => Some((*command, reason.clone())),
            _ => None,
        }
    }
}

/// Runs `f` on a thread in a network namespace of its own, which goes away with the thread.
pub fn in_netns<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (these tests need root)");
        f()
    });
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Puts the calling thread into a new network namespace.
pub fn new_netns() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (these tests need root)");
}

/// A peer program, from `TORTIE_PEERS` or `target/peers/bin`.
pub fn peer(name: &str) -> PathBuf {
    let directory = std::env::var_os("TORTIE_PEERS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/peers/bin")), PathBuf::from);
    let path = directory.join(name);
    assert!(path.exists(), "{} is missing: run `make peers`", path.display());
    path
}

/// Runs `nft` in the calling thread's namespace.
pub fn try_nft(arguments: &[&str]) -> Output {
    Command::new(peer("nft")).args(arguments).output().expect("nft runs")
}

/// Runs `nft`, which must succeed, and gives its output.
pub fn nft(arguments: &[&str]) -> String {
    let output = try_nft(arguments);
    assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("nft prints text")
}

/// Loads a text by `nft -f`.
pub fn nft_load(text: &str) -> Result<(), String> {
    use std::io::Write as _;
    let mut child = Command::new(peer("nft"))
        .args(["-f", "-"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("nft runs");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("nft reads");
    let output = child.wait_with_output().expect("nft ends");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Runs `ip` with arguments separated by blanks.
pub fn ip(arguments: &str) {
    let output = Command::new(peer("ip")).args(arguments.split(' ')).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A packet socket: whole frames in and out of one interface.
pub struct RawSocket(OwnedFd);

impl RawSocket {
    /// Opens one on an interface of the calling thread's namespace; it keeps the namespace alive.
    pub fn open(device: &str) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd =
            socket::socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).expect("a packet socket");
        let timeout = TimeVal::milliseconds(20);
        setsockopt(&fd, sockopt::ReceiveTimeout, &timeout).expect("a timeout");
        bind_to(&fd, nix::net::if_::if_nametoindex(device).expect("an interface"));
        Self(fd)
    }

    pub fn send(&self, frame: &[u8]) {
        let sent = nix::unistd::write(&self.0, frame).expect("a frame can be sent");
        assert_eq!(sent, frame.len());
    }

    /// The next frame; `None` once nothing has come for a while.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 2048];
        let length = socket::recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok()?;
        buffer.truncate(length);
        Some(buffer)
    }
}

#[allow(unsafe_code)]
fn bind_to(fd: &OwnedFd, index: u32) {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: the address is a whole sockaddr_ll that outlives the call, and `length` is its size.
    let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
    assert_eq!(result, 0, "bind: {}", std::io::Error::last_os_error());
}
