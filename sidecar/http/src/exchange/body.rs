// SPDX-License-Identifier: Apache-2.0
//! Position of a side in its messages: head, body, or another protocol.

use crate::chunks::{Chunks, Scanned, Then};
use crate::framing::Framing;
use crate::head::Scan;

/// Position of a side in its stream of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Head(Scan),
    Body(Body),
    /// Bytes of another protocol, for good.
    Tunnel,
}

/// Rest of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// So many bytes, at least one.
    Length(u64),
    Chunked(Chunks),
    UntilClose,
}

// === impl Reading ===

impl Default for Reading {
    fn default() -> Self {
        Self::Head(Scan::default())
    }
}

impl Reading {
    /// Returns the position behind a head.
    pub(super) fn behind_head(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::default(),
            Framing::Length(bytes) => Self::Body(Body::Length(bytes)),
            Framing::Chunked => Self::Body(Body::Chunked(Chunks::default())),
            Framing::UntilClose => Self::Body(Body::UntilClose),
            Framing::Tunnel => Self::Tunnel,
        }
    }

    /// Returns true before a head or within one: nothing was forwarded.
    pub(super) fn is_at_head(&self) -> bool {
        matches!(self, Self::Head(_))
    }

    /// Returns true within a head.
    pub(super) fn is_within_head(&self) -> bool {
        matches!(self, Self::Head(scan) if scan.began())
    }

    /// Returns the bytes that may pass without a look at them.
    pub(super) fn unseen(&self) -> u64 {
        match self {
            Self::Head(_) => 0,
            Self::Body(Body::Length(rest)) => *rest,
            Self::Body(Body::Chunked(chunks)) => chunks.unseen(),
            Self::Body(Body::UntilClose) | Self::Tunnel => u64::MAX,
        }
    }
}

// === impl Body ===

impl Body {
    /// Looks at the next bytes, and at nothing behind the end of the body.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Scanned {
        match self {
            Self::Length(rest) => {
                let forward = (*rest).min(bytes.len() as u64);
                let then = self.skip(forward);
                Scanned { forward: forward as usize, then }
            }
            Self::Chunked(chunks) => chunks.scan(bytes),
            Self::UntilClose => Scanned { forward: bytes.len(), then: Then::More },
        }
    }

    /// Counts bytes that passed without a look.
    pub(super) fn skip(&mut self, bytes: u64) -> Then {
        match self {
            Self::Length(rest) => {
                debug_assert!(bytes <= *rest, "{bytes} bytes skipped of {rest}");
                *rest = rest.saturating_sub(bytes);
                if *rest == 0 { Then::Done } else { Then::More }
            }
            // A chunk's data is never the end of its body.
            Self::Chunked(chunks) => {
                chunks.skip(bytes);
                Then::More
            }
            Self::UntilClose => Then::More,
        }
    }
}
