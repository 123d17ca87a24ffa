//! The little that must be known of a program before it goes into an image that holds nothing else: for which machine it is, and which
//! loader it needs, if it is not static.

use std::ffi::{CStr, OsStr};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A machine's name in image configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// A program header of this type names the loader.
const PT_INTERP: u32 = 3;

/// For which machine a program is, and the path of the loader that it asks for; or why it is none.
pub(crate) fn machine(program: &[u8]) -> Result<(Architecture, Option<&Path>), &'static str> {
    let half = |at: usize| Some(u16::from_le_bytes(program.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(program.get(at..at + 4)?.try_into().ok()?));
    // Class 2 is 64 bits, encoding 1 is little-endian.
    if !program.starts_with(b"\x7fELF\x02\x01") {
        return Err("it is no 64-bit little-endian ELF program");
    }
    let long = program.get(32..40).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    let headers = long.and_then(|offset| usize::try_from(offset).ok());
    let (Some(headers), Some(size), Some(count)) = (headers, half(54), half(56)) else {
        return Err("its ELF header is cut short");
    };
    let mut loader = None;
    for index in 0..usize::from(count) {
        let header = headers.saturating_add(index * usize::from(size));
        match word(header) {
            None => return Err("its ELF program headers are cut short"),
            Some(PT_INTERP) => {
                let place = file_range(program, header).and_then(|range| program.get(range));
                let path = place.and_then(|bytes| CStr::from_bytes_until_nul(bytes).ok());
                let path = path.ok_or("its ELF header names a loader outside the file")?;
                loader = Some(Path::new(OsStr::from_bytes(path.to_bytes())));
            }
            Some(_) => {}
        }
    }
    match half(18) {
        Some(62) => Ok((Architecture::Amd64, loader)),
        Some(183) => Ok((Architecture::Arm64, loader)),
        _ => Err("it is for neither x86-64 nor AArch64"),
    }
}

/// Where in the file the segment of a program header is.
fn file_range(program: &[u8], header: usize) -> Option<Range<usize>> {
    let long = |at: usize| {
        let bytes = program.get(header.checked_add(at)?..)?.first_chunk()?;
        usize::try_from(u64::from_le_bytes(*bytes)).ok()
    };
    let (offset, size) = (long(8)?, long(32)?);
    Some(offset..offset.checked_add(size)?)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An ELF header with the given types of program headers.
    pub(crate) fn program(machine: u16, types: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56..58].copy_from_slice(&u16::try_from(types.len()).expect("few").to_le_bytes());
        for kind in types {
            let mut header = [0; 56];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            bytes.extend(header);
        }
        bytes
    }

    #[test]
    fn tells_machines_and_loaders() {
        assert_eq!(machine(&program(62, &[1, 1, 4])), Ok((Architecture::Amd64, None)));
        assert_eq!(machine(&program(183, &[1])), Ok((Architecture::Arm64, None)));
        let mut dynamic = program(62, &[PT_INTERP]);
        assert!(machine(&dynamic).is_err_and(|reason| reason.contains("outside the file")), "of no length");
        dynamic[64 + 8] = 120;
        dynamic[64 + 32] = 8;
        dynamic.extend(b"/lib/ld\0");
        assert_eq!(machine(&dynamic), Ok((Architecture::Amd64, Some(Path::new("/lib/ld")))));
        assert!(machine(&program(8, &[1])).is_err());
        assert!(machine(b"#!/bin/sh").is_err());
        let whole = program(62, &[1, 1]);
        for length in 0..whole.len() - 52 {
            assert!(machine(&whole[..length]).is_err(), "cut at {length}");
        }
    }
}
