//! A socket filter (classic BPF) that keeps announcements of given senders out of a netlink socket.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{BPF_ABS, BPF_H, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};

/// Where a netlink message's header has its type and its sender's address.
const TYPE_AT: u32 = 4;
const PORT_AT: u32 = 12;

/// A program that takes messages of type `kind`, and any others but those of `ports`. What comes together is judged by the first
/// message; all that the kernel sends together is of one sender.
pub(crate) fn all_but(kind: u16, ports: &[u32]) -> Vec<sock_filter> {
    // The filter reads big-endian, and netlink is written in the machine's order.
    let kind = u32::from(u16::from_be_bytes(kind.to_ne_bytes()));
    let (take, leave) = (ret(u32::MAX), ret(0));
    let mut program = vec![load(BPF_H, TYPE_AT), skip_unless(kind), take, load(BPF_W, PORT_AT)];
    for port in ports {
        program.push(skip_unless(u32::from_be_bytes(port.to_ne_bytes())));
        program.push(leave);
    }
    program.push(take);
    program
}

fn load(size: u32, at: u32) -> sock_filter {
    sock_filter { code: (BPF_LD | size | BPF_ABS) as u16, jt: 0, jf: 0, k: at }
}

/// Leaves out the next instruction unless what was loaded is `value`.
fn skip_unless(value: u32) -> sock_filter {
    sock_filter { code: (BPF_JMP | BPF_JEQ | BPF_K) as u16, jt: 0, jf: 1, k: value }
}

fn ret(bytes: u32) -> sock_filter {
    sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k: bytes }
}

/// Gives a socket a filter, in place of the one it had.
pub(crate) fn attach(fd: BorrowedFd<'_>, program: &[sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` points to `len` instructions that outlive the call; the kernel copies them, and writes to none.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
