//! Objects that agents own: several writers, in threads and in processes, lose nothing.
#![allow(missing_docs, reason = "a test")]

mod common;

use std::process::{Command, Stdio};

use common::Follower;
use serde_json::json;
use tortie_api::calico::IpamBlock;
use tortie_api::{Kind, Object, ObjectKey};
use tortie_datastore::directory::{self, Directory};
use tortie_datastore::{Datastore, Error};

const WRITERS: usize = 8;
const ROUNDS: u64 = 200;

fn block(name: &str) -> Object {
    let block: IpamBlock = serde_json::from_value(json!({"metadata": {"name": name},
        "spec": {"cidr": "10.244.0.0/30", "affinity": "host:n1", "allocations": [null, null, null, null], "unallocated": [0, 1, 2, 3]}}))
    .unwrap();
    Object::IpamBlock(block)
}

fn sequence(object: &mut Object) -> &mut u64 {
    match object {
        Object::IpamBlock(block) => &mut block.spec.sequence_number,
        _ => panic!("not a block"),
    }
}

/// Increments a block's number, again and again until each increment is in.
async fn increment(directory: &Directory, key: &ObjectKey, rounds: u64) {
    for _ in 0..rounds {
        loop {
            let mut object = directory.get(key).await.unwrap();
            *sequence(&mut object) += 1;
            match directory.update(&object).await {
                Ok(_) => break,
                Err(Error::Conflict(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_lose_no_increment() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = Directory::open(scratch.path()).unwrap();
    let created = directory.create(&block("b")).await.unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let directory = Directory::open(scratch.path()).unwrap();
            let key = created.key();
            tokio::spawn(async move { increment(&directory, &key, ROUNDS).await })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let mut last = directory.get(&created.key()).await.unwrap();
    assert_eq!(*sequence(&mut last), WRITERS as u64 * ROUNDS);
}

/// What the other processes of the next test run; by itself it does nothing.
#[tokio::test]
async fn helper_increment() {
    let Some(path) = std::env::var_os("TORTIE_TEST_DIRECTORY") else { return };
    let directory = Directory::open(path).unwrap();
    increment(&directory, &block("b").key(), ROUNDS).await;
}

#[tokio::test]
async fn processes_lose_no_increment_and_watchers_see_the_end() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = Directory::open(scratch.path()).unwrap();
    let mut follower = Follower::new(&directory).await;
    let key = directory.create(&block("b")).await.unwrap().key();
    let children: Vec<_> = (0..WRITERS)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "helper_increment"])
                .env("TORTIE_TEST_DIRECTORY", scratch.path())
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let mut last = directory.get(&key).await.unwrap();
    assert_eq!(*sequence(&mut last), WRITERS as u64 * ROUNDS);
    follower.until("the last number", |this| this.objects.get(&key) == Some(&last)).await;
    follower.caught_up(scratch.path()).await;
    assert_eq!(follower.problems(), "");
    assert_eq!(follower.last.revision, directory::revision(scratch.path()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_creators_one_wins() {
    let scratch = tempfile::tempdir().unwrap();
    let creators: Vec<_> = (0..WRITERS)
        .map(|_| {
            let directory = Directory::open(scratch.path()).unwrap();
            tokio::spawn(async move { directory.create(&block("b")).await })
        })
        .collect();
    let mut won = 0;
    for creator in creators {
        match creator.await.unwrap() {
            Ok(_) => won += 1,
            Err(error) => assert!(matches!(error, Error::AlreadyExists(_)), "{error}"),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn versions_guard_every_write() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = Directory::open(scratch.path()).unwrap();
    let key = block("b").key();
    assert!(matches!(directory.update(&block("b")).await, Err(Error::NotFound(_))));
    assert!(matches!(directory.delete(&key, "1").await, Err(Error::NotFound(_))));
    let first = directory.create(&block("b")).await.unwrap();
    assert!(matches!(directory.update(&block("b")).await, Err(Error::Conflict(_))), "no version is no match");
    let second = directory.update(&first).await.unwrap();
    assert!(matches!(directory.update(&first).await, Err(Error::Conflict(_))));
    let version = |object: &Object| object.metadata().resource_version.clone().unwrap();
    assert!(matches!(directory.delete(&key, &version(&first)).await, Err(Error::Conflict(_))));
    assert_eq!(directory.get(&key).await.unwrap(), second);
    assert_eq!(directory.list(Kind::IpamBlock).await.unwrap(), std::slice::from_ref(&second));
    directory.delete(&key, &version(&second)).await.unwrap();
    assert!(matches!(directory.get(&key).await, Err(Error::NotFound(_))));
    // Deleted and made again is not what it was.
    let again = directory.create(&block("b")).await.unwrap();
    assert!(matches!(directory.update(&first).await, Err(Error::Conflict(_))));
    assert_ne!(again.metadata().uid, first.metadata().uid);
}

#[tokio::test]
async fn what_could_not_be_read_again_is_not_written() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = Directory::open(scratch.path()).unwrap();
    let mut object = block("b");
    if let Object::IpamBlock(block) = &mut object {
        block.spec.allocations.pop();
    }
    let error = directory.create(&object).await.unwrap_err();
    assert!(error.to_string().contains("spec.allocations"), "{error}");
    let mut other = block("../../escape");
    assert!(directory.create(&other).await.is_err());
    other.metadata_mut().name = "b".to_owned();
    directory.create(&other).await.unwrap();
}

#[tokio::test]
async fn a_write_that_fails_leaves_the_old_object() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = Directory::open(scratch.path()).unwrap();
    let first = directory.create(&block("b")).await.unwrap();
    // A crash leaves its temporary file behind at worst, which nobody reads.
    let place = scratch.path().join(".tortie/objects/IPAMBlock");
    std::fs::write(place.join(".tmp-1-1"), "{").unwrap();
    assert_eq!(directory.list(Kind::IpamBlock).await.unwrap(), [first]);
    let follower = Follower::new(&directory).await;
    assert_eq!((follower.names(), follower.problems()), (vec!["IPAMBlock b".to_owned()], String::new()));
}

#[tokio::test]
async fn a_spoilt_object_is_told_with_a_remedy_and_never_overwritten() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = Directory::open(scratch.path()).unwrap();
    let created = directory.create(&block("b")).await.unwrap();
    directory.create(&block("c")).await.unwrap();
    assert_eq!(directory.object_problems(Kind::IpamBlock).await.unwrap(), []);
    let file = scratch.path().join(".tortie/objects/IPAMBlock/b.json");
    std::fs::write(&file, "spoilt").unwrap();
    let fresh = Directory::open(scratch.path()).unwrap();
    for error in [
        fresh.get(&created.key()).await.unwrap_err(),
        fresh.update(&created).await.unwrap_err(),
        fresh.create(&block("b")).await.unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(error.contains("b.json: IPAMBlock b cannot be read") && error.contains("restore the file"), "{error}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "spoilt");
    let problems = fresh.object_problems(Kind::IpamBlock).await.unwrap();
    assert!(matches!(&problems[..], [only] if only.message.contains("restore the file")), "{problems:?}");
    assert_eq!(fresh.list(Kind::IpamBlock).await.unwrap().len(), 1);
}
