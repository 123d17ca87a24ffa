//! NOTIFICATION (RFC 4271, 4.5): why a session ends, with all codes that we send or explain.

use core::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::header::{self, MessageType};

/// Message Header Error (1).
pub const HEADER_ERROR: u8 = 1;
/// OPEN Message Error (2).
pub const OPEN_ERROR: u8 = 2;
/// UPDATE Message Error (3).
pub const UPDATE_ERROR: u8 = 3;
/// Hold Timer Expired (4).
pub const HOLD_TIMER_EXPIRED: u8 = 4;
/// Finite State Machine Error (5).
pub const FSM_ERROR: u8 = 5;
/// Cease (6).
pub const CEASE: u8 = 6;
/// ROUTE-REFRESH Message Error (7, RFC 7313).
pub const REFRESH_ERROR: u8 = 7;

/// A NOTIFICATION.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode, 0 where there is none.
    pub subcode: u8,
    /// What the code says it is.
    pub data: Bytes,
}

impl Notification {
    /// A NOTIFICATION with these codes.
    pub fn new(code: u8, subcode: u8, data: impl Into<Bytes>) -> Self {
        Self { code, subcode, data: data.into() }
    }

    /// Cease with a subcode of RFC 4486 and no data.
    pub fn cease(subcode: u8) -> Self {
        Self::new(CEASE, subcode, Bytes::new())
    }

    /// Cease, Administrative Shutdown (6/2).
    pub fn administrative_shutdown() -> Self {
        Self::cease(2)
    }

    /// Cease, Peer De-configured (6/3).
    pub fn peer_deconfigured() -> Self {
        Self::cease(3)
    }

    /// Cease, Connection Rejected (6/5).
    pub fn connection_rejected() -> Self {
        Self::cease(5)
    }

    /// Cease, Other Configuration Change (6/6).
    pub fn configuration_change() -> Self {
        Self::cease(6)
    }

    /// Cease, Connection Collision Resolution (6/7).
    pub fn collision_resolution() -> Self {
        Self::cease(7)
    }

    /// Hold Timer Expired.
    pub fn hold_timer_expired() -> Self {
        Self::new(HOLD_TIMER_EXPIRED, 0, Bytes::new())
    }

    /// A message that the state does not expect (RFC 6608): `subcode` tells the state, the data is the message's type.
    pub fn unexpected(subcode: u8, kind: MessageType) -> Self {
        Self::new(FSM_ERROR, subcode, vec![kind as u8])
    }

    /// Reads the body of a NOTIFICATION; `None` where it is shorter than its two codes.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let [code, subcode, data @ ..] = body else { return None };
        Some(Self { code: *code, subcode: *subcode, data: Bytes::copy_from_slice(data) })
    }

    /// Appends the whole message; data past the message's largest size is cut.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = header::begin(out, MessageType::Notification);
        out.put_u8(self.code);
        out.put_u8(self.subcode);
        let room = header::MAX_MESSAGE - header::HEADER_LENGTH - 2;
        out.put_slice(&self.data[..self.data.len().min(room)]);
        header::finish(out, start);
    }

    /// The free text of an administrative shutdown or reset (RFC 9003), if it is one and carries any.
    pub fn shutdown_text(&self) -> Option<&str> {
        if self.code != CEASE || !matches!(self.subcode, 2 | 4) {
            return None;
        }
        let (length, text) = self.data.split_first()?;
        let text = text.get(..usize::from(*length))?;
        core::str::from_utf8(text).ok().filter(|text| !text.is_empty())
    }

    fn names(&self) -> (&'static str, &'static str) {
        match (self.code, self.subcode) {
            (HEADER_ERROR, 1) => ("message header error", "connection not synchronized"),
            (HEADER_ERROR, 2) => ("message header error", "bad message length"),
            (HEADER_ERROR, 3) => ("message header error", "bad message type"),
            (HEADER_ERROR, _) => ("message header error", ""),
            (OPEN_ERROR, 1) => ("OPEN message error", "unsupported version number"),
            (OPEN_ERROR, 2) => ("OPEN message error", "bad peer AS"),
            (OPEN_ERROR, 3) => ("OPEN message error", "bad BGP identifier"),
            (OPEN_ERROR, 4) => ("OPEN message error", "unsupported optional parameter"),
            (OPEN_ERROR, 6) => ("OPEN message error", "unacceptable hold time"),
            (OPEN_ERROR, 7) => ("OPEN message error", "unsupported capability"),
            (OPEN_ERROR, _) => ("OPEN message error", ""),
            (UPDATE_ERROR, 1) => ("UPDATE message error", "malformed attribute list"),
            (UPDATE_ERROR, 2) => ("UPDATE message error", "unrecognized well-known attribute"),
            (UPDATE_ERROR, 3) => ("UPDATE message error", "missing well-known attribute"),
            (UPDATE_ERROR, 4) => ("UPDATE message error", "attribute flags error"),
            (UPDATE_ERROR, 5) => ("UPDATE message error", "attribute length error"),
            (UPDATE_ERROR, 6) => ("UPDATE message error", "invalid ORIGIN attribute"),
            (UPDATE_ERROR, 8) => ("UPDATE message error", "invalid NEXT_HOP attribute"),
            (UPDATE_ERROR, 9) => ("UPDATE message error", "optional attribute error"),
            (UPDATE_ERROR, 10) => ("UPDATE message error", "invalid network field"),
            (UPDATE_ERROR, 11) => ("UPDATE message error", "malformed AS_PATH"),
            (UPDATE_ERROR, _) => ("UPDATE message error", ""),
            (HOLD_TIMER_EXPIRED, _) => ("hold timer expired", ""),
            (FSM_ERROR, 1) => ("finite state machine error", "unexpected message in OpenSent"),
            (FSM_ERROR, 2) => ("finite state machine error", "unexpected message in OpenConfirm"),
            (FSM_ERROR, 3) => ("finite state machine error", "unexpected message in Established"),
            (FSM_ERROR, _) => ("finite state machine error", ""),
            (CEASE, 1) => ("cease", "maximum number of prefixes reached"),
            (CEASE, 2) => ("cease", "administrative shutdown"),
            (CEASE, 3) => ("cease", "peer de-configured"),
            (CEASE, 4) => ("cease", "administrative reset"),
            (CEASE, 5) => ("cease", "connection rejected"),
            (CEASE, 6) => ("cease", "other configuration change"),
            (CEASE, 7) => ("cease", "connection collision resolution"),
            (CEASE, 8) => ("cease", "out of resources"),
            (CEASE, 9) => ("cease", "hard reset"),
            (CEASE, _) => ("cease", ""),
            (REFRESH_ERROR, 1) => ("ROUTE-REFRESH message error", "invalid message length"),
            (REFRESH_ERROR, _) => ("ROUTE-REFRESH message error", ""),
            _ => ("unknown error", ""),
        }
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, subcode) = self.names();
        write!(f, "{code}")?;
        if !subcode.is_empty() {
            write!(f, ", {subcode}")?;
        }
        write!(f, " ({}/{})", self.code, self.subcode)?;
        match self.shutdown_text() {
            Some(text) => write!(f, ": {}", text.escape_debug()),
            None => Ok(()),
        }
    }
}

/// A message that ends the session: the NOTIFICATION to send, and for people what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} [{notification}]")]
pub struct Fault {
    /// What to send before closing.
    pub notification: Notification,
    /// What is wrong, in words.
    pub reason: &'static str,
}

impl Fault {
    /// A fault that is answered with these codes.
    pub fn new(code: u8, subcode: u8, data: impl Into<Bytes>, reason: &'static str) -> Self {
        Self { notification: Notification::new(code, subcode, data), reason }
    }
}
