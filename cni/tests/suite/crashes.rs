//! A node whose every write may fail, or be its last; then a new run of its agent, and the controller, which repair what is left.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tortie_cni::ipam::Ipam;
use tortie_cni::ipam::collector::Collector;
use tortie_datastore::Datastore;

use super::faulty::{Fault, Faulty};
use super::{Books, Claim, Stage, claim, node, pod, pool};

const GRACE: Duration = Duration::from_secs(900);

/// What an agent does before its writes begin to fail: a pod that stays.
const STAYS: &str = "one.stays.eth0";

/// The work during which it fails: pods come, so many that another block is needed, one of them pinned, and all of them go.
async fn work(ipam: &Ipam) -> Result<(), tortie_cni::ipam::Error> {
    let pinned = Claim { pinned: Some(vec!["10.9.0.3".parse().expect("an address")]), ..claim("one.pinned.eth0") };
    let claims = [claim("one.a.eth0"), claim("one.b.eth0"), pinned];
    for claim in &claims {
        ipam.assign(claim).await?;
    }
    for claim in &claims {
        ipam.release(&claim.handle).await?;
    }
    Ok(())
}

/// For each way to fail, and each write of the work: the books are sound just after it, the pod that stays keeps its addresses, and the
/// agent's next run and the controller leave no trace of the work. Returns how often something failed.
pub(crate) async fn every_write_may_be_the_last(stage: &dyn Stage, faults: &[Fault]) -> u32 {
    let mut failures = 0;
    for fault in faults.iter().copied() {
        for at in 0.. {
            // Blocks of two addresses: the second pod needs another one.
            let mut asked = pool("10.9.0.0/30", 31);
            asked["spec"]["assignmentMode"] = "Manual".into();
            let manifests = [
                asked,
                pool("10.1.0.0/28", 31),
                pool("fd00::/124", 127),
                node("one"),
                node("other"),
                pod(STAYS, "one"),
            ];
            stage.set(&manifests).await;
            let store = stage.open().await;
            let stays = Ipam::new(Arc::clone(&store), "one").assign(&claim(STAYS)).await.expect("addresses");
            let faulty = Faulty::new(Arc::clone(&store), fault, at);
            let result = work(&Ipam::new(Arc::clone(&faulty) as Arc<dyn Datastore>, "one")).await;
            if !faulty.has_failed() {
                result.expect("nothing failed");
                break;
            }
            failures += 1;
            let what = format!("{fault:?} at write {at}: {result:?}");
            let books = Books::read(&store).await;
            books.check_always();
            assert_eq!(books.held().get(STAYS), Some(&stays.iter().copied().collect()), "{what}");
            repair(&store, &what).await;
            let books = Books::read(&store).await;
            books.check_settled();
            let held: Vec<(String, BTreeSet<IpAddr>)> = books.held().into_iter().collect();
            assert_eq!(held, [(STAYS.to_owned(), stays.into_iter().collect())], "{what}");
        }
    }
    failures
}

/// The agent's next run gives back what no attachment has, and works on; the controller deletes what leads nowhere.
async fn repair(store: &Arc<dyn Datastore>, what: &str) {
    let ipam = Ipam::new(Arc::clone(store), "one");
    for holder in ipam.holders().await.expect("holders") {
        if holder.handle != STAYS {
            ipam.release(&holder.handle).await.expect(what);
        }
    }
    ipam.assign(&claim("one.next.eth0")).await.expect(what);
    ipam.release("one.next.eth0").await.expect(what);
    let mut collector = Collector::new(Arc::clone(store), "other");
    let start = Instant::now();
    for round in 0..3 {
        collector.scan(start + GRACE * round, GRACE).await.expect(what);
    }
}
