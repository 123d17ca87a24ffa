//! Sockets: opened in the right namespace, with buffers that hold a thousand errors.

use netlink_packet_core::{NLM_F_ACK, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::Socket;
use nix::sys::socket::{setsockopt, sockopt};

use crate::Error;
use crate::codec::HEADER;

/// Receive buffer, in bytes: 1,000 errors and a burst of events of some thousand routes.
const RECEIVE_BUFFER: usize = 8 << 20;

/// The largest message that is read, in bytes. The kernel fills at most 32 KiB at a time.
pub(crate) const READ_BUFFER: usize = 64 << 10;

/// Sets what all our sockets have: a large receive buffer, errors without the request but with the kernel's own words, and strict
/// checking, without which the filters of dumps are ignored.
pub(crate) fn tune(socket: &Socket) -> Result<(), Error> {
    let what = "set up a netlink socket";
    // Above net.core.rmem_max only with CAP_NET_ADMIN in the initial user namespace; without it as much as there is.
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER).map_err(|errno| Error::socket(what, &errno.into()))?;
    }
    socket.set_cap_ack(true).map_err(|error| Error::socket(what, &error))?;
    socket.set_ext_ack(true).map_err(|error| Error::socket(what, &error))?;
    socket.set_netlink_get_strict_chk(true).map_err(|error| Error::socket(what, &error))
}

/// Splits a datagram into its messages.
pub(crate) fn messages(
    mut datagram: &[u8],
) -> impl Iterator<Item = Result<NetlinkMessage<RouteNetlinkMessage>, String>> + '_ {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram) {
            Ok(message) => {
                let length = (message.header.length as usize).next_multiple_of(4).max(16);
                datagram = datagram.get(length..).unwrap_or_default();
                Some(Ok(message))
            }
            Err(error) => {
                // One message that this version cannot read does not take the others of the datagram with it.
                let length = datagram.first_chunk::<4>().map_or(0, |length| u32::from_ne_bytes(*length) as usize);
                datagram =
                    if length < 16 { &[] } else { datagram.get(length.next_multiple_of(4)..).unwrap_or_default() };
                Some(Err(error.to_string()))
            }
        }
    })
}

/// One message of a datagram, not decoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// The netlink port of whoever caused it; 0 is the kernel itself.
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
    /// All of it, header included.
    pub(crate) message: &'a [u8],
}

impl Part<'_> {
    /// The error number of an `NLMSG_ERROR` or `NLMSG_DONE`; 0 if there is none.
    pub(crate) fn code(&self) -> i32 {
        self.payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes).saturating_neg())
    }
}

/// Splits a datagram into its messages, and leaves them as they are. Ends at the first that is broken.
pub(crate) fn parts(mut datagram: &[u8]) -> impl Iterator<Item = Part<'_>> {
    std::iter::from_fn(move || {
        let head = datagram.first_chunk::<HEADER>()?;
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
        let length = word(0) as usize;
        let message = datagram.get(..length)?;
        let payload = message.get(HEADER..)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Part { kind: half(4), flags: half(6), sequence: word(8), port: word(12), payload, message })
    })
}

/// A request with its flags set; sequence number and length are filled in by whoever sends it.
pub(crate) fn request(message: RouteNetlinkMessage, flags: u16) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = netlink_packet_core::NLM_F_REQUEST | flags;
    request
}

/// Flags of a request that changes something.
pub(crate) const ACKNOWLEDGED: u16 = NLM_F_ACK;
