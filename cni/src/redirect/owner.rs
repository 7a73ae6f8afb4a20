// SPDX-License-Identifier: Apache-2.0
//! The owner's note: a comment with the rules in the kernel that names their attachment, so that DEL is right even if the
//! attachment's record was lost.

use std::fmt;

/// The attachment that a pod's rules were written for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Id of the container, cut to [`MAX_ID`] bytes with a checksum at the end.
    pub container: String,
    /// Interface whose ADD wrote the rules; at most 15 bytes.
    pub ifname: String,
}

/// Longest container id that is kept in full, in bytes: nft shows comments of up to 128 bytes.
const MAX_ID: usize = 64;

impl Owner {
    /// Take the owner from an attachment.
    pub fn new(container_id: &str, ifname: &str) -> Self {
        let container = if container_id.len() <= MAX_ID {
            container_id.to_owned()
        } else {
            // Container ids are ASCII, so every byte ends a character.
            let kept = container_id.get(..MAX_ID - 17).unwrap_or(container_id);
            format!("{kept}-{:016x}", checksum(container_id.as_bytes()))
        };
        Self { container, ifname: ifname.to_owned() }
    }

    /// Parse a note.
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

/// FNV-1a, 64 bits: keeps cut ids unique; no secret depends on it.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
