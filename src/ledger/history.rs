//! The history of a listener's queue over the last minutes, in bounded memory.

use std::collections::VecDeque;
use std::iter::repeat_n;
use std::ops::Range;
use std::time::Duration;

/// Number of parts that are kept: five minutes in quarters of a second.
pub const PARTS: usize = 1200;
/// Shortest part.
const SHORTEST: Duration = Duration::from_millis(250);
/// Number of runs by which the memory grows. Doubled, it would be half empty in the end.
const MORE: usize = 64;

/// The highest depth and the lowest utilization of each part of the last minutes. Consecutive equal parts are kept as one run: a queue that
/// stays empty occupies almost no memory, and one that changes in each part 12 bytes a part.
#[derive(Debug, Clone)]
pub struct History {
    length: Duration,
    /// Number of the part after the last one, counted from the clock's zero.
    end: u64,
    /// The oldest first. The last one is the part of the last round alone, which may still change.
    runs: VecDeque<Run>,
    /// Number of parts in the runs.
    kept: usize,
    /// Number of consecutive parts that may have no round at the pace of the last round.
    longest_gap: usize,
}

/// The highest depths of consecutive parts.
#[derive(Debug, Clone, PartialEq)]
pub struct Peaks(Vec<Run>);

#[derive(Debug, Clone, Copy, PartialEq)]
struct Run {
    part: Part,
    /// Number of equal parts, at most [`PARTS`].
    parts: u16,
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
            runs: VecDeque::new(),
            kept: 0,
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
            self.runs.clear();
            self.kept = 0;
        } else {
            for _ in 1..passed {
                self.push(Part::EMPTY);
            }
        }
        if passed > 0 {
            self.push(Part::EMPTY);
            self.end = end;
        }
        if let Some(Run { part, .. }) = self.runs.back_mut() {
            part.peak = part.peak.max(u32::try_from(depth).unwrap_or(u32::MAX));
            #[expect(clippy::cast_possible_truncation, reason = "a ratio")]
            let utilization = utilization as f32;
            part.lowest = part.lowest.min(utilization);
        }
    }

    fn push(&mut self, part: Part) {
        self.join_last();
        if self.kept == PARTS {
            self.forget_oldest();
        }
        if self.runs.len() == self.runs.capacity() {
            self.runs.reserve_exact(MORE);
        }
        self.runs.push_back(Run { part, parts: 1 });
        self.kept += 1;
    }

    /// The last part, which is complete, joins the run before if it is equal.
    fn join_last(&mut self) {
        if let Some(last) = self.runs.pop_back() {
            match self.runs.back_mut() {
                Some(before) if before.part == last.part => before.parts += last.parts,
                _ => self.runs.push_back(last),
            }
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.runs.front_mut() {
            oldest.parts -= 1;
            self.kept -= 1;
            if oldest.parts == 0 {
                self.runs.pop_front();
            }
        }
    }

    /// What is kept of a range of part numbers. Empty parts are those that had no round or are no longer kept.
    fn within(&self, range: Range<u64>) -> Vec<Run> {
        let mut runs = Vec::<Run>::new();
        let mut add = |part, from: u64, to: u64| {
            let parts = to.min(range.end).saturating_sub(from.max(range.start));
            let parts = u16::try_from(parts).unwrap_or(u16::MAX);
            match runs.last_mut() {
                _ if parts == 0 => {}
                Some(last) if last.part == part => last.parts = last.parts.saturating_add(parts),
                _ => runs.push(Run { part, parts }),
            }
        };
        let mut start = self.end;
        add(Part::EMPTY, start, range.end);
        for run in self.runs.iter().rev() {
            if start <= range.start {
                break;
            }
            let end = start;
            start = end.saturating_sub(run.parts.into());
            add(run.part, start, end);
        }
        add(Part::EMPTY, range.start, start);
        runs.reverse();
        runs
    }

    /// The highest depths of a range of parts.
    #[must_use]
    pub fn peaks(&self, range: Range<u64>) -> Peaks {
        Peaks(self.within(range))
    }

    /// Whether every round of the last `window`, which ends at `now` and is rounded up to whole parts, found the queue above
    /// `utilization`. If more than `longest_gap` consecutive parts have no round, the utilization is unknown and the answer is no.
    #[must_use]
    pub fn stayed_above(&self, now: Duration, window: Duration, utilization: f64) -> bool {
        let newest = part_at(now, self.length);
        let oldest = part_at(now.saturating_sub(window), self.length);
        let runs = self.within(oldest..newest + 1);
        #[expect(clippy::cast_possible_truncation, reason = "as what is kept")]
        let utilization = utilization as f32;
        let mut gaps = runs.iter().filter(|run| run.part.is_empty());
        let gap = gaps.any(|run| usize::from(run.parts) > self.longest_gap);
        let mut known = runs.iter().filter(|run| !run.part.is_empty()).peekable();
        !gap && known.peek().is_some() && known.all(|run| run.part.lowest > utilization)
    }
}

impl Run {
    fn peaks(&self) -> impl Iterator<Item = Option<u32>> {
        let peak = (!self.part.is_empty()).then_some(self.part.peak);
        repeat_n(peak, self.parts.into())
    }
}

impl Peaks {
    /// One for each part. Absent is one that had no round or is no longer kept.
    pub fn iter(&self) -> impl Iterator<Item = Option<u32>> {
        self.0.iter().flat_map(Run::peaks)
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

    fn peaks(history: &History, range: Range<u64>) -> Vec<Option<u32>> {
        history.peaks(range).iter().collect()
    }

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
        let expected = [1, 129, 1, 1].map(Some).into_iter();
        let expected = expected.chain([None, None, Some(7), None]);
        assert_eq!(peaks(&history, 0..8), expected.collect::<Vec<_>>());
    }

    /// Ten minutes of rounds.
    fn filled(depth: impl Fn(u64) -> u64) -> History {
        let mut history = History::new(INTERVAL);
        for at in (0..600_000).step_by(50) {
            history.observe(ms(at), ms(10), depth(at), 0.0);
        }
        history
    }

    #[test]
    fn a_queue_that_does_not_change_takes_no_more_memory_with_time() {
        let empty = filled(|_| 0);
        assert_eq!(peaks(&empty, 1200..2400), vec![Some(0); PARTS]);
        assert!(empty.runs.capacity() <= MORE);
        assert_eq!(peaks(&empty, 1199..1200), [None], "it is no longer kept");
    }

    #[test]
    fn a_queue_that_changes_all_the_time_takes_twelve_bytes_a_part() {
        let busy = filled(|at| at / 250);
        let expected = (1200..2400).map(Some).collect::<Vec<_>>();
        assert_eq!(peaks(&busy, 1200..2400), expected);
        assert!(busy.runs.capacity() <= PARTS + MORE);
        assert_eq!(size_of::<Run>(), 12);
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
                prop_assert!(history.runs.len() <= history.kept && history.kept <= PARTS);
            }
            let newest = at / 250;
            let kept = newest.saturating_sub(PARTS as u64 - 1)..newest + 2;
            let expected = |part| seen.get(&part).map(|peak| u32::try_from(*peak).unwrap());
            let expected = kept.clone().map(expected).collect::<Vec<_>>();
            prop_assert_eq!(peaks(&history, kept), expected);
        }
    }
}
