//! What the kernel does for a session's security: signatures over each segment (RFC 2385) and a floor for the hop limit (RFC 5082).

#![allow(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use tortie_bird_lite::{Config, Password};

/// `AF_INET` and `AF_INET6`, as they stand in an address.
const AF_INET: libc::sa_family_t = 2;
const AF_INET6: libc::sa_family_t = 10;
/// `TCP_MD5SIG` and `TCP_MD5SIG_EXT` of linux/tcp.h, the flag by which the second is for a prefix, and the longest key.
const TCP_MD5SIG: libc::c_int = 14;
const TCP_MD5SIG_EXT: libc::c_int = 32;
const PREFIX: u8 = 1;
const KEY: usize = 80;
/// `IP_MINTTL` of linux/in.h, `IPV6_MINHOPCOUNT` of linux/in6.h.
const IP_MINTTL: libc::c_int = 21;
const IPV6_MINHOPCOUNT: libc::c_int = 73;
/// A socket has room for some hundred keys. Where more peers than this share one, it is set for all addresses at once.
const MANY: usize = 64;

/// What sessions with a peer need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Security {
    pub(crate) password: Option<Password>,
    pub(crate) hops: Option<u8>,
}

/// The same by address, of those peers that need anything, and how many others there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Securities {
    peers: HashMap<IpAddr, Security>,
    /// Whether there are IPv4 peers, and IPv6 peers, without a password.
    open: [bool; 2],
}

impl Securities {
    pub(crate) fn new(config: &Config) -> Self {
        let mut all = Self::default();
        for peer in &config.peers {
            let address = peer.address.to_canonical();
            let security = Security { password: peer.password.clone(), hops: peer.ttl_security };
            all.open[usize::from(address.is_ipv6())] |= security.password.is_none();
            if security != Security::default() {
                all.peers.insert(address, security);
            }
        }
        all
    }

    /// What sessions with the peer of this address need.
    pub(crate) fn of(&self, address: IpAddr) -> Security {
        self.peers.get(&address.to_canonical()).cloned().unwrap_or_default()
    }

    /// The keys that a listening socket of this family needs.
    pub(crate) fn keys(&self, ipv4: bool) -> BTreeMap<IpNet, Password> {
        let mut keys: BTreeMap<IpNet, Password> = BTreeMap::new();
        let mut shared: HashMap<&[u8], usize> = HashMap::new();
        for (address, security) in self.peers.iter().filter(|(address, _)| address.is_ipv4() == ipv4) {
            if let Some(password) = &security.password {
                keys.insert(IpNet::from(*address), password.clone());
                *shared.entry(password.as_bytes()).or_default() += 1;
            }
        }
        let most = shared.into_iter().max_by_key(|(_, count)| *count);
        if let Some((bytes, _)) = most.filter(|(_, count)| *count > MANY && !self.open[usize::from(!ipv4)]) {
            let (same, mut others): (BTreeMap<_, _>, BTreeMap<_, _>) =
                keys.into_iter().partition(|(_, password)| password.as_bytes() == bytes);
            others.extend(same.into_values().next().map(|password| (everything(ipv4), password)));
            return others;
        }
        keys
    }
}

fn everything(ipv4: bool) -> IpNet {
    let address = if ipv4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    IpNet::new_assert(address, 0)
}

/// `struct sockaddr_storage`.
#[repr(C, align(8))]
struct Address([u8; size_of::<libc::sockaddr_storage>()]);

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct Signature {
    address: Address,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: libc::c_int,
    key: [u8; KEY],
}

/// Has segments to and from `peers` signed, or no longer. A connection is only made where both ends have the same password.
pub(crate) fn set_password(socket: BorrowedFd<'_>, peers: IpNet, password: Option<&Password>) -> io::Result<()> {
    let mut address = [0; size_of::<Address>()];
    let family = if peers.addr().is_ipv4() { AF_INET } else { AF_INET6 };
    address[..2].copy_from_slice(&family.to_ne_bytes());
    match peers.addr() {
        IpAddr::V4(own) => address[4..8].copy_from_slice(&own.octets()),
        IpAddr::V6(own) => address[8..24].copy_from_slice(&own.octets()),
    }
    let bytes = password.map_or(&[][..], Password::as_bytes);
    let mut key = [0; KEY];
    key[..bytes.len()].copy_from_slice(bytes);
    let whole = peers.prefix_len() == peers.max_prefix_len();
    let signature = Signature {
        address: Address(address),
        flags: if whole { 0 } else { PREFIX },
        prefix_length: if whole { 0 } else { peers.prefix_len() },
        key_length: bytes.len() as u16,
        interface: 0,
        key,
    };
    set(socket, libc::IPPROTO_TCP, if whole { TCP_MD5SIG } else { TCP_MD5SIG_EXT }, &signature)
}

/// Sends with the highest hop limit, and drops what has come further than `hops`.
pub(crate) fn set_hops(socket: BorrowedFd<'_>, ipv4: bool, hops: u8) -> io::Result<()> {
    // A neighbour is one hop away, and its packets arrive as they left.
    let (highest, lowest) = (255 as libc::c_int, 256 - libc::c_int::from(hops.max(1)));
    let (level, own, floor) = if ipv4 {
        (libc::IPPROTO_IP, libc::IP_TTL, IP_MINTTL)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, IPV6_MINHOPCOUNT)
    };
    set(socket, level, own, &highest)?;
    set(socket, level, floor, &lowest)
}

fn set<T>(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes from `value` as it has, and keeps no reference.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use tortie_bird_lite::{PeerConfig, PeerKind};

    use super::*;

    fn config(peers: u32, password: impl Fn(u32) -> Option<&'static str>) -> Config {
        let mut config = Config::new(64512, Ipv4Addr::LOCALHOST);
        config.peers = (0..peers)
            .map(|number| {
                let address = IpAddr::V4(Ipv4Addr::from(0x0a00_0001 + number));
                let mut peer = PeerConfig::new(number.to_string(), PeerKind::Mesh, address, 64512);
                peer.password = password(number).and_then(|text| Password::new(text.into()));
                peer
            })
            .collect();
        config
    }

    #[test]
    fn many_peers_of_one_password_need_one_key() {
        let keys = |config: &Config| Securities::new(config).keys(true);
        let few = keys(&config(3, |number| (number < 2).then_some("a")));
        assert_eq!(few.keys().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.1/32", "10.0.0.2/32"]);
        let many = keys(&config(1000, |number| Some(if number == 7 { "b" } else { "a" })));
        let text: Vec<_> = many.iter().map(|(prefix, key)| (prefix.to_string(), key.as_bytes())).collect();
        assert_eq!(text, [("0.0.0.0/0".to_owned(), &b"a"[..]), ("10.0.0.8/32".to_owned(), b"b")]);
        let one_without = keys(&config(1000, |number| (number != 7).then_some("a")));
        assert_eq!(one_without.len(), 999, "the one without could not connect otherwise");
        assert!(Securities::new(&config(3, |_| Some("a"))).keys(false).is_empty());
    }
}
