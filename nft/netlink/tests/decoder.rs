//! The decoder against anything at all: no input makes it panic. Seeds are dumps of real tables, so that mutations go deep.

mod netns;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::os::fd::AsRawFd;

use netns::in_netns;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use proptest::prelude::*;
use support::generate::{self, Random};
use tortie_nft::{Ruleset, TABLE};
use tortie_nft_netlink::{NftSocket, decode_dump};

/// All that the kernel says of a table's chains, rules, sets and elements, as it comes from the socket.
fn dump(ruleset: &Ruleset) -> Vec<u8> {
    let ruleset = ruleset.clone();
    in_netns(move || {
        NftSocket::open().expect("a socket").apply(&Ruleset::default().diff(&ruleset)).expect("a table");
        let protocol = SockProtocol::NetlinkNetFilter;
        let fd = socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), protocol).expect("a socket");
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(100)).expect("a timeout");
        let mut bytes = Vec::new();
        let mut ask = |kind: u16, set: Option<&str>| {
            let mut body = vec![1u8, 0, 0, 0];
            for (number, text) in [(1u16, Some(TABLE)), (2, set)] {
                let Some(text) = text else { continue };
                body.extend_from_slice(&(text.len() as u16 + 5).to_ne_bytes());
                body.extend_from_slice(&number.to_ne_bytes());
                body.extend_from_slice(text.as_bytes());
                body.push(0);
                body.resize(body.len().next_multiple_of(4), 0);
            }
            let mut message = (body.len() as u32 + 16).to_ne_bytes().to_vec();
            message.extend_from_slice(&(10 << 8 | kind).to_ne_bytes());
            message.extend_from_slice(&0x301u16.to_ne_bytes());
            message.extend_from_slice(&[0; 8]);
            message.extend_from_slice(&body);
            socket::send(fd.as_raw_fd(), &message, MsgFlags::empty()).expect("a request");
            let mut buffer = vec![0; 1 << 16];
            while let Ok(length) = socket::recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                bytes.extend_from_slice(&buffer[..length]);
                // The last message of a dump is NLMSG_DONE, 20 bytes long.
                if length >= 20 && buffer[length - 16..length - 14] == 3u16.to_ne_bytes() {
                    break;
                }
            }
        };
        ask(4, None);
        ask(7, None);
        ask(10, None);
        ask(19, None);
        for name in ruleset.sets.keys().chain(ruleset.maps.keys()).chain(ruleset.counter_maps.keys()) {
            ask(13, Some(name));
        }
        bytes
    })
}

#[test]
fn a_dump_decodes_to_the_ruleset() {
    for seed in 0..8 {
        let ruleset = generate::ruleset(&mut Random(seed));
        assert_eq!(decode_dump(&dump(&ruleset)), ruleset);
    }
}

#[test]
fn mutated_dumps_do_not_panic() {
    let mut r = Random(5);
    for seed in 0..6 {
        let seed = dump(&generate::ruleset(&mut Random(seed)));
        for _ in 0..3_000 {
            let mut bytes = seed.clone();
            for _ in 0..=r.below(6) {
                if bytes.is_empty() {
                    break;
                }
                let at = r.below(bytes.len());
                match r.below(4) {
                    0 => bytes[at] = r.number() as u8,
                    1 => bytes[at] ^= 1 << r.below(8),
                    2 => bytes.truncate(at),
                    _ => drop(bytes.drain(at..(at + r.below(24)).min(bytes.len()))),
                }
            }
            let ruleset = decode_dump(&bytes);
            let _ = (ruleset.to_string(), ruleset.diff(&Ruleset::default()).to_string());
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = decode_dump(&bytes);
    }
}
