// SPDX-License-Identifier: Apache-2.0
//! The proof of capture: a pod that the plugin missed must not become ready.
//!
//! The redirect rules send what the sidecar's uid dials at the pod's own address to the inbound listener. So the sidecar
//! dials its own address, from its own address, and notes the source port. When a connection from there arrives on the
//! inbound listener with the destination that was dialled, the rules are in place for that family. The connection is
//! closed and never forwarded; no application sees it.
//!
//! Each family that the pod has is proved for itself, with any one of its addresses. The search goes on for a family
//! that comes later, such as IPv6 from a router advertisement, and stops when every family is proved.

use crate::connection::proxy::Proxy;
use crate::net::addrs::{ClientAddr, Family, OrigDst};
use crate::net::backoff::Backoff;
use crate::observe::capture::{Capture, ProbeAttempt, Proof};
use crate::observe::readiness::Block;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

/// Port that is dialled: tcpmux, which no program serves today. Without the rules the kernel refuses at once, and no
/// application sees a connection that it does not understand.
const PROBE_PORT: u16 = 1;

/// Longest time for one attempt. It never leaves the pod, so a millisecond is usual.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(1);
/// First pause between attempts, when rules or addresses may still come.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest pause: a repaired pod becomes ready soon after.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Pause before another look for a family that the pod gets later.
const WATCH_EVERY: Duration = Duration::from_secs(5);

/// Reason why an attempt proved nothing.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(
        "a connection from this sidecar to {0} did not come back on its inbound port, so the redirect rules are missing: \
         is culvert-cni in the node's conflist, is the pod annotated with culvert.dev/redirect: enabled, and is {1} its \
         proxy-uid? Rules that are there are bypassed in sandboxes of Kata (tc mirred), gVisor and other virtual machines"
    )]
    NotCaptured(SocketAddr, nix::unistd::Uid),
    #[error("{0} cannot be used yet (an IPv6 address may still be under duplicate address detection): {1}")]
    Address(IpAddr, io::Error),
    #[error("cannot try {0}: {1}")]
    Socket(SocketAddr, io::Error),
}

/// Makes one attempt at one address.
async fn try_address(capture: &Capture, ip: IpAddr) -> Result<(), AttemptError> {
    let target = SocketAddr::new(ip, PROBE_PORT);
    let failed = |error| AttemptError::Socket(target, error);
    let socket = match target {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
    .map_err(failed)?;
    // The port is fixed here, before the connection can arrive.
    socket.bind(SocketAddr::new(ip, 0)).map_err(|error| AttemptError::Address(ip, error))?;
    let source = ClientAddr::new(socket.local_addr().map_err(failed)?);
    let (arrived, arrival) = oneshot::channel();
    let _registered = capture.register(ProbeAttempt { source, target: OrigDst::new(target), arrived });
    let not_captured = || AttemptError::NotCaptured(target, nix::unistd::geteuid());
    let round_trip = async {
        let _stream = socket.connect(target).await.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut => not_captured(),
            _ => failed(error),
        })?;
        arrival.await.map_err(|_| not_captured())
    };
    tokio::time::timeout(ATTEMPT_DEADLINE, round_trip).await.map_err(|_| not_captured())?
}

/// Makes attempts until every family that is asked for is proved, and holds `block` until then.
pub(crate) async fn prove(proxy: Arc<Proxy>, block: Block) {
    let families = proxy.config.verify_redirect.families();
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    loop {
        let mut missing = false;
        for &family in families {
            if proxy.capture.proof(family) != Proof::Proved {
                let proof = prove_family(&proxy, family).await;
                missing |= matches!(proof, Proof::Missing(_));
                report(&proxy, family, proof);
                block.update(proxy.capture.unproved(proxy.config.verify_redirect));
            }
        }
        if families.iter().all(|&family| proxy.capture.proof(family) == Proof::Proved) {
            return;
        }
        tokio::time::sleep(if missing { backoff.next() } else { WATCH_EVERY }).await;
        proxy.own.refresh();
    }
}

async fn prove_family(proxy: &Proxy, family: Family) -> Proof {
    let addresses = proxy.own.current();
    let mut proof = Proof::Absent;
    for ip in addresses.reachable(family) {
        match try_address(&proxy.capture, ip).await {
            Ok(()) => return Proof::Proved,
            // The first address' error stands for the family: those of later ones are rarely different.
            Err(error) if proof == Proof::Absent => proof = Proof::Missing(error.to_string()),
            Err(_) => {}
        }
    }
    proof
}

fn report(proxy: &Proxy, family: Family, proof: Proof) {
    let before = proxy.capture.proof(family);
    if proof == before {
        return;
    }
    match &proof {
        Proof::Proved => tracing::info!("{}: the redirect is in place", family.title()),
        Proof::Missing(why) => tracing::warn!("{}: {why}", family.title()),
        Proof::Absent => tracing::debug!("{}: the pod has no address of this family", family.title()),
        Proof::Pending => {}
    }
    proxy.capture.set(family, proof);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::capture::CaptureMetrics;

    #[tokio::test]
    async fn without_rules_the_kernel_refuses_and_the_reason_says_what_to_do() {
        let capture = Capture::new(CaptureMetrics::default());
        let error = try_address(&capture, "127.0.0.1".parse().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("is culvert-cni in the node's conflist"), "{error}");
        assert!(capture.is_idle());
    }

    #[tokio::test]
    async fn an_address_that_is_not_there_yet_has_its_own_error() {
        let capture = Capture::new(CaptureMetrics::default());
        let error = try_address(&capture, "192.0.2.77".parse().unwrap()).await.unwrap_err();
        assert!(matches!(error, AttemptError::Address(..)), "{error}");
    }
}
