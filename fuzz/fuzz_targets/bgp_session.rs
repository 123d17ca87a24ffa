//! Any bytes as the stream of a peer, after a good OPEN and KEEPALIVE where the first byte is even, into a whole speaker.
#![no_main]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use tortie_bird_lite::wire::header::encode_keepalive;
use tortie_bird_lite::wire::{Capability, Family, Open};
use tortie_bird_lite::{Config, ConnectionId, Event, PeerConfig, PeerKind, Speaker};

const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

fuzz_target!(|data: &[u8]| {
    let Some((&kind, stream)) = data.split_first() else { return };
    let remote_as = if kind & 2 == 0 { 64512 } else { 64513 };
    let mut config = Config::new(64512, Ipv4Addr::new(10, 0, 0, 1));
    config.next_hop_v4 = Some(config.router_id);
    config.peers = vec![PeerConfig::new("peer", PeerKind::Global, PEER.into(), remote_as)];
    let mut speaker = Speaker::new(Duration::ZERO, config, 0);
    let connection = ConnectionId(1);
    let local = SocketAddr::from(([10, 0, 0, 1], 179));
    speaker.handle_event(Duration::ZERO, Event::Accepted { connection, local, remote: (PEER, 4000).into() });
    let mut opening = BytesMut::new();
    if kind & 1 == 0 {
        let capabilities = Family::ALL.map(Capability::multiprotocol).to_vec();
        Open::new(remote_as, 90, PEER, capabilities).encode(&mut opening);
        encode_keepalive(&mut opening);
    }
    let cut = usize::from(kind).min(stream.len());
    let (first, second) = stream.split_at(cut);
    for bytes in [opening.freeze(), Bytes::copy_from_slice(first), Bytes::copy_from_slice(second)] {
        speaker.handle_event(Duration::from_secs(1), Event::Received { connection, bytes });
        while speaker.poll_action().is_some() {}
        while speaker.poll_rib_update().is_some() {}
    }
    speaker.handle_event(Duration::from_secs(2), Event::Closed { connection, error: None });
    speaker.handle_timeout(Duration::from_secs(5000));
    while speaker.poll_action().is_some() {}
    assert!(speaker.routes().is_empty(), "nothing is left of a peer that is gone");
});
