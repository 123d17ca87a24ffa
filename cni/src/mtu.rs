//! Which MTU pods get: that of the network between nodes, as the node's own interfaces have it.

use regex_lite::Regex;
use tortie_felix_netlink::{Error, Link, Net, RouteKind};

/// MTU where nothing says what the network between nodes has, in bytes.
pub(crate) const DEFAULT_MTU: u32 = 1500;

/// What an overlay leaves of the MTU of the network between nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overlay {
    /// The bytes that encapsulation adds.
    pub overhead: u32,
    /// The largest MTU that is configured for it, if one is.
    pub limit: Option<u32>,
}

impl Overlay {
    /// The MTU of pods.
    pub(crate) fn inside(self, underlay: u32) -> u32 {
        let left = underlay.saturating_sub(self.overhead);
        self.limit.map_or(left, |limit| left.min(limit))
    }
}

/// The smallest MTU of the interfaces that are up and whose names match; of those that match at all if none of them is up; else that
/// of the device which the default route leads to.
pub(crate) async fn underlay(net: &Net, links: &[Link], interfaces: &Regex) -> Result<u32, Error> {
    if let Some(mtu) = matching(links, interfaces) {
        return Ok(mtu);
    }
    for route in net.routes(None).await? {
        let (RouteKind::Device { index } | RouteKind::Via { index: Some(index), .. }) = route.kind else { continue };
        if route.destination.prefix_len() == 0
            && let Some(link) = links.iter().find(|link| link.index == index)
        {
            return Ok(link.mtu);
        }
    }
    Ok(DEFAULT_MTU)
}

fn matching(links: &[Link], interfaces: &Regex) -> Option<u32> {
    let candidates = || links.iter().filter(|link| interfaces.is_match(&link.name));
    candidates().filter(|link| link.up).map(|link| link.mtu).min().or_else(|| candidates().map(|link| link.mtu).min())
}

/// The expression of a setting, which has been checked; the default where it has not.
pub(crate) fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).or_else(|_| Regex::new(tortie_api::calico::felix::MTU_INTERFACES)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, mtu: u32, up: bool) -> Link {
        Link { index: 1, name: name.into(), mac: None, mtu, up, master: None, alias: String::new() }
    }

    #[test]
    fn the_smallest_of_those_that_match_and_are_up_counts() {
        let all = [
            link("lo", 65_536, true),
            link("eth0", 9_000, true),
            link("eth1", 8_000, true),
            link("eth2", 1_400, false),
            link("cali0123456789a", 1_300, true),
            link("docker0", 1_200, true),
        ];
        let default = pattern(tortie_api::calico::felix::MTU_INTERFACES).expect("a pattern");
        assert_eq!(matching(&all, &default), Some(8_000));
        assert_eq!(matching(&all, &pattern("^eth0$").expect("a pattern")), Some(9_000));
        assert_eq!(matching(&all, &pattern("^eth2").expect("a pattern")), Some(1_400), "better than nothing");
        assert_eq!(matching(&all, &pattern("^bond").expect("a pattern")), None);
        for name in ["enp3s0", "ens5", "eno1", "enx00112233", "wlan0", "wlp2s0", "ibp1s0", "eth0"] {
            assert!(default.is_match(name), "{name}");
        }
        for name in ["lo", "cali0123456789a", "tunl0", "vxlan.calico", "docker0", "kube-ipvs0", "br-eth0", "virbr0"] {
            assert!(!default.is_match(name), "{name}");
        }
    }
}
