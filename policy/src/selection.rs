//! Who is meant: selections of endpoints and network sets by their labels, as policies write them, in one canonical form.
//!
//! Kubernetes and Calico differ in what they select from and in which labels they see. A [`Selection`] says both, so that whoever
//! evaluates, files or names one need not know whose it was. Two that are written differently and mean the same become equal as far as
//! that can be seen without looking at pods.
//!
//! What a selection sees of an endpoint is a [`Seen`]. Calico's selectors see more than the labels that people set:
//! - `projectcalico.org/namespace`, `projectcalico.org/orchestrator` and `projectcalico.org/serviceaccount`, which nobody can set;
//! - `pcns.KEY` for each label of the namespace, and `pcsa.KEY` for each of the service account, unless the endpoint has such a label;
//! - of a host endpoint, the labels that its profiles apply.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use tortie_api::calico::{EntityRule, PolicySpec, ServiceAccountMatch};
use tortie_api::k8s::{LabelSelector, NetworkPolicyPeer};
use tortie_api::selector::Selector;

use crate::labels::Labels;

/// The label that Calico gives what is in a namespace: its name.
pub(crate) const NAMESPACE: &str = "projectcalico.org/namespace";

/// The label that Calico gives pods: `k8s`.
pub(crate) const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";

/// The label that Calico gives pods: the name of their service account.
pub(crate) const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";

/// The label by which selectors of namespaces and of service accounts see their name.
pub(crate) const NAME: &str = "projectcalico.org/name";

/// What the labels begin with that are inherited of the namespace.
pub(crate) const NAMESPACE_PREFIX: &str = "pcns.";

/// What the labels begin with that are inherited of the service account.
pub(crate) const SERVICE_ACCOUNT_PREFIX: &str = "pcsa.";

/// What something is that selections may select.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Species {
    /// A pod.
    Pod,
    /// A HostEndpoint.
    Host,
    /// A NetworkSet or a GlobalNetworkSet.
    Nets,
}

/// What selectors see of a pod, a host endpoint or a network set. It stands for itself, whatever becomes of what was seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Seen {
    /// What it is.
    pub(crate) species: Species,
    /// The name of its namespace, if it is in one.
    pub(crate) namespace: Option<Arc<str>>,
    /// Its own labels; of a host endpoint, those too that its profiles apply.
    pub(crate) labels: Labels,
    /// Its namespace's labels.
    pub(crate) namespace_labels: Labels,
    /// Of a pod, the name of its service account, and that account's labels.
    pub(crate) service_account: Option<(Arc<str>, Labels)>,
}

impl Seen {
    /// The value of a label as Calico's selectors see it.
    pub(crate) fn label<'a>(&'a self, key: &str) -> Option<&'a str> {
        let account = self.service_account.as_ref();
        match key {
            NAMESPACE => return self.namespace.as_deref(),
            ORCHESTRATOR => return (self.species == Species::Pod).then_some("k8s"),
            SERVICE_ACCOUNT if self.species == Species::Pod => return account.map(|(name, _)| &**name),
            _ => {}
        }
        if let Some(value) = self.labels.get(key) {
            return Some(value);
        }
        if let Some(key) = key.strip_prefix(NAMESPACE_PREFIX) {
            self.namespace_label(key)
        } else if let Some(key) = key.strip_prefix(SERVICE_ACCOUNT_PREFIX) {
            self.service_account_label(key)
        } else {
            None
        }
    }

    /// The value of a label of the namespace, its name included.
    pub(crate) fn namespace_label<'a>(&'a self, key: &str) -> Option<&'a str> {
        let name = self.namespace.as_deref()?;
        if key == NAME { Some(name) } else { self.namespace_labels.get(key) }
    }

    /// The value of a label of the service account, its name included.
    pub(crate) fn service_account_label<'a>(&'a self, key: &str) -> Option<&'a str> {
        let (name, labels) = self.service_account.as_ref()?;
        if key == NAME { Some(name) } else { labels.get(key) }
    }
}

/// A selection of endpoints, and unless it is of pods only, of network sets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Selection {
    /// In which namespaces.
    pub(crate) scope: Scope,
    /// With which labels.
    pub(crate) labels: Selector,
    /// As which service accounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service_accounts: Option<ServiceAccounts>,
    /// Whether it is Kubernetes' own: then it selects pods only, by the labels that people gave them.
    pub(crate) pods_only: bool,
}

/// Where a selection selects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) enum Scope {
    /// In every namespace and in none.
    Everywhere,
    /// In the namespace of that name.
    Namespace(String),
    /// In the namespaces that the selector selects.
    Namespaces(Selector),
    /// What is in no namespace.
    Global,
}

impl Scope {
    /// The scope of a `namespaceSelector` of Calico's.
    pub(crate) fn of_selector(selector: &Selector) -> Self {
        if selector.is_global() { Self::Global } else { Self::Namespaces(selector.clone()) }
    }

    fn has(&self, seen: &Seen) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Namespace(name) => seen.namespace.as_deref() == Some(name),
            Self::Namespaces(selector) => {
                seen.namespace.is_some() && selector.matches_with(&|key| seen.namespace_label(key))
            }
            Self::Global => seen.namespace.is_none(),
        }
    }
}

/// Service accounts: all that is asked for must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct ServiceAccounts {
    /// One of these names; none is any.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) names: BTreeSet<String>,
    /// With such labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) selector: Option<Selector>,
}

impl From<&ServiceAccountMatch> for ServiceAccounts {
    fn from(accounts: &ServiceAccountMatch) -> Self {
        Self { names: accounts.names.iter().cloned().collect(), selector: accounts.selector.clone() }
    }
}

impl ServiceAccounts {
    fn has(&self, seen: &Seen) -> bool {
        let Some((name, _)) = &seen.service_account else { return false };
        (self.names.is_empty() || self.names.contains(&**name))
            && self
                .selector
                .as_ref()
                .is_none_or(|selector| selector.matches_with(&|key| seen.service_account_label(key)))
    }
}

/// What the selectors of a rule's end say: who is in, and who is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EntitySelections {
    /// Whose addresses match; anyone's if there is none.
    pub(crate) is: Option<Selection>,
    /// Whose addresses do not match, though they be `is`'s.
    pub(crate) is_not: Option<Selection>,
}

impl Selection {
    /// The pods of one namespace that a Kubernetes selector selects, or with no namespace of all.
    pub(crate) fn of_pods(scope: Scope, pods: &LabelSelector) -> Self {
        Self { scope, labels: pods.into(), service_accounts: None, pods_only: true }
    }

    /// The peers of a Kubernetes policy in `namespace`; `None` where the peer is a block of addresses, or the API refuses it.
    pub(crate) fn of_peer(namespace: &str, peer: &NetworkPolicyPeer) -> Option<Self> {
        if peer.ip_block.is_some() {
            return None;
        }
        let scope = match &peer.namespace_selector {
            Some(selector) => Scope::Namespaces(selector.into()),
            None => Scope::Namespace(namespace.to_owned()),
        };
        match &peer.pod_selector {
            Some(pods) => Some(Self::of_pods(scope, pods)),
            // Neither a block nor a selector: it selects nothing.
            None if peer.namespace_selector.is_none() => None,
            None => Some(Self::of_pods(scope, &LabelSelector::default())),
        }
    }

    /// What a rule's source or destination selects, in a policy in `namespace`, or in none. Networks, ports and Services are not among
    /// it: they match besides.
    ///
    /// In a policy of a namespace, `selector` and `serviceAccounts` mean that namespace unless there is a `namespaceSelector`, and a
    /// `notSelector` alone means what of the namespace it does not select.
    pub(crate) fn of_entity(namespace: Option<&str>, entity: &EntityRule) -> EntitySelections {
        let EntityRule { selector, not_selector, namespace_selector, service_accounts, .. } = entity;
        let scope = match (namespace_selector, namespace) {
            (Some(selector), _) => Scope::of_selector(selector),
            (None, Some(namespace)) => Scope::Namespace(namespace.to_owned()),
            (None, None) => Scope::Everywhere,
        };
        let asks = selector.is_some() || namespace_selector.is_some() || service_accounts.is_some();
        let is_scoped = namespace.is_some() && not_selector.is_some();
        EntitySelections {
            is: (asks || is_scoped).then(|| Self {
                scope,
                labels: selector.clone().unwrap_or_default(),
                service_accounts: service_accounts.as_ref().map(ServiceAccounts::from),
                pods_only: false,
            }),
            is_not: not_selector.as_ref().map(|labels| Self {
                scope: Scope::Everywhere,
                labels: labels.clone(),
                service_accounts: None,
                pods_only: false,
            }),
        }
    }

    /// The endpoints that a Calico policy in `namespace`, or in none, governs.
    pub(crate) fn of_subject(namespace: Option<&str>, spec: &PolicySpec) -> Self {
        let scope = match (namespace, &spec.namespace_selector) {
            (Some(namespace), _) => Scope::Namespace(namespace.to_owned()),
            (None, Some(selector)) => Scope::of_selector(selector),
            (None, None) => Scope::Everywhere,
        };
        let service_accounts = spec
            .service_account_selector
            .as_ref()
            .map(|selector| ServiceAccounts { names: BTreeSet::new(), selector: Some(selector.clone()) });
        Self { scope, labels: spec.selector.clone(), service_accounts, pods_only: false }
    }

    /// Whether something is selected that is seen like this.
    pub(crate) fn selects(&self, seen: &Seen) -> bool {
        if self.pods_only && seen.species != Species::Pod {
            return false;
        }
        self.scope.has(seen)
            && self.service_accounts.as_ref().is_none_or(|accounts| accounts.has(seen))
            && if self.pods_only {
                self.labels.matches_with(&|key| seen.labels.get(key))
            } else {
                self.labels.matches_with(&|key| seen.label(key))
            }
    }

    /// Whether it may see a label of this key that is not the endpoint's own.
    pub(crate) fn sees_beyond_own(&self, key: &str) -> bool {
        !self.pods_only
            && (matches!(key, NAMESPACE | ORCHESTRATOR | SERVICE_ACCOUNT)
                || key.starts_with(NAMESPACE_PREFIX)
                || key.starts_with(SERVICE_ACCOUNT_PREFIX))
    }

    /// Whether a network set could be selected.
    pub(crate) fn may_have_nets(&self) -> bool {
        !self.pods_only && self.service_accounts.is_none()
    }
}
