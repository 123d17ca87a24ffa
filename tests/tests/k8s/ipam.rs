//! IPAM's own suite on a real API server: its compare-and-swap is what keeps two nodes from giving out one address.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use tortie_datastore::Datastore;
use tortie_datastore::kubernetes::Kubernetes;
use tortie_tests::k8s::ApiServer;

use crate::datastore::{apply_crds, run};

#[path = "../../../cni/tests/suite/mod.rs"]
#[allow(dead_code, reason = "who brings a stage chooses what to play on it")]
mod suite;

use suite::{Fault, Stage};

/// Every agent has a connection of its own.
struct OnCluster(ApiServer);

impl OnCluster {
    fn start() -> Self {
        let server = ApiServer::start();
        apply_crds(&server);
        let metadata = json!({"name": "default", "namespace": "web"});
        server.apply(&[
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "web"}}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
        ]);
        Self(server)
    }
}

#[async_trait]
impl Stage for OnCluster {
    async fn set(&self, manifests: &[Value]) {
        self.0.kubectl(&["delete", "pods", "-n", "web", "--all", "--force", "--grace-period=0"]);
        self.0.kubectl(&[
            "delete",
            "nodes,ippools,ipamblocks,blockaffinities,ipamhandles,ipreservations,ipamconfigurations",
            "--all",
        ]);
        self.0.apply(manifests);
    }

    async fn open(&self) -> Arc<dyn Datastore> {
        Arc::new(Kubernetes::new(Some(&self.0.kubeconfig()), "agent").await.expect("a kubeconfig"))
    }
}

#[test]
fn nodes_race_for_blocks_and_addresses() {
    let stage = OnCluster::start();
    run(async {
        suite::last_blocks(&stage).await;
        suite::last_addresses(&stage).await;
        suite::takers_and_givers(&stage).await;
    });
}

#[test]
fn every_write_may_be_the_last_one() {
    let stage = OnCluster::start();
    run(async {
        let failures = suite::every_write_may_be_the_last(&stage, &[Fault::DiesAfter, Fault::Unanswered]).await;
        assert!(failures > 20, "{failures} failures are not every write");
    });
}
