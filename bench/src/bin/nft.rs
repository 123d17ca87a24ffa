//! How long the kernel's nf_tables takes to change: raw netlink bytes prepared beforehand, which no encoder can beat, our executor,
//! and `nft -f`. In turn, each round in a network namespace of its own.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, unshare};
use tortie_bench::raw::{self, Raw};
use tortie_bench::{Work, nft_load, report};
use tortie_nft::{Key, KeyType, Ruleset, Set, Value};
use tortie_nft_netlink::NftSocket;

/// Elements of the large batch.
const ELEMENTS: u32 = 10_000;
/// How often each measurement is taken.
const ROUNDS: usize = 9;
/// The first address.
const FIRST: u32 = 0x0a00_0000;

fn ruleset(elements: impl Iterator<Item = u32>) -> Ruleset {
    let elements = elements.map(|i| -> Key { vec![Value::Addr(Ipv4Addr::from(FIRST + i).into())] }).collect();
    let set = Set { key: vec![KeyType::Ipv4Addr], interval: false, elements, comment: None };
    Ruleset { sets: [("pods".to_owned(), set)].into(), ..Ruleset::default() }
}

fn new_netns() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("a new network namespace (needs root)")
}

/// The two pieces of work, as everybody does them.
struct Works {
    batch: Work,
    change: Work,
}

impl Works {
    fn ours(&mut self, all: &Ruleset, other: &Ruleset) -> Result<()> {
        new_netns()?;
        let mut socket = NftSocket::open()?;
        self.batch.time("tortie (diff and executor)", || socket.apply(&Ruleset::default().diff(all)))?;
        let transaction = all.diff(other);
        self.change.time("tortie (executor)", || socket.apply(&transaction))?;
        Ok(())
    }

    fn nft(&mut self, load: &str, edit: &str) -> Result<()> {
        new_netns()?;
        self.batch.time("nft -f", || nft_load(load)).map_err(anyhow::Error::msg)?;
        self.change.time("nft -f", || nft_load(edit)).map_err(anyhow::Error::msg)
    }

    fn raw(&mut self, load: &[u8], edit: &[u8]) -> Result<()> {
        new_netns()?;
        let fd = raw::open().map_err(anyhow::Error::msg)?;
        self.batch.time("raw netlink, prepared bytes", || raw::exchange(&fd, load)).map_err(anyhow::Error::msg)?;
        self.change.time("raw netlink, prepared bytes", || raw::exchange(&fd, edit)).map_err(anyhow::Error::msg)
    }
}

/// The large batch and the change of one element, as bytes.
fn prepared() -> (Vec<u8>, Vec<u8>) {
    let mut load = Raw::new("raw");
    load.add_table();
    load.add_set("pods");
    load.elements(true, "pods", &(FIRST..FIRST + ELEMENTS).collect::<Vec<_>>());
    let mut edit = Raw::new("raw");
    edit.elements(false, "pods", &[FIRST]);
    edit.elements(true, "pods", &[FIRST + ELEMENTS]);
    (load.finish(), edit.finish())
}

fn main() -> Result<()> {
    let (all, other) = (ruleset(0..ELEMENTS), ruleset(1..=ELEMENTS));
    let (load, edit) = (Ruleset::default().diff(&all).to_string(), all.diff(&other).to_string());
    let (raw_load, raw_edit) = prepared();
    let mut works = Works {
        batch: Work::new("batch of 10,000 set elements", ELEMENTS as usize),
        change: Work::new("one element goes, one comes", 1),
    };
    for _ in 0..ROUNDS {
        works.raw(&raw_load, &raw_edit)?;
        works.ours(&all, &other)?;
        works.nft(&load, &edit)?;
    }
    report(&[works.batch.rows(), works.change.rows()].concat()).map_err(anyhow::Error::msg)
}
