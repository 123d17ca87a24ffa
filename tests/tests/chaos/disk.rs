//! A node whose disk is full: first where the agent keeps its records, then where the datastore is.
//!
//! What is there stays as it is and goes on, also through a restart; a pod that cannot be recorded is refused by the system's own words,
//! and leaves nothing behind. Once there is room again, the same command succeeds.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::cluster::{Cluster, key, pod};
use crate::traffic::Traffic;

/// How much fits on a disk, in KiB.
const SIZE: u32 = 4096;

/// A small disk below one of the lab's directories. Dropping it takes it away, and what is on it.
struct Disk(PathBuf);

fn tool(program: &str, args: &[&Path]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Disk {
    /// Moves what is in a directory, which nobody may use meanwhile, to a disk.
    fn below(directory: PathBuf, scratch: &Path) -> Self {
        let everything = |directory: &Path| directory.join(".");
        std::fs::create_dir_all(scratch).expect("room for a copy");
        tool("cp", &["-a".as_ref(), &everything(&directory), scratch]);
        let options = format!("size={SIZE}k,mode=0700");
        tool("mount", &["-t".as_ref(), "tmpfs".as_ref(), "-o".as_ref(), options.as_ref(), "test".as_ref(), &directory]);
        let disk = Self(directory);
        tool("cp", &["-a".as_ref(), &everything(scratch), &disk.0]);
        disk
    }

    /// Hidden, so that nobody takes it for a manifest.
    fn ballast(&self) -> PathBuf {
        self.0.join(".ballast")
    }

    fn fill(&self) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.ballast()).expect("a file");
        let reason = loop {
            if let Err(error) = file.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(reason.kind(), ErrorKind::StorageFull, "{reason}");
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("the ballast is there");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, as the agent may use it still.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// A command fails because of the disk, and says so.
fn refused(cluster: &Cluster, document: &Value, title: &str) {
    let command = cluster.start_with_timeout("apply", std::slice::from_ref(document), "4s");
    let reason = Cluster::finish(command).expect_err(title);
    println!("{title}: {}", reason.trim().replace('\n', " "));
    let name = document["metadata"]["name"].as_str().expect("a name");
    let says = |words: &str| reason.contains(words);
    assert!(says("No space left on device") && says("`df -i`") && says(name), "{title}: {reason}");
}

fn succeed(cluster: &Cluster, verb: &str, document: &Value, title: &str) {
    Cluster::finish(cluster.start(verb, std::slice::from_ref(document)))
        .unwrap_or_else(|reason| panic!("{title}: {verb}: {reason}"));
}

fn settle_through_a_restart(cluster: &mut Cluster, title: &str) {
    cluster.wait_until_settled(title);
    cluster.agents[0].kill();
    cluster.restart(0);
    cluster.wait_until_settled(&format!("{title}, after a restart"));
}

#[test]
fn a_full_disk_takes_nothing_away_and_refuses_pods_by_its_name() {
    let mut cluster = Cluster::up(1);
    cluster.agents[0].kill();
    let below = |directory: &str| Disk::below(cluster.lab.path(directory), &cluster.lab.scratch(directory));
    let (records, datastore) = (below("nodes/node1"), below("datastore"));
    cluster.restart(0);
    cluster.wait_until_settled("the start");
    let mut traffic = Traffic::start(&cluster);
    let guest = pod("guests", "guest", "guest", "node1");
    let policy = |port: u16| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "disk", "namespace": "chaos"},
            "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [{"ports": [{"protocol": "UDP", "port": port}]}]}})
    };

    traffic.enter("full records");
    records.fill();
    refused(&cluster, &guest, "a guest where the records are full");
    succeed(&cluster, "delete", &guest, "where the records are full");
    // Rules need no record.
    succeed(&cluster, "apply", &policy(9000), "where the records are full");
    cluster.documents.insert(key(&policy(9000)), policy(9000));
    settle_through_a_restart(&mut cluster, "the records are full");
    // Its document stays this time.
    refused(&cluster, &guest, "a guest where the records are still full");
    records.free();
    traffic.check("full records", Vec::new());

    traffic.enter("full datastore");
    datastore.fill();
    refused(&cluster, &guest, "a known guest where the datastore is full");
    succeed(&cluster, "delete", &guest, "where the datastore is full");
    // What was deleted made room.
    datastore.fill();
    refused(&cluster, &guest, "an unknown guest where the datastore is full");
    refused(&cluster, &policy(9001), "a changed policy where the datastore is full");
    settle_through_a_restart(&mut cluster, "the datastore is full");
    datastore.free();
    traffic.check("full datastore", Vec::new());

    traffic.enter("room");
    for document in [guest, policy(9001)] {
        succeed(&cluster, "apply", &document, "with room again");
        cluster.documents.insert(key(&document), document);
    }
    settle_through_a_restart(&mut cluster, "there is room again");
    traffic.stop("room");
}
