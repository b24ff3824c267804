//! A cumulative histogram with fixed bounds.

/// Observations by upper bound. All numbers only increase.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram<const N: usize> {
    bounds: &'static [f64; N],
    counts: [u64; N],
    above: u64,
    sum: f64,
}

impl<const N: usize> Histogram<N> {
    /// An empty histogram. `bounds` are in ascending order, without infinity.
    #[must_use]
    pub fn new(bounds: &'static [f64; N]) -> Self {
        Self {
            bounds,
            counts: [0; N],
            above: 0,
            sum: 0.0,
        }
    }

    /// Records one value under the first bound that is not below it.
    pub fn observe(&mut self, value: f64) {
        let bounded = self.bounds.iter().zip(&mut self.counts);
        match bounded.into_iter().find(|(bound, _)| value <= **bound) {
            Some((_, count)) => *count += 1,
            None => self.above += 1,
        }
        self.sum += value;
    }

    /// Each bound with the number of observations at or below it.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut total = 0;
        self.bounds
            .iter()
            .zip(&self.counts)
            .map(move |(bound, count)| {
                total += count;
                (*bound, total)
            })
    }

    /// Number of observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.above
    }

    /// Sum of the observed values.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_equal_to_a_bound_counts_at_that_bound() {
        let mut histogram = Histogram::new(&[0.0, 0.9, 1.0]);
        for value in [0.0, 9.0 / 10.0, 1.0, 85.5] {
            histogram.observe(value);
        }
        let cumulative: Vec<_> = histogram.cumulative().collect();
        assert_eq!(cumulative, [(0.0, 1), (0.9, 2), (1.0, 3)]);
        assert_eq!(histogram.count(), 4);
        assert!((histogram.sum() - 87.4).abs() < 1e-9);
    }
}
