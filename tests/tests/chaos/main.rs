//! A cluster under disturbances, in an order that a seed decides: agents killed at any moment, stopped, fought by strangers; policies
//! and pods that come and go; links that fail.
//!
//! All the while streams and new connections cross the nodes ([`traffic`]), some of which every policy of the history allows and some
//! of which none does. Not one allowed packet may be lost but where a disturbance cuts the wire itself, and no denied one may arrive.
//! After each step the cluster must be exactly what somebody would make of its documents who never saw its history ([`settled`]).
//!
//! `TORTIE_SEED=N` repeats a history, as far as the machine's own timing lets it; `TORTIE_LONG=1` kills a thousand times.

mod change;
mod churn;
mod cluster;
mod disk;
mod disturb;
mod settled;
mod strangers;
mod traffic;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use cluster::Cluster;
use disturb::{Deck, Step};
use traffic::Traffic;

/// SplitMix64: small, and the same everywhere, so that a seed means the same history on every machine.
pub(crate) struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One of them.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let count = u64::try_from(from.len()).expect("a length");
        &from[usize::try_from(self.below(count)).expect("an index")]
    }
}

/// What decides all that is random in a test.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("TORTIE_SEED").ok().map_or_else(
        || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| u64::from(since.subsec_nanos())),
        |text| text.parse().expect("TORTIE_SEED is a number"),
    );
    println!("TORTIE_SEED={seed}");
    seed
}

#[test]
fn any_history_of_disturbances_ends_in_the_state_that_its_documents_ask_for() {
    let kills = if tortie_tests::long() { 1000 } else { 50 };
    let seed = seed();
    let (mut chance, mut deck) = (Chance(seed), Deck::default());
    let mut cluster = Cluster::up(3);
    cluster.wait_until_settled("the start");
    let mut traffic = Traffic::start(&cluster);
    let began = Instant::now();
    let mut killed = 0;
    let mut number = 0;
    while killed < kills {
        number += 1;
        let step = Step::choose(&mut deck, &mut chance, &cluster);
        let title = format!("seed {seed}, step {number}, {step:?}");
        println!("{:8.2} s  step {number}: {step:?}", began.elapsed().as_secs_f64());
        killed += step.kills();
        traffic.enter(&title);
        let holes = step.run(&mut cluster, &mut chance, &title);
        cluster.wait_until_settled(&title);
        traffic.check(&title, holes);
    }
    traffic.stop(&format!("seed {seed}, after step {number}"));
    println!("{killed} kills in {number} steps, {:.1} s", began.elapsed().as_secs_f64());
}
