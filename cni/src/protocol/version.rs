// SPDX-License-Identifier: Apache-2.0
//! Supported versions of the CNI specification.

use std::fmt;

/// A supported version of the CNI specification.
///
/// Versions below 0.3.0 have no chaining. Plugins in use still write 0.3.0 and 0.3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CniVersion {
    /// 0.3.0: the first with chaining.
    V0_3_0,
    /// 0.3.1: written by Calico, Cilium, Flannel and kindnet.
    V0_3_1,
    /// 0.4.0: adds CHECK, and prevResult on DEL.
    V0_4_0,
    /// 1.0.0: drops `ips[].version`.
    V1_0_0,
    /// 1.1.0: adds GC and STATUS.
    V1_1_0,
}

impl CniVersion {
    /// All supported versions, oldest first.
    pub(crate) const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest supported version, used in a reply if the runtime named none.
    pub const NEWEST: Self = Self::V1_1_0;

    /// Returns the version as the specification spells it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Parse a version; `None` if it is not supported.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
