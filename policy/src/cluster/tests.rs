//! What comes, what is noted of it, and that all of it can go.

use tortie_api::ObjectMeta;
use tortie_api::k8s::{LabelSelector, Namespace, NetworkPolicy, NetworkPolicySpec, PodIp};

use super::*;

fn pod(name: &str, ip: &str, labels: &[(&str, &str)]) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.namespace = Some("demo".to_owned());
    pod.metadata.name = name.to_owned();
    pod.metadata.labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    pod.status.pod_ips.push(PodIp { ip: ip.parse().expect("an address") });
    pod
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    let namespace = (kind != Kind::Namespace).then(|| "demo".to_owned());
    ObjectKey { kind, namespace, name: name.to_owned() }
}

#[test]
fn only_what_policy_sees_is_relevant() {
    let mut cluster = Cluster::default();
    let mut web = pod("web", "10.0.0.1", &[("app", "web")]);
    assert!(cluster.upsert(&Object::Pod(web.clone())), "a new pod");
    assert!(!cluster.upsert(&Object::Pod(web.clone())), "the same again");
    web.spec.node_name = Some("n1".to_owned());
    assert!(!cluster.upsert(&Object::Pod(web.clone())), "its node");
    web.metadata.annotations.insert("other".to_owned(), "thing".to_owned());
    assert!(!cluster.upsert(&Object::Pod(web.clone())), "an annotation");
    web.metadata.labels.insert("tier".to_owned(), "front".to_owned());
    assert!(cluster.upsert(&Object::Pod(web.clone())), "a label");
    web.status.phase = Some("Succeeded".to_owned());
    assert!(cluster.upsert(&Object::Pod(web.clone())), "its end");
    web.metadata.labels.clear();
    assert!(!cluster.upsert(&Object::Pod(web)), "a label of a pod that has ended");
    assert!(!cluster.remove(&key(Kind::Pod, "web")));
    assert!(!cluster.remove(&key(Kind::Pod, "web")));
}

/// What a pod's maker wishes must not put somebody else's address into the sets that policies compile to.
#[test]
fn a_pod_has_only_the_addresses_of_its_status() {
    let mut cluster = Cluster::default();
    let mut web = pod("web", "10.0.0.1", &[("app", "web")]);
    for (name, value) in [("ipAddrs", "[\"10.0.0.9\"]"), ("podIPs", "10.0.0.9/32")] {
        web.metadata.annotations.insert(format!("cni.projectcalico.org/{name}"), value.to_owned());
    }
    let status = std::mem::take(&mut web.status);
    cluster.upsert(&Object::Pod(web.clone()));
    assert_eq!(cluster.pod("demo", "web").expect("a pod").ips().count(), 0);
    web.status = status;
    assert!(cluster.upsert(&Object::Pod(web)), "its address");
    let at = |ip: &str| cluster.endpoints_at(ip.parse().expect("an address")).count();
    assert_eq!((at("10.0.0.1"), at("10.0.0.9")), (1, 0));
}

#[test]
fn everything_that_came_can_go() {
    let mut cluster = Cluster::default();
    for name in ["a", "b"] {
        cluster.upsert(&Object::Pod(pod(name, "10.0.0.1", &[("app", "web")])));
    }
    assert_eq!(cluster.labels.len(), 2, "one label set of pods, one of the namespace");
    let mut metadata = ObjectMeta { name: "demo".to_owned(), ..ObjectMeta::default() };
    metadata.labels.insert("role".to_owned(), "prod".to_owned());
    assert!(cluster.upsert(&Object::Namespace(Namespace { metadata })));
    drop(cluster.take_changes());
    assert_eq!(cluster.labels.len(), 2);
    let policy = NetworkPolicy {
        metadata: ObjectMeta { name: "p".to_owned(), namespace: Some("demo".to_owned()), ..ObjectMeta::default() },
        spec: NetworkPolicySpec { pod_selector: LabelSelector::default(), ..NetworkPolicySpec::default() },
    };
    assert!(cluster.upsert(&Object::NetworkPolicy(policy.clone())));
    assert!(!cluster.upsert(&Object::NetworkPolicy(policy)));

    assert!(cluster.remove(&key(Kind::NetworkPolicy, "p")));
    assert!(cluster.remove(&key(Kind::Namespace, "demo")), "the pods lose their namespace's labels");
    assert!(cluster.remove(&key(Kind::Pod, "a")));
    assert!(cluster.remove(&key(Kind::Pod, "b")));
    assert!(!cluster.remove(&key(Kind::Namespace, "demo")));
    // What was noted of the changes has labels too.
    cluster.touch_all();
    cluster.labels.sweep();
    assert_eq!(cluster.labels.len(), 0);
    assert!(cluster.namespaces.is_empty() && cluster.pods.is_empty() && cluster.policies.is_empty());
}

#[test]
fn what_many_policies_say_is_kept_once_and_while_one_says_it() {
    let mut cluster = Cluster::default();
    let policy = |name: &str, app: &str| NetworkPolicy {
        metadata: ObjectMeta { name: name.to_owned(), namespace: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: NetworkPolicySpec {
            pod_selector: LabelSelector {
                match_labels: [("app".to_owned(), app.to_owned())].into(),
                ..LabelSelector::default()
            },
            ..NetworkPolicySpec::default()
        },
    };
    for name in ["a", "b", "c"] {
        assert!(cluster.upsert(&Object::NetworkPolicy(policy(name, "web"))));
        assert!(!cluster.upsert(&Object::NetworkPolicy(policy(name, "web"))), "the same again");
    }
    assert_eq!(cluster.policies.distinct(), 1);
    assert!(cluster.upsert(&Object::NetworkPolicy(policy("a", "db"))));
    let app = |cluster: &Cluster, namespace: &str| {
        let mut policies = cluster.policies();
        policies.retain(|policy| policy.namespace() == Some(namespace));
        let Spec::Kubernetes(spec) = &policies[0].spec else { panic!("{policies:?}") };
        spec.pod_selector.match_expressions[0].values[0].clone()
    };
    assert_eq!((app(&cluster, "a"), app(&cluster, "b")), ("db".to_owned(), "web".to_owned()));
    for n in 0..1_000 {
        assert!(cluster.upsert(&Object::NetworkPolicy(policy("a", &n.to_string()))));
    }
    assert!(cluster.policies.distinct() < 250, "{}", cluster.policies.distinct());
    assert_eq!(app(&cluster, "c"), "web");
}

#[test]
fn a_namespace_without_a_document_has_its_name_for_a_label() {
    let mut cluster = Cluster::default();
    cluster.upsert(&Object::Pod(pod("a", "10.0.0.1", &[])));
    let labels = cluster.namespaces().next().expect("the pod's namespace").labels.clone();
    assert_eq!(labels.iter().collect::<Vec<_>>(), [(NAMESPACE_NAME_LABEL, "demo")]);
}
