// SPDX-License-Identifier: Apache-2.0
//! Times as text.

use std::time::{SystemTime, UNIX_EPOCH};

/// The time in UTC as RFC 3339 writes it, to the second.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = culvert_cni::log::civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_does() {
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(1_795_298_399)), "2026-11-21T21:59:59Z");
    }
}
