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

use crate::addrs::{ClientAddr, Family, OrigDst};
use crate::listener::Backoff;
use crate::original_dst::Redirected;
use crate::proxy::Proxy;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

/// The port that is dialled: tcpmux, which nobody serves. Without the rules the kernel refuses at once, and no
/// application sees a connection that it does not understand.
const PROBE_PORT: u16 = 1;

/// How long one try may take. It never leaves the pod, so a millisecond is usual.
const TRY_FOR: Duration = Duration::from_secs(1);
/// The first wait between tries, when rules or addresses may still be on their way.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest: a repaired pod becomes ready soon after.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How often to look for a family that the pod gets later.
const WATCH_EVERY: Duration = Duration::from_secs(5);

/// What is known of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Not tried yet.
    Pending,
    /// The pod has no address of this family that a peer could dial, so there is nothing to prove.
    Absent,
    /// The rules are in place.
    Proved,
    /// They seem not to be; why.
    Missing(String),
}

/// Why one try proved nothing.
#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error(
        "a connection from this sidecar to {0} did not come back on its inbound port, so the redirect rules are missing: \
         is culvert-cni in the node's conflist, is the pod annotated with culvert.dev/redirect: enabled, and is {1} its \
         proxy-uid?"
    )]
    NotCaptured(SocketAddr, nix::unistd::Uid),
    #[error("{0} cannot be used yet (an IPv6 address may still be under duplicate address detection): {1}")]
    Address(IpAddr, io::Error),
    #[error("cannot try {0}: {1}")]
    Socket(SocketAddr, io::Error),
}

/// A try under way.
#[derive(Debug)]
struct Probe {
    source: ClientAddr,
    target: OrigDst,
    arrived: oneshot::Sender<()>,
}

/// What is known, and the tries under way.
#[derive(Debug)]
pub struct Capture {
    /// By family; only those that `--verify-redirect` asks for are ever looked at.
    proofs: Mutex<[Proof; 2]>,
    /// At most one per family.
    probes: Mutex<Vec<Probe>>,
    /// Whether there is any, so that an accepted connection need not take the lock.
    probing: AtomicBool,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            proofs: Mutex::new([Proof::Pending, Proof::Pending]),
            probes: Mutex::new(Vec::new()),
            probing: AtomicBool::new(false),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Capture ===

impl Capture {
    /// Whether an inbound connection is one of our own tries. It is when it comes from where we dialled and was meant for
    /// what we dialled, after a redirect.
    pub fn recognise(&self, client: ClientAddr, redirected: Redirected) -> bool {
        if !self.probing.load(Ordering::Acquire) {
            return false;
        }
        let Redirected::From(target) = redirected else { return false };
        let mut probes = lock(&self.probes);
        let Some(at) = probes.iter().position(|probe| probe.source == client && probe.target == target)
        else {
            return false;
        };
        // The one who waits may have given up this moment; the connection is ours all the same.
        let _ = probes.swap_remove(at).arrived.send(());
        true
    }

    /// What is known of a family.
    pub fn proof(&self, family: Family) -> Proof {
        lock(&self.proofs)[family as usize].clone()
    }

    fn set(&self, family: Family, proof: Proof) {
        lock(&self.proofs)[family as usize] = proof;
    }

    /// One try at one address.
    async fn try_address(&self, ip: IpAddr) -> Result<(), TryError> {
        let target = SocketAddr::new(ip, PROBE_PORT);
        let failed = |error| TryError::Socket(target, error);
        let socket = match target {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }
        .map_err(failed)?;
        // The port is fixed here, before the connection can arrive.
        socket.bind(SocketAddr::new(ip, 0)).map_err(|error| TryError::Address(ip, error))?;
        let source = ClientAddr::new(socket.local_addr().map_err(failed)?);
        let (arrived, arrival) = oneshot::channel();
        let _registered = self.register(Probe { source, target: OrigDst::new(target), arrived });
        let not_captured = || TryError::NotCaptured(target, nix::unistd::geteuid());
        let round_trip = async {
            let _stream = socket.connect(target).await.map_err(|error| match error.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut => not_captured(),
                _ => failed(error),
            })?;
            arrival.await.map_err(|_| not_captured())
        };
        tokio::time::timeout(TRY_FOR, round_trip).await.map_err(|_| not_captured())?
    }

    fn register(&self, probe: Probe) -> Registered<'_> {
        let source = probe.source;
        lock(&self.probes).push(probe);
        self.probing.store(true, Ordering::Release);
        Registered { capture: self, source }
    }
}

/// A try that is under way; when it is over, nothing is recognised as it any more.
struct Registered<'a> {
    capture: &'a Capture,
    source: ClientAddr,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut probes = lock(&self.capture.probes);
        probes.retain(|probe| probe.source != self.source);
        self.capture.probing.store(!probes.is_empty(), Ordering::Release);
    }
}

/// Tries until every family that is asked for is proved; `changed` is called after each round.
pub async fn prove(proxy: Arc<Proxy>, changed: impl Fn()) {
    let families = proxy.config.verify_redirect.families();
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    loop {
        let mut missing = false;
        for &family in families {
            if proxy.capture.proof(family) != Proof::Proved {
                let proof = prove_family(&proxy, family).await;
                missing |= matches!(proof, Proof::Missing(_));
                report(&proxy, family, proof);
            }
        }
        changed();
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
        match proxy.capture.try_address(ip).await {
            Ok(()) => return Proof::Proved,
            // The first address speaks for the family: the later ones rarely say anything new.
            Err(error) if proof == Proof::Absent => proof = Proof::Missing(error.to_string()),
            Err(_) => {}
        }
    }
    proof
}

fn report(proxy: &Proxy, family: Family, proof: Proof) {
    let before = proxy.capture.proof(family);
    proxy.metrics.capture_proved(family).set(i64::from(proof == Proof::Proved));
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

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn from(text: &str) -> Redirected {
        Redirected::From(OrigDst::new(addr(text)))
    }

    #[test]
    fn only_the_connection_that_was_dialled_is_recognised_and_only_once() {
        let capture = Capture::default();
        let source = ClientAddr::new(addr("10.0.0.2:4000"));
        let (arrived, mut arrival) = oneshot::channel();
        let registered =
            capture.register(Probe { source, target: OrigDst::new(addr("10.0.0.2:1")), arrived });
        for (name, client, redirected) in [
            ("not redirected", source, Redirected::Not),
            ("another destination", source, from("10.0.0.2:80")),
            ("another source port", ClientAddr::new(addr("10.0.0.2:4001")), from("10.0.0.2:1")),
            ("a peer", ClientAddr::new(addr("10.0.0.9:4000")), from("10.0.0.2:1")),
        ] {
            assert!(!capture.recognise(client, redirected), "{name}");
        }
        assert!(arrival.try_recv().is_err());
        assert!(capture.recognise(source, from("10.0.0.2:1")));
        assert!(arrival.try_recv().is_ok());
        assert!(!capture.recognise(source, from("10.0.0.2:1")));
        drop(registered);
        assert!(!capture.probing.load(Ordering::Acquire));
    }

    #[test]
    fn a_try_that_was_given_up_is_forgotten() {
        let capture = Capture::default();
        let source = ClientAddr::new(addr("10.0.0.2:4000"));
        let (arrived, _arrival) = oneshot::channel();
        drop(capture.register(Probe { source, target: OrigDst::new(addr("10.0.0.2:1")), arrived }));
        assert!(!capture.recognise(source, from("10.0.0.2:1")));
        assert!(lock(&capture.probes).is_empty());
    }

    #[tokio::test]
    async fn without_rules_the_kernel_refuses_and_the_reason_says_what_to_do() {
        let capture = Capture::default();
        let error = capture.try_address("127.0.0.1".parse().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("is culvert-cni in the node's conflist"), "{error}");
        assert!(lock(&capture.probes).is_empty());
    }

    #[tokio::test]
    async fn an_address_that_is_not_there_yet_is_told_apart() {
        let capture = Capture::default();
        let error = capture.try_address("192.0.2.77".parse().unwrap()).await.unwrap_err();
        assert!(matches!(error, TryError::Address(..)), "{error}");
    }
}
