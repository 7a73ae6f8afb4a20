// SPDX-License-Identifier: Apache-2.0
//! Times as text.

use std::time::SystemTime;

/// The time in UTC as RFC 3339 writes it, to the second.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    culvert_cni::log::rfc3339(time, 0)
}

/// The time as Kubernetes' MicroTime: to the microsecond.
pub(crate) fn micro(time: SystemTime) -> String {
    culvert_cni::log::rfc3339(time, 6)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_does() {
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(1_795_298_399)), "2026-11-21T21:59:59Z");
        assert_eq!(
            micro(UNIX_EPOCH + Duration::from_micros(1_795_298_399_000_042)),
            "2026-11-21T21:59:59.000042Z"
        );
    }
}
