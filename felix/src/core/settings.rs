//! Where settings change, and what the node's interfaces and kernel settings should be.

use std::collections::{BTreeMap, BTreeSet};

use tortie_policy::CompileOptions;

use super::Felix;
use crate::drift::DriftKind;
use crate::event::Action;
use crate::host::{Host, HostReport};
use crate::settings::Settings;

impl Felix {
    /// The settings that are in force.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Makes the settings anew and puts them into force. Returns whether rules may be others now.
    pub(super) fn resettle(&mut self) -> bool {
        let resolved = self.configurations.resolve();
        self.warnings = resolved.warnings;
        if resolved.settings == self.settings {
            return false;
        }
        let before = std::mem::replace(&mut self.settings, resolved.settings);
        self.settings_untold = true;
        if before.routes != self.settings.routes {
            self.reroute();
        }
        if before.rules_refresh != self.settings.rules_refresh {
            self.rules_audit_at = None;
        }
        if before.routes_refresh != self.settings.routes_refresh {
            self.routes_audit_at = None;
        }
        if before.routes_disabled != self.settings.routes_disabled {
            self.routes.set_disabled(self.settings.routes_disabled);
            self.read_routes();
        }
        // What was kept may long be denied.
        if before.rules.host.keep_connections && !self.settings.rules.host.keep_connections {
            self.rules.reevaluate();
        }
        let rules_changed = before.rules != self.settings.rules;
        if rules_changed {
            self.compiler.set_options(self.compile_options());
        }
        self.overlays_dirty |= before.overlays != self.settings.overlays
            || before.rules.vxlan_port != self.settings.rules.vxlan_port
            || before.mtu_interfaces != self.settings.mtu_interfaces
            || before.interfaces_refresh != self.settings.interfaces_refresh;
        self.reprefix();
        rules_changed | self.resolve_hosts()
    }

    /// Has routes written as the settings say now. The first settings come before anything is written.
    fn reroute(&mut self) {
        let settings = self.settings.routes.clone();
        if self.told_settings.is_some() {
            self.routes.set_settings(settings);
        } else if self.routes.begin_with(settings) && std::mem::take(&mut self.routes_read) {
            self.read_routes_at = Some(self.now);
        }
    }

    /// Sees to it that the rules know every interface of a pod as one: by the prefixes of the settings, and by those that interfaces
    /// from before a change of them have, until their pods are gone.
    pub(super) fn reprefix(&mut self) {
        let mut prefixes = self.settings.routes.interface_prefixes.clone();
        for endpoint in self.endpoints.all() {
            let interface = endpoint.interface.as_str();
            if !prefixes.iter().any(|prefix| interface.starts_with(prefix.as_str())) {
                // Eleven digits are the pod's; what stands before them is the prefix.
                let length = interface.len().saturating_sub(POD_DIGITS);
                let prefix = interface.get(..length).filter(|prefix| !prefix.is_empty());
                prefixes.push(prefix.unwrap_or(interface).to_owned());
            }
        }
        if prefixes != self.prefixes {
            self.prefixes = prefixes;
            self.settings_untold = true;
            self.compiler.set_options(self.compile_options());
            self.rules.touch();
        }
    }

    /// What the node should be like, as far as it is no rule and no route.
    fn wanted_host(&self) -> Host {
        let settings = &self.settings;
        let (mut bandwidth, mut foreign_sources) = (BTreeMap::new(), BTreeSet::new());
        for endpoint in self.endpoints.all() {
            let Some(needs) = self.configurations.needs_of(&endpoint.namespace, &endpoint.pod) else { continue };
            if !needs.bandwidth.is_none() {
                bandwidth.insert(endpoint.interface.clone(), needs.bandwidth);
            }
            if needs.foreign_sources && settings.rules.source_spoofing {
                foreign_sources.insert(endpoint.interface.clone());
            }
        }
        let had_ipv6 = self.host.as_ref().is_some_and(|host| host.forward_ipv6);
        Host {
            forward_ipv4: settings.forwarding,
            forward_ipv6: settings.forwarding && settings.ipv6 && (had_ipv6 || self.bgp.has_family(false)),
            mtu_interfaces: settings.mtu_interfaces.clone(),
            refresh: settings.interfaces_refresh,
            bandwidth,
            foreign_sources,
            encapsulation: self.overlays.overhead(),
            mtu_limit: self.overlays.configured_mtu(&settings.overlays),
        }
    }

    pub(super) fn poll_host(&mut self) -> Option<Action> {
        if !self.config.dataplane || !self.ready() || self.host_retry.at.is_some() {
            return None;
        }
        if !std::mem::take(&mut self.host_dirty) {
            return None;
        }
        let wanted = self.wanted_host();
        if self.host.as_ref() == Some(&wanted) {
            return None;
        }
        self.host = Some(wanted.clone());
        Some(Action::ConfigureHost(Box::new(wanted)))
    }

    /// Hands settings out when they are others than before; the first time once everything is known.
    pub(super) fn poll_settings(&mut self) -> Option<Action> {
        if !self.in_sync || !std::mem::take(&mut self.settings_untold) {
            return None;
        }
        let mut settings = Box::new(self.settings.clone());
        settings.routes.interface_prefixes.clone_from(&self.prefixes);
        settings.overlays.encapsulation = self.overlays.overhead();
        settings.overlays.mtu_limit = self.overlays.configured_mtu(&self.settings.overlays);
        if self.told_settings.as_ref() == Some(&settings) {
            return None;
        }
        self.told_settings = Some(settings.clone());
        Some(Action::Settings(settings))
    }

    pub(super) fn host_configured(&mut self, result: Result<(), String>) {
        self.host_error = result.err();
        if self.host_error.is_some() {
            self.host = None;
            self.host_dirty = true;
            self.host_retry.failed(self.now);
        }
    }

    pub(super) fn host_kept(&mut self, report: HostReport) {
        for repair in report.repairs {
            let kind = if repair.sysctl { DriftKind::Sysctl } else { DriftKind::Interface };
            self.drifts.record(self.now, kind, repair.object, repair.found, None);
        }
        self.host_problems = report.problems;
    }
}

/// So many digits of a pod's interface name stand for the pod.
const POD_DIGITS: usize = 11;

impl Felix {
    /// What the compiler is told.
    pub(super) fn compile_options(&self) -> CompileOptions {
        let mut options = CompileOptions { interface_prefixes: self.prefixes.clone(), ..self.settings.rules.clone() };
        options.host.interfaces.clone_from(&self.host_interfaces);
        options.tunnels = self.overlays.in_use();
        options
    }
}
