//! Marks of silent flows: swept by what they are, and nothing else of their entries touched.

mod netns;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use netns::{in_netns, ip, new_netns};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};
use tortie_nft::{Chain, CtStates, Direction, Hook, HookPoint, Match, Rule, Ruleset, Statement};
use tortie_nft_netlink::{NftSocket, sweep_marks};

const OURS: u32 = 0xffff_0000;

/// A table that marks flows as they begin.
fn marking(mark: u32) -> Ruleset {
    let stamp = Rule::new([Match::CtState(CtStates::NEW)], [Statement::SetCtMark { keep: !mark, bits: mark }]);
    let mut table = Ruleset::default();
    let hook = Some(Hook::filter(HookPoint::Output, 0));
    table.chains.insert("mark".into(), Chain { hook, rules: vec![stamp] });
    table
}

/// Flows over the loopback interface, each between two sockets of its own.
fn flows(count: u16) -> Vec<(UdpSocket, UdpSocket)> {
    let local = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    (0..count)
        .map(|_| {
            let (client, server) = (local(), local());
            client.connect(server.local_addr().expect("an address")).expect("a peer");
            server.connect(client.local_addr().expect("an address")).expect("a peer");
            client.send(b"first").expect("a packet goes out");
            (client, server)
        })
        .collect()
}

/// How many flows have each mark, by a dump of conntrack's entries.
fn marks() -> Vec<(u32, usize)> {
    const CTA_MARK: u16 = 8;
    let fd =
        socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)
            .expect("a socket");
    let mut request = 20u32.to_ne_bytes().to_vec();
    request.extend_from_slice(&(1u16 << 8 | 1).to_ne_bytes());
    request.extend_from_slice(&0x301u16.to_ne_bytes());
    request.extend_from_slice(&[0; 12]);
    socket::send(fd.as_raw_fd(), &request, MsgFlags::empty()).expect("a request");
    let mut marks = BTreeMap::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = socket::recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).expect("an answer");
        let mut rest = &buffer[..length];
        while rest.len() >= 16 {
            let word = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().expect("four bytes"));
            let (length, kind) = (word(0) as usize, word(4) & 0xffff);
            if kind == 3 {
                return marks.into_iter().collect();
            }
            let mut attributes = &rest[20..length];
            while attributes.len() >= 4 {
                let half = |at: usize| u16::from_ne_bytes(attributes[at..at + 2].try_into().expect("two bytes"));
                let length = usize::from(half(0));
                if half(2) == CTA_MARK {
                    let mark = u32::from_be_bytes(attributes[4..8].try_into().expect("four bytes"));
                    *marks.entry(mark).or_insert(0) += 1;
                }
                attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
            rest = &rest[length..];
        }
    }
}

/// Flows with each of these marks, twenty of each.
fn marked(marks: &[u32]) -> Vec<(UdpSocket, UdpSocket)> {
    let mut socket = NftSocket::open().expect("a socket");
    let mut have = Ruleset::default();
    let mut all = Vec::new();
    for mark in marks {
        socket.apply(&have.diff(&marking(*mark))).expect("a table");
        have = marking(*mark);
        all.extend(flows(20));
    }
    all
}

#[test]
fn stale_marks_go_and_live_ones_and_others_bits_stay() {
    in_netns(|| {
        ip("link set lo up");
        let _flows = marked(&[0x0002_0000, 0x0003_4000, 0x0004_0000, 0x8000_8000, 0x0000_4000]);
        let before = [(0x4000, 20), (0x0002_0000, 20), (0x0003_4000, 20), (0x0004_0000, 20), (0x8000_8000, 20)];
        assert_eq!(marks(), before);
        assert_eq!(sweep_marks(OURS, &[0x0004_0000, 0x0002_0000]).expect("a sweep"), 40);
        assert_eq!(marks(), [(0x4000, 40), (0x8000, 20), (0x0002_0000, 20), (0x0004_0000, 20)]);
        assert_eq!(sweep_marks(OURS, &[0x0004_0000, 0x0002_0000]).expect("a sweep"), 0, "once is enough");
        assert_eq!(sweep_marks(OURS, &[]).expect("a sweep"), 40);
        assert_eq!(marks(), [(0, 40), (0x4000, 40), (0x8000, 20)]);
    });
}

#[test]
fn without_flows_there_is_nothing_to_do() {
    in_netns(|| {
        assert_eq!(sweep_marks(OURS, &[]).expect("a sweep"), 0);
    });
}

#[test]
fn more_entries_than_fit_in_a_piece() {
    in_netns(|| {
        ip("link set lo up");
        let mut socket = NftSocket::open().expect("a socket");
        socket.apply(&Ruleset::default().diff(&marking(0x0002_0000))).expect("a table");
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        for port in 1_000..5_000 {
            // That nobody listens there is no matter.
            let _ = client.send_to(b"first", (Ipv4Addr::LOCALHOST, port));
        }
        let swept = sweep_marks(OURS, &[]).expect("a sweep");
        assert!(swept > 3_900, "{swept}");
        assert_eq!(marks().iter().filter(|(mark, _)| mark & OURS != 0).count(), 0);
    });
}

#[test]
fn other_namespaces_keep_theirs() {
    in_netns(|| {
        ip("link set lo up");
        let _flows = marked(&[0x0002_0000]);
        std::thread::spawn(|| {
            new_netns();
            sweep_marks(OURS, &[]).expect("a sweep")
        })
        .join()
        .expect("a sweep elsewhere");
        assert_eq!(marks(), [(0x0002_0000, 20)]);
    });
}

#[test]
fn a_swept_flow_goes_on() {
    in_netns(|| {
        ip("link set lo up");
        let mut table = marking(0x0002_0000);
        let replies = Rule::new(
            [Match::CtState(CtStates::ESTABLISHED), Match::CtDirection(Direction::Reply)],
            [Statement::NamedCounter("replies".into())],
        );
        table.counters.insert("replies".into(), None);
        table.chains.get_mut("mark").expect("a chain").rules.push(replies);
        let mut socket = NftSocket::open().expect("a socket");
        socket.apply(&Ruleset::default().diff(&table)).expect("a table");
        let flows = flows(5);
        assert_eq!(sweep_marks(OURS, &[]).expect("a sweep"), 5);
        for (_, server) in &flows {
            server.send(b"answer").expect("a packet goes out");
        }
        let counted = socket.counter_values().expect("counters")["replies"].0;
        assert_eq!(counted, 5, "the answers belong to the same flows as before");
    });
}
