//! A plain speaker on loopback, for load tests: AS 65000 on 127.0.0.1:1790, with passive eBGP peers at 127.1.0.1 and up.
//!
//! `plain SENDERS RECEIVERS`: the first SENDERS peers are AS 65001 and up, the RECEIVERS after them AS 65501 and up. Routes of each are
//! told to all others; they go into no FIB.

use std::net::{Ipv4Addr, SocketAddr};

use tortie_bird_speaker::{Config, PeerConfig, PeerKind, Speaker};

fn main() -> Result<(), String> {
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let [senders, receivers] = numbers[..] else { return Err("usage: plain SENDERS RECEIVERS".to_owned()) };
    let mut config = Config::new(65000, Ipv4Addr::new(10, 255, 0, 1));
    config.listen = vec![SocketAddr::from(([127, 0, 0, 1], 1790))];
    config.next_hop_v4 = Some(Ipv4Addr::new(10, 255, 0, 1));
    config.next_hop_v6 = Some([0xfd00, 0, 0, 0, 0, 0, 0, 1].into());
    config.peers = (1..=senders + receivers)
        .map(|number| {
            let remote_as = if number <= senders { 65000 + number } else { 65500 + number - senders };
            let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + number);
            let mut peer = PeerConfig::new(address.to_string(), PeerKind::Global, address.into(), remote_as);
            peer.passive = true;
            peer
        })
        .collect();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let (_handle, updates) = Speaker::spawn(config);
        drop(updates);
        std::future::pending::<()>().await;
    });
    Ok(())
}
