// SPDX-License-Identifier: Apache-2.0
//! The kernel's version.

use std::fmt;

/// Numbers of a version that decide what nftables can do. What distributions append is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    /// 6 of `6.1.0-49-amd64`.
    pub major: u32,
    /// 1 of `6.1.0-49-amd64`.
    pub minor: u32,
}

/// First version with NAT chains in nftables' `inet` family, one table for both IP families. Older kernels have them
/// per family only.
pub(crate) const INET_NAT: Version = Version { major: 5, minor: 2 };

// === impl Version ===

impl Version {
    /// Parses a release such as `5.15.0-1051-gke` or `4.18.0-553.el8_10.x86_64`.
    pub(crate) fn parse(release: &str) -> Option<Self> {
        let (major, rest) = release.split_once('.')?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        Some(Self { major: major.parse().ok()?, minor: rest[..digits].parse().ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor } = self;
        write!(f, "{major}.{minor}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        for (release, expected) in [
            ("6.18.44-fc-v669", Some((6, 18))),
            ("5.15.0-1051-gke", Some((5, 15))),
            ("4.18.0-553.el8_10.x86_64", Some((4, 18))),
            ("6.1", Some((6, 1))),
            ("5.10-rc3", Some((5, 10))),
            ("6", None),
            ("6.", None),
            ("", None),
            ("linux-6.1", None),
        ] {
            let version = Version::parse(release).map(|v| (v.major, v.minor));
            assert_eq!(version, expected, "{release:?}");
        }
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(Version::parse("5.10.1").unwrap() > INET_NAT);
        assert!(Version::parse("4.19.0").unwrap() < INET_NAT);
    }
}
