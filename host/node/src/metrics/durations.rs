//! A histogram of durations that every call counts in, on any thread, without waiting for another.
//!
//! Each thread counts in one of some shards, which are added up when somebody reads.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};

/// Counts durations, by how long they are. Clones are the same thing.
#[derive(Clone, Debug)]
pub(super) struct Durations {
    shards: Arc<[Shard; SHARDS]>,
}

/// On a cache line of its own, or two.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    /// By bucket; the last one has what is longer than all bounds.
    counts: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

impl Durations {
    /// Counts one.
    pub(super) fn observe(&self, took: Duration) {
        let Shard { counts, nanos } = &self.shards[shard()];
        let bucket = BOUNDS.partition_point(|bound| *bound < took.as_secs_f64());
        counts[bucket].fetch_add(1, Relaxed);
        nanos.fetch_add(took.as_nanos() as u64, Relaxed);
    }

    fn sum(&self) -> f64 {
        let nanos = self.shards.iter().map(|shard| shard.nanos.load(Relaxed));
        nanos.fold(0, u64::wrapping_add) as f64 / 1e9
    }

    /// How many there were in each bucket, and its upper bound.
    fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]).enumerate();
        let count = |bucket: usize| {
            let counts = self
                .shards
                .iter()
                .map(|shard| shard.counts[bucket].load(Relaxed));
            counts.sum()
        };
        bounds
            .map(|(bucket, bound)| (bound, count(bucket)))
            .collect()
    }
}

impl Default for Durations {
    fn default() -> Self {
        Self {
            shards: Arc::new(std::array::from_fn(|_| Shard::default())),
        }
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let buckets = self.buckets();
        // The sum of what is written, so that the two agree while others count.
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.sum(), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// Where this thread counts.
fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<usize> = Cell::new(NEXT.fetch_add(1, Relaxed) % SHARDS);
    }
    OWN.with(Cell::get)
}

/// Upper bounds in seconds: from a call that finds its resource idle to one that waits for a failover.
const BOUNDS: [f64; 15] = [
    0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0,
    5.0, 30.0,
];

/// Threads that count at the same time share one with few others; each costs 256 bytes a module.
const SHARDS: usize = 8;

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text, metrics::histogram::Histogram, registry::Registry};

    use super::*;

    #[test]
    fn it_is_written_as_the_librarys_own_histogram_is() {
        // Sums of these are exact, in whatever order.
        let took = [
            0,
            1_953_125,
            15_625_000,
            1_000_000_000,
            9_000_000_000,
            61_000_000_000,
        ]
        .map(Duration::from_nanos);
        let (theirs, ours) = (Histogram::new(BOUNDS), Durations::default());
        for took in took {
            theirs.observe(took.as_secs_f64());
            ours.observe(took);
        }
        let written = |mut registry: Registry, metric: Box<dyn Fn(&mut Registry)>| {
            metric(&mut registry);
            let mut text = String::new();
            text::encode(&mut text, &registry).unwrap();
            text
        };
        let theirs = written(
            Registry::default(),
            Box::new(move |registry| registry.register("took", "Time", theirs.clone())),
        );
        let ours = written(
            Registry::default(),
            Box::new(move |registry| registry.register("took", "Time", ours.clone())),
        );
        assert_eq!(ours, theirs);
    }

    #[test]
    fn nothing_is_lost_where_many_threads_count() {
        let durations = Durations::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..10_000 {
                        durations.observe(Duration::from_micros(n));
                    }
                });
            }
        });
        let counted: u64 = durations.buckets().iter().map(|(_, count)| count).sum();
        assert_eq!(counted, 40_000);
        let sum = 4.0 * (0..10_000).sum::<u64>() as f64 / 1e6;
        assert!((durations.sum() - sum).abs() < 1e-6);
    }
}
