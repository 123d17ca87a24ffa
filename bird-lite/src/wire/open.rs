//! OPEN (RFC 4271, 4.2), with extended optional parameters (RFC 9072).

use std::net::Ipv4Addr;

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};

use super::capability::{Capability, GracefulRestart};
use super::header::{self, MessageType};
use super::notification::{Fault, OPEN_ERROR};
use super::{AS_TRANS, Families, Family, Reader};

const CAPABILITIES: u8 = 2;

/// An OPEN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The 16-bit AS number field; [`AS_TRANS`] where the number does not fit.
    pub my_as: u16,
    /// Proposed hold time in seconds, 0 or at least 3.
    pub hold_time: u16,
    /// The sender's BGP identifier.
    pub router_id: Ipv4Addr,
    /// What it can do, in order.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// The sender's AS number: the capability's, else the field's.
    pub fn as_number(&self) -> u32 {
        self.four_octet_as().unwrap_or(u32::from(self.my_as))
    }

    /// The number in the 4-octet AS capability, if it is there.
    pub fn four_octet_as(&self) -> Option<u32> {
        self.capabilities.iter().find_map(|capability| match capability {
            Capability::FourOctetAs(number) => Some(*number),
            _ => None,
        })
    }

    /// The families that the sender wants, of those that we route. Without any Multiprotocol capability that is IPv4 (RFC 4760, 8).
    pub fn families(&self) -> Families {
        let mut any = false;
        let mut families = Families::NONE;
        for capability in &self.capabilities {
            if let Capability::Multiprotocol { afi, safi } = capability {
                any = true;
                if let Some(family) = Family::from_numbers(*afi, *safi) {
                    families.insert(family);
                }
            }
        }
        if any { families } else { Families::from_iter([Family::Ipv4]) }
    }

    /// The Graceful Restart capability; the last one, where there are several (RFC 4724, 3).
    pub fn graceful_restart(&self) -> Option<&GracefulRestart> {
        self.capabilities.iter().rev().find_map(|capability| match capability {
            Capability::GracefulRestart(restart) => Some(restart),
            _ => None,
        })
    }

    /// Whether the sender understands ROUTE-REFRESH.
    pub fn route_refresh(&self) -> bool {
        self.capabilities.contains(&Capability::RouteRefresh)
    }

    /// Whether the sender understands the marks around what is sent again.
    pub fn enhanced_refresh(&self) -> bool {
        self.capabilities.contains(&Capability::EnhancedRouteRefresh)
    }

    /// Whether the sender takes messages of more than 4,096 bytes.
    pub fn extended_message(&self) -> bool {
        self.capabilities.contains(&Capability::ExtendedMessage)
    }

    /// Reads the body and judges all that can be judged without knowing the peer.
    ///
    /// # Errors
    /// The OPEN Message Errors of RFC 4271, 6.2.
    pub fn decode(body: &[u8]) -> Result<Self, Fault> {
        let malformed = |reason| Fault::new(OPEN_ERROR, 0, Vec::new(), reason);
        let mut reader = Reader::new(body);
        let short = || malformed("the OPEN is shorter than its fixed part");
        let version = reader.u8().ok_or_else(short)?;
        if version != 4 {
            // The data is the largest version that we speak.
            return Err(Fault::new(OPEN_ERROR, 1, vec![0, 4], "the peer does not speak BGP version 4"));
        }
        let my_as = reader.u16().ok_or_else(short)?;
        let hold_time = reader.u16().ok_or_else(short)?;
        let router_id = reader.ipv4().ok_or_else(short)?;
        let length = reader.u8().ok_or_else(short)?;
        if matches!(hold_time, 1 | 2) {
            let data = hold_time.to_be_bytes().to_vec();
            return Err(Fault::new(OPEN_ERROR, 6, data, "the proposed hold time is neither 0 nor at least 3 s"));
        }
        if router_id.is_unspecified() {
            return Err(Fault::new(OPEN_ERROR, 3, router_id.octets().to_vec(), "the BGP identifier is 0.0.0.0"));
        }
        let capabilities = Self::decode_parameters(reader, length)?;
        Ok(Self { my_as, hold_time, router_id, capabilities })
    }

    fn decode_parameters(mut reader: Reader<'_>, length: u8) -> Result<Vec<Capability>, Fault> {
        let malformed = |reason| Fault::new(OPEN_ERROR, 0, Vec::new(), reason);
        let extended = length == 255 && reader.rest().first() == Some(&255);
        let length = if extended {
            reader.u8();
            usize::from(reader.u16().ok_or_else(|| malformed("the extended parameters' length is missing"))?)
        } else {
            usize::from(length)
        };
        if reader.len() != length {
            return Err(malformed("the optional parameters' length does not match the OPEN's"));
        }
        let mut capabilities = Vec::new();
        while !reader.is_empty() {
            let kind = reader.u8();
            let length = if extended { reader.u16() } else { reader.u8().map(u16::from) };
            let value = length.and_then(|length| reader.take(usize::from(length)));
            let (Some(kind), Some(value)) = (kind, value) else {
                return Err(malformed("an optional parameter runs past the OPEN's end"));
            };
            if kind != CAPABILITIES {
                return Err(Fault::new(OPEN_ERROR, 4, vec![kind], "an optional parameter is unknown"));
            }
            let mut list = Reader::new(value);
            while !list.is_empty() {
                let (Some(code), Some(length)) = (list.u8(), list.u8()) else {
                    return Err(malformed("a capability is cut short"));
                };
                let Some(value) = list.take(usize::from(length)) else {
                    return Err(malformed("a capability runs past its parameter's end"));
                };
                capabilities.push(Capability::decode(code, value));
            }
        }
        Ok(capabilities)
    }

    /// An OPEN for this AS, whatever the size of its number. The 4-octet AS capability is added to `capabilities`.
    pub fn new(local_as: u32, hold_time: u16, router_id: Ipv4Addr, mut capabilities: Vec<Capability>) -> Self {
        capabilities.push(Capability::FourOctetAs(local_as));
        Self { my_as: u16::try_from(local_as).unwrap_or(AS_TRANS), hold_time, router_id, capabilities }
    }

    /// Appends the whole message: one optional parameter with all capabilities, extended where they need it.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut list = BytesMut::new();
        for capability in &self.capabilities {
            let before = list.len();
            capability.encode(&mut list);
            if list.len() > header::MAX_MESSAGE - 64 {
                list.truncate(before);
                break;
            }
        }
        let start = header::begin(out, MessageType::Open);
        out.put_u8(4);
        out.put_u16(self.my_as);
        out.put_u16(self.hold_time);
        out.put_slice(&self.router_id.octets());
        if list.is_empty() {
            out.put_u8(0);
        } else if list.len() + 2 < 255 {
            out.put_slice(&[(list.len() + 2) as u8, CAPABILITIES, list.len() as u8]);
        } else {
            out.put_slice(&[255, 255]);
            out.put_u16((list.len() + 3) as u16);
            out.put_u8(CAPABILITIES);
            out.put_u16(list.len() as u16);
        }
        out.put_slice(&list);
        header::finish(out, start);
    }
}
