//! Reading netlink: messages and attributes out of bytes that nobody has checked.
//!
//! Iterators end at the first thing that does not fit, and nothing here panics on any input.

use crate::consts::NLA_TYPE_MASK;
use crate::wire::{NFGEN_HEADER, NLMSG_HEADER};

/// A netlink message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    /// The netlink address of whoever it is due to.
    pub(crate) port: u32,
    /// What follows the netlink header.
    pub(crate) payload: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Message<'a> {
    /// The message with its header and padding.
    pub(crate) fn whole(&self) -> &'a [u8] {
        self.whole
    }

    /// The attributes behind the nfnetlink header.
    pub(crate) fn attributes(&self) -> Attributes<'a> {
        Attributes(self.payload.get(NFGEN_HEADER..).unwrap_or_default())
    }

    /// The family in the nfnetlink header.
    pub(crate) fn family(&self) -> Option<u8> {
        self.payload.first().copied()
    }

    /// The errno of an error message, positive; 0 for an acknowledgement.
    pub(crate) fn errno(&self) -> Option<i32> {
        let bytes = self.payload.first_chunk::<4>()?;
        Some(i32::from_ne_bytes(*bytes).saturating_neg())
    }
}

/// The messages in what was received.
#[derive(Debug, Clone)]
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.0.first_chunk::<NLMSG_HEADER>()?;
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let length = word(0) as usize;
        let payload = self.0.get(NLMSG_HEADER..length)?;
        let (whole, rest) = self.0.split_at(length.next_multiple_of(4).min(self.0.len()));
        self.0 = rest;
        Some(Message { kind: half(4), flags: half(6), seq: word(8), port: word(12), payload, whole })
    }
}

/// The attributes in a message or in another attribute.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

/// An attribute.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attribute<'a> {
    pub(crate) kind: u16,
    pub(crate) payload: &'a [u8],
}

/// Goes through attributes one by one.
#[derive(Debug, Clone)]
pub(crate) struct Iter<'a>(&'a [u8]);

impl<'a> IntoIterator for Attributes<'a> {
    type Item = Attribute<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        Iter(self.0)
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let header = self.0.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let payload = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, payload })
    }
}

impl<'a> Attributes<'a> {
    /// The attribute of a kind; the last one if there are several, as the kernel reads them.
    pub(crate) fn get(self, kind: u16) -> Option<Attribute<'a>> {
        self.into_iter().filter(|attribute| attribute.kind == kind).last()
    }

    pub(crate) fn number(self, kind: u16) -> Option<u32> {
        self.get(kind)?.number()
    }

    pub(crate) fn string(self, kind: u16) -> Option<&'a str> {
        self.get(kind)?.string()
    }

    pub(crate) fn nested(self, kind: u16) -> Option<Attributes<'a>> {
        Some(self.get(kind)?.nested())
    }
}

impl<'a> Attribute<'a> {
    /// A number in network byte order.
    pub(crate) fn number(self) -> Option<u32> {
        Some(u32::from_be_bytes(*self.payload.first_chunk::<4>()?))
    }

    /// A string, without its final zero.
    pub(crate) fn string(self) -> Option<&'a str> {
        let bytes = self.payload.strip_suffix(&[0]).unwrap_or(self.payload);
        std::str::from_utf8(bytes).ok()
    }

    /// A string that its author did not check, as well as it can be read.
    pub(crate) fn text(self) -> String {
        let end = self.payload.iter().position(|byte| *byte == 0).unwrap_or(self.payload.len());
        String::from_utf8_lossy(&self.payload[..end]).into_owned()
    }

    /// The attributes in it.
    pub(crate) fn nested(self) -> Attributes<'a> {
        Attributes(self.payload)
    }
}

/// A value in nft's user data.
pub(crate) fn udata(mut bytes: &[u8], kind: u8) -> Option<&[u8]> {
    while let [this, length, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*length))?;
        if *this == kind {
            return Some(value);
        }
        bytes = &rest[value.len()..];
    }
    None
}

/// A comment in nft's user data.
pub(crate) fn udata_comment(bytes: &[u8], kind: u8) -> Option<String> {
    let value = udata(bytes, kind)?;
    let text = value.strip_suffix(&[0]).unwrap_or(value);
    Some(String::from_utf8_lossy(text).into_owned())
}
