//! Our routes as the kernel has them, as far as we know: the model that desired routes are compared with.
//!
//! Filled by a read-back, corrected by what the kernel announces of others' doings, and moved on when a write is handed out. What the
//! kernel does without a word is done here as well: it drops the IPv4 routes of a device that is set down, and keeps of a route with
//! several next hops those that are left.

use std::collections::BTreeMap;

use ipnet::IpNet;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::event::Target;

/// Destination and metric, by which the kernel tells routes apart.
pub(crate) type Key = (IpNet, u32);

/// The model.
#[derive(Debug, Default)]
pub(crate) struct Fib {
    routes: BTreeMap<Key, Target>,
    /// How many of them lead out of each device.
    by_device: FxHashMap<u32, usize>,
    /// How many more routes of ours stand behind the one in force, with its destination and metric. Somebody appended them.
    surplus: FxHashMap<Key, usize>,
    /// IPv6 routes by several gateways that we have not written ourselves in this life. Some gateways may be another program's: the
    /// kernel shows all of them under the protocol of the first.
    learned: FxHashSet<Key>,
    /// Those that still bear a protocol number which we had before, with that number.
    former: FxHashMap<Key, u8>,
}

impl Fib {
    /// Where a route leads.
    pub(crate) fn get(&self, key: Key) -> Option<&Target> {
        self.routes.get(&key)
    }

    /// All routes to a destination, by metric.
    pub(crate) fn of(&self, destination: IpNet) -> impl Iterator<Item = (u32, &Target)> {
        self.routes.range((destination, 0)..=(destination, u32::MAX)).map(|((_, metric), target)| (*metric, target))
    }

    /// All routes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &Target)> {
        self.routes.iter()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Those behind which more of ours stand.
    pub(crate) fn doubled(&self) -> impl Iterator<Item = &Key> {
        self.surplus.keys()
    }

    /// How many more routes stand behind the one in force.
    pub(crate) fn surplus(&self, key: Key) -> usize {
        self.surplus.get(&key).copied().unwrap_or(0)
    }

    /// Whether some of the gateways may be another program's.
    pub(crate) fn is_learned(&self, key: Key) -> bool {
        self.learned.contains(&key)
    }

    /// The protocol number of a route, where it is one that we had before.
    pub(crate) fn former(&self, key: Key) -> Option<u8> {
        self.former.get(&key).copied()
    }

    /// From now on ours bear another protocol number than the one that they had.
    pub(crate) fn renumber(&mut self, before: u8, now: u8) {
        for key in self.routes.keys() {
            self.former.entry(*key).or_insert(before);
        }
        self.former.retain(|_, number| *number != now);
    }

    /// Takes what was read or announced, with its protocol number where that is one that we had before.
    pub(crate) fn learn(&mut self, key: Key, target: Target, former: Option<u8>) {
        let several = matches!((key.0, &target), (IpNet::V6(_), Target::Multipath(_)));
        self.set(key, Some(target));
        if several {
            self.learned.insert(key);
        }
        self.former.extend(former.map(|number| (key, number)));
    }

    /// Takes back what was there, after a write that was refused.
    pub(crate) fn restore(&mut self, key: Key, target: Target, former: Option<u8>) {
        self.set(key, Some(target));
        self.former.extend(former.map(|number| (key, number)));
    }

    /// Takes one more route of a read-back. Old kernels show the gateways of an IPv6 route one by one.
    pub(crate) fn add(&mut self, key: Key, target: Target, former: Option<u8>) {
        match self.routes.get(&key) {
            None => self.learn(key, target, former),
            Some(known @ (Target::Via { .. } | Target::Multipath(_)))
                if matches!((key.0, &target), (IpNet::V6(_), Target::Via { .. } | Target::Multipath(_))) =>
            {
                let all = Target::multipath(known.hops().chain(target.hops()).collect());
                self.learn(key, all, former);
            }
            // The same again is no other: a reading of a table that changes may come to a route twice.
            Some(known) if *known == target || matches!(key.0, IpNet::V6(_)) => {}
            Some(_) => *self.surplus.entry(key).or_default() += 1,
        }
    }

    /// Takes what is written, or with none that it is deleted.
    pub(crate) fn set(&mut self, key: Key, target: Option<Target>) {
        self.learned.remove(&key);
        self.surplus.remove(&key);
        self.former.remove(&key);
        for index in target.iter().flat_map(Target::devices) {
            *self.by_device.entry(index).or_default() += 1;
        }
        let before = match target {
            Some(target) => self.routes.insert(key, target),
            None => self.routes.remove(&key),
        };
        for index in before.iter().flat_map(Target::devices) {
            if let Some(count) = self.by_device.get_mut(&index) {
                *count -= 1;
                if *count == 0 {
                    self.by_device.remove(&index);
                }
            }
        }
    }

    /// Takes away what the kernel said is gone. Returns whether it was there.
    pub(crate) fn remove(&mut self, key: Key, gone: &Target) -> bool {
        let Some(known) = self.routes.get(&key) else { return false };
        // Of an IPv6 route single gateways can go.
        let left: Vec<_> = match (key.0, known) {
            (IpNet::V6(_), Target::Multipath(hops)) => {
                let lost: Vec<_> = gone.hops().collect();
                hops.iter().copied().filter(|hop| !lost.is_empty() && !lost.contains(hop)).collect()
            }
            _ => Vec::new(),
        };
        let left = (!left.is_empty()).then(|| Target::multipath(left));
        match left {
            Some(left) => self.learn(key, left, self.former(key)),
            None => self.set(key, None),
        }
        true
    }

    /// A device is down, or with `removed` gone. Returns the destinations whose routes led out of it. Those that lead nowhere else are
    /// forgotten; of several next hops the others serve on, but that IPv4 drops the whole route when one's device is removed.
    pub(crate) fn device_down(&mut self, index: u32, removed: bool, is_up: impl Fn(u32) -> bool) -> Vec<IpNet> {
        if !self.by_device.contains_key(&index) {
            return Vec::new();
        }
        let touched: Vec<(Key, Vec<_>)> = self
            .routes
            .iter()
            .filter(|(_, target)| target.devices().any(|device| device == index))
            .map(|(key, target)| (*key, target.hops().filter(|(_, device)| *device != index).collect()))
            .collect();
        for (key, left) in &touched {
            let dead = !left.iter().any(|(_, device)| is_up(*device));
            if dead || (removed && matches!(key.0, IpNet::V4(_))) {
                self.set(*key, None);
            } else if removed {
                self.learn(*key, Target::multipath(left.clone()), self.former(*key));
            }
        }
        touched.into_iter().map(|(key, _)| key.0).collect()
    }

    /// Forgets everything, and returns what was there.
    pub(crate) fn take(&mut self) -> BTreeMap<Key, Target> {
        let Self { routes, .. } = std::mem::take(self);
        routes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn key(text: &str) -> Key {
        (text.parse().expect("a prefix"), 1024)
    }

    fn hop(gateway: &str, index: u32) -> (IpAddr, u32) {
        (gateway.parse().expect("an address"), index)
    }

    fn to(hops: &[(&str, u32)]) -> Target {
        Target::multipath(hops.iter().map(|(gateway, index)| hop(gateway, *index)).collect())
    }

    #[test]
    fn gateways_shown_one_by_one_are_one_route_and_copies_are_not() {
        let mut fib = Fib::default();
        let (four, six) = (key("10.0.0.0/24"), key("fd01::/64"));
        for gateway in ["fd00::2", "fd00::1"] {
            fib.add(six, to(&[(gateway, 2)]), None);
        }
        assert_eq!(fib.get(six), Some(&to(&[("fd00::1", 2), ("fd00::2", 2)])));
        assert!(fib.is_learned(six) && fib.surplus(six) == 0);
        for gateway in ["172.16.0.2", "172.16.0.1"] {
            fib.add(four, to(&[(gateway, 2)]), None);
        }
        assert_eq!((fib.get(four), fib.surplus(four)), (Some(&to(&[("172.16.0.2", 2)])), 1), "the first is in force");
        fib.set(four, None);
        assert_eq!(fib.surplus(four), 0);
        fib.set(six, Some(to(&[("fd00::1", 2), ("fd00::2", 2)])));
        assert!(!fib.is_learned(six), "we wrote it");
    }

    #[test]
    fn a_gateway_that_goes_leaves_the_others() {
        let mut fib = Fib::default();
        let six = key("fd01::/64");
        fib.set(six, Some(to(&[("fd00::1", 2), ("fd00::2", 2), ("fd00::3", 3)])));
        assert!(fib.remove(six, &to(&[("fd00::2", 2)])));
        assert_eq!(fib.get(six), Some(&to(&[("fd00::1", 2), ("fd00::3", 3)])));
        assert!(fib.remove(six, &to(&[("fd00::1", 2), ("fd00::3", 3)])));
        assert_eq!(fib.get(six), None);
        assert!(!fib.remove(six, &Target::Blackhole));
    }

    #[test]
    fn a_device_takes_what_only_it_carries() {
        let mut fib = Fib::default();
        let (one, two) = (key("10.0.0.0/24"), key("10.1.0.0/24"));
        fib.set(one, Some(to(&[("172.16.0.1", 2)])));
        fib.set(two, Some(to(&[("172.16.0.1", 2), ("172.17.0.1", 3)])));
        let touched = fib.device_down(2, false, |_| true);
        assert_eq!(touched, [one.0, two.0]);
        assert!(fib.get(one).is_none() && fib.get(two).is_some());
        assert_eq!(fib.device_down(3, false, |index| index != 2), [two.0]);
        assert!(fib.get(two).is_none(), "the last one");
        fib.set(two, Some(to(&[("172.16.0.1", 2), ("172.17.0.1", 3)])));
        fib.device_down(2, true, |_| true);
        assert!(fib.get(two).is_none() && fib.by_device.is_empty(), "IPv4 drops it as a whole");
        let six = key("fd01::/64");
        fib.set(six, Some(to(&[("fd00::1", 2), ("fd00::2", 3)])));
        fib.device_down(2, true, |_| true);
        assert_eq!(fib.get(six), Some(&to(&[("fd00::2", 3)])), "IPv6 does not");
    }

    #[test]
    fn a_number_that_we_had_before_stays_with_its_routes_until_they_are_written() {
        let mut fib = Fib::default();
        let (one, two, six) = (key("10.0.0.0/24"), key("10.1.0.0/24"), key("fd01::/64"));
        fib.set(one, Some(Target::Blackhole));
        fib.add(two, Target::Blackhole, Some(90));
        fib.set(six, Some(to(&[("fd00::1", 2), ("fd00::2", 3)])));
        fib.renumber(80, 81);
        assert_eq!((fib.former(one), fib.former(two), fib.former(six)), (Some(80), Some(90), Some(80)));
        fib.device_down(2, true, |_| true);
        assert_eq!(fib.former(six), Some(80), "what is left of it too");
        fib.set(one, Some(Target::Blackhole));
        assert_eq!(fib.former(one), None, "written anew");
        fib.renumber(81, 90);
        assert_eq!((fib.former(one), fib.former(two)), (Some(81), None));
    }
}
