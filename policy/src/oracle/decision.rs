//! What is answered: the verdict of each direction, what decided it, and what every policy that was asked before said.

use std::net::IpAddr;

use tortie_api::ObjectKey;
use tortie_api::calico::Action;

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Whether the flow passes: both halves allow it.
    pub allowed: bool,
    /// What the source's egress says.
    pub egress: Half,
    /// What the destination's ingress says.
    pub ingress: Half,
    /// Who begins it.
    pub from: Place,
    /// To whom.
    pub to: Place,
}

/// Where an end turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `NAMESPACE/POD`, or the address.
    pub name: String,
    /// Whether it is a pod on the pod network.
    pub pod: bool,
    /// Its address, if known.
    pub address: Option<IpAddr>,
    /// The node it is on, or is.
    pub node: Option<String>,
}

/// What one direction's policies say.
#[derive(Debug, Clone, PartialEq)]
pub struct Half {
    /// Whether this direction allows the flow.
    pub allowed: bool,
    /// Why.
    pub reason: Reason,
    /// What was looked at, in order, up to what decided. Staged policies are among it, each in its place.
    pub steps: Vec<Step>,
    /// What this direction would say if staged policies were enforced; none if none of them concerns it.
    pub staged: Option<Box<WouldBe>>,
}

/// What a direction would say with staged policies enforced.
#[derive(Debug, Clone, PartialEq)]
pub struct WouldBe {
    /// Whether it would allow the flow.
    pub allowed: bool,
    /// Why.
    pub reason: Reason,
}

/// Why a direction allows or denies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// That end is not a pod, and no policy governs it here.
    NotAPod,
    /// The pod talks to itself.
    Itself,
    /// It comes from the pod's own node.
    OwnNode,
    /// A pod speaks VXLAN.
    Tunnel,
    /// A pod sends from an address of a pool that is no pod's.
    Spoofed,
    /// The pod's own node takes nothing from pods (`defaultEndpointToHostAction`).
    EndpointToHost,
    /// It goes to a service address, and nobody has translated it (`serviceLoopPrevention`).
    ServiceLoop,
    /// No policy selects the pod in this direction.
    NotIsolated,
    /// Policies select the pod in this direction, and every tier leaves the flow to the next: the pod's profile allows it.
    LeftOver,
    /// A rule decides.
    Rule {
        /// The tier.
        tier: String,
        /// The policy.
        policy: ObjectKey,
        /// The rule's place in its list, from 0.
        rule: usize,
        /// Whether it allows.
        allowed: bool,
    },
    /// Policies of a tier select the pod in this direction, no rule of theirs fits, and the tier denies what it does not decide.
    TierDefault {
        /// The tier.
        tier: String,
        /// Its policies that select the pod, in order.
        policies: Vec<ObjectKey>,
    },
}

impl Reason {
    /// Whether it is a reason to let the flow pass.
    pub const fn allows(&self) -> bool {
        match self {
            Self::NotAPod | Self::Itself | Self::OwnNode | Self::NotIsolated | Self::LeftOver => true,
            Self::Tunnel | Self::Spoofed | Self::EndpointToHost | Self::ServiceLoop | Self::TierDefault { .. } => false,
            Self::Rule { allowed, .. } => *allowed,
        }
    }
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A policy that selects the pod.
    Policy(Asked),
    /// The end of a tier that did not decide by a rule.
    TierEnd {
        /// The tier.
        tier: String,
        /// What it does with what no rule decided: Deny or Pass.
        action: Action,
    },
}

/// A policy that was asked, and what it said.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// Its tier.
    pub tier: String,
    /// The policy.
    pub policy: ObjectKey,
    /// Its order within the tier; none for the last.
    pub order: Option<f64>,
    /// Whether it is staged: it says what it would do, and does nothing.
    pub staged: bool,
    /// How many rules it has in this direction.
    pub rules: usize,
    /// The rules that were looked at, from the first on, up to the one that decides.
    pub looked_at: Vec<LookedAt>,
    /// The rule that decides, from 0, and what it does: Allow, Deny or Pass.
    pub decides: Option<(usize, Action)>,
}

/// A rule that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookedAt {
    /// What it does with what it fits.
    pub action: Action,
    /// What of it does not fit the flow; nothing if it fits.
    pub misfits: Vec<Misfit>,
    /// The members of its sets by which it fits, or that it excludes: `NetworkSet demo/partners, 192.0.2.0/24`.
    pub members: Vec<String>,
}

/// What of a rule does not fit a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// The other end is none of its peers.
    Peer,
    /// The port is none of its ports.
    Port,
    /// A field of it, and why it does not hold: `source.selector`, `does not select demo/web`.
    Field {
        /// The field, within the rule.
        field: String,
        /// Why it does not hold.
        why: String,
    },
}
