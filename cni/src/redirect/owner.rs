// SPDX-License-Identifier: Apache-2.0
//! Whose rules a table holds: a note kept with the rules in the kernel, so that it is right even where the record of the
//! attachment was lost.

use std::fmt;

/// The attachment that a pod's rules were written for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The container's id; in the note cut to [`MAX_ID`] bytes with a checksum behind them.
    pub container: String,
    /// The interface whose ADD wrote the rules; 15 bytes at most.
    pub ifname: String,
}

/// The longest container id that a note holds in full: nft shows comments of up to 128 bytes.
const MAX_ID: usize = 64;

impl Owner {
    /// The note's owner for this attachment.
    pub fn new(container_id: &str, ifname: &str) -> Self {
        let container = if container_id.len() <= MAX_ID {
            container_id.to_owned()
        } else {
            // Ids hold only ASCII, so any byte is a character's end.
            let kept = container_id.get(..MAX_ID - 17).unwrap_or(container_id);
            format!("{kept}-{:016x}", checksum(container_id.as_bytes()))
        };
        Self { container, ifname: ifname.to_owned() }
    }

    /// Read a note.
    pub(crate) fn parse(note: &str) -> Option<Self> {
        let (container, ifname) = note.strip_prefix("culvert container=")?.split_once(" ifname=")?;
        Some(Self { container: container.to_owned(), ifname: ifname.to_owned() })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "culvert container={} ifname={}", self.container, self.ifname)
    }
}

/// FNV-1a, 64 bits: tells long ids apart; no secret depends on it.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
