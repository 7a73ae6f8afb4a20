// SPDX-License-Identifier: Apache-2.0
//! Checks of identities, and the change from one to the next.

use super::authority::{Authority, Wish, mesh, now, write};
use crate::connection::metrics::Metrics;
use crate::net::addrs::Direction;
use crate::options::config::IdentitySource;
use crate::tls::configs::provider;
use crate::tls::handshake::MOST;
use crate::tls::identity::{Identity, Pem};
use crate::tls::keeper::Tls;
use crate::tls::places::Candidate;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

fn check(pem: &Pem) -> Result<Identity, String> {
    Identity::check(pem, &mesh(), &Arc::new(provider()), now())
        .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

#[test]
fn an_identity_that_peers_accept_is_accepted() {
    let authority = Authority::new();
    let uris = ["spiffe://default/web", "spiffe://default/admin", "kuma://kuma.io/zone/east"];
    for wish in [
        Wish::default(),
        Wish { uris: &uris, ..Wish::default() },
        // Issued a moment ago, by a clock that is ahead of ours.
        Wish { time: (50, 3600), ..Wish::default() },
    ] {
        let identity = check(&authority.issue(&wish)).unwrap();
        assert_eq!(identity.ids[0].as_str(), "spiffe://default/web");
        assert_eq!(identity.chain[0].uris, wish.uris);
        let until = i64::try_from(identity.expires().as_secs()).unwrap();
        assert!((until - i64::try_from(now().as_secs()).unwrap() - wish.time.1).abs() <= 2);
        assert_eq!(identity.chain[0].facts.serial.len() % 2, 0);
    }
}

#[test]
fn an_identity_that_peers_refuse_is_refused_with_the_reason() {
    let authority = Authority::new();
    let good = || authority.issue(&Wish::default());
    let wish = |uris, time| authority.issue(&Wish { uris, time });
    let ours: &[&str] = &["spiffe://default/web"];
    let none = || Vec::from(*b"nothing");
    for (pem, shown) in [
        (wish(ours, (-7200, -3600)), "tls.crt expired 36"),
        (wish(ours, (3600, 7200)), "tls.crt is not valid for another 3"),
        (wish(&["spiffe://other/web"], (-1, 3600)), "which is not of the trust domain default"),
        (
            wish(&["spiffe://default/web", "spiffe://other/web"], (-1, 3600)),
            "which is not of the trust domain",
        ),
        (wish(&["https://default/web"], (-1, 3600)), "has no spiffe:// name"),
        (wish(&["spiffe://default"], (-1, 3600)), "it is a trust domain, not a workload"),
        (wish(&["spiffe://default/../web"], (-1, 3600)), "has a path that no SPIFFE identity has"),
        (Pem { key: good().key, ..good() }, "tls.key is not the key of tls.crt"),
        (Pem { authorities: Authority::new().pem.into(), ..good() }, "tls.crt is of no authority in ca.crt"),
        (Pem { key: none(), ..good() }, "tls.key holds no private key"),
        (Pem { chain: none(), ..good() }, "tls.crt holds no certificate"),
        (Pem { authorities: none(), ..good() }, "ca.crt holds no certificate"),
        (Pem { chain: good().chain.repeat(9), ..good() }, "tls.crt holds 9 certificates; at most 8"),
    ] {
        let faults = check(&pem).unwrap_err();
        assert!(faults.contains(shown), "{shown:?} in {faults:?}");
    }
    let all = check(&Pem { chain: none(), key: none(), authorities: none() }).unwrap_err();
    assert_eq!(all.lines().count(), 3, "{all}");
}

#[test]
fn no_part_of_the_key_is_ever_shown() {
    let identity = check(&Authority::new().issue(&Wish::default())).unwrap();
    let shown = format!("{identity:?}");
    assert!(!shown.to_lowercase().contains("key"), "{shown}");
}

struct Kept {
    folder: tempfile::TempDir,
    metrics: Metrics,
    tls: Tls,
}

impl Kept {
    fn new(pem: Option<&Pem>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if let Some(pem) = pem {
            write(pem, folder.path());
        }
        let metrics = Metrics::default();
        let source = IdentitySource {
            folder: Some(folder.path().to_owned()),
            trust_domain: mesh(),
            names_services: true,
        };
        let tls = Tls::new(Some(source), &metrics.tls);
        Self { folder, metrics, tls }
    }

    /// Looks until nothing is new.
    fn check_files(&self) {
        self.tls.check_files(&self.metrics.tls);
        self.tls.check_files(&self.metrics.tls);
    }

    fn serial(&self) -> String {
        self.tls.identity().unwrap().chain[0].facts.serial.clone()
    }
}

#[test]
fn without_an_identity_it_is_not_ready_and_says_why_until_there_is_one() {
    let kept = Kept::new(None);
    let missing = kept.tls.missing(false).unwrap();
    assert!(missing.contains("cannot read") && missing.contains("tls.key"), "{missing}");
    write(&Authority::new().issue(&Wish { time: (-7200, -60), ..Wish::default() }), kept.folder.path());
    kept.check_files();
    assert!(kept.tls.missing(false).unwrap().contains("expired"));
    write(&Authority::new().issue(&Wish::default()), kept.folder.path());
    kept.check_files();
    assert_eq!(kept.tls.missing(false), None);
    assert_eq!(kept.tls.complaint(false), None);
}

#[test]
fn a_new_identity_follows_the_old_and_a_bad_one_does_not() {
    let authority = Authority::new();
    let kept = Kept::new(Some(&authority.issue(&Wish::default())));
    let first = kept.serial();
    write(&authority.issue(&Wish::default()), kept.folder.path());
    kept.check_files();
    let second = kept.serial();
    assert_ne!(first, second);
    let failed = || kept.metrics.tls.identity_reload_failed.get();
    assert_eq!((kept.metrics.tls.identity_reloads.get(), failed()), (2, 0));
    write(&authority.issue(&Wish { time: (-7200, -60), ..Wish::default() }), kept.folder.path());
    kept.check_files();
    assert_eq!((kept.serial(), failed()), (second, 1));
    assert_eq!(kept.tls.missing(false), None, "it stays ready");
    let complaint = kept.tls.complaint(false).unwrap();
    assert!(
        complaint.contains("the new identity is not used") && complaint.contains("expired"),
        "{complaint}"
    );
    kept.check_files();
    assert_eq!(failed(), 1, "counted once, not each second");
}

#[test]
fn an_identity_whose_time_has_not_come_is_taken_once_it_has() {
    // A second more than clocks may differ.
    let kept = Kept::new(Some(&Authority::new().issue(&Wish { time: (62, 3600), ..Wish::default() })));
    assert!(kept.tls.missing(false).unwrap().contains("not valid for another"));
    let start = std::time::Instant::now();
    while kept.tls.missing(false).is_some() {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::park_timeout(Duration::from_millis(100));
        kept.check_files();
    }
    assert_eq!(kept.metrics.tls.identity_reload_failed.get(), 1);
}

#[test]
fn files_that_are_written_one_after_the_other_are_awaited() {
    let authority = Authority::new();
    let kept = Kept::new(Some(&authority.issue(&Wish::default())));
    let new = authority.issue(&Wish::default());
    std::fs::write(kept.folder.path().join("tls.crt"), &new.chain).unwrap();
    kept.tls.check_files(&kept.metrics.tls);
    std::fs::write(kept.folder.path().join("tls.key"), &new.key).unwrap();
    kept.check_files();
    assert_eq!(kept.metrics.tls.identity_reload_failed.get(), 0);
    assert_eq!(kept.metrics.tls.identity_reloads.get(), 2);
}

#[test]
fn a_volume_of_kubernetes_is_followed_through_its_links() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let version = |name: &str| {
        let version = folder.path().join(name);
        std::fs::create_dir(&version).unwrap();
        write(&authority.issue(&Wish::default()), &version);
    };
    version("..1");
    let data = folder.path().join("..data");
    std::os::unix::fs::symlink("..1", &data).unwrap();
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), folder.path().join(name)).unwrap();
    }
    let metrics = Metrics::default();
    let source =
        IdentitySource { folder: Some(folder.path().to_owned()), trust_domain: mesh(), names_services: true };
    let tls = Tls::new(Some(source), &metrics.tls);
    let serial = || tls.identity().unwrap().chain[0].facts.serial.clone();
    let first = serial();
    version("..2");
    let next = folder.path().join("..data_tmp");
    std::os::unix::fs::symlink("..2", &next).unwrap();
    std::fs::rename(&next, &data).unwrap();
    tls.check_files(&metrics.tls);
    assert_ne!(serial(), first);
}

#[test]
fn an_identity_that_ends_soon_is_complained_of() {
    let kept = Kept::new(Some(&Authority::new().issue(&Wish { time: (-7200, 60), ..Wish::default() })));
    let complaint = kept.tls.complaint(false).unwrap();
    assert!(complaint.contains("was not renewed"), "{complaint}");
    let expires = kept.metrics.tls.identity_expires.get();
    assert!((expires - i64::try_from((now() + Duration::from_secs(60)).as_secs()).unwrap()).abs() <= 2);
}

#[test]
fn strangers_handshakes_leave_the_pods_own_their_places() {
    let tls = Tls::new(None, &Metrics::default().tls);
    let inbound = tls.places(Direction::Inbound);
    let candidate = |last| Candidate { address: IpAddr::from([10, 0, 0, last]), known: false };
    let held: Vec<_> = std::iter::from_fn(|| inbound.take(candidate(66)).ok()).collect();
    assert_eq!(held.len(), MOST);
    assert!(inbound.take(candidate(1)).is_ok(), "another peer");
    assert!(tls.places(Direction::Outbound).take(candidate(66)).is_ok());
}
