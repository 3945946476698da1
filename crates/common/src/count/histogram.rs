//! Durations, counted by ranges.

use std::time::Duration;

use super::cells::Cells;

/// Durations, counted by the smallest bound that they do not exceed.
#[derive(Debug)]
pub struct Histogram {
    /// The bounds in microseconds, in ascending order.
    bounds: &'static [u64],
    /// The durations of each bound, those beyond the last one, and the sum of all in nanoseconds.
    cells: Cells,
}

/// The durations of a [`Histogram`] at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Each bound in seconds, with the number of durations that do not exceed it.
    pub buckets: Vec<(f64, u64)>,
    /// The number of all durations.
    pub count: u64,
    /// The sum of all durations in seconds.
    pub sum: f64,
}

impl Histogram {
    /// Returns an empty histogram with these bounds in microseconds, which ascend.
    #[must_use]
    pub fn new(bounds: &'static [u64]) -> Self {
        Self {
            bounds,
            cells: Cells::new(bounds.len() + 2),
        }
    }

    /// Counts a duration.
    pub fn add(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let mut bounds = self.bounds.iter();
        let bucket = bounds.position(|bound| nanos <= bound * 1000);
        self.cells.add(bucket.unwrap_or(self.bounds.len()), 1);
        self.cells.add(self.bounds.len() + 1, nanos);
    }

    /// Returns the durations so far.
    #[must_use]
    pub fn read(&self) -> Distribution {
        let mut count = 0;
        let buckets = self.bounds.iter().enumerate().map(|(index, bound)| {
            count += self.cells.read(index);
            (*bound as f64 / 1e6, count)
        });
        let buckets = buckets.collect();
        Distribution {
            buckets,
            count: count + self.cells.read(self.bounds.len()),
            sum: self.cells.read(self.bounds.len() + 1) as f64 / 1e9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_at_its_bound_and_at_all_above() {
        let histogram = Histogram::new(&[500, 1000, 2_500_000]);
        for micros in [0, 500, 501, 2_500_000, 2_500_001] {
            histogram.add(Duration::from_micros(micros));
        }
        let read = histogram.read();
        assert_eq!(read.buckets, [(0.0005, 2), (0.001, 3), (2.5, 4)]);
        assert_eq!(read.count, 5);
        assert!((read.sum - 5.001_002).abs() < 1e-9, "{}", read.sum);
        histogram.add(Duration::MAX);
        assert_eq!(histogram.read().count, 6);
    }
}
