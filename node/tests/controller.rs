//! The controller of two agents: one leads, the other takes over when it dies; what is abandoned is given back, and nothing else.

mod common;

use std::sync::Arc;

use common::{Fabric, until};
use serde_json::json;
use tortie_api::{Kind, Object};
use tortie_cni::ipam::{Claim, Ipam, RequestedPools};
use tortie_datastore::Datastore;
use tortie_datastore::directory::Directory;

/// Gives an address to a pod that is in no datastore, as an ADD does whose pod is gone before it ends.
async fn leak(store: &Arc<Directory>, node: &str) {
    let claim = Claim {
        handle: format!("tortie.lost-{node}.eth0"),
        namespace: "default".into(),
        pod: format!("lost-{node}"),
        pinned: None,
        pools: RequestedPools::default(),
        tunnel: None,
    };
    Ipam::new(Arc::clone(store) as _, node).assign(&claim).await.expect("addresses");
}

/// The handles that hold addresses, and the nodes that own blocks.
async fn books(store: &Arc<Directory>) -> (Vec<String>, Vec<String>) {
    let (mut handles, mut owners) = (Vec::new(), Vec::new());
    for object in store.list(Kind::IpamBlock).await.expect("blocks") {
        let Object::IpamBlock(block) = object else { continue };
        owners.extend(block.spec.node().map(str::to_owned));
        handles.extend(block.spec.attributes.into_iter().filter_map(|attribute| attribute.handle_id));
    }
    for list in [&mut handles, &mut owners] {
        list.sort();
        list.dedup();
    }
    (handles, owners)
}

fn leader(fabric: &Fabric) -> Option<String> {
    let file = fabric.folder.path().join("datastore/.tortie/controller.lead");
    std::fs::read_to_string(file).ok().map(|text| text.trim().to_owned()).filter(|name| !name.is_empty())
}

#[tokio::test]
async fn one_leads_and_gives_back_what_is_abandoned() {
    let mut fabric = Fabric::new().await;
    for name in ["one", "two"] {
        let number = fabric.plug(name).await;
        let flags = ["--components", "felix,bgp,cni,controller", "--leak-grace-period", "1"];
        fabric.nodes[number].flags = flags.map(str::to_owned).to_vec();
        fabric.nodes[number].start();
    }
    fabric.settle().await;
    let store = Arc::new(Directory::open(fabric.folder.path().join("datastore")).expect("a directory"));
    fabric.pod("web", &json!({}), "two");
    let web = fabric.start_pod("web", 1);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "three"}});
    fabric.apply("node-three", std::slice::from_ref(&node));
    leak(&store, "two").await;
    leak(&store, "three").await;
    let kept = vec!["tortie.container-web.eth0".to_owned()];
    until("what no pod has is returned", || async { (books(&store).await.0 == kept).then_some(()) }).await;
    assert_eq!(books(&store).await.1, ["three", "two"], "a node that is there keeps its last block");
    fabric.delete("node-three");
    until("a node that is gone gives back its blocks", || async { (books(&store).await.1 == ["two"]).then_some(()) })
        .await;

    // Whoever leads dies, and the other goes on.
    let first = leader(&fabric).expect("somebody leads");
    let number = fabric.nodes.iter().position(|node| node.name == first).expect("one of the two");
    fabric.nodes[number].kill();
    until("the other leads", || async { leader(&fabric).filter(|name| *name != first) }).await;
    leak(&store, "two").await;
    until("the other returns what no pod has", || async { (books(&store).await.0 == kept).then_some(()) }).await;
    let ips = store.list(Kind::Pod).await.expect("pods").iter().any(|object| {
        matches!(object, Object::Pod(pod) if pod.metadata.name == "web" && pod.addresses().contains(&web.ip(true)))
    });
    assert!(ips, "the pod that runs has its address all the while");
}

#[tokio::test]
async fn a_mistake_in_the_default_pools_is_told_at_the_start() {
    let mut fabric = Fabric::new().await;
    let number = fabric.plug("one").await;
    fabric.nodes[number].flags = ["--components", "controller"].map(str::to_owned).to_vec();
    let output = fabric.nodes[number].command().env("CALICO_IPV4POOL_CIDR", "10.0.0/8").output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(text.contains("CALICO_IPV4POOL_") && text.contains("must be a valid CIDR"), "{text}");
}
