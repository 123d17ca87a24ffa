//! BGP-4 on the wire: bytes to values and back.
//!
//! Decoding borrows from the message, never allocates more than the message is long (times a small constant), and answers a malformed
//! message with a [`Fault`]: the very NOTIFICATION that the RFCs ask for. UPDATE messages follow RFC 7606: most malformed attributes cost
//! the routes of that message only (see [`update`]). Encoding appends to a buffer and splits UPDATEs at 4,096 bytes.
//!
//! * [`header`]: marker, length and type; finding whole messages in a stream.
//! * [`open`] and [`capability`]: OPEN, and what can be negotiated in it.
//! * [`update`], [`attribute`], [`as_path`], [`nlri`]: UPDATE and its parts.
//! * [`notification`]: NOTIFICATION and all its codes. [`refresh`]: ROUTE-REFRESH.

pub mod as_path;
pub mod attribute;
pub mod capability;
mod community;
pub mod header;
pub mod nlri;
pub mod notification;
pub mod open;
mod reader;
pub mod refresh;
pub mod update;

use core::fmt;

use serde::{Deserialize, Serialize};

pub use self::as_path::{AsPath, Segment};
pub use self::attribute::{Aggregator, Attributes, Origin, UnknownAttribute};
pub use self::capability::{Capability, GracefulRestart, RestartFamily};
pub use self::community::{Community, LargeCommunity, ParseCommunityError};
pub use self::header::{HEADER_LENGTH, MAX_EXTENDED_MESSAGE, MAX_MESSAGE, MessageType};
pub use self::nlri::Nlri;
pub use self::notification::{Fault, Notification};
pub use self::open::Open;
pub(crate) use self::reader::Reader;
pub use self::refresh::RouteRefresh;
pub use self::update::Update;

/// The number that stands for an AS number that does not fit 16 bits (RFC 6793).
pub const AS_TRANS: u16 = 23456;

/// An address family that we route, always with SAFI 1 (unicast).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4 unicast, AFI 1.
    Ipv4,
    /// IPv6 unicast, AFI 2.
    Ipv6,
}

impl Family {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family of these numbers, if we route it.
    pub fn from_numbers(afi: u16, safi: u8) -> Option<Self> {
        match (afi, safi) {
            (1, 1) => Some(Self::Ipv4),
            (2, 1) => Some(Self::Ipv6),
            _ => None,
        }
    }

    /// Its address family identifier. The SAFI is 1.
    pub fn afi(self) -> u16 {
        match self {
            Self::Ipv4 => 1,
            Self::Ipv6 => 2,
        }
    }

    /// The family of a prefix.
    pub fn of(prefix: &ipnet::IpNet) -> Self {
        match prefix {
            ipnet::IpNet::V4(_) => Self::Ipv4,
            ipnet::IpNet::V6(_) => Self::Ipv6,
        }
    }

    /// For arrays with an element a family.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Ipv4 => 0,
            Self::Ipv6 => 1,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

/// A set of families.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Families([bool; 2]);

impl Families {
    /// Both families.
    pub const ALL: Self = Self([true, true]);
    /// None.
    pub const NONE: Self = Self([false, false]);

    /// Whether `family` is in it.
    pub fn contains(self, family: Family) -> bool {
        self.0[family.index()]
    }

    /// Puts `family` in.
    pub fn insert(&mut self, family: Family) {
        self.0[family.index()] = true;
    }

    /// Takes `family` out; whether it was in.
    pub fn remove(&mut self, family: Family) -> bool {
        core::mem::replace(&mut self.0[family.index()], false)
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self([self.0[0] && other.0[0], self.0[1] && other.0[1]])
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// Those that are in it, in order.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.contains(*family))
    }
}

impl FromIterator<Family> for Families {
    fn from_iter<T: IntoIterator<Item = Family>>(families: T) -> Self {
        let mut set = Self::NONE;
        families.into_iter().for_each(|family| set.insert(family));
        set
    }
}
