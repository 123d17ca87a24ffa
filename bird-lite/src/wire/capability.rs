//! Capabilities (RFC 5492): what a speaker can do beyond plain BGP-4, told in its OPEN.

use core::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{Family, Reader};

const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const EXTENDED_MESSAGE: u8 = 6;
const GRACEFUL_RESTART: u8 = 64;
const FOUR_OCTET_AS: u8 = 65;
const ENHANCED_ROUTE_REFRESH: u8 = 70;

/// One capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Capability {
    /// Routes of this family are exchanged (RFC 4760).
    Multiprotocol {
        /// Address family.
        afi: u16,
        /// Subsequent address family.
        safi: u8,
    },
    /// ROUTE-REFRESH is understood (RFC 2918).
    RouteRefresh,
    /// Messages may have up to 65,535 bytes (RFC 8654).
    ExtendedMessage,
    /// What is sent again begins and ends with a mark (RFC 7313).
    EnhancedRouteRefresh,
    /// Graceful restart (RFC 4724).
    GracefulRestart(GracefulRestart),
    /// AS numbers have 32 bits; this is the sender's (RFC 6793).
    FourOctetAs(u32),
    /// Any other, or one of the above with a length of its own.
    Unknown {
        /// Its code.
        code: u8,
        /// Its value.
        value: Bytes,
    },
}

/// The Graceful Restart capability.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GracefulRestart {
    /// The R bit: the sender has restarted, do not wait for its End-of-RIB before sending ours.
    pub restarting: bool,
    /// How long after the session's end the sender may take to be back: whole seconds up to 4,095.
    pub restart_time: Duration,
    /// The families that it can keep forwarding through a restart.
    pub families: Vec<RestartFamily>,
}

/// A family in the Graceful Restart capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartFamily {
    /// Address family.
    pub afi: u16,
    /// Subsequent address family.
    pub safi: u8,
    /// The F bit: forwarding state was kept through the last restart.
    pub forwarding: bool,
}

impl GracefulRestart {
    /// What it says of one of our families: `None` where the family is not in it, else the F bit.
    pub fn forwarding(&self, family: Family) -> Option<bool> {
        self.families
            .iter()
            .find(|entry| Family::from_numbers(entry.afi, entry.safi) == Some(family))
            .map(|entry| entry.forwarding)
    }
}

impl Capability {
    /// The Multiprotocol capability for a family.
    pub fn multiprotocol(family: Family) -> Self {
        Self::Multiprotocol { afi: family.afi(), safi: 1 }
    }

    /// Reads a capability's value. A known code whose value has another length than its RFC says is kept as unknown, and so has no
    /// effect (RFC 5492 leaves it open; refusing the session would help nobody).
    pub(crate) fn decode(code: u8, value: &[u8]) -> Self {
        let known = match code {
            MULTIPROTOCOL => Self::decode_multiprotocol(value),
            ROUTE_REFRESH if value.is_empty() => Some(Self::RouteRefresh),
            EXTENDED_MESSAGE if value.is_empty() => Some(Self::ExtendedMessage),
            ENHANCED_ROUTE_REFRESH if value.is_empty() => Some(Self::EnhancedRouteRefresh),
            GRACEFUL_RESTART => Self::decode_graceful_restart(value),
            FOUR_OCTET_AS => value.try_into().ok().map(|number| Self::FourOctetAs(u32::from_be_bytes(number))),
            _ => None,
        };
        known.unwrap_or_else(|| Self::Unknown { code, value: Bytes::copy_from_slice(value) })
    }

    fn decode_multiprotocol(value: &[u8]) -> Option<Self> {
        let [high, low, _reserved, safi] = *value else { return None };
        Some(Self::Multiprotocol { afi: u16::from_be_bytes([high, low]), safi })
    }

    fn decode_graceful_restart(value: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(value);
        let head = reader.u16()?;
        let mut families = Vec::with_capacity(reader.len() / 4);
        while !reader.is_empty() {
            let (afi, safi, flags) = (reader.u16()?, reader.u8()?, reader.u8()?);
            families.push(RestartFamily { afi, safi, forwarding: flags & 0x80 != 0 });
        }
        let restart_time = Duration::from_secs(u64::from(head & 0x0fff));
        Some(Self::GracefulRestart(GracefulRestart { restarting: head & 0x8000 != 0, restart_time, families }))
    }

    /// Appends code, length and value. A value too long for its length byte is left out.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Multiprotocol { afi, safi } => {
                out.put_slice(&[MULTIPROTOCOL, 4]);
                out.put_u16(*afi);
                out.put_slice(&[0, *safi]);
            }
            Self::RouteRefresh => out.put_slice(&[ROUTE_REFRESH, 0]),
            Self::ExtendedMessage => out.put_slice(&[EXTENDED_MESSAGE, 0]),
            Self::EnhancedRouteRefresh => out.put_slice(&[ENHANCED_ROUTE_REFRESH, 0]),
            Self::GracefulRestart(restart) => {
                let families = &restart.families[..restart.families.len().min(63)];
                out.put_slice(&[GRACEFUL_RESTART, (2 + 4 * families.len()) as u8]);
                let time = restart.restart_time.as_secs().min(0x0fff) as u16;
                out.put_u16(time | if restart.restarting { 0x8000 } else { 0 });
                for family in families {
                    out.put_u16(family.afi);
                    out.put_slice(&[family.safi, if family.forwarding { 0x80 } else { 0 }]);
                }
            }
            Self::FourOctetAs(number) => {
                out.put_slice(&[FOUR_OCTET_AS, 4]);
                out.put_u32(*number);
            }
            Self::Unknown { code, value } => {
                if let Ok(length) = u8::try_from(value.len()) {
                    out.put_slice(&[*code, length]);
                    out.put_slice(value);
                }
            }
        }
    }
}
