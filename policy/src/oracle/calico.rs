//! Calico's rules: every field that is given must hold, of the source and of the destination.

use std::net::IpAddr;

use ipnet::IpNet;
use tortie_api::calico::{Action, EntityRule, Icmp, IpVersion, PolicyRule, RulePort, ServiceMatch};
use tortie_nft::Family;

use super::decision::{LookedAt, Misfit};
use super::flow::{Flow, Party};
use super::members::{Member, at, everything, of_service};
use super::question::Traffic;
use super::world::{World, family_of};

/// How many of those that a selector selects are told by name.
const TOLD: usize = 3;

/// What each rule says of the flow, up to the first that decides. `namespace` is the policy's, none for a global one.
pub(super) fn ask(world: &World, flow: &Flow<'_>, namespace: Option<&str>, rules: &[PolicyRule]) -> Vec<LookedAt> {
    let mut looked_at = Vec::new();
    for rule in rules {
        let mut findings = Findings::default();
        of_packet(rule, flow, &mut findings);
        for side in [Side::Source, Side::Destination] {
            of_entity(world, flow, namespace, rule, side, &mut findings);
        }
        let decides = findings.misfits.is_empty() && rule.action != Action::Log;
        looked_at.push(LookedAt { action: rule.action, misfits: findings.misfits, members: findings.members });
        if decides {
            break;
        }
    }
    looked_at
}

/// What was found of a rule.
#[derive(Default)]
struct Findings {
    misfits: Vec<Misfit>,
    members: Vec<String>,
}

impl Findings {
    fn misfit(&mut self, field: &str, why: String) {
        self.misfits.push(Misfit::Field { field: field.to_owned(), why });
    }
}

/// The end of a flow that an entity rule is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

/// The fields that are about the packet as a whole.
fn of_packet(rule: &PolicyRule, flow: &Flow<'_>, findings: &mut Findings) {
    if let Some(version) = rule.ip_version {
        let family = if version == IpVersion::V4 { Family::V4 } else { Family::V6 };
        if family != flow.family {
            findings.misfit("ipVersion", format!("is {}", version.number()));
        }
    }
    let number = flow.traffic.protocol();
    if let Some(protocol) = &rule.protocol
        && protocol.number() != number
    {
        findings.misfit("protocol", format!("{protocol} is not that of {}", flow.traffic));
    }
    if let Some(protocol) = &rule.not_protocol
        && protocol.number() == number
    {
        findings.misfit("notProtocol", format!("{protocol} is that of {}", flow.traffic));
    }
    if let Some(icmp) = rule.icmp
        && !is_icmp(icmp, flow.traffic)
    {
        findings.misfit("icmp", format!("is not {}", flow.traffic));
    }
    if let Some(icmp) = rule.not_icmp
        && is_icmp(icmp, flow.traffic)
    {
        findings.misfit("notICMP", format!("is {}", flow.traffic));
    }
}

/// Whether the packet is a message of that type and code, as far as they are given.
fn is_icmp(icmp: Icmp, traffic: Traffic) -> bool {
    match traffic {
        Traffic::Icmp { kind, code, .. } => {
            icmp.kind.is_none_or(|wanted| wanted == kind) && icmp.code.is_none_or(|wanted| wanted == code)
        }
        Traffic::Ports { .. } | Traffic::Other(_) => false,
    }
}

/// The fields of one end.
fn of_entity(
    world: &World,
    flow: &Flow<'_>,
    namespace: Option<&str>,
    rule: &PolicyRule,
    side: Side,
    findings: &mut Findings,
) {
    let (name, entity, party) = match side {
        Side::Source => ("source", &rule.source, &flow.from),
        Side::Destination => ("destination", &rule.destination, &flow.to),
    };
    let field = |field: &str| format!("{name}.{field}");
    of_nets(entity, party, flow.family, &field, findings);
    of_selectors(world, flow, namespace, entity, party, &field, findings);
    let port = match (flow.traffic, side) {
        (Traffic::Ports { source, .. }, Side::Source) => Some(source),
        (Traffic::Ports { port, .. }, Side::Destination) => Some(port),
        _ => None,
    };
    let asked = port.map_or_else(|| flow.traffic.to_string(), |port| format!("port {port}"));
    let any = |ports: &[RulePort]| ports.iter().any(|wanted| is_port(world, flow, party, port, wanted));
    if !entity.ports.is_empty() && !any(&entity.ports) {
        findings.misfit(&field("ports"), format!("do not have {asked}"));
    }
    if any(&entity.not_ports) {
        findings.misfit(&field("notPorts"), format!("have {asked}"));
    }
    if let Some(service) = &entity.services
        && !is_service(world, flow, namespace, service, party, side)
    {
        let place = service.namespace.as_deref().or(namespace).unwrap_or_default();
        let what = format!("{place}/{} has no endpoint {}", service.name, party.name);
        let what = if side == Side::Destination { format!("{what} on {}", flow.traffic) } else { what };
        findings.misfit(&field("services"), what);
    }
}

fn of_nets(
    entity: &EntityRule,
    party: &Party<'_>,
    family: Family,
    field: &impl Fn(&str) -> String,
    findings: &mut Findings,
) {
    let holding = |nets: &[IpNet]| nets.iter().find(|net| in_net(net, party.address, family)).copied();
    if !entity.nets.is_empty() && holding(&entity.nets).is_none() {
        findings.misfit(&field("nets"), format!("do not have {}", party.name));
    }
    if let Some(net) = holding(&entity.not_nets) {
        findings.misfit(&field("notNets"), format!("have {}, in {net}", party.name));
    }
}

/// Whether the net has the address. One that is not known is in no net but the whole of its family.
pub(super) fn in_net(net: &IpNet, address: Option<IpAddr>, family: Family) -> bool {
    match address {
        Some(address) => net.contains(&address),
        None => net.prefix_len() == 0 && family_of(net.addr()) == family,
    }
}

/// The fields by which a rule selects objects: `selector`, `namespaceSelector` and `serviceAccounts` together, then `notSelector`.
fn of_selectors(
    world: &World,
    flow: &Flow<'_>,
    namespace: Option<&str>,
    entity: &EntityRule,
    party: &Party<'_>,
    field: &impl Fn(&str) -> String,
    findings: &mut Findings,
) {
    let members = at(world, party, flow.family);
    // A namespaced policy that selects anything at all, be it by exclusion, is about its own namespace, unless it names others.
    let selects = entity.selector.is_some()
        || entity.namespace_selector.is_some()
        || entity.service_accounts.is_some()
        || (entity.not_selector.is_some() && namespace.is_some());
    if selects {
        let selected: Vec<&Member<'_>> =
            members.iter().filter(|member| is_selected(world, namespace, entity, member)).collect();
        if selected.is_empty() {
            let given = [
                (entity.selector.is_some(), "selector"),
                (entity.namespace_selector.is_some(), "namespaceSelector"),
                (entity.service_accounts.is_some(), "serviceAccounts"),
            ];
            let given: Vec<String> = given.iter().filter(|(given, _)| *given).map(|(_, name)| field(name)).collect();
            let (given, what) = match given.len() {
                0 => (field("notSelector"), "is about its own namespace, and so not about"),
                1 => (given.join(" and "), "does not select"),
                _ => (given.join(" and "), "do not select"),
            };
            let instead = if flow.telling {
                let whom = everything(world).filter(|member| is_selected(world, namespace, entity, member));
                format!(", but {}", some_of(whom))
            } else {
                String::new()
            };
            findings.misfit(&given, format!("{what} {}{instead}", party.name));
        }
        findings.members.extend(selected.iter().map(ToString::to_string));
    }
    if let Some(selector) = &entity.not_selector
        && let Some(member) = members.iter().find(|member| selector.matches_with(&|key| member.label(world, key)))
    {
        findings.misfit(&field("notSelector"), format!("selects {member}"));
    }
}

/// The first few of what is selected, by name.
fn some_of<'a>(mut whom: impl Iterator<Item = Member<'a>>) -> String {
    let first: Vec<String> = whom.by_ref().take(TOLD).map(|member| member.to_string()).collect();
    match (first.len(), whom.count()) {
        (0, _) => "nothing at all".to_owned(),
        (_, 0) => first.join(", "),
        (_, more) => format!("{} and {more} more", first.join(", ")),
    }
}

fn is_selected(world: &World, namespace: Option<&str>, entity: &EntityRule, member: &Member<'_>) -> bool {
    let in_scope = match &entity.namespace_selector {
        Some(selector) if selector.is_global() => member.namespace().is_none(),
        Some(selector) => {
            member.namespace().is_some_and(|of| selector.matches_with(&|key| world.namespace_label(of, key)))
        }
        None => namespace.is_none_or(|own| member.namespace() == Some(own)),
    };
    in_scope
        && entity.selector.as_ref().is_none_or(|selector| selector.matches_with(&|key| member.label(world, key)))
        && entity.service_accounts.as_ref().is_none_or(|accounts| {
            member.service_account().is_some_and(|(namespace, account)| {
                (accounts.names.is_empty() || accounts.names.iter().any(|name| name == account))
                    && accounts.selector.as_ref().is_none_or(|selector| {
                        selector.matches_with(&|key| world.account_label(namespace, account, key))
                    })
            })
        })
}

/// Whether the end's port is one that the rule names. A name means what the endpoint at that end calls so, for the flow's protocol.
fn is_port(world: &World, flow: &Flow<'_>, party: &Party<'_>, port: Option<u16>, wanted: &RulePort) -> bool {
    let (Traffic::Ports { protocol, .. }, Some(port)) = (flow.traffic, port) else { return false };
    match wanted {
        RulePort::Range(first, last) => (*first..=*last).contains(&port),
        RulePort::Named(name) => {
            at(world, party, flow.family).iter().any(|member| member.has_port(name, protocol, port))
        }
    }
}

/// Whether the end is one of the service's endpoints: as a destination on one of its ports, as a source on any.
fn is_service(
    world: &World,
    flow: &Flow<'_>,
    namespace: Option<&str>,
    service: &ServiceMatch,
    party: &Party<'_>,
    side: Side,
) -> bool {
    let Some(namespace) = service.namespace.as_deref().or(namespace) else { return false };
    let Some(address) = party.address else { return false };
    of_service(world, namespace, &service.name).filter(|slice| slice.has(address)).any(|slice| {
        match (side, flow.traffic) {
            (Side::Source, _) => true,
            (Side::Destination, Traffic::Ports { protocol, port, .. }) => slice.serves(protocol, port),
            (Side::Destination, _) => false,
        }
    })
}
