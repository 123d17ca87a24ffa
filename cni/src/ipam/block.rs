//! One block of addresses, as values: who holds which, and who is next. No IO.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use tortie_api::ObjectMeta;
use tortie_api::calico::{AllocationAttribute, IpamBlock, IpamBlockSpec};

use super::names;
use super::reserved::Reserved;

/// A block of a node, all free. The first and the last address are as good as any: nothing is broadcast to a /32.
pub(super) fn new(cidr: IpNet, node: &str, now: SystemTime) -> IpamBlock {
    let size = 1_usize << (cidr.max_prefix_len() - cidr.prefix_len()).min(usize::BITS as u8 - 1);
    // Calico's number, too, starts with the time in nanoseconds.
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    IpamBlock {
        metadata: ObjectMeta { name: names::block(&cidr), ..ObjectMeta::default() },
        spec: IpamBlockSpec {
            cidr,
            affinity: Some(affinity(node)),
            affinity_claim_time: Some(time(now)),
            allocations: vec![None; size],
            unallocated: (0..size).collect(),
            attributes: Vec::new(),
            strict_affinity: false,
            sequence_number: u64::try_from(since.as_nanos()).unwrap_or_default(),
            sequence_number_for_allocation: std::collections::BTreeMap::new(),
            deleted: false,
            other: tortie_api::calico::OtherFields::new(),
        },
    }
}

/// How a block says whose it is.
pub(super) fn affinity(node: &str) -> String {
    format!("host:{node}")
}

/// A time as Kubernetes writes it.
pub(super) fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

/// How long ago something was; endlessly, if the text is no time.
pub(super) fn age(text: &str, now: SystemTime) -> Duration {
    humantime::parse_rfc3339(text).map_or(Duration::MAX, |then| now.duration_since(then).unwrap_or_default())
}

/// The block of `length` that an address is in.
pub(super) fn block_of(ip: IpAddr, length: u8) -> Option<IpNet> {
    IpNet::new(ip, length).ok().map(|network| network.trunc())
}

/// An address as a number.
pub(super) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// The address at a place in a network; none past its end.
pub fn address(network: &IpNet, offset: u128) -> Option<IpAddr> {
    let number = number(network.network()).checked_add(offset)?;
    let ip = match network {
        IpNet::V4(_) => IpAddr::V4(u32::try_from(number).ok()?.into()),
        IpNet::V6(_) => IpAddr::V6(number.into()),
    };
    network.contains(&ip).then_some(ip)
}

/// The ordinal of an address in a block.
pub fn ordinal(spec: &IpamBlockSpec, ip: IpAddr) -> Option<usize> {
    if !spec.cidr.contains(&ip) {
        return None;
    }
    let offset = number(ip).checked_sub(number(spec.cidr.network()))?;
    usize::try_from(offset).ok().filter(|ordinal| *ordinal < spec.allocations.len())
}

/// Who holds an address.
pub fn holder(spec: &IpamBlockSpec, ordinal: usize) -> Option<&AllocationAttribute> {
    spec.allocations.get(ordinal).copied().flatten().and_then(|index| spec.attributes.get(index))
}

/// Whether an address is free that may be given to somebody who did not ask for it.
pub(super) fn has_room(spec: &IpamBlockSpec, reserved: &Reserved) -> bool {
    next(spec, reserved).is_some()
}

/// Whether nobody holds an address of the block.
pub(super) fn is_empty(spec: &IpamBlockSpec) -> bool {
    spec.allocations.iter().all(Option::is_none)
}

fn next(spec: &IpamBlockSpec, reserved: &Reserved) -> Option<(usize, IpAddr)> {
    spec.unallocated
        .iter()
        .filter_map(|ordinal| Some((*ordinal, address(&spec.cidr, *ordinal as u128)?)))
        .find(|(_, ip)| !reserved.contains(*ip))
}

/// Gives the address that has been free for longest, of those that are not reserved.
pub(super) fn assign_next(spec: &mut IpamBlockSpec, to: &AllocationAttribute, reserved: &Reserved) -> Option<IpAddr> {
    let (ordinal, ip) = next(spec, reserved)?;
    assign(spec, ordinal, to);
    Some(ip)
}

/// Gives a certain address, from whoever held it.
pub(super) fn assign(spec: &mut IpamBlockSpec, ordinal: usize, to: &AllocationAttribute) {
    spec.unallocated.retain(|free| *free != ordinal);
    hold(spec, ordinal, to);
    spec.sequence_number_for_allocation.insert(ordinal.to_string(), spec.sequence_number);
    changed(spec);
}

fn hold(spec: &mut IpamBlockSpec, ordinal: usize, to: &AllocationAttribute) {
    let index = spec.attributes.iter().position(|attribute| attribute == to).unwrap_or_else(|| {
        spec.attributes.push(to.clone());
        spec.attributes.len() - 1
    });
    if let Some(entry) = spec.allocations.get_mut(ordinal) {
        *entry = Some(index);
    }
}

/// The addresses that a handle holds.
pub(super) fn held(spec: &IpamBlockSpec, handle: &str) -> Vec<IpAddr> {
    ordinals(spec, handle).filter_map(|ordinal| address(&spec.cidr, ordinal as u128)).collect()
}

fn ordinals<'a>(spec: &'a IpamBlockSpec, handle: &'a str) -> impl Iterator<Item = usize> + 'a {
    (0..spec.allocations.len()).filter(move |ordinal| {
        holder(spec, *ordinal).is_some_and(|attribute| attribute.handle_id.as_deref() == Some(handle))
    })
}

/// What becomes of addresses that are released.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cooldown {
    /// How long they may not be given out again; IPAMConfiguration says so.
    pub(super) rest: Duration,
    pub(super) now: SystemTime,
}

/// Takes back what a handle holds, but for the addresses to keep. Returns them.
pub(super) fn release(spec: &mut IpamBlockSpec, handle: &str, keep: &[IpAddr], cooldown: Cooldown) -> Vec<IpAddr> {
    let going: Vec<(usize, IpAddr)> = ordinals(spec, handle)
        .filter_map(|ordinal| Some((ordinal, address(&spec.cidr, ordinal as u128)?)))
        .filter(|(_, ip)| !keep.contains(ip))
        .collect();
    let ordinals: Vec<usize> = going.iter().map(|(ordinal, _)| *ordinal).collect();
    free(spec, &ordinals, cooldown);
    going.into_iter().map(|(_, ip)| ip).collect()
}

/// Takes these addresses back. They go to the end of the queue, so that none is reused while others still think of its old holder; with
/// a time to rest they stay out of the queue until [`thaw`] finds that it is over.
pub(super) fn free(spec: &mut IpamBlockSpec, ordinals: &[usize], cooldown: Cooldown) {
    for ordinal in ordinals {
        spec.sequence_number_for_allocation.remove(&ordinal.to_string());
        if cooldown.rest.is_zero() {
            if let Some(entry) = spec.allocations.get_mut(*ordinal) {
                *entry = None;
            }
            spec.unallocated.push(*ordinal);
        } else {
            let resting =
                AllocationAttribute { released_at: Some(time(cooldown.now)), ..AllocationAttribute::default() };
            hold(spec, *ordinal, &resting);
        }
    }
    if !ordinals.is_empty() {
        changed(spec);
    }
}

/// Puts back into the queue what has rested for long enough.
pub(super) fn thaw(spec: &mut IpamBlockSpec, cooldown: Cooldown) {
    let rested: Vec<usize> = (0..spec.allocations.len())
        .filter(|ordinal| {
            let released = holder(spec, *ordinal).and_then(|attribute| attribute.released_at.as_deref());
            released.is_some_and(|at| age(at, cooldown.now) >= cooldown.rest)
        })
        .collect();
    free(spec, &rested, Cooldown { rest: Duration::ZERO, ..cooldown });
}

/// Drops attributes that nobody refers to any more, and counts the change.
fn changed(spec: &mut IpamBlockSpec) {
    let mut used: Vec<usize> = spec.allocations.iter().flatten().copied().collect();
    used.sort_unstable();
    used.dedup();
    let mut attributes = Vec::with_capacity(used.len());
    for index in &used {
        attributes.extend(spec.attributes.get(*index).cloned());
    }
    for entry in spec.allocations.iter_mut().flatten() {
        *entry = used.binary_search(entry).unwrap_or(*entry);
    }
    spec.attributes = attributes;
    spec.sequence_number = spec.sequence_number.wrapping_add(1);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    fn attribute(handle: &str) -> AllocationAttribute {
        AllocationAttribute { handle_id: Some(handle.to_owned()), ..AllocationAttribute::default() }
    }

    const AT_ONCE: Cooldown = Cooldown { rest: Duration::ZERO, now: SystemTime::UNIX_EPOCH };

    fn none() -> Reserved {
        Reserved::default()
    }

    #[test]
    fn reserved_addresses_are_passed_over_and_given_by_name() {
        let reservation = serde_json::from_value(
            serde_json::json!({"metadata": {"name": "r"}, "spec": {"reservedCIDRs": ["10.0.0.0/31", "10.0.0.3"]}}),
        )
        .expect("a reservation");
        let reserved = Reserved::of(&[reservation]);
        let mut spec = new(net("10.0.0.0/30"), "a", SystemTime::UNIX_EPOCH).spec;
        assert_eq!(assign_next(&mut spec, &attribute("x"), &reserved).expect("an address").to_string(), "10.0.0.2");
        assert_eq!(assign_next(&mut spec, &attribute("y"), &reserved), None);
        assert!(!has_room(&spec, &reserved) && has_room(&spec, &none()));
        assert_eq!(spec.unallocated, [0, 1, 3], "they keep their places in the queue");
        assign(&mut spec, 3, &attribute("z"));
        assert_eq!(held(&spec, "z").len(), 1);
    }

    #[test]
    fn a_released_address_rests_for_as_long_as_it_should() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let cooldown = |seconds| Cooldown { rest: Duration::from_secs(60), now: at(seconds) };
        let mut spec = new(net("10.0.0.0/31"), "a", at(0)).spec;
        for handle in ["x", "y"] {
            assign_next(&mut spec, &attribute(handle), &none()).expect("an address");
        }
        assert_eq!(release(&mut spec, "x", &[], cooldown(100)).len(), 1);
        assert!(held(&spec, "x").is_empty() && !has_room(&spec, &none()), "nobody's, and not free");
        thaw(&mut spec, cooldown(159));
        assert!(!has_room(&spec, &none()));
        thaw(&mut spec, cooldown(160));
        assert_eq!(spec.unallocated, [0]);
        assert_eq!(spec.attributes.len(), 1);
        // Where nobody rests any more, what did is free at once.
        release(&mut spec, "y", &[], cooldown(200));
        thaw(&mut spec, Cooldown { now: at(200), ..AT_ONCE });
        assert_eq!(spec.unallocated, [0, 1]);
    }

    #[test]
    fn each_holder_has_a_number_of_its_own() {
        let mut spec = new(net("10.0.0.0/31"), "a", SystemTime::UNIX_EPOCH + Duration::from_nanos(5)).spec;
        assign(&mut spec, 1, &attribute("x"));
        assert_eq!(spec.sequence_number_for_allocation["1"], 5);
        assert_eq!(spec.sequence_number, 6);
        release(&mut spec, "x", &[], AT_ONCE);
        assert!(spec.sequence_number_for_allocation.is_empty());
        assign(&mut spec, 1, &attribute("x"));
        assert_eq!(spec.sequence_number_for_allocation["1"], 7, "not the first one's");
    }

    #[test]
    fn every_address_is_used_and_the_last_released_is_reused_last() {
        let mut spec = new(net("10.0.0.0/30"), "a", SystemTime::UNIX_EPOCH).spec;
        let all: Vec<String> = (0..4)
            .map(|n| assign_next(&mut spec, &attribute(&n.to_string()), &none()).expect("an address").to_string())
            .collect();
        assert_eq!(all, ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(assign_next(&mut spec, &attribute("x"), &none()), None);
        assert_eq!(release(&mut spec, "2", &[], AT_ONCE).len(), 1);
        assert_eq!(release(&mut spec, "0", &[], AT_ONCE).len(), 1);
        assert_eq!(spec.attributes.len(), 2);
        assert_eq!(held(&spec, "3"), ["10.0.0.3".parse::<IpAddr>().expect("ip")]);
        assert_eq!(assign_next(&mut spec, &attribute("x"), &none()).expect("an address").to_string(), "10.0.0.2");
        assert_eq!(assign_next(&mut spec, &attribute("x"), &none()).expect("an address").to_string(), "10.0.0.0");
        assert_eq!(held(&spec, "x").len(), 2);
        assert_eq!(spec.attributes.len(), 3, "one attribute for both");
    }

    #[test]
    fn addresses_end_with_their_network() {
        assert_eq!(address(&net("255.255.255.252/30"), 3).expect("ip").to_string(), "255.255.255.255");
        assert_eq!(address(&net("255.255.255.252/30"), 4), None);
        assert_eq!(address(&net("ffff::/16"), u128::MAX), None);
        assert_eq!(
            ordinal(&new(net("10.0.0.0/30"), "a", SystemTime::UNIX_EPOCH).spec, "10.0.0.4".parse().expect("ip")),
            None
        );
    }

    proptest! {
        /// Whatever is assigned and released: every ordinal is either free or held, and once.
        #[test]
        fn nothing_is_lost_or_given_twice(steps in proptest::collection::vec((any::<bool>(), 0_u8..12), 0..80)) {
            let mut spec = new(net("fd00::/125"), "a", SystemTime::UNIX_EPOCH).spec;
            for (assigning, who) in steps {
                let handle = who.to_string();
                if assigning {
                    let free = spec.unallocated.clone();
                    let given = assign_next(&mut spec, &attribute(&handle), &none()).and_then(|ip| ordinal(&spec, ip));
                    prop_assert_eq!(given, free.first().copied());
                } else {
                    release(&mut spec, &handle, &[], AT_ONCE);
                    prop_assert!(held(&spec, &handle).is_empty());
                }
                let mut free = spec.unallocated.clone();
                free.sort_unstable();
                let expected: Vec<usize> = (0..8).filter(|ordinal| spec.allocations[*ordinal].is_none()).collect();
                prop_assert_eq!(free, expected);
                prop_assert!(spec.allocations.iter().flatten().all(|index| *index < spec.attributes.len()));
            }
        }
    }
}
