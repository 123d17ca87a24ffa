//! Where HostEndpoints meet the node's interfaces.

use super::Felix;

impl Felix {
    /// Looks again which interfaces are whose. Returns whether rules are others now.
    pub(super) fn resolve_hosts(&mut self) -> bool {
        let resolved = self.host_endpoints.resolve(&self.prefixes, &self.settings.rules.host.interface_exclude);
        self.host_endpoint_problems = resolved.problems;
        if resolved.interfaces == self.host_interfaces {
            return false;
        }
        self.host_interfaces = resolved.interfaces;
        self.compiler.set_options(self.compile_options());
        true
    }

    /// Takes note of a change of interfaces or addresses, if it `matters`.
    pub(super) fn interfaces_changed(&mut self, matters: bool) {
        if matters && self.resolve_hosts() {
            self.rules.touch();
        }
    }
}
