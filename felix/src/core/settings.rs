//! Where settings change, and what the node's interfaces and kernel settings should be.

use std::collections::BTreeMap;

use tortie_policy::CompileOptions;

use super::Felix;
use crate::drift::DriftKind;
use crate::event::Action;
use crate::host::{Host, HostReport};
use crate::settings::{RuleSettings, Settings};

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
        if before.rules_refresh != self.settings.rules_refresh {
            self.rules_audit_at = None;
        }
        if before.routes_refresh != self.settings.routes_refresh {
            self.routes_audit_at = None;
        }
        let rules_changed = before.rules != self.settings.rules;
        if rules_changed {
            self.compiler.set_options(compile_options(&self.settings.rules));
        }
        rules_changed
    }

    /// What the node should be like, as far as it is no rule and no route.
    fn wanted_host(&self) -> Host {
        let endpoints = self.endpoints.all();
        let bandwidth: BTreeMap<String, _> = endpoints
            .filter_map(|endpoint| {
                let limits = self.configurations.bandwidth_of(&endpoint.namespace, &endpoint.pod)?;
                Some((endpoint.interface.clone(), limits))
            })
            .collect();
        let settings = &self.settings;
        let had_ipv6 = self.host.as_ref().is_some_and(|host| host.forward_ipv6);
        Host {
            forward_ipv4: settings.forwarding,
            forward_ipv6: settings.forwarding && settings.ipv6 && (had_ipv6 || self.bgp.has_family(false)),
            mtu_interfaces: settings.mtu_interfaces.clone(),
            refresh: settings.interfaces_refresh,
            bandwidth,
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
        if !self.in_sync || self.told_settings.as_deref() == Some(&self.settings) {
            return None;
        }
        let settings = Box::new(self.settings.clone());
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

/// What the compiler is told.
fn compile_options(rules: &RuleSettings) -> CompileOptions {
    CompileOptions { vxlan_port: rules.vxlan_port, ..CompileOptions::default() }
}
