//! Writing netlink: messages of a batch one after the other in one buffer, with nested attributes.

use crate::consts::*;

/// Size of a netlink message header and of the nfnetlink header after it.
pub(crate) const NLMSG_HEADER: usize = 16;
pub(crate) const NFGEN_HEADER: usize = 4;

/// The longest attribute, header included: its length is 16 bits.
pub(crate) const ATTRIBUTE_MAX: usize = 0xffff;

/// A buffer of messages.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    buffer: Vec<u8>,
    /// Where the message that is being written, or was last written, begins.
    message: usize,
}

/// Where an open attribute begins.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(crate) struct Nest(usize);

impl Writer {
    /// Begins a message of nf_tables. Close it with [`end`](Self::end).
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, family: u8, seq: u32) {
        self.begin_raw(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, family, 0, seq);
    }

    /// Begins a message of another subsystem of nfnetlink.
    pub(crate) fn begin_of(&mut self, subsystem: u16, kind: u16, flags: u16, family: u8, seq: u32) {
        self.begin_raw(subsystem << 8 | kind, flags, family, 0, seq);
    }

    /// Begins a message that marks the start or end of a batch.
    pub(crate) fn begin_batch(&mut self, kind: u16, seq: u32) {
        self.begin_raw(kind, 0, NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES, seq);
    }

    fn begin_raw(&mut self, kind: u16, flags: u16, family: u8, resource: u16, seq: u32) {
        self.message = self.buffer.len();
        self.buffer.extend_from_slice(&0u32.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.buffer.extend_from_slice(&seq.to_ne_bytes());
        self.buffer.extend_from_slice(&0u32.to_ne_bytes());
        self.buffer.extend_from_slice(&[family, 0]);
        self.buffer.extend_from_slice(&resource.to_be_bytes());
    }

    /// Closes the message.
    pub(crate) fn end(&mut self) {
        let length = (self.buffer.len() - self.message) as u32;
        self.buffer[self.message..self.message + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Asks for an acknowledgement of the message that was last begun.
    pub(crate) fn acknowledge(&mut self) {
        let at = self.message + 6;
        let flags = u16::from_ne_bytes([self.buffer[at], self.buffer[at + 1]]) | NLM_F_ACK;
        self.buffer[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    pub(crate) fn attribute(&mut self, kind: u16, payload: &[u8]) {
        let nest = self.open(kind);
        self.buffer.extend_from_slice(payload);
        self.close(nest);
    }

    /// A number in network byte order, as nf_tables has almost all of them.
    pub(crate) fn number(&mut self, kind: u16, number: u32) {
        self.attribute(kind, &number.to_be_bytes());
    }

    /// A string with its final zero.
    pub(crate) fn string(&mut self, kind: u16, text: &str) {
        let nest = self.open(kind);
        self.buffer.extend_from_slice(text.as_bytes());
        self.buffer.push(0);
        self.close(nest);
    }

    /// Opens an attribute that holds others.
    pub(crate) fn nest(&mut self, kind: u16) -> Nest {
        self.open(kind | NLA_F_NESTED)
    }

    fn open(&mut self, kind: u16) -> Nest {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&0u16.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        Nest(start)
    }

    /// Closes an attribute and pads it.
    pub(crate) fn close(&mut self, nest: Nest) {
        let length = self.size(nest);
        debug_assert!(length <= ATTRIBUTE_MAX, "callers split what grows");
        self.buffer[nest.0..nest.0 + 2].copy_from_slice(&(length as u16).to_ne_bytes());
        self.buffer.resize(self.buffer.len().next_multiple_of(4), 0);
    }

    /// How long an open attribute is so far, header included.
    pub(crate) fn size(&self, nest: Nest) -> usize {
        self.buffer.len() - nest.0
    }

    /// The length of the buffer, to come back to by [`truncate`](Self::truncate).
    pub(crate) fn position(&self) -> usize {
        self.buffer.len()
    }

    /// Takes back what was written after a position.
    pub(crate) fn truncate(&mut self, position: usize) {
        self.buffer.truncate(position);
    }
}

/// User data in nft's form: type, length, value.
pub(crate) fn udata(into: &mut Vec<u8>, kind: u8, value: &[u8]) {
    into.push(kind);
    into.push(value.len() as u8);
    into.extend_from_slice(value);
}

/// A comment as user data: with its final zero.
pub(crate) fn udata_comment(into: &mut Vec<u8>, kind: u8, comment: &str) {
    let mut value = comment.as_bytes().to_vec();
    value.push(0);
    udata(into, kind, &value);
}
