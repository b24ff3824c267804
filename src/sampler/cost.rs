//! What the rounds of a network namespace cost.

use std::collections::VecDeque;
use std::time::Duration;

/// Number of rounds in the mean.
const ROUNDS: usize = 8;

/// The CPU time of the last measured rounds. A single round says little: the time of the interrupts that arrived meanwhile counts as its own,
/// and on a virtual processor that of other machines, too.
#[derive(Debug, Default)]
pub(super) struct Cost {
    last: VecDeque<Duration>,
}

impl Cost {
    /// Adds the CPU time of a round.
    pub(super) fn add(&mut self, time: Duration) {
        if self.last.len() == ROUNDS {
            self.last.pop_front();
        }
        self.last.push_back(time);
    }

    /// Forgets all rounds.
    pub(super) fn clear(&mut self) {
        self.last.clear();
    }

    /// The mean CPU time of a round; zero if none was measured.
    pub(super) fn mean(&self) -> Duration {
        let rounds = u32::try_from(self.last.len()).unwrap_or(u32::MAX);
        let sum: Duration = self.last.iter().sum();
        sum.checked_div(rounds).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_of_the_last_rounds() {
        let mut cost = Cost::default();
        assert_eq!(cost.mean(), Duration::ZERO);
        cost.add(Duration::from_millis(80));
        assert_eq!(cost.mean(), Duration::from_millis(80));
        for _ in 1..ROUNDS {
            cost.add(Duration::from_millis(1));
        }
        assert_eq!(cost.mean(), Duration::from_micros(10_875));
        cost.add(Duration::from_millis(1));
        assert_eq!(cost.mean(), Duration::from_millis(1));
        cost.clear();
        assert_eq!(cost.mean(), Duration::ZERO);
    }
}
