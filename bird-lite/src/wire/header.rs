//! The message header (RFC 4271, 4.1): a marker of ones, the length, the type. Length and type are judged before the body is awaited.

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};

use super::notification::{Fault, HEADER_ERROR};

/// Bytes of a header, and of the smallest message.
pub const HEADER_LENGTH: usize = 19;
/// The largest message.
pub const MAX_MESSAGE: usize = 4096;
/// The largest message between speakers that both take such (RFC 8654), OPEN and KEEPALIVE aside.
pub const MAX_EXTENDED_MESSAGE: usize = 65_535;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum MessageType {
    /// OPEN.
    Open = 1,
    /// UPDATE.
    Update = 2,
    /// NOTIFICATION.
    Notification = 3,
    /// KEEPALIVE.
    Keepalive = 4,
    /// ROUTE-REFRESH (RFC 2918).
    RouteRefresh = 5,
}

impl MessageType {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Open,
            2 => Self::Update,
            3 => Self::Notification,
            4 => Self::Keepalive,
            5 => Self::RouteRefresh,
            _ => return None,
        })
    }

    /// Whether a message of this type may be `length` bytes long.
    fn allows(self, length: usize) -> bool {
        match self {
            Self::Open => (29..=MAX_MESSAGE).contains(&length),
            Self::Update => length >= 23,
            Self::Notification => length >= 21,
            Self::Keepalive => length == HEADER_LENGTH,
            // Judged by ROUTE-REFRESH's own rules (RFC 7313, 5).
            Self::RouteRefresh => true,
        }
    }
}

/// Looks at the start of `stream`: the type and whole length of its first message, or `None` where the header is not complete yet.
///
/// # Errors
/// Connection Not Synchronized, Bad Message Length or Bad Message Type (RFC 4271, 6.1), the second with the length as data, the third
/// with the type.
pub fn peek(stream: &[u8]) -> Result<Option<(MessageType, usize)>, Fault> {
    peek_within(stream, MAX_MESSAGE)
}

/// The same where messages may have up to `limit` bytes.
///
/// # Errors
/// As [`peek`].
pub fn peek_within(stream: &[u8], limit: usize) -> Result<Option<(MessageType, usize)>, Fault> {
    let Some(header) = stream.first_chunk::<HEADER_LENGTH>() else {
        return Ok(None);
    };
    if header[..16] != [0xff; 16] {
        return Err(Fault::new(HEADER_ERROR, 1, Vec::new(), "the message does not start with the marker"));
    }
    let field = [header[16], header[17]];
    let length = usize::from(u16::from_be_bytes(field));
    if !(HEADER_LENGTH..=limit).contains(&length) {
        return Err(Fault::new(
            HEADER_ERROR,
            2,
            field.to_vec(),
            "the message is shorter than 19 bytes or longer than it may be",
        ));
    }
    let Some(kind) = MessageType::from_number(header[18]) else {
        return Err(Fault::new(HEADER_ERROR, 3, vec![header[18]], "the message's type is unknown"));
    };
    if !kind.allows(length) {
        return Err(Fault::new(HEADER_ERROR, 2, field.to_vec(), "the message's length does not suit its type"));
    }
    Ok(Some((kind, length)))
}

/// Appends a header whose length [`finish`] fills in; answers where the message starts.
pub(crate) fn begin(out: &mut BytesMut, kind: MessageType) -> usize {
    let start = out.len();
    out.put_bytes(0xff, 16);
    out.put_u16(0);
    out.put_u8(kind as u8);
    start
}

/// Writes the length of the message that starts at `start` and ends the buffer.
pub(crate) fn finish(out: &mut BytesMut, start: usize) {
    let length = out.len() - start;
    debug_assert!((HEADER_LENGTH..=MAX_EXTENDED_MESSAGE).contains(&length), "a message of {length} bytes");
    patch_u16(out, start + 16, length);
}

/// Overwrites the 16 bits at `at`.
pub(crate) fn patch_u16(out: &mut BytesMut, at: usize, value: usize) {
    out[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
}

/// Appends a KEEPALIVE.
pub fn encode_keepalive(out: &mut BytesMut) {
    let start = begin(out, MessageType::Keepalive);
    finish(out, start);
}
