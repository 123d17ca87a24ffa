//! AS_PATH (RFC 4271, 5.1.2), with 16-bit and 32-bit AS numbers (RFC 6793).

use core::fmt;

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};

use super::{AS_TRANS, Reader};

const SET: u8 = 1;
const SEQUENCE: u8 = 2;

/// One segment of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Segment {
    /// ASes in any order, as an aggregate leaves them.
    Set(Vec<u32>),
    /// ASes in the order in which the route passed them, the nearest first.
    Sequence(Vec<u32>),
}

impl Segment {
    fn numbers(&self) -> &[u32] {
        match self {
            Self::Set(numbers) | Self::Sequence(numbers) => numbers,
        }
    }
}

/// The ASes that a route has passed, the nearest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AsPath(Vec<Segment>);

impl AsPath {
    /// A path of these segments. Empty segments are left out.
    pub fn new(segments: impl IntoIterator<Item = Segment>) -> Self {
        Self(segments.into_iter().filter(|segment| !segment.numbers().is_empty()).collect())
    }

    /// Its segments, none empty.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// Whether it has no AS: the route is of this AS itself.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its length for route selection: a set counts as one (RFC 4271, 9.1.2.2 a).
    pub fn length(&self) -> usize {
        self.0
            .iter()
            .map(|segment| match segment {
                Segment::Set(_) => 1,
                Segment::Sequence(numbers) => numbers.len(),
            })
            .sum()
    }

    /// All its AS numbers, nearest first.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flat_map(|segment| segment.numbers().iter().copied())
    }

    /// The neighbouring AS: the first number, where the path starts with a sequence.
    pub fn neighbour(&self) -> Option<u32> {
        match self.0.first()? {
            Segment::Sequence(numbers) => numbers.first().copied(),
            Segment::Set(_) => None,
        }
    }

    /// Whether an aggregate has left a set in it.
    pub fn has_set(&self) -> bool {
        self.0.iter().any(|segment| matches!(segment, Segment::Set(_)))
    }

    /// Whether its first numbers are these, in sequence. Every path starts with none.
    pub fn starts_with(&self, numbers: &[u32]) -> bool {
        let sequence = self.0.iter().take_while(|segment| matches!(segment, Segment::Sequence(_)));
        let mut first = sequence.flat_map(Segment::numbers);
        numbers.iter().all(|number| first.next() == Some(number))
    }

    /// The same path after one more AS (RFC 4271, 5.1.2 b).
    #[must_use]
    pub fn prepended(&self, number: u32) -> Self {
        let mut segments = self.0.clone();
        match segments.first_mut() {
            Some(Segment::Sequence(numbers)) if numbers.len() < 255 => numbers.insert(0, number),
            _ => segments.insert(0, Segment::Sequence(vec![number])),
        }
        Self(segments)
    }

    /// Reads an attribute's value: `None` where it is malformed by RFC 7606, 7.2, or holds AS 0 (RFC 7607).
    pub(crate) fn decode(value: &[u8], four_octets: bool) -> Option<Self> {
        let mut reader = Reader::new(value);
        let mut segments = Vec::new();
        while !reader.is_empty() {
            let (kind, count) = (reader.u8()?, reader.u8()?);
            if count == 0 || !matches!(kind, SET | SEQUENCE) {
                return None;
            }
            let mut list = Reader::new(reader.take(usize::from(count) * if four_octets { 4 } else { 2 })?);
            let mut numbers = Vec::with_capacity(usize::from(count));
            while !list.is_empty() {
                let number = if four_octets { list.u32()? } else { u32::from(list.u16()?) };
                if number == 0 {
                    return None;
                }
                numbers.push(number);
            }
            segments.push(if kind == SET { Segment::Set(numbers) } else { Segment::Sequence(numbers) });
        }
        Some(Self(segments))
    }

    /// Appends an attribute's value. In 16 bits, numbers that do not fit become [`AS_TRANS`].
    pub(crate) fn encode(&self, four_octets: bool, out: &mut BytesMut) {
        for segment in &self.0 {
            let kind = match segment {
                Segment::Set(_) => SET,
                Segment::Sequence(_) => SEQUENCE,
            };
            for numbers in segment.numbers().chunks(255) {
                out.put_slice(&[kind, numbers.len() as u8]);
                for &number in numbers {
                    if four_octets {
                        out.put_u32(number);
                    } else {
                        out.put_u16(u16::try_from(number).unwrap_or(AS_TRANS));
                    }
                }
            }
        }
    }

    /// Whether a number needs more than 16 bits.
    pub(crate) fn needs_four_octets(&self) -> bool {
        self.numbers().any(|number| number > u32::from(u16::MAX))
    }

    /// Rebuilds the path from AS_PATH (`self`), as a 16-bit neighbour sent it, and AS4_PATH (RFC 6793, 4.2.3).
    #[must_use]
    pub(crate) fn merged(self, as4: Self) -> Self {
        let Some(mut excess) = self.length().checked_sub(as4.length()) else {
            return self;
        };
        let mut segments = Vec::new();
        for segment in self.0 {
            if excess == 0 {
                break;
            }
            match segment {
                Segment::Set(numbers) => {
                    excess -= 1;
                    segments.push(Segment::Set(numbers));
                }
                Segment::Sequence(mut numbers) => {
                    numbers.truncate(excess);
                    excess -= numbers.len();
                    segments.push(Segment::Sequence(numbers));
                }
            }
        }
        for segment in as4.0 {
            match (segments.last_mut(), segment) {
                (Some(Segment::Sequence(head)), Segment::Sequence(tail)) if head.len() + tail.len() <= 255 => {
                    head.extend(tail);
                }
                (_, segment) => segments.push(segment),
            }
        }
        Self(segments)
    }
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.0.iter().enumerate() {
            let (open, separator, close) = match segment {
                Segment::Set(_) => ("{", ",", "}"),
                Segment::Sequence(_) => ("", " ", ""),
            };
            write!(f, "{}{open}", if index > 0 { " " } else { "" })?;
            for (index, number) in segment.numbers().iter().enumerate() {
                write!(f, "{}{number}", if index > 0 { separator } else { "" })?;
            }
            f.write_str(close)?;
        }
        Ok(())
    }
}
