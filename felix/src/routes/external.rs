//! Others' routes out of pods' interfaces, and their end where `removeExternalRoutes` asks for it.

use ipnet::IpNet;

use super::{Routes, Tampered};
use crate::event::{Route, RouteChange};

/// The number of the kernel's own routes (`RTPROT_KERNEL`): they come with addresses, and nobody else can write them.
const KERNEL: u8 = 2;

impl Routes {
    /// Whether a route of somebody else's leads to pods' interfaces and nowhere else.
    fn is_external(&self, route: &Route) -> bool {
        let mut devices = route.target.devices().peekable();
        route.protocol != KERNEL
            && devices.peek().is_some()
            && devices.all(|index| self.links.get(&index).is_some_and(|link| self.settings.is_pods(&link.name)))
    }

    /// Marks what has to go, if it has.
    pub(super) fn mark_external(&mut self) {
        if self.settings.remove_external {
            let external = self.foreign.iter().filter(|route| self.is_external(route));
            let external: Vec<IpNet> = external.map(|route| route.destination).collect();
            self.mark_all(external);
        }
    }

    /// Deletes them.
    pub(super) fn evict(&mut self, destination: IpNet, changes: &mut Vec<RouteChange>) {
        if !self.settings.remove_external {
            return;
        }
        let external: Vec<Route> = self.foreign.of(destination).filter(|route| self.is_external(route)).collect();
        for route in external {
            let found = format!(
                "a route of protocol {} with metric {} {}",
                route.protocol,
                route.metric,
                self.text(&route.target)
            );
            self.tampered.push(Tampered { destination, found });
            self.foreign.remove(&route);
            self.evicting.insert(destination);
            changes.push(RouteChange::Retire(route));
        }
        if self.evicting.contains(&destination) {
            self.resolve_again(|next_hop| destination.contains(&next_hop));
        }
    }
}
