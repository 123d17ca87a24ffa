//! What the kernel announces of interfaces, addresses and routes.
//!
//! While the table is being read, announcements wait: what was read is older than some of them and newer than others, and taken in
//! their order on top of it they lead to what is there now, whichever they are.

use super::{Felix, RouteIo};
use crate::event::Event;

/// If more than this waits, the table is read once more instead.
const MOST: usize = 50_000;

impl Felix {
    /// Takes an announcement in, now or when the table is read.
    pub(super) fn announced(&mut self, event: Event) {
        if self.route_io == RouteIo::Reading {
            if self.announcements.len() < MOST {
                self.announcements.push((event, self.author.clone()));
            } else {
                self.announcements.clear();
                self.read_routes();
            }
            return;
        }
        let matters = match &event {
            Event::LinkChanged(link) => self.host_endpoints.link_changed(link),
            Event::LinkRemoved { index } => self.host_endpoints.link_removed(*index),
            Event::AddressAdded { index, address } => self.host_endpoints.address_added(*index, *address),
            Event::AddressRemoved { index, address } => self.host_endpoints.address_removed(*index, *address),
            _ => false,
        };
        self.interfaces_changed(matters);
        match event {
            Event::LinkChanged(link) => self.routes.link_changed(&link),
            Event::LinkRemoved { index } => self.routes.link_removed(index),
            Event::AddressAdded { index, address } => self.routes.address_added(index, address),
            Event::AddressRemoved { address, .. } => self.routes.address_removed(address),
            Event::RouteChanged(route) => self.routes.route_changed(route),
            Event::RouteRemoved(route) => self.routes.route_removed(&route),
            _ => {}
        }
    }

    /// Takes in what waited for the reading to end.
    pub(super) fn catch_up(&mut self) {
        for (event, author) in std::mem::take(&mut self.announcements) {
            self.note_drifts();
            self.author = author;
            self.announced(event);
        }
        self.note_drifts();
        self.author = None;
    }
}
