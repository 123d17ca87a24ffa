//! ROUTE-REFRESH (RFC 2918): the request to send a family's Adj-RIB-Out again.

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};

use super::header::{self, MessageType};
use super::notification::{Fault, HEADER_ERROR};
use super::{Family, Reader};

/// A ROUTE-REFRESH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRefresh {
    /// Address family.
    pub afi: u16,
    /// 0 for a plain request; 1 and 2 mark begin and end of an enhanced one (RFC 7313).
    pub subtype: u8,
    /// Subsequent address family.
    pub safi: u8,
}

impl RouteRefresh {
    /// A plain request for a family.
    pub fn request(family: Family) -> Self {
        Self { afi: family.afi(), subtype: 0, safi: 1 }
    }

    /// The mark before a family is sent again.
    pub fn begin(family: Family) -> Self {
        Self { subtype: 1, ..Self::request(family) }
    }

    /// The mark after it.
    pub fn end(family: Family) -> Self {
        Self { subtype: 2, ..Self::request(family) }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Bad Message Length where it is not four bytes long.
    pub fn decode(body: &[u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(body);
        if let (Some(afi), Some(subtype), Some(safi), true) =
            (reader.u16(), reader.u8(), reader.u8(), reader.is_empty())
        {
            return Ok(Self { afi, subtype, safi });
        }
        let length = (header::HEADER_LENGTH + body.len()) as u16;
        Err(Fault::new(HEADER_ERROR, 2, length.to_be_bytes().to_vec(), "a ROUTE-REFRESH is not 23 bytes long"))
    }

    /// Appends the whole message.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = header::begin(out, MessageType::RouteRefresh);
        out.put_u16(self.afi);
        out.put_u8(self.subtype);
        out.put_u8(self.safi);
        header::finish(out, start);
    }
}
