//! The little that must be known of a program before it goes into an image that holds nothing else: for which machine it is, and that
//! it needs no loader.

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

/// For which machine a static program is, or why it cannot be the only file of an image.
pub(crate) fn machine(program: &[u8]) -> Result<Architecture, &'static str> {
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
    for index in 0..usize::from(count) {
        match word(headers.saturating_add(index * usize::from(size))) {
            None => return Err("its ELF program headers are cut short"),
            Some(PT_INTERP) => {
                return Err("it is linked dynamically, and an image has no loader: build it statically");
            }
            Some(_) => {}
        }
    }
    match half(18) {
        Some(62) => Ok(Architecture::Amd64),
        Some(183) => Ok(Architecture::Arm64),
        _ => Err("it is for neither x86-64 nor AArch64"),
    }
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
        assert_eq!(machine(&program(62, &[1, 1, 4])), Ok(Architecture::Amd64));
        assert_eq!(machine(&program(183, &[1])), Ok(Architecture::Arm64));
        assert!(machine(&program(62, &[6, PT_INTERP, 1])).is_err_and(|reason| reason.contains("dynamically")));
        assert!(machine(&program(8, &[1])).is_err());
        assert!(machine(b"#!/bin/sh").is_err());
        let whole = program(62, &[1, 1]);
        for length in 0..whole.len() - 52 {
            assert!(machine(&whole[..length]).is_err(), "cut at {length}");
        }
    }
}
