// SPDX-License-Identifier: Apache-2.0
//! The guards: connections that are never forwarded, from any sender. Pure.
//!
//! | refused | because |
//! |---|---|
//! | never redirected | it has no destination but the sidecar itself |
//! | to an address of this pod and a port of the sidecar | it would come back to us, without end |
//! | inbound, to loopback or `::6` | it would open loopback-only services to the sender |
//! | inbound, to an address that is not this pod's | we would be an open relay |
//! | inbound, from the source of the inbound hop | it is that hop, which came back |
//! | outbound, from a socket of the sidecar's own, for the second time in a row | conntrack sends it by earlier connections' decisions |
//! | outbound, to loopback or `::6` | no rule of ours sends it here, so it was forged |
//!
//! An outbound connection to the pod's own address and a port of the application passes: it goes through the inbound
//! rules like any peer's (it comes back to us once, from the sidecar's uid).
//!
//! A MeshMetric's port is none of the sidecar's here: an inbound connection to it has to pass, by the mesh's TLS and
//! permissions. It cannot loop, since the port serves and relays nothing.

use crate::metrics::labels;
use crate::net::addrs::{ClientAddr, Direction, OrigDst, inbound_source, is_loopback};
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
    /// The client is the sidecar.
    #[error(
        "this sidecar's own connection to {0} came back to it: refusing to loop; is nf_conntrack_tcp_timeout_close 0 in \
         this pod, and are the redirect rules whole?"
    )]
    OwnConnection(OrigDst),
}

impl Refusal {
    /// Returns the reason for the closing record.
    pub(crate) fn reason(self) -> CloseReason {
        match self {
            Self::NotRedirected => CloseReason::NoOriginalDst,
            Self::OwnPort(_) | Self::Loopback(_) | Self::NotThisPod(_) | Self::OwnConnection(_) => {
                CloseReason::Loop
            }
        }
    }

    /// Returns the guard, for the metric's label.
    pub(crate) fn guard(self) -> Guard {
        match self {
            Self::NotRedirected => Guard::NotRedirected,
            Self::OwnPort(_) => Guard::OwnPort,
            Self::Loopback(_) => Guard::Loopback,
            Self::NotThisPod(_) => Guard::NotThisPod,
            Self::OwnConnection(_) => Guard::OwnConnection,
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
    OwnConnection,
}

impl Guard {
    /// All guards, for tables.
    pub(crate) const ALL: [Self; 5] =
        [Self::NotRedirected, Self::OwnPort, Self::Loopback, Self::NotThisPod, Self::OwnConnection];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NotRedirected => "not_redirected",
            Self::OwnPort => "own_port",
            Self::Loopback => "loopback",
            Self::NotThisPod => "not_this_pod",
            Self::OwnConnection => "own_connection",
        }
    }
}

labels! { Guard: "guard" }

/// The pod's and the sidecar's own, as the guards have to know it.
pub(crate) struct Ours<'a, A> {
    pub(crate) ports: &'a SidecarPorts,
    /// Returns true for an address of this pod.
    pub(crate) is_address: A,
    /// True if an outbound connection is a call of the sidecar's that came back for the second time.
    pub(crate) is_loop: bool,
}

/// Lets a connection pass, or returns the reason to refuse it.
pub(crate) fn check(
    direction: Direction,
    client: ClientAddr,
    redirected: Redirected,
    ours: &Ours<'_, impl Fn(IpAddr) -> bool>,
) -> Result<OrigDst, Refusal> {
    let Redirected::From(original) = redirected else { return Err(Refusal::NotRedirected) };
    let (ip, port) = (original.get().ip(), original.get().port());
    let to_our_port = ours.ports.contains(port);
    if is_loopback(ip) {
        return Err(if to_our_port { Refusal::OwnPort(original) } else { Refusal::Loopback(original) });
    }
    match direction {
        // Most connections leave the pod: no need to know whose address it is.
        Direction::Outbound if to_our_port && (ours.is_address)(ip) => Err(Refusal::OwnPort(original)),
        Direction::Outbound if ours.is_loop => Err(Refusal::OwnConnection(original)),
        Direction::Outbound => Ok(original),
        Direction::Inbound if !(ours.is_address)(ip) => Err(Refusal::NotThisPod(original)),
        Direction::Inbound if to_our_port => Err(Refusal::OwnPort(original)),
        // A socket of the outbound side is a call to oneself, which passes here once.
        Direction::Inbound if client.get().ip() == inbound_source(client.family()) => {
            Err(Refusal::OwnConnection(original))
        }
        Direction::Inbound => Ok(original),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Inbound, Outbound};

    const POD: [&str; 4] = ["10.0.0.2", "fd00::2", "127.0.0.1", "::1"];

    fn verdict(direction: Direction, original: Option<&str>) -> Result<OrigDst, Guard> {
        of_client(direction, "10.0.0.9:4000", original)
    }

    fn of_client(direction: Direction, client: &str, original: Option<&str>) -> Result<OrigDst, Guard> {
        let redirected = match original {
            Some(text) => Redirected::From(OrigDst::new(text.parse().unwrap())),
            None => Redirected::Not,
        };
        let ports = SidecarPorts::new([15001, 15006, 15020, 9901, 0]);
        let ours = Ours {
            ports: &ports,
            is_address: |ip: IpAddr| POD.contains(&ip.to_string().as_str()),
            is_loop: OWN.contains(&(client, original.unwrap_or_default())),
        };
        check(direction, ClientAddr::new(client.parse().unwrap()), redirected, &ours).map_err(Refusal::guard)
    }

    /// Sockets of the sidecar's own.
    const OWN: [(&str, &str); 2] = [("10.0.0.2:4001", "192.0.2.1:443"), ("10.0.0.2:4002", "10.0.0.2:80")];

    #[test]
    fn a_connection_of_the_sidecar_that_comes_back_is_refused_but_a_call_to_oneself_passes() {
        for (direction, client, original, passes) in [
            (Outbound, "10.0.0.2:4001", "192.0.2.1:443", false),
            (Outbound, "10.0.0.2:4002", "10.0.0.2:80", false),
            // The application's, by a port of ours.
            (Outbound, "10.0.0.2:4001", "192.0.2.1:80", true),
            (Inbound, "10.0.0.2:4002", "10.0.0.2:80", true),
            // The hop to the application.
            (Inbound, "127.0.0.6:4003", "10.0.0.2:80", false),
            (Inbound, "[::6]:4003", "[fd00::2]:80", false),
        ] {
            let expected =
                if passes { Ok(OrigDst::new(original.parse().unwrap())) } else { Err(Guard::OwnConnection) };
            assert_eq!(
                of_client(direction, client, Some(original)),
                expected,
                "{direction} {client} {original}"
            );
        }
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
