//! Addresses that nobody gets unasked: those of every IPReservation. A pod that names one gets it, as in Calico.

use std::net::IpAddr;

use ipnet::IpNet;
use tortie_api::calico::IpReservation;

/// The reserved ranges.
#[derive(Debug, Clone, Default)]
pub(super) struct Reserved(Vec<IpNet>);

impl Reserved {
    pub(super) fn of(reservations: &[IpReservation]) -> Self {
        Self(reservations.iter().flat_map(|reservation| reservation.spec.reserved_cidrs.iter().copied()).collect())
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|range| range.contains(&ip))
    }

    /// The ranges themselves.
    pub(super) fn ranges(&self) -> &[IpNet] {
        &self.0
    }
}
