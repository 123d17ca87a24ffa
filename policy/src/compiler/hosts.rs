//! The classes of the node's host endpoints.
//!
//! There are few of them, one to three as a rule, so what their policies say is made anew whenever a policy that could be theirs, a tier
//! or a profile changes, and chains are written only if that is news.

use tortie_api::Kind;

use super::{Context, State};
use crate::chains::Builder;
use crate::change::Change;
use crate::host_frame::Shape;
use crate::host_programs::{self, HostPrograms, Leads};
use crate::intern::Id;
use crate::touched::Changes;

/// The host endpoints that the table has.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    programs: Vec<HostPrograms>,
    /// What the frame has for them.
    pub(super) shape: Shape,
    leads: Leads,
    /// All that their classes use, by number.
    uses: Box<[Id]>,
}

/// Whether changes of the cluster may be about host endpoints.
pub(super) fn concern(changes: &Changes) -> bool {
    let global = |kind| matches!(kind, Kind::GlobalNetworkPolicy | Kind::StagedGlobalNetworkPolicy);
    !changes.hosts.is_empty()
        || !changes.profiles.is_empty()
        || !changes.tiers.is_empty()
        || changes.policies.iter().any(|policy| global(policy.kind))
}

impl State {
    /// Makes what the table has of host endpoints what it should be.
    pub(super) fn assign_hosts(&mut self, context: Context<'_>, change: &mut Change) {
        let Context { cluster, options } = context;
        let programs = host_programs::programs(cluster, &options.host.interfaces);
        if programs == self.hosts.programs {
            return;
        }
        let shape = host_programs::shape(&programs);
        if shape != self.hosts.shape
            && let Some(generation) = self.generation
        {
            self.hosts.shape = shape;
            self.set_frame(self.frame(context, generation), change);
        }
        let (table, names) = (std::mem::take(&mut self.table), std::mem::take(&mut self.names));
        let mut builder = Builder::new(cluster, table, names, options);
        let mut came = Vec::new();
        let leads = host_programs::write(&mut builder, &programs);
        let uses = self.hold_used(&mut builder, &mut came);
        self.take_back(builder, came, change);
        let old = std::mem::replace(&mut self.hosts.leads, leads);
        self.lead(&old, change);
        self.hosts.programs = programs;
        let old = std::mem::replace(&mut self.hosts.uses, uses);
        self.release(&old, change);
    }

    /// Makes the elements and chains that lead to host endpoints' classes what they should be, where they were `old`.
    fn lead(&mut self, old: &Leads, change: &mut Change) {
        let leads = &self.hosts.leads;
        for (map, interface) in old.elements.keys().filter(|element| !leads.elements.contains_key(*element)) {
            change.map_element(&mut self.table, map, interface, None);
        }
        for ((map, interface), verdict) in &leads.elements {
            change.map_element(&mut self.table, map, interface, Some(verdict.clone()));
        }
        for name in old.any.keys().filter(|name| !leads.any.contains_key(*name)) {
            change.gone(&mut self.table, name);
        }
        for (name, chain) in &leads.any {
            change.set_chain(&mut self.table, name, chain.clone());
        }
    }
}
