//! The highest depth of a sliding window, in fixed memory.

use std::time::Duration;

use super::history::part_at;

/// Number of parts of the window. A peak is forgotten after one window, or at most one part later.
const PARTS: usize = 60;

/// The highest value of the last window, which is rounded up by a sixtieth.
#[derive(Debug, Clone)]
pub struct Peak {
    part: Duration,
    /// Number of the last written part, counted from the clock's zero.
    newest: u64,
    highest: [u32; PARTS + 1],
}

impl Peak {
    /// An empty window.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self {
            part: (window / u32::try_from(PARTS).unwrap_or(1)).max(Duration::from_nanos(1)),
            newest: 0,
            highest: [0; PARTS + 1],
        }
    }

    /// Records a value at `at`, which never decreases.
    pub fn observe(&mut self, at: Duration, value: u32) {
        let now = part_at(at, self.part);
        let passed = now.saturating_sub(self.newest);
        for part in 0..passed.min(self.highest.len() as u64) {
            *self.slot(now - part) = 0;
        }
        self.newest = now;
        let slot = self.slot(now);
        *slot = value.max(*slot);
    }

    /// The highest value of the window that ends at the last observation.
    #[must_use]
    pub fn highest(&self) -> u32 {
        self.highest.iter().copied().max().unwrap_or(0)
    }

    fn slot(&mut self, part: u64) -> &mut u32 {
        let index = part % (PARTS as u64 + 1);
        &mut self.highest[usize::try_from(index).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_peak_lasts_for_the_window_and_is_forgotten_after_it() {
        let mut peak = Peak::new(Duration::from_mins(1));
        let start = Duration::from_millis(1_000_500);
        peak.observe(start, 129);
        peak.observe(start + Duration::from_mins(1), 1);
        assert_eq!(peak.highest(), 129);
        peak.observe(start + Duration::from_secs(61), 0);
        assert_eq!(peak.highest(), 1);
        peak.observe(start + Duration::from_secs(1000), 0);
        assert_eq!(peak.highest(), 0);
    }

    proptest! {
        #[test]
        fn it_is_the_maximum_of_a_window_between_one_length_and_a_part_more(
            steps in proptest::collection::vec((0_u64..3000, 0_u32..500), 1..200)
        ) {
            let window = 6000_u64;
            let mut peak = Peak::new(Duration::from_millis(window));
            let mut seen = Vec::new();
            let mut at = 50_000;
            for (step, value) in steps {
                at += step;
                seen.push((at, value));
                peak.observe(Duration::from_millis(at), value);
                let within = |length| seen.iter().filter(|(t, _)| t + length >= at).map(|(_, v)| *v).max().unwrap();
                prop_assert!(peak.highest() >= within(window));
                prop_assert!(peak.highest() <= within(window + window / 60 + 1));
            }
        }
    }
}
