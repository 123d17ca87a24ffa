//! The bare netlink socket: large buffers, a timeout, and nothing of nf_tables.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, setsockopt, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::error::Error;

/// The kernel answers within the call that sends; a reply that has not come after this long will not come.
const TIMEOUT_SECONDS: i64 = 10;

/// What may be queued for us: dumps come in pieces of 32 KB, errors carry the message that they are about.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What a message may hold; the kernel sends no more than 32 KB at once, but an error repeats a request of 64 KB.
const MESSAGE_BUFFER: usize = 256 << 10;

/// What the kernel keeps for itself of the send buffer.
const OVERHEAD: usize = 64 << 10;

/// A socket of the nfnetlink family, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Transport {
    fd: OwnedFd,
    /// The longest batch that fits the send buffer.
    room: usize,
    received: Vec<u8>,
    port: u32,
    /// Whether an answer was lost: others may still be queued, and while they are the kernel adds none.
    lost: bool,
}

impl Transport {
    pub(crate) fn open() -> Result<Self, Error> {
        let open = |errno: nix::Error| Error::Open(errno.into());
        let protocol = SockProtocol::NetlinkNetFilter;
        let fd =
            socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(open)?;
        socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(open)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(TIMEOUT_SECONDS)).map_err(open)?;
        if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER).map_err(open)?;
        }
        let address: NetlinkAddr = socket::getsockname(fd.as_raw_fd()).map_err(open)?;
        Ok(Self { fd, room: 0, received: vec![0; MESSAGE_BUFFER], port: address.pid(), lost: false })
    }

    /// The socket's netlink address, by which the kernel knows a table's owner.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends messages in one go; the kernel has dealt with them when this returns.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.make_room(bytes.len());
        self.forget_late_answers();
        let failed = |source: io::Error| Error::Send { bytes: bytes.len(), source };
        loop {
            return match socket::send(self.fd.as_raw_fd(), bytes, MsgFlags::empty()) {
                Ok(sent) if sent == bytes.len() => Ok(()),
                Ok(sent) => Err(failed(io::Error::other(format!("only {sent} bytes were taken")))),
                // Before anything was taken.
                Err(nix::Error::EINTR) => continue,
                Err(errno) => Err(failed(errno.into())),
            };
        }
    }

    /// The next message, or several.
    pub(crate) fn receive(&mut self) -> Result<&[u8], Error> {
        loop {
            let length = match socket::recv(self.fd.as_raw_fd(), &mut self.received, MsgFlags::MSG_TRUNC) {
                Ok(length) => length,
                Err(nix::Error::EINTR) => continue,
                Err(errno) => {
                    self.lost = true;
                    return Err(Error::Receive(errno.into()));
                }
            };
            return match self.received.get(..length) {
                Some(message) => Ok(message),
                None => Err(Error::Receive(io::Error::other(format!("a message of {length} bytes was cut off")))),
            };
        }
    }

    /// Takes what is left of answers after one was lost, since nobody waits for it any more.
    fn forget_late_answers(&mut self) {
        while self.lost {
            match socket::recv(self.fd.as_raw_fd(), &mut self.received, MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(nix::Error::ENOBUFS | nix::Error::EINTR) => {}
                Err(_) => self.lost = false,
            }
        }
    }

    /// A batch must fit the send buffer as a whole.
    fn make_room(&mut self, bytes: usize) {
        if bytes <= self.room {
            return;
        }
        let size = (bytes + OVERHEAD).max(1 << 20);
        if setsockopt(&self.fd, sockopt::SndBufForce, &size).is_ok() {
            self.room = bytes.max(1 << 20);
        } else {
            // Without the capability in the initial user namespace this goes as far as net.core.wmem_max; EMSGSIZE tells.
            let _ = setsockopt(&self.fd, sockopt::SndBuf, &size);
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};
    use tortie_nft::TABLE;

    use super::*;
    use crate::consts::*;
    use crate::wire::Writer;

    /// The kernel takes a batch without its end in silence and drops it. Nobody waits for ever.
    #[test]
    fn a_batch_without_its_end_has_no_answer_and_no_effect() {
        let test = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (this test needs root)");
            let mut transport = Transport::open().expect("a socket");
            setsockopt(&transport.fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(300)).expect("less patience");
            let mut w = Writer::default();
            w.begin_batch(NFNL_MSG_BATCH_BEGIN, 1);
            w.end();
            w.begin(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_ACK, NFPROTO_INET, 2);
            w.string(NFTA_TABLE_NAME, TABLE);
            w.end();
            transport.send(w.bytes()).expect("the kernel takes it");
            match transport.receive() {
                Err(Error::Receive(error)) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                // It says that it took the message, which is not to say that it has effect.
                other => drop(other.expect("nothing, or an answer")),
            }
            let mut socket = crate::NftSocket::open().expect("a socket");
            assert_eq!(socket.read().expect("a read-back"), None);
        };
        std::thread::spawn(test).join().expect("the test holds");
    }
}
