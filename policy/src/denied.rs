//! Why packets are denied, as names of counters.
//!
//! Each rule that denies counts twice: by itself, which says what this very rule has denied, and in the named counter of its reason.
//! Rules come and go with policies and begin at nothing each time. The named counters are the same on every node and as old as the
//! table, so that their sums never fall while the table stays, whoever reprograms it.

use std::collections::BTreeMap;

use tortie_nft::Statement;

/// Why a packet is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is not from an address of the pod that sent it.
    Spoofed,
    /// A pod built a tunnel.
    Tunnelled,
    /// A pod spoke as a router does.
    Router,
    /// It belongs to no flow, and begins none.
    Invalid,
    /// It is an ICMP error about a flow that is not allowed.
    IcmpError,
    /// It is from or to a pod that the node does not know.
    UnknownPod,
    /// The policies of one of its ends do not allow it.
    Policy,
    /// It is for the node itself, which is shut to pods.
    EndpointToHost,
    /// It is to a service address that nobody serves here.
    ServiceLoop,
    /// It is more than the limits of a pod allow.
    Limit,
}

impl Reason {
    const ALL: [Self; 10] = [
        Self::Spoofed,
        Self::Tunnelled,
        Self::Router,
        Self::Invalid,
        Self::IcmpError,
        Self::UnknownPod,
        Self::Policy,
        Self::EndpointToHost,
        Self::ServiceLoop,
        Self::Limit,
    ];

    /// The counter's name. Some shorter ones are words of nft's language, which cannot name anything.
    const fn counter(self) -> &'static str {
        match self {
            Self::Spoofed => "spoofed_source",
            Self::Tunnelled => "tunnelled",
            Self::Router => "pod_as_router",
            Self::Invalid => "no_flow",
            Self::IcmpError => "icmp_error",
            Self::UnknownPod => "unknown_pod",
            Self::Policy => "policies",
            Self::EndpointToHost => "endpoint_to_host",
            Self::ServiceLoop => "service_loop",
            Self::Limit => "over_limit",
        }
    }

    const fn comment(self) -> &'static str {
        match self {
            Self::Spoofed => "denied: not from the pod's own address",
            Self::Tunnelled => "denied: IP in IP or VXLAN from a pod",
            Self::Router => "denied: router advertisements and redirects from a pod",
            Self::Invalid => "denied: belongs to no flow and begins none",
            Self::IcmpError => "denied: ICMP errors about flows that are not allowed",
            Self::UnknownPod => "denied: from or to a pod that is not known",
            Self::Policy => "denied: no rule of a policy allows it",
            Self::EndpointToHost => "denied: defaultEndpointToHostAction",
            Self::ServiceLoop => "denied: serviceLoopPrevention",
            Self::Limit => "denied: more than a pod's limits",
        }
    }

    /// Counts, as this and by itself, ahead of a verdict.
    pub(crate) fn counted(self, verdict: Statement) -> Vec<Statement> {
        vec![Statement::NamedCounter(self.counter().to_owned()), Statement::Counter, verdict]
    }
}

/// The counters of every table.
pub(crate) fn counters() -> BTreeMap<String, Option<String>> {
    Reason::ALL.map(|reason| (reason.counter().to_owned(), Some(reason.comment().to_owned()))).into()
}
