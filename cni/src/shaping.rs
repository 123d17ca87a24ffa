//! Limits of bandwidth on a pod's interface: a token bucket for each direction, see [`tortie_felix_netlink::tc`].
//!
//! The intermediate device of a pod that is limited in what it sends is named after the pod's interface, so it is found again after a
//! restart, and one whose pod is gone is known.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use tortie_api::k8s::{Bandwidth, BandwidthLimit};
use tortie_felix_netlink::tc::{Bucket, Disciplines};
use tortie_felix_netlink::{Error, Link, Net};

/// What the names of intermediate devices begin with.
const PREFIX: &str = "tifb";

/// So many digits at the end of a pod's interface name stand for the pod, whatever is before them.
const DIGITS: usize = 11;

/// What an Ethernet frame has besides its packet, two VLAN tags included, in bytes.
const FRAME: u32 = 22;

/// The digits at the end of an interface's name that stand for a pod.
fn digits(interface: &str) -> Option<&str> {
    let digits = interface.get(interface.len().checked_sub(DIGITS)?..)?;
    (digits.len() < interface.len() && digits.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(digits)
}

/// The intermediate device of a pod's interface.
pub(crate) fn device_of(interface: &str) -> Option<String> {
    digits(interface).map(|digits| format!("{PREFIX}{digits}"))
}

/// Whether an interface is an intermediate device of ours.
fn is_device(interface: &str) -> bool {
    digits(interface).is_some_and(|digits| interface.strip_prefix(PREFIX) == Some(digits))
}

/// The bucket for a limit on an interface with this MTU. A burst below one packet would let none through.
fn bucket(limit: &BandwidthLimit, mtu: u32) -> Bucket {
    let least = mtu.saturating_add(FRAME);
    let bytes = |bits: u64| bits.div_ceil(8).max(1);
    let burst = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX).max(least);
    let minburst = burst(limit.minburst.unwrap_or_default());
    Bucket {
        rate: bytes(limit.rate),
        burst: burst(bytes(limit.burst)),
        peak: limit.peak.map(|peak| (bytes(peak), minburst)),
    }
}

/// What the kernel has, read at one time.
#[derive(Debug)]
pub(crate) struct Present {
    links: BTreeMap<String, Link>,
    disciplines: BTreeMap<u32, Disciplines>,
}

impl Present {
    pub(crate) async fn read(net: &Net) -> Result<Self, Error> {
        let links = net.links().await?.into_iter().map(|link| (link.name.clone(), link)).collect();
        Ok(Self { links, disciplines: net.disciplines().await?.into_iter().collect() })
    }

    pub(crate) fn link(&self, name: &str) -> Option<&Link> {
        self.links.get(name)
    }

    pub(crate) fn links(&self) -> Vec<Link> {
        self.links.values().cloned().collect()
    }

    fn of(&self, index: u32) -> Disciplines {
        self.disciplines.get(&index).copied().unwrap_or_default()
    }

    /// The intermediate devices whose pods have no limit of their own sending, each with the pod's interface if that is there.
    pub(crate) fn idle_devices(&self, wanted: &BTreeMap<String, Bandwidth>) -> Vec<(Link, Option<Link>)> {
        let limited = wanted.iter().filter(|(_, bandwidth)| bandwidth.egress.is_some());
        let used: BTreeSet<String> = limited.filter_map(|(pod, _)| device_of(pod)).collect();
        let idle = self.links.values().filter(|link| is_device(&link.name) && !used.contains(&link.name));
        let pod = |device: &Link| {
            let mut others = self.links.values().filter(|link| link.index != device.index);
            others.find(|link| device_of(&link.name).as_ref() == Some(&device.name)).cloned()
        };
        idle.map(|device| (device.clone(), pod(device))).collect()
    }
}

/// Brings the limits of one interface about. Says what was otherwise.
pub(crate) async fn shape(
    net: &Net,
    present: &Present,
    link: &Link,
    wanted: &Bandwidth,
) -> Result<Option<&'static str>, Error> {
    let mut found = None;
    match &wanted.ingress {
        Some(limit) => {
            let bucket = bucket(limit, link.mtu);
            if !present.of(link.index).bucket.is_some_and(|found| found.is(&bucket)) {
                net.set_bucket(link.index, &bucket).await?;
                found = Some("the limit of what the pod is sent was missing or another");
            }
        }
        None if present.of(link.index).bucket.is_some() => {
            net.remove_bucket(link.index).await?;
            found = Some("there was a limit of what the pod is sent");
        }
        None => {}
    }
    let Some(device) = device_of(&link.name) else { return Ok(found) };
    match &wanted.egress {
        Some(limit) => {
            if shape_egress(net, present, link, &device, limit).await? {
                found = Some("the limit of what the pod sends was missing or another");
            }
        }
        None => {
            if let Some(idle) = present.link(&device) {
                remove_device(net, Some(link), idle).await?;
                found = Some("there was a limit of what the pod sends");
            }
        }
    }
    Ok(found)
}

/// Turns what the pod sends to its intermediate device, with a bucket there. Returns whether that was not so.
async fn shape_egress(
    net: &Net,
    present: &Present,
    link: &Link,
    device: &str,
    limit: &BandwidthLimit,
) -> Result<bool, Error> {
    let mut changed = false;
    let (index, up) = if let Some(device) = present.link(device) {
        (device.index, device.up)
    } else {
        changed = true;
        (net.create_ifb(device, link.mtu).await?, false)
    };
    let bucket = bucket(limit, link.mtu);
    if !present.of(index).bucket.is_some_and(|found| found.is(&bucket)) {
        net.set_bucket(index, &bucket).await?;
        changed = true;
    }
    if !up {
        net.set_up(index).await?;
        changed = true;
    }
    // Last, for what is turned to a device that is down is lost.
    if !present.of(link.index).ingress || net.detour(link.index).await? != Some(index) {
        net.set_detour(link.index, index).await?;
        changed = true;
    }
    Ok(changed)
}

/// Deletes an intermediate device, after what it stood in the way of.
pub(crate) async fn remove_device(net: &Net, pod: Option<&Link>, device: &Link) -> Result<(), Error> {
    if let Some(pod) = pod
        && net.detour(pod.index).await? == Some(device.index)
    {
        net.remove_detour(pod.index).await?;
    }
    match net.delete_link(device.index).await {
        Err(error) if !error.is_missing() => Err(error),
        _ => Ok(()),
    }
}

/// What to tell of a limit that cannot be brought about.
pub(crate) fn problem(pod: &str, error: &Error) -> String {
    let remedy = match error.errno() {
        // ENOENT: no such discipline, filter or action. EOPNOTSUPP: no such kind of device.
        Some(Errno::ENOENT | Errno::EOPNOTSUPP) => {
            ": the kernel lacks a part of traffic control: load the modules sch_tbf, sch_ingress, cls_u32, act_mirred and \
             ifb, or use a kernel that has them"
        }
        Some(Errno::EPERM) => ": the agent needs CAP_NET_ADMIN",
        _ => "",
    };
    format!("pod {pod}: its bandwidth cannot be limited: {error}{remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_after_their_pods_interface() {
        for pod in ["cali0123456789a", "tap0123456789a", "p0123456789a"] {
            assert_eq!(device_of(pod).as_deref(), Some("tifb0123456789a"));
        }
        assert!(is_device("tifb0123456789a"));
        for name in
            ["tifb", "tifb0", "tifb0123456789g", "tifb0123456789ab", "ifb0", "cali0123456789a", "0123456789a", ""]
        {
            assert!(!is_device(name), "{name}");
        }
        assert_eq!(device_of("eth0"), None);
    }

    #[test]
    fn every_bucket_lets_a_packet_through() {
        let limit = BandwidthLimit { rate: 1_000, burst: 1_000, peak: Some(2_000), minburst: Some(1_000) };
        assert_eq!(bucket(&limit, 1_500), Bucket { rate: 125, burst: 1_522, peak: Some((250, 1_522)) });
        let limit = BandwidthLimit { rate: 8_000_001, burst: 4 << 30, peak: None, minburst: None };
        assert_eq!(bucket(&limit, 1_500), Bucket { rate: 1_000_001, burst: 512 << 20, peak: None });
        let limit = BandwidthLimit { burst: u64::MAX, ..limit };
        assert_eq!(bucket(&limit, 1_500).burst, u32::MAX);
    }
}
