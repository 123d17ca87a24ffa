//! Many nodes at once on pools that are just large enough, or too small.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tortie_cni::ipam::collector::Collector;
use tortie_cni::ipam::{Error, Ipam};

use super::{Books, Stage, claim, node, pool};

/// As many nodes as blocks, then more: each block goes to one node, and the others borrow; nobody gets an address twice, nor is one left.
pub(crate) async fn last_blocks(stage: &dyn Stage) {
    for (nodes, pods) in [(8_u32, 4_u32), (16, 2)] {
        // 8 blocks of 4.
        stage.set(&[pool("10.1.0.0/27", 30)]).await;
        let mut tasks = JoinSet::new();
        for node in 0..nodes {
            let ipam = Arc::new(Ipam::new(stage.open().await, format!("node-{node}")));
            for pod in 0..pods {
                let ipam = Arc::clone(&ipam);
                tasks.spawn(async move { ipam.assign(&claim(&format!("h{node}-{pod}"))).await.expect("an address") });
            }
        }
        let given: Vec<IpAddr> = tasks.join_all().await.into_iter().flatten().collect();
        assert_eq!((given.len(), given.iter().collect::<BTreeSet<_>>().len()), (32, 32));
        let store = stage.open().await;
        let books = Books::read(&store).await;
        books.check_settled();
        assert_eq!(books.blocks.len(), 8);
        let late = Ipam::new(store, "late");
        assert!(matches!(late.assign(&claim("late")).await, Err(Error::Exhausted { .. })));
    }
}

/// One address for each of many: who comes too late is told so, and holds nothing.
pub(crate) async fn last_addresses(stage: &dyn Stage) {
    stage.set(&[pool("10.1.0.0/29", 32), pool("fd00::/125", 128)]).await;
    let mut tasks = JoinSet::new();
    for node in 0..12 {
        let ipam = Ipam::new(stage.open().await, format!("node-{node}"));
        tasks.spawn(async move { ipam.assign(&claim(&format!("h{node}"))).await });
    }
    let mut given = Vec::new();
    let mut refused = 0;
    for result in tasks.join_all().await {
        match result {
            Ok(ips) => {
                assert_eq!(ips.len(), 2);
                given.extend(ips);
            }
            Err(Error::Exhausted { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    let books = Books::read(&stage.open().await).await;
    books.check_always();
    let held: BTreeSet<IpAddr> = books.held().into_values().flatten().collect();
    assert_eq!(held, given.iter().copied().collect(), "who was refused holds nothing");
    assert_eq!(held.len(), given.len());
    // Of two that each have half of the last pair, both may go away empty, but not everybody.
    assert!(given.len() >= 2 && refused >= 4, "{} given, {refused} refused", given.len());
}

/// Pods that come and go on every node, while the controller returns what nobody uses: it never takes what is in use.
pub(crate) async fn takers_and_givers(stage: &dyn Stage) {
    let nodes: Vec<String> = (0..4).map(|number| format!("node-{number}")).collect();
    let mut manifests = vec![pool("10.1.0.0/26", 29), pool("fd00::/122", 125)];
    manifests.extend(nodes.iter().map(|name| node(name)));
    stage.set(&manifests).await;
    let mut tasks = JoinSet::new();
    for node in &nodes {
        let ipam = Ipam::new(stage.open().await, node.clone());
        let node = node.clone();
        tasks.spawn(async move {
            let mut kept: Vec<(String, Vec<IpAddr>)> = Vec::new();
            for round in 0..20_usize {
                let handle = format!("{node}.c{round}.eth0");
                let ips = ipam.assign(&claim(&handle)).await.expect("addresses");
                kept.push((handle, ips));
                if round % 3 == 1 {
                    let (handle, ips) = kept.remove(round % kept.len());
                    let released: BTreeSet<IpAddr> =
                        ipam.release(&handle).await.expect("released").into_iter().collect();
                    assert_eq!(released, ips.into_iter().collect());
                }
                if kept.len() > 10 {
                    let (handle, _) = kept.remove(0);
                    ipam.release(&handle).await.expect("released");
                }
            }
            kept
        });
    }
    // Nothing looks abandoned for as long as the grace period, which is a day on the clock of these scans.
    let mut collector = Collector::new(stage.open().await, nodes[0].clone());
    let start = Instant::now();
    let mut kept = Vec::new();
    while !tasks.is_empty() {
        let scan = collector.scan(Instant::now(), Duration::from_secs(86_400)).await.expect("a scan");
        assert!(scan.returned.is_empty() && scan.affinities.is_empty() && scan.handles.is_empty(), "{scan:?}");
        while let Some(done) = tasks.try_join_next() {
            kept.extend(done.expect("done"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let books = Books::read(&stage.open().await).await;
    books.check_settled();
    let given: BTreeSet<IpAddr> = kept.iter().flat_map(|(_, ips)| ips.iter().copied()).collect();
    assert_eq!(given.len(), kept.len() * 2);
    assert_eq!(books.held().into_values().flatten().collect::<BTreeSet<IpAddr>>(), given);
    // There is not a single pod, so all of it goes once the time has come; each node keeps a block of each family.
    for hours in [0_u64, 25, 50, 75] {
        collector.scan(start + Duration::from_secs(hours * 3600), Duration::from_secs(86_400)).await.expect("a scan");
    }
    let books = Books::read(&stage.open().await).await;
    books.check_settled();
    assert!(books.held().is_empty() && books.handles.is_empty(), "{:?}", books.handles);
    assert!(books.blocks.len() <= 8, "{}", books.blocks.len());
}
