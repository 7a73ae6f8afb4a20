// SPDX-License-Identifier: Apache-2.0
//! Times of day as text.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::Offset;
use std::time::SystemTime;

/// 1970 in UTC, to count seconds from.
pub(crate) const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// Seconds of two days.
const TWO_DAYS: i64 = 2 * 86_400;

/// Last second of the year 9999, "for ever" in certificates (RFC 5280, 4.1.2.5).
const FOREVER: i64 = 253_402_300_799;

/// Writes a time in UTC by RFC 3339, in whole seconds: `2024-02-29T23:59:59Z`. Before 1970 is 1970.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(FOREVER).min(FOREVER);
    // jiff's timestamps end 26 hours before that second, so the time of two days earlier is taken, and then the day after
    // the next. To add a duration to `EPOCH` would be shorter, and make the program 210 KiB larger.
    let earlier = Offset::UTC.to_datetime(Timestamp::from_second(seconds - TWO_DAYS).unwrap_or_default());
    let day = earlier.date().tomorrow().and_then(Date::tomorrow).unwrap_or(Date::MAX);
    format!("{:.0}Z", day.to_datetime(earlier.time()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_cut_to_seconds_and_begin_in_1970() {
        let after_1970 = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        for (time, text) in [
            (SystemTime::UNIX_EPOCH - Duration::from_secs(1), "1970-01-01T00:00:00Z"),
            (after_1970(999), "1970-01-01T00:00:00Z"),
            (after_1970(951_782_400_000), "2000-02-29T00:00:00Z"),
            (after_1970(253_402_300_799_000), "9999-12-31T23:59:59Z"),
            (after_1970(1_709_251_199_999), "2024-02-29T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(time), text);
        }
    }
}
