//! Communities (RFC 1997) and large communities (RFC 8092).

use core::fmt;
use core::num::ParseIntError;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// A community: by convention an AS number in the upper half and that AS's own number in the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Community(pub u32);

impl Community {
    /// The sender is about to go down: other ways are to be taken while there are any (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
    /// Not to leave the AS (or confederation).
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    /// Not to be advertised to anybody.
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);
    /// Not to leave the member AS of a confederation; without one, as [`Self::NO_EXPORT`].
    pub const NO_EXPORT_SUBCONFED: Self = Self(0xffff_ff03);
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// Why a text is not a community.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseCommunityError {
    /// Not two numbers with a colon between.
    #[error("{0:?} is not a community: write two numbers from 0 to 65535, as in 65000:1")]
    Shape(String),
    /// One of them is not a number of 16 bits.
    #[error("{0:?} is not a community: {1}; both numbers go from 0 to 65535")]
    Number(String, ParseIntError),
}

impl FromStr for Community {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (high, low) = text.split_once(':').ok_or_else(|| ParseCommunityError::Shape(text.to_owned()))?;
        let half =
            |part: &str| part.parse::<u16>().map_err(|error| ParseCommunityError::Number(text.to_owned(), error));
        Ok(Self(u32::from(half(high)?) << 16 | u32::from(half(low)?)))
    }
}

/// A large community: the AS number that defines it, and two numbers of its choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LargeCommunity {
    /// Global administrator: an AS number.
    pub global: u32,
    /// First local part.
    pub local1: u32,
    /// Second local part.
    pub local2: u32,
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.global, self.local1, self.local2)
    }
}
