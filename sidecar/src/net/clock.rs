// SPDX-License-Identifier: Apache-2.0
//! Times of day as text.

use jiff::civil::DateTime;
use std::time::SystemTime;

/// 1970 in UTC. A civil time without a zone, as jiff's `Timestamp` ends a day before the year 9999 does, and
/// 9999-12-31T23:59:59Z is how X.509 writes "for ever" (RFC 5280, 4.1.2.5).
pub(crate) const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// Writes a time in UTC by RFC 3339, in whole seconds: `2024-02-29T23:59:59Z`. Before 1970 is 1970.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{:.0}Z", EPOCH.saturating_add(since))
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
