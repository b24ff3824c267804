//! Durations as Prometheus writes them: `10ms`, `1m30s`.

use std::fmt;
use std::time::Duration;

/// Units, largest first, in milliseconds. Each may occur once, in this order.
const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 24 * 3_600_000),
    ("w", 7 * 24 * 3_600_000),
    ("d", 24 * 3_600_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurationError;

/// Parses a duration.
///
/// # Errors
/// If it is not a duration, or too long to count in milliseconds.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut milliseconds = 0_u64;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .ok_or(DurationError)?;
        let (number, after) = rest.split_at(digits);
        let letters = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let (_, factor) = units.find(|(name, _)| *name == unit).ok_or(DurationError)?;
        let number: u64 = number.parse().map_err(|_| DurationError)?;
        let part = number.checked_mul(*factor).ok_or(DurationError)?;
        milliseconds = milliseconds.checked_add(part).ok_or(DurationError)?;
        rest = after;
    }
    match text {
        "" => Err(DurationError),
        _ => Ok(Duration::from_millis(milliseconds)),
    }
}

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a number with a unit (ms, s, m, h, d, w or y), as in 10ms, 5s or 1m30s")
    }
}

impl std::error::Error for DurationError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_written_as_in_prometheus() {
        assert_eq!(parse("10ms"), Ok(Duration::from_millis(10)));
        assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("1h5ms"), Ok(Duration::from_millis(3_600_005)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "10",
            "ms",
            "10 ms",
            "1.5s",
            "-1s",
            "1s1m",
            "1s1s",
            "1µs",
            "99999999999999y",
        ] {
            assert_eq!(parse(text), Err(DurationError), "{text}");
        }
    }

    #[test]
    fn the_error_names_every_unit() {
        let error = DurationError.to_string();
        let (_, listed) = error.split_once('(').unwrap();
        let (listed, _) = listed.split_once(')').unwrap();
        let listed = listed.replace(" or ", ", ");
        let named: Vec<&str> = listed.rsplit(", ").collect();
        assert_eq!(named, UNITS.map(|(unit, _)| unit));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,20}") {
            let _ = parse(&text);
        }
    }
}
