//! One block of addresses, as values: who holds which, and who is next. No IO.

use std::net::IpAddr;

use ipnet::IpNet;
use tortie_api::ObjectMeta;
use tortie_api::calico::{AllocationAttribute, IpamBlock, IpamBlockSpec};

/// The name that Calico gives a block: its CIDR with `.`, `:` and `/` as `-`.
pub(super) fn name(cidr: &IpNet) -> String {
    cidr.to_string().replace(['.', ':', '/'], "-")
}

/// A block of a node, all free. The first and the last address are as good as any: nothing is broadcast to a /32.
pub(super) fn new(cidr: IpNet, node: &str) -> IpamBlock {
    let size = 1_usize << (cidr.max_prefix_len() - cidr.prefix_len()).min(usize::BITS as u8 - 1);
    IpamBlock {
        metadata: ObjectMeta { name: name(&cidr), ..ObjectMeta::default() },
        spec: IpamBlockSpec {
            cidr,
            affinity: Some(affinity(node)),
            allocations: vec![None; size],
            unallocated: (0..size).collect(),
            attributes: Vec::new(),
            strict_affinity: false,
            sequence_number: 0,
            affinity_claim_time: None,
            sequence_number_for_allocation: std::collections::BTreeMap::new(),
            deleted: false,
            other: std::collections::BTreeMap::new(),
        },
    }
}

/// How a block says whose it is.
pub(super) fn affinity(node: &str) -> String {
    format!("host:{node}")
}

/// The block of `length` that an address is in.
pub(super) fn block_of(ip: IpAddr, length: u8) -> Option<IpNet> {
    IpNet::new(ip, length).ok().map(|network| network.trunc())
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// The address at a place in a network; none past its end.
pub(super) fn address(network: &IpNet, offset: u128) -> Option<IpAddr> {
    let number = number(network.network()).checked_add(offset)?;
    let ip = match network {
        IpNet::V4(_) => IpAddr::V4(u32::try_from(number).ok()?.into()),
        IpNet::V6(_) => IpAddr::V6(number.into()),
    };
    network.contains(&ip).then_some(ip)
}

/// The ordinal of an address in a block.
pub(super) fn ordinal(spec: &IpamBlockSpec, ip: IpAddr) -> Option<usize> {
    if !spec.cidr.contains(&ip) {
        return None;
    }
    let offset = number(ip).checked_sub(number(spec.cidr.network()))?;
    usize::try_from(offset).ok().filter(|ordinal| *ordinal < spec.allocations.len())
}

/// Who holds an address.
pub(super) fn holder(spec: &IpamBlockSpec, ordinal: usize) -> Option<&AllocationAttribute> {
    spec.allocations.get(ordinal).copied().flatten().and_then(|index| spec.attributes.get(index))
}

/// Gives the address that has been free for longest.
pub(super) fn assign_next(spec: &mut IpamBlockSpec, to: &AllocationAttribute) -> Option<IpAddr> {
    let ordinal = *spec.unallocated.first()?;
    let ip = address(&spec.cidr, ordinal as u128)?;
    assign(spec, ordinal, to);
    Some(ip)
}

/// Gives a certain address, from whoever held it.
pub(super) fn assign(spec: &mut IpamBlockSpec, ordinal: usize, to: &AllocationAttribute) {
    spec.unallocated.retain(|free| *free != ordinal);
    let index = spec.attributes.iter().position(|attribute| attribute == to).unwrap_or_else(|| {
        spec.attributes.push(to.clone());
        spec.attributes.len() - 1
    });
    if let Some(entry) = spec.allocations.get_mut(ordinal) {
        *entry = Some(index);
    }
    changed(spec);
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

/// Takes back what a handle holds, but for the addresses to keep; the released ones go to the end of the queue, so that none is
/// reused while others still think of its old holder. Returns them.
pub(super) fn release(spec: &mut IpamBlockSpec, handle: &str, keep: &[IpAddr]) -> Vec<IpAddr> {
    let going: Vec<(usize, IpAddr)> = ordinals(spec, handle)
        .filter_map(|ordinal| Some((ordinal, address(&spec.cidr, ordinal as u128)?)))
        .filter(|(_, ip)| !keep.contains(ip))
        .collect();
    for (ordinal, _) in &going {
        if let Some(entry) = spec.allocations.get_mut(*ordinal) {
            *entry = None;
        }
        spec.unallocated.push(*ordinal);
    }
    if !going.is_empty() {
        changed(spec);
    }
    going.into_iter().map(|(_, ip)| ip).collect()
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

    #[test]
    fn names_are_calicos() {
        assert_eq!(name(&net("10.244.0.64/26")), "10-244-0-64-26");
        assert_eq!(name(&net("fd00:10:244::40/122")), "fd00-10-244--40-122");
    }

    #[test]
    fn every_address_is_used_and_the_last_released_is_reused_last() {
        let mut spec = new(net("10.0.0.0/30"), "a").spec;
        let all: Vec<String> = (0..4)
            .map(|n| assign_next(&mut spec, &attribute(&n.to_string())).expect("an address").to_string())
            .collect();
        assert_eq!(all, ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(assign_next(&mut spec, &attribute("x")), None);
        assert_eq!(release(&mut spec, "2", &[]).len(), 1);
        assert_eq!(release(&mut spec, "0", &[]).len(), 1);
        assert_eq!(spec.attributes.len(), 2);
        assert_eq!(held(&spec, "3"), ["10.0.0.3".parse::<IpAddr>().expect("ip")]);
        assert_eq!(assign_next(&mut spec, &attribute("x")).expect("an address").to_string(), "10.0.0.2");
        assert_eq!(assign_next(&mut spec, &attribute("x")).expect("an address").to_string(), "10.0.0.0");
        assert_eq!(held(&spec, "x").len(), 2);
        assert_eq!(spec.attributes.len(), 3, "one attribute for both");
    }

    #[test]
    fn addresses_end_with_their_network() {
        assert_eq!(address(&net("255.255.255.252/30"), 3).expect("ip").to_string(), "255.255.255.255");
        assert_eq!(address(&net("255.255.255.252/30"), 4), None);
        assert_eq!(address(&net("ffff::/16"), u128::MAX), None);
        assert_eq!(ordinal(&new(net("10.0.0.0/30"), "a").spec, "10.0.0.4".parse().expect("ip")), None);
    }

    proptest! {
        /// Whatever is assigned and released: every ordinal is either free or held, and once.
        #[test]
        fn nothing_is_lost_or_given_twice(steps in proptest::collection::vec((any::<bool>(), 0_u8..12), 0..80)) {
            let mut spec = new(net("fd00::/125"), "a").spec;
            for (assigning, who) in steps {
                let handle = who.to_string();
                if assigning {
                    let free = spec.unallocated.clone();
                    let given = assign_next(&mut spec, &attribute(&handle)).and_then(|ip| ordinal(&spec, ip));
                    prop_assert_eq!(given, free.first().copied());
                } else {
                    release(&mut spec, &handle, &[]);
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
