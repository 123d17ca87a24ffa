//! Why there is no address: every error names the pod, what it asked for, and the remedy.

use std::net::IpAddr;

use tortie_api::FieldError;
use tortie_api::k8s::annotations::PINNED_ADDRESSES;
use tortie_datastore::Error as StoreError;

/// Why a pod gets no address.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The annotation names an address that no enabled pool has.
    #[error(
        "pod {pod}: annotation {PINNED_ADDRESSES} asks for {ip}, which is in no IPPool that may be used; the pools are: {pools}. \
         Correct the annotation, or make or enable an IPPool that contains the address"
    )]
    OutsidePools {
        /// `NAMESPACE/POD`.
        pod: String,
        /// The address.
        ip: IpAddr,
        /// The usable pools.
        pools: String,
    },
    /// The annotation names an address that somebody else has.
    #[error(
        "pod {pod}: annotation {PINNED_ADDRESSES} asks for {ip}, which {holder} has; delete that pod, or correct the annotation"
    )]
    Taken {
        /// `NAMESPACE/POD`.
        pod: String,
        /// The address.
        ip: IpAddr,
        /// Who has it.
        holder: String,
    },
    /// The annotation names an address that a container of the same pod has on another node.
    #[error(
        "pod {pod}: annotation {PINNED_ADDRESSES} asks for {ip}, which an older container of the pod has on node {node}; it is free \
         once that node tears the container down, or when its Node object is deleted because the node is gone"
    )]
    Elsewhere {
        /// `NAMESPACE/POD`.
        pod: String,
        /// The address.
        ip: IpAddr,
        /// The node.
        node: String,
    },
    /// The annotation names an address of another node's block, which is not to be shared.
    #[error(
        "pod {pod}: annotation {PINNED_ADDRESSES} asks for {ip}, whose block {block} has strict affinity to another node; \
         run the pod there, or correct the annotation"
    )]
    Strict {
        /// `NAMESPACE/POD`.
        pod: String,
        /// The address.
        ip: IpAddr,
        /// The block.
        block: String,
    },
    /// No pool has an address left for this node.
    #[error(
        "pod {pod}: no free {family} address in any IPPool that it may use; these are: {pools}. {why}Make another IPPool, or delete pods"
    )]
    Exhausted {
        /// `NAMESPACE/POD`.
        pod: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The pools that the pod may use.
        pools: String,
        /// Which setting keeps the node from addresses that there may be, and what to do about it; empty if none does.
        why: String,
    },
    /// No pool may be used at all.
    #[error(
        "pod {pod}: no IPPool may be used on node {node}: enable one (spec.disabled: false, allowedUses with Workload, assignmentMode: \
         Automatic, and a nodeSelector and a namespaceSelector that select the node and the pod's namespace); enabled for workloads are: \
         {pools}"
    )]
    NoPools {
        /// `NAMESPACE/POD`.
        pod: String,
        /// The node.
        node: String,
        /// The pools that are enabled.
        pools: String,
    },
    /// No pool has an address for a node's end of a tunnel.
    #[error(
        "node {node} gets no address for its end of {tunnel}: there is no free one in an IPPool that uses it (enabled, of that mode, \
         allowedUses with Tunnel or empty, nodeSelector that selects the node); these are: {pools}. {why}Make another IPPool, or delete \
         pods"
    )]
    NoTunnelAddress {
        /// The tunnel.
        tunnel: &'static str,
        /// The node.
        node: String,
        /// The pools that use it.
        pools: String,
        /// Which setting keeps the node from addresses that there may be; empty if none does.
        why: String,
    },
    /// An annotation names a pool that is none, or none to take addresses from.
    #[error(
        "pod {pod}: annotation {annotation} of {owner} asks for the IPPool {pool:?}, and there is none of that name or range that is \
         enabled for workloads; those that are: {pools}. Correct the annotation, or make or enable the pool"
    )]
    UnknownPool {
        /// `NAMESPACE/POD`.
        pod: String,
        /// The annotation's name.
        annotation: &'static str,
        /// `the pod`, or `namespace NAME`.
        owner: String,
        /// What it names.
        pool: String,
        /// The pools that are enabled.
        pools: String,
    },
    /// An annotation of the namespace cannot be read.
    #[error("pod {pod}: namespace {namespace}: {error}")]
    Annotation {
        /// `NAMESPACE/POD`.
        pod: String,
        /// The namespace.
        namespace: String,
        /// What is wrong.
        error: FieldError,
    },
    /// Somebody else always was faster.
    #[error("the IPAM blocks are changed too fast by others; try again")]
    Contended,
    /// The datastore failed.
    #[error(transparent)]
    Datastore(#[from] StoreError),
}

impl Error {
    /// Whether the same request may succeed later, with nothing done about it.
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Elsewhere { .. } | Self::Contended | Self::Datastore(_))
    }
}
