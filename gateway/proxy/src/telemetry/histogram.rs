use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper bounds of the buckets of every histogram, milliseconds or bytes; one more bucket has no bound. Source: Envoy's
/// default `HistogramSettings`, which Istio keeps.
pub(super) const BOUNDS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0, 60000.0, 300000.0,
    600000.0, 1800000.0, 3600000.0,
];

/// Values by bucket. One thread writes it, any thread reads it.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// In thousandths of the unit: microseconds, or thousandths of a byte.
    sum: AtomicU64,
}

/// What one or more histograms hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Distribution {
    /// Not cumulative.
    pub(super) buckets: [u64; BOUNDS.len() + 1],
    /// In thousandths of the unit.
    pub(super) sum: u64,
}

impl Histogram {
    /// Counts `thousandths` of the unit. To be called by the one writer only: it adds without a locked instruction.
    pub(super) fn record(&self, thousandths: u64) {
        let value = thousandths as f64 / 1000.0;
        // The bounds rise steeply and most values are small: a scan from below ends early.
        let at = BOUNDS.iter().position(|bound| value <= *bound).unwrap_or(BOUNDS.len());
        let bucket = &self.buckets[at];
        bucket.store(bucket.load(Relaxed) + 1, Relaxed);
        self.sum.store(self.sum.load(Relaxed).saturating_add(thousandths), Relaxed);
    }
}

impl Distribution {
    pub(super) fn add(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.load(Relaxed);
        }
        self.sum = self.sum.saturating_add(histogram.sum.load(Relaxed));
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}
