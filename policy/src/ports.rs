//! On which ports: claims of many rules cut into disjoint segments.
//!
//! Rules of several policies overlap in ports as they please, and a packet must meet one look-up all the same. So the ports of a
//! protocol are cut wherever a claim begins or ends; all ports of a segment are then covered by the same claims, and the segment's
//! peers are the union of theirs.

use std::collections::{BTreeMap, BTreeSet};

use tortie_api::k8s::Protocol;

use crate::peers::Peers;

/// Peers that may use a range of ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// The first port.
    pub(crate) first: u16,
    /// The last port.
    pub(crate) last: u16,
    /// Who may.
    pub(crate) peers: Peers,
}

/// A range of ports that is open to the same peers throughout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The first port.
    pub(crate) first: u16,
    /// The last port.
    pub(crate) last: u16,
    /// Who may.
    pub(crate) peers: Peers,
}

/// Cuts the claims into segments: disjoint, in order, neighbours with equal peers joined.
pub(crate) fn segments(claims: &[Claim]) -> BTreeMap<Protocol, Vec<Segment>> {
    let mut segments = BTreeMap::new();
    for protocol in Protocol::ALL {
        let claims: Vec<&Claim> = claims.iter().filter(|claim| claim.protocol == protocol).collect();
        let cut = cut(&claims);
        if !cut.is_empty() {
            segments.insert(protocol, cut);
        }
    }
    segments
}

fn cut(claims: &[&Claim]) -> Vec<Segment> {
    // Which claims begin, and which have ended, at a port. One past the last port does not fit 16 bits.
    let mut borders: BTreeMap<u32, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (index, claim) in claims.iter().enumerate() {
        borders.entry(claim.first.into()).or_default().0.push(index);
        borders.entry(u32::from(claim.last) + 1).or_default().1.push(index);
    }
    let mut segments: Vec<Segment> = Vec::new();
    let mut open: BTreeSet<usize> = BTreeSet::new();
    let mut start = 0;
    for (border, (begun, ended)) in borders {
        if !open.is_empty() {
            let mut peers = Peers::default();
            for &index in &open {
                peers.extend(&claims[index].peers);
            }
            if peers.everyone {
                peers = Peers { everyone: true, ..Peers::default() };
            }
            let (first, last) = (start as u16, (border - 1) as u16);
            match segments.last_mut() {
                Some(before) if u32::from(before.last) + 1 == start && before.peers == peers => before.last = last,
                _ => segments.push(Segment { first, last, peers }),
            }
        }
        open.extend(begun);
        for index in ended {
            open.remove(&index);
        }
        start = border;
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everyone() -> Peers {
        Peers { everyone: true, ..Peers::default() }
    }

    fn block(text: &str) -> Peers {
        let cidr = text.parse().expect("a prefix");
        let block = tortie_api::k8s::IpBlock { cidr, except: Vec::new() };
        Peers { blocks: BTreeSet::from([block]), ..Peers::default() }
    }

    fn tcp(claims: &[(u16, u16, Peers)]) -> Vec<(u16, u16, Peers)> {
        let claims: Vec<Claim> = claims
            .iter()
            .map(|(first, last, peers)| Claim {
                protocol: Protocol::Tcp,
                first: *first,
                last: *last,
                peers: peers.clone(),
            })
            .collect();
        let segments = segments(&claims).remove(&Protocol::Tcp).unwrap_or_default();
        segments.into_iter().map(|segment| (segment.first, segment.last, segment.peers)).collect()
    }

    #[test]
    fn overlaps_are_cut() {
        let (a, b) = (block("10.0.0.0/8"), block("11.0.0.0/8"));
        let mut both = a.clone();
        both.extend(&b);
        assert_eq!(
            tcp(&[(80, 90, a.clone()), (85, 100, b.clone())]),
            [(80, 84, a.clone()), (85, 90, both), (91, 100, b.clone())]
        );
        assert_eq!(tcp(&[(80, 80, a.clone()), (81, 90, a.clone())]), [(80, 90, a.clone())], "neighbours are joined");
        assert_eq!(tcp(&[(80, 80, a.clone()), (82, 82, a.clone())]), [(80, 80, a.clone()), (82, 82, a.clone())]);
        assert_eq!(tcp(&[(1, 3, a), (2, 2, everyone()), (3, 3, b.clone())]).len(), 3);
        assert_eq!(tcp(&[]), []);
    }

    #[test]
    fn the_ends_of_the_port_space() {
        assert_eq!(tcp(&[(0, 65535, everyone())]), [(0, 65535, everyone())]);
        let a = block("10.0.0.0/8");
        assert_eq!(
            tcp(&[(0, 65535, a.clone()), (65535, 65535, everyone()), (0, 0, everyone())]),
            [(0, 0, everyone()), (1, 65534, a), (65535, 65535, everyone())]
        );
    }
}
