//! How long things take, in few bytes: histograms for us, and summaries with quantiles where Calico has those.

use std::time::{Duration, Instant};

/// Counts by fixed upper bounds.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    /// Bounds in ascending order; what is above the last counts too.
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len()], count: 0, sum: 0.0 }
    }

    /// Takes a duration, in seconds.
    pub(crate) fn observe(&mut self, took: Duration) {
        let value = took.as_secs_f64();
        let place = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(place) {
            *count += 1;
        }
        self.count += 1;
        self.sum += value;
    }

    /// Each bound, and how many were at or below it.
    pub(crate) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut so_far = 0;
        self.bounds.iter().zip(&self.counts).map(move |(bound, count)| {
            so_far += count;
            (*bound, so_far)
        })
    }

    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    pub(crate) const fn sum(&self) -> f64 {
        self.sum
    }
}

/// A summary's quantiles are of the last ten minutes, as those of Prometheus' own client are by default: five slots of two minutes.
const SLOTS: usize = 5;
const SLOT: Duration = Duration::from_secs(120);

/// The buckets of a summary grow by an eighth, so a quantile is off by six hundredths at most.
const GROWTH: f64 = 1.125;

/// The lower end of the first bucket, and how many there are: up to 50,000.
const FIRST: f64 = 1e-6;
const BUCKETS: usize = 210;

type Counts = [u32; BUCKETS];

/// Quantiles of what was observed lately, and the sum and number of all.
#[derive(Debug)]
pub(crate) struct Summary {
    slots: Vec<Counts>,
    current: usize,
    /// When the current slot began.
    since: Instant,
    count: u64,
    sum: f64,
}

impl Summary {
    pub(crate) fn new(now: Instant) -> Self {
        Self { slots: vec![[0; BUCKETS]; SLOTS], current: 0, since: now, count: 0, sum: 0.0 }
    }

    /// Takes a duration, in seconds.
    pub(crate) fn observe(&mut self, took: Duration, now: Instant) {
        self.observe_value(took.as_secs_f64(), now);
    }

    /// Takes a value that is no duration.
    pub(crate) fn observe_value(&mut self, value: f64, now: Instant) {
        self.forget_old(now);
        let place = ((value.max(FIRST) / FIRST).ln() / GROWTH.ln()) as usize;
        if let Some(count) = self.slots[self.current].get_mut(place.min(BUCKETS - 1)) {
            *count = count.saturating_add(1);
        }
        self.count += 1;
        self.sum += value;
    }

    /// Lets go of what is older than the window.
    pub(crate) fn forget_old(&mut self, now: Instant) {
        let mut passed = 0;
        while now.saturating_duration_since(self.since) >= SLOT {
            self.since += SLOT;
            self.current = (self.current + 1) % SLOTS;
            self.slots[self.current] = [0; BUCKETS];
            passed += 1;
            if passed == SLOTS {
                // After a long silence all are empty, and the next window begins now.
                self.since = now;
            }
        }
    }

    /// The value that this share of those observed lately does not exceed.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.slots.iter().flatten().map(|count| u64::from(*count)).sum();
        let rank = (share * total as f64).ceil().max(1.0) as u64;
        let mut so_far = 0;
        for place in 0..BUCKETS {
            so_far += self.slots.iter().map(|slot| u64::from(slot[place])).sum::<u64>();
            if so_far >= rank {
                // The middle of the bucket, as growth has it.
                return Some(FIRST * GROWTH.powf(place as f64 + 0.5));
            }
        }
        None
    }

    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    pub(crate) const fn sum(&self) -> f64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_near_the_truth() {
        let start = Instant::now();
        let mut summary = Summary::new(start);
        assert_eq!(summary.quantile(0.5), None);
        for number in 1..=1000_u32 {
            summary.observe(Duration::from_micros(u64::from(number) * 10), start);
        }
        for (share, truth) in [(0.5, 0.005), (0.9, 0.009), (0.99, 0.0099)] {
            let quantile = summary.quantile(share).expect("samples");
            assert!((quantile / truth - 1.0).abs() < 0.07, "{share}: {quantile} for {truth}");
        }
        assert_eq!(summary.count(), 1000);
        assert!((summary.sum() - 5.005).abs() < 1e-9, "{}", summary.sum());
        // Values beyond either end count as the nearest.
        for value in [0.0, -1.0, 1e300, f64::INFINITY] {
            summary.observe_value(value, start);
        }
        assert!(summary.quantile(1.0).is_some_and(f64::is_finite));
    }

    #[test]
    fn what_is_old_leaves_the_quantiles_but_not_the_count() {
        let start = Instant::now();
        let mut summary = Summary::new(start);
        summary.observe(Duration::from_secs(100), start);
        let later = start + SLOT * 4;
        for _ in 0..3 {
            summary.observe(Duration::from_millis(1), later);
        }
        assert!(summary.quantile(1.0).is_some_and(|value| value > 90.0));
        summary.forget_old(start + SLOT * 5);
        assert!(summary.quantile(1.0).is_some_and(|value| value < 0.002));
        summary.forget_old(start + SLOT * 1_000_000);
        assert_eq!((summary.quantile(0.5), summary.count()), (None, 4));
    }
}
