//! Which bits of the ct mark are ours.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How many bits it takes: fewer would let generations come round too soon.
pub const MIN_MARK_BITS: u32 = 8;

/// The bits of the ct mark that are ours, at least [`MIN_MARK_BITS`] of them, side by side or not. All others belong to somebody else
/// (kube-proxy uses 0x4000 and 0x8000) and are left as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct MarkMask(u32);

/// Why a mask will not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "nftablesMarkMask {mask:#010x} has {bits} bits, and at least {MIN_MARK_BITS} are needed: leave it out for 0xffff0000"
)]
pub struct MarkMaskError {
    /// The mask.
    pub mask: u32,
    /// How many bits it has.
    pub bits: u32,
}

impl Default for MarkMask {
    /// The upper half.
    fn default() -> Self {
        Self(0xffff_0000)
    }
}

impl From<MarkMask> for u32 {
    fn from(mask: MarkMask) -> Self {
        mask.0
    }
}

impl TryFrom<u32> for MarkMask {
    type Error = MarkMaskError;

    fn try_from(mask: u32) -> Result<Self, MarkMaskError> {
        let bits = mask.count_ones();
        if bits < MIN_MARK_BITS { Err(MarkMaskError { mask, bits }) } else { Ok(Self(mask)) }
    }
}

impl MarkMask {
    /// The mask itself.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The largest number that fits into the bits.
    pub(crate) const fn max(self) -> u32 {
        u32::MAX >> (32 - self.0.count_ones())
    }

    /// The number's bits, in the places of ours: what does not fit is lost.
    pub(crate) const fn deposit(self, number: u32) -> u32 {
        let (mut mark, mut places, mut number) = (0, self.0, number);
        while places != 0 {
            let lowest = places & places.wrapping_neg();
            if number & 1 == 1 {
                mark |= lowest;
            }
            number >>= 1;
            places ^= lowest;
        }
        mark
    }

    /// The number that [`MarkMask::deposit`] put there.
    pub(crate) const fn extract(self, mark: u32) -> u32 {
        let (mut number, mut places, mut bit) = (0, self.0, 1_u32);
        while places != 0 {
            let lowest = places & places.wrapping_neg();
            if mark & lowest != 0 {
                number |= bit;
            }
            bit <<= 1;
            places ^= lowest;
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_comes_out_as_it_went_in() {
        for mask in [0xffff_0000, 0xff, 0xff00_00ff, 0x8421_8421, 0xffff_ffff, 0x5555_5555] {
            let mask = MarkMask::try_from(mask).expect("enough bits");
            for number in [0, 1, 2, 3, 0x7f, 0x80, mask.max() - 1, mask.max()] {
                let mark = mask.deposit(number);
                assert_eq!(mark & !mask.bits(), 0, "{mask:?}");
                assert_eq!(mask.extract(mark), number, "{mask:?}");
                assert_eq!(mask.extract(mark | !mask.bits()), number, "others' bits are nothing to us");
            }
            assert_eq!(mask.deposit(mask.max()), mask.bits());
        }
    }

    #[test]
    fn a_mask_that_is_too_small_is_refused_by_name() {
        for mask in [0, 1, 0x7f, 0xfe00_0000] {
            let error = MarkMask::try_from(mask).expect_err("too few bits").to_string();
            assert!(error.contains("nftablesMarkMask") && error.contains("at least 8"), "{error}");
        }
    }
}
