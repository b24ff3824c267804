//! The history of a listener's queue over the last minutes, in fixed memory.

use std::collections::VecDeque;
use std::time::Duration;

/// Number of parts that are kept: five minutes in quarters of a second.
pub const PARTS: usize = 1200;
/// Shortest part.
const SHORTEST: Duration = Duration::from_millis(250);

/// The highest depth and the lowest utilization of each part of the last minutes.
#[derive(Debug, Clone)]
pub struct History {
    length: Duration,
    /// Number of the part after the last of `parts`, counted from the clock's zero.
    end: u64,
    parts: VecDeque<Part>,
    /// Number of consecutive parts that may have no round at the pace of the last round.
    longest_gap: usize,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    peak: u32,
    /// Infinite while no round fell into the part.
    lowest: f32,
}

/// Length of a part for rounds that are `interval` apart.
#[must_use]
pub(super) fn part_length(interval: Duration) -> Duration {
    interval.max(SHORTEST)
}

/// The part that an instant falls into.
#[must_use]
pub(super) fn part_at(at: Duration, length: Duration) -> u64 {
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    nanoseconds(at) / nanoseconds(length).max(1)
}

impl Part {
    const EMPTY: Self = Self {
        peak: 0,
        lowest: f32::INFINITY,
    };

    fn is_empty(self) -> bool {
        self.lowest == f32::INFINITY
    }
}

impl History {
    /// An empty history, with parts of the length that `part_length` returns.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self {
            length: part_length(interval),
            end: 0,
            parts: VecDeque::new(),
            longest_gap: 1,
        }
    }

    /// Records a round at `at`, which never decreases, `distance` after the previous round.
    pub fn observe(&mut self, at: Duration, distance: Duration, depth: u64, utilization: f64) {
        let parts = part_at(distance, self.length).max(1);
        self.longest_gap = usize::try_from(parts).unwrap_or(PARTS);
        let end = part_at(at, self.length) + 1;
        let passed = end.saturating_sub(self.end);
        if passed > PARTS as u64 {
            self.parts.clear();
        } else {
            for _ in 1..passed {
                self.push(Part::EMPTY);
            }
        }
        if passed > 0 {
            self.push(Part::EMPTY);
            self.end = end;
        }
        if let Some(part) = self.parts.back_mut() {
            part.peak = part.peak.max(u32::try_from(depth).unwrap_or(u32::MAX));
            #[expect(clippy::cast_possible_truncation, reason = "a ratio")]
            let utilization = utilization as f32;
            part.lowest = part.lowest.min(utilization);
        }
    }

    fn push(&mut self, part: Part) {
        if self.parts.len() == PARTS {
            self.parts.pop_front();
        }
        self.parts.push_back(part);
    }

    fn part(&self, number: u64) -> Option<Part> {
        let back = usize::try_from(self.end.checked_sub(number)?).ok()?;
        let index = self.parts.len().checked_sub(back)?;
        let part = self.parts.get(index).copied()?;
        (!part.is_empty()).then_some(part)
    }

    /// The highest depth of a part; absent if it had no round or is no longer kept.
    #[must_use]
    pub fn peak(&self, number: u64) -> Option<u32> {
        self.part(number).map(|part| part.peak)
    }

    /// Whether every round of the last `window`, which ends at `now` and is rounded up to whole parts, found the queue above
    /// `utilization`. If more than `longest_gap` consecutive parts have no round, the utilization is unknown and the answer is no.
    #[must_use]
    pub fn stayed_above(&self, now: Duration, window: Duration, utilization: f64) -> bool {
        let newest = part_at(now, self.length);
        let oldest = part_at(now.saturating_sub(window), self.length);
        let parts: Vec<Option<Part>> = (oldest..=newest).map(|number| self.part(number)).collect();
        #[expect(clippy::cast_possible_truncation, reason = "as what is kept")]
        let utilization = utilization as f32;
        let above = |part: &Part| part.lowest > utilization;
        let gap = parts
            .windows(self.longest_gap + 1)
            .any(|parts| parts.iter().all(Option::is_none));
        let known = parts.iter().flatten();
        !gap && known.clone().next().is_some() && known.clone().all(above)
    }
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        self.peak == other.peak && self.lowest.to_bits() == other.lowest.to_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INTERVAL: Duration = Duration::from_millis(10);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn nothing_between_two_points_is_lost_and_gaps_are_gaps() {
        let mut history = History::new(INTERVAL);
        for at in (0..1000).step_by(10) {
            history.observe(ms(at), ms(10), if at == 260 { 129 } else { 1 }, 0.0);
        }
        history.observe(ms(1600), ms(10), 7, 0.0);
        let peaks: Vec<_> = (0..8).map(|part| history.peak(part)).collect();
        let expected = [1, 129, 1, 1].map(Some).into_iter();
        let expected = expected.chain([None, None, Some(7), None]);
        assert_eq!(peaks, expected.collect::<Vec<_>>());
    }

    #[test]
    fn it_is_saturated_once_every_round_of_the_window_was_above() {
        let mut history = History::new(INTERVAL);
        let asked = |history: &History, now| history.stayed_above(ms(now), ms(1000), 0.9);
        assert!(!asked(&history, 0));
        for at in (10_000..12_000).step_by(10) {
            history.observe(ms(at), ms(10), 9, 0.95);
            // The window begins at a quarter of a second, and one quarter may have no round.
            assert_eq!(asked(&history, at), at >= 10_750, "{at}");
        }
        history.observe(ms(12_000), ms(10), 8, 0.9);
        assert!(!asked(&history, 12_000));
    }

    #[test]
    fn after_a_stall_nothing_is_known() {
        let mut history = History::new(INTERVAL);
        for at in (0..2000).step_by(10) {
            history.observe(ms(at), ms(10), 9, 1.0);
        }
        assert!(history.stayed_above(ms(2000), ms(1000), 0.9));
        assert!(!history.stayed_above(ms(4000), ms(1000), 0.9));
        history.observe(ms(4000), ms(10), 9, 1.0);
        assert!(!history.stayed_above(ms(4000), ms(1000), 0.9));
    }

    proptest! {
        #[test]
        fn a_peak_is_the_maximum_of_its_part(
            rounds in proptest::collection::vec((0_u64..90_000, 0_u64..5000), 1..300)
        ) {
            let mut history = History::new(INTERVAL);
            let mut seen = std::collections::BTreeMap::<u64, u64>::new();
            let mut at = 0;
            for (step, depth) in rounds {
                at += step;
                history.observe(ms(at), ms(10), depth, 0.5);
                let peak = seen.entry(at / 250).or_default();
                *peak = depth.max(*peak);
                prop_assert!(history.parts.len() <= PARTS);
            }
            let newest = at / 250;
            for part in newest.saturating_sub(PARTS as u64 - 1)..=newest + 1 {
                let expected = seen.get(&part).map(|peak| u32::try_from(*peak).unwrap());
                prop_assert_eq!(history.peak(part), expected);
            }
        }
    }
}
