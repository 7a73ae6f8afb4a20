// SPDX-License-Identifier: Apache-2.0
//! Durations as people write them: `5s`, `1h`, `100ms`, `1m30s`; `0` alone means none.

use std::time::Duration;

/// Longest duration of an option: a year. More is a typing error, and would overflow a timer.
const MAX: Duration = Duration::from_hours(365 * 24);

const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// Error of a text that is not a duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// The text does not follow the grammar.
    #[error("not a duration; write for example 500ms, 5s, 1m30s, 1h or 0")]
    Grammar,
    /// The duration is longer than a year.
    #[error("more than a year")]
    TooLong,
}

/// Reads a duration of at most a year.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(DurationError::Grammar);
    }
    let mut rest = text;
    let mut millis: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.len() - tail.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, tail) = tail.split_at(letters);
        let (_, unit) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or(DurationError::Grammar)?;
        if digits == 0 {
            return Err(DurationError::Grammar);
        }
        let number: u64 = number.parse().map_err(|_| DurationError::TooLong)?;
        millis = number
            .checked_mul(unit)
            .and_then(|more| millis.checked_add(more))
            .ok_or(DurationError::TooLong)?;
        rest = tail;
    }
    let duration = Duration::from_millis(millis);
    if duration > MAX { Err(DurationError::TooLong) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_all_units_are_parsed() {
        for (text, millis) in
            [("0", 0), ("0s", 0), ("5s", 5_000), ("100ms", 100), ("1m30s", 90_000), ("1h", 3_600_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "5", "s", "-1s", "1.5s", "5 s", "5d", "1h,", "5sx", " 5s", "١s"] {
            assert_eq!(parse(text), Err(DurationError::Grammar), "{text:?}");
        }
        for text in ["8761h", "99999999999999999999s", "18446744073709551615h"] {
            assert_eq!(parse(text), Err(DurationError::TooLong), "{text}");
        }
    }
}
