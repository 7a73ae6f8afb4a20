// SPDX-License-Identifier: Apache-2.0
//! The guards: connections that are never forwarded, from any sender. Pure.
//!
//! | refused | because |
//! |---|---|
//! | never redirected | it has no destination but the sidecar itself |
//! | to an address of this pod and a port of the sidecar | it would come back to us, without end |
//! | inbound, to loopback or `::6` | it would open loopback-only services to the sender |
//! | inbound, to an address that is not this pod's | we would be an open relay |
//! | outbound, to loopback or `::6` | no rule of ours sends it here, so it was forged |
//!
//! An outbound connection to the pod's own address and a port of the application passes: it goes through the inbound
//! rules like any peer's (it comes back to us once, from the sidecar's uid).

use crate::metrics::labels;
use crate::net::addrs::{Direction, OrigDst, is_loopback};
use crate::net::original_dst::Redirected;
use crate::observe::close_reason::CloseReason;
use crate::options::config::SidecarPorts;
use std::net::IpAddr;

/// The reason why a guard refused a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The client dialled the listener itself.
    #[error("the client dialled the sidecar's port itself; dial the application's port")]
    NotRedirected,
    /// The destination is the sidecar.
    #[error("{0} is a port of this sidecar: refusing to loop")]
    OwnPort(OrigDst),
    /// The destination is only reachable inside the pod.
    #[error("{0} is loopback, which the redirect never sends here: refusing to open it")]
    Loopback(OrigDst),
    /// An inbound connection to an address of another host.
    #[error("{0} is not an address of this pod: refusing to relay")]
    NotThisPod(OrigDst),
}

impl Refusal {
    /// Returns the reason for the closing record.
    pub(crate) fn reason(self) -> CloseReason {
        match self {
            Self::NotRedirected => CloseReason::NoOriginalDst,
            Self::OwnPort(_) | Self::Loopback(_) | Self::NotThisPod(_) => CloseReason::Loop,
        }
    }

    /// Returns the guard, for the metric's label.
    pub(crate) fn guard(self) -> Guard {
        match self {
            Self::NotRedirected => Guard::NotRedirected,
            Self::OwnPort(_) => Guard::OwnPort,
            Self::Loopback(_) => Guard::Loopback,
            Self::NotThisPod(_) => Guard::NotThisPod,
        }
    }
}

/// The guards by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Guard {
    NotRedirected,
    OwnPort,
    Loopback,
    NotThisPod,
}

impl Guard {
    /// All guards, for tables.
    pub(crate) const ALL: [Self; 4] = [Self::NotRedirected, Self::OwnPort, Self::Loopback, Self::NotThisPod];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NotRedirected => "not_redirected",
            Self::OwnPort => "own_port",
            Self::Loopback => "loopback",
            Self::NotThisPod => "not_this_pod",
        }
    }
}

labels! { Guard: "guard" }

/// Lets a connection pass, or returns the reason to refuse it. `is_own` returns true for an address of this pod.
pub(crate) fn check(
    direction: Direction,
    redirected: Redirected,
    ports: &SidecarPorts,
    is_own: impl Fn(IpAddr) -> bool,
) -> Result<OrigDst, Refusal> {
    let Redirected::From(original) = redirected else { return Err(Refusal::NotRedirected) };
    let (ip, port) = (original.get().ip(), original.get().port());
    if is_loopback(ip) {
        return Err(if ports.contains(port) {
            Refusal::OwnPort(original)
        } else {
            Refusal::Loopback(original)
        });
    }
    match (direction, ports.contains(port)) {
        // Most connections leave the pod: no need to know whose address it is.
        (Direction::Outbound, false) => Ok(original),
        (Direction::Outbound, true) if is_own(ip) => Err(Refusal::OwnPort(original)),
        (Direction::Outbound, true) => Ok(original),
        (Direction::Inbound, _) if !is_own(ip) => Err(Refusal::NotThisPod(original)),
        (Direction::Inbound, true) => Err(Refusal::OwnPort(original)),
        (Direction::Inbound, false) => Ok(original),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Inbound, Outbound};

    const POD: [&str; 4] = ["10.0.0.2", "fd00::2", "127.0.0.1", "::1"];

    fn verdict(direction: Direction, original: Option<&str>) -> Result<OrigDst, Guard> {
        let redirected = match original {
            Some(text) => Redirected::From(OrigDst::new(text.parse().unwrap())),
            None => Redirected::Not,
        };
        let ports = SidecarPorts::new([15001, 15006, 15020, 9901, 0]);
        check(direction, redirected, &ports, |ip| POD.contains(&ip.to_string().as_str()))
            .map_err(Refusal::guard)
    }

    #[test]
    fn what_passes() {
        for (direction, original) in [
            (Inbound, "10.0.0.2:80"),
            (Inbound, "[fd00::2]:80"),
            (Outbound, "192.0.2.1:443"),
            (Outbound, "[2001:db8::1]:443"),
            // A port of ours on another host is another host's business.
            (Outbound, "192.0.2.1:15006"),
            (Outbound, "[2001:db8::1]:15001"),
            // A call to oneself.
            (Outbound, "10.0.0.2:80"),
        ] {
            let expected = OrigDst::new(original.parse().unwrap());
            assert_eq!(verdict(direction, Some(original)), Ok(expected), "{direction} {original}");
        }
    }

    #[test]
    fn what_is_refused() {
        for (direction, original, guard) in [
            (Inbound, None, Guard::NotRedirected),
            (Outbound, None, Guard::NotRedirected),
            (Inbound, Some("192.0.2.1:80"), Guard::NotThisPod),
            (Inbound, Some("[2001:db8::1]:80"), Guard::NotThisPod),
            (Inbound, Some("192.0.2.1:15006"), Guard::NotThisPod),
            // The forged packet, and the validator's.
            (Inbound, Some("127.0.0.1:80"), Guard::Loopback),
            (Inbound, Some("127.0.0.6:80"), Guard::Loopback),
            (Inbound, Some("127.9.9.9:80"), Guard::Loopback),
            (Inbound, Some("[::1]:80"), Guard::Loopback),
            (Inbound, Some("[::6]:80"), Guard::Loopback),
            (Inbound, Some("[::ffff:127.0.0.1]:80"), Guard::Loopback),
            (Outbound, Some("127.0.0.1:80"), Guard::Loopback),
            (Outbound, Some("[::6]:80"), Guard::Loopback),
        ] {
            assert_eq!(verdict(direction, original), Err(guard), "{direction} {original:?}");
        }
    }

    #[test]
    fn no_port_of_the_sidecar_is_reached_through_the_sidecar() {
        for direction in Direction::ALL {
            for ip in ["10.0.0.2", "[fd00::2]", "127.0.0.1", "127.0.0.6", "[::1]", "[::6]"] {
                for port in [15001, 15006, 15020, 9901] {
                    let original = format!("{ip}:{port}");
                    let got = verdict(direction, Some(&original));
                    assert_eq!(got, Err(Guard::OwnPort), "{direction} {original}");
                }
            }
        }
    }

    #[test]
    fn a_listener_that_is_off_has_no_port_to_guard() {
        assert!(!SidecarPorts::new([0]).contains(0));
    }
}
