// SPDX-License-Identifier: Apache-2.0
//! Times of day as text.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::Offset;
use std::fmt::Write;
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

/// The same with six digits behind the seconds, for logs.
pub(crate) fn micros(time: SystemTime) -> String {
    let micros = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_micros();
    format!("{}.{micros:06}Z", rfc3339(time).trim_end_matches('Z'))
}

/// Writes a time in UTC by the letters of a strftime format. Before 1970 is 1970.
pub(crate) fn strftime(time: SystemTime, format: &str, out: &mut String) {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(FOREVER);
    let time = Timestamp::new(seconds, since.subsec_nanos().cast_signed()).unwrap_or(Timestamp::MAX);
    // Formats are checked when documents are read, and writing to a String does not fail.
    let _ = write!(out, "{}", time.strftime(format));
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

    #[test]
    fn times_are_written_as_strftime_and_envoy_write_them() {
        for (format, seconds, expected) in [
            ("%s", 1_795_869_615, "1795869615"),
            ("%Y/%m/%dT%H:%M:%S%z %s", 1_795_869_615, "2026/11/28T12:40:15+0000 1795869615"),
            ("%F %T %R %D %Z", 1_795_869_615, "2026-11-28 12:40:15 12:40 11/28/26 UTC"),
            ("%s.%3f %6f %9f %1f", 7, "7.123 123456 123456789 1"),
            ("%A %a %B %b %h %j %u %w", 1_795_869_615, "Saturday Sat November Nov Nov 332 6 6"),
            ("%y %C %I %p %e", 1_795_869_615, "26 20 12 PM 28"),
            ("%F %T %A %j %u %I %p", 951_782_709, "2000-02-29 00:05:09 Tuesday 060 2 12 AM"),
            ("%F %T %j", 1_735_689_599, "2024-12-31 23:59:59 366"),
            ("%F %j %e %w %u", 0, "1970-01-01 001  1 4 4"),
            ("100%% at %H", 3_600, "100% at 01"),
            ("plain", 0, "plain"),
        ] {
            let mut text = String::new();
            let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
            strftime(time, format, &mut text);
            assert_eq!(text, expected, "{format}");
        }
        let mut text = String::new();
        strftime(SystemTime::UNIX_EPOCH - Duration::from_secs(1), "%F", &mut text);
        assert_eq!(text, "1970-01-01");
    }
}
