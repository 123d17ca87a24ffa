//! The endpoints of Services, by their EndpointSlices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tortie_api::k8s::{EndpointSlice, Protocol};

use crate::touched::Name;

/// Who serves something, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slice {
    addresses: Box<[IpAddr]>,
    /// Ports without a number are left out.
    ports: Box<[(Protocol, u16)]>,
}

/// The endpoints of all Services.
#[derive(Debug, Default)]
pub(crate) struct Backends {
    slices: BTreeMap<Name, BTreeMap<Box<str>, Slice>>,
    /// The Service of each slice.
    services: BTreeMap<Name, Arc<str>>,
}

impl Backends {
    /// Takes in a slice. Returns the Services whose endpoints may have changed.
    pub(crate) fn insert(&mut self, namespace: &Arc<str>, slice: &EndpointSlice) -> BTreeSet<Name> {
        let name = slice.metadata.name.as_str();
        let Some(service) = slice.service() else { return self.remove(namespace, name) };
        let addresses: BTreeSet<IpAddr> = slice.endpoints.iter().flat_map(|of| &of.addresses).copied().collect();
        let ports: BTreeSet<_> = slice.ports.iter().filter_map(|port| Some((port.protocol, port.port?))).collect();
        let new = Slice { addresses: addresses.into_iter().collect(), ports: ports.into_iter().collect() };
        let of: Name = (Arc::clone(namespace), service.into());
        if self.slices.get(&of).and_then(|slices| slices.get(name)) == Some(&new) {
            return BTreeSet::new();
        }
        // A slice may pass to another Service.
        let mut touched = self.remove(namespace, name);
        self.services.insert((Arc::clone(namespace), name.into()), Arc::clone(&of.1));
        self.slices.entry(of.clone()).or_default().insert(name.into(), new);
        touched.insert(of);
        touched
    }

    /// Forgets a slice. Returns the Service whose endpoints changed.
    pub(crate) fn remove(&mut self, namespace: &Arc<str>, name: &str) -> BTreeSet<Name> {
        let Some(service) = self.services.remove(&(Arc::clone(namespace), Arc::from(name))) else {
            return BTreeSet::new();
        };
        let of: Name = (Arc::clone(namespace), service);
        if let Some(slices) = self.slices.get_mut(&of) {
            slices.remove(name);
            if slices.is_empty() {
                self.slices.remove(&of);
            }
        }
        BTreeSet::from([of])
    }

    /// The endpoints of a Service, ready or not: addresses of its endpoints.
    pub(crate) fn addresses(&self, namespace: &str, service: &str) -> BTreeSet<IpAddr> {
        self.of(namespace, service).flat_map(|slice| slice.addresses.iter().copied()).collect()
    }

    /// The endpoints of a Service, ready or not: addresses with protocol and port.
    pub(crate) fn ports(&self, namespace: &str, service: &str) -> BTreeSet<(IpAddr, Protocol, u16)> {
        let each = |slice: &Slice| -> Vec<(IpAddr, Protocol, u16)> {
            let on = |address: &IpAddr| -> Vec<(IpAddr, Protocol, u16)> {
                slice.ports.iter().map(|(protocol, port)| (*address, *protocol, *port)).collect()
            };
            slice.addresses.iter().flat_map(on).collect()
        };
        self.of(namespace, service).flat_map(each).collect()
    }

    fn of(&self, namespace: &str, service: &str) -> impl Iterator<Item = &Slice> {
        let slices = self.slices.get(&(Arc::from(namespace), Arc::from(service)));
        slices.into_iter().flat_map(BTreeMap::values)
    }
}
