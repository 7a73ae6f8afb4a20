// SPDX-License-Identifier: Apache-2.0
use super::*;

const DAY: Duration = Duration::from_secs(86400);

fn plan() -> Plan {
    let names = ["injector.mesh.svc", "injector.mesh.svc.cluster.local", "injector.mesh"];
    Plan { names: names.map(str::to_owned).into(), life: 90 * DAY }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_298_399)
}

fn first() -> Kept {
    plan().next((None, None), false, now()).unwrap().unwrap().0
}

#[test]
fn a_certificate_is_good_for_its_names_and_its_life() {
    let pair = Pair::make(&plan().names, 90 * DAY, now()).unwrap();
    for name in &plan().names {
        pair.check(name, now()).unwrap();
    }
    // An API server whose clock is behind, and the last day.
    pair.check("injector.mesh.svc", now() - Duration::from_secs(3000)).unwrap();
    pair.check("injector.mesh.svc", now() + 89 * DAY).unwrap();
    for (name, at) in [
        ("injector.mesh.svc", now() + 91 * DAY),
        ("injector.mesh.svc", now() - DAY),
        ("other.mesh.svc", now()),
        ("injector.other.svc", now()),
    ] {
        assert!(matches!(pair.check(name, at), Err(Unfit::Refused(_))), "{name}");
    }
    let other = Pair::make(&plan().names, 90 * DAY, now()).unwrap();
    let stranger = Pair { ca: other.ca.clone(), ..pair.clone() };
    assert!(matches!(stranger.check("injector.mesh.svc", now()), Err(Unfit::Refused(_))));
    let wrong_key = Pair { key: other.key, ..pair.clone() };
    assert!(matches!(wrong_key.check("injector.mesh.svc", now()), Err(Unfit::Unreadable(_))));
    for garbage in ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        for broken in [
            Pair { certificate: garbage.to_owned(), ..pair.clone() },
            Pair { key: garbage.to_owned(), ..pair.clone() },
            Pair { ca: garbage.to_owned(), ..pair.clone() },
        ] {
            assert!(broken.check("injector.mesh.svc", now()).is_err(), "{garbage}");
        }
    }
    assert!(!format!("{pair:?}").contains("PRIVATE"), "a key in a log");
}

#[test]
fn no_key_of_a_ca_is_kept() {
    let kept = first();
    let all: String = kept.data().into_values().collect();
    assert_eq!(all.matches("PRIVATE KEY-----\n").count(), 2, "the begin and the end of one key");
    assert_eq!(kept.data().keys().collect::<Vec<_>>(), ["ca.crt", "tls.crt", "tls.key"]);
}

/// Through the life of a certificate: at each moment the one that is served is trusted by the bundle of that moment.
#[test]
fn a_renewal_never_serves_what_the_bundle_does_not_trust() {
    let plan = plan();
    let mut kept = first();
    let mut changes = Vec::new();
    let mut bundles = vec![kept.bundle()];
    for day in 0..=130 {
        let at = now() + day * DAY;
        // Two looks a day: of the first each change, of the second what follows when the bundle has settled.
        for is_settled in [false, true] {
            // The bundle that API servers have is the one of the last look.
            let known = bundles.last().unwrap().clone();
            if let Some((next, change)) = plan.next((Some(&kept), None), is_settled, at).unwrap() {
                if change == Change::Serves {
                    assert!(is_settled && known.contains(next.current.ca.trim()), "day {day}");
                    assert!(
                        next.bundle().contains(kept.current.ca.trim()),
                        "day {day}: the last one is still trusted"
                    );
                } else {
                    assert_eq!(next.current, kept.current, "day {day}");
                }
                changes.push((day, change));
                kept = next;
            }
            kept.current.check("injector.mesh.svc", at).unwrap();
            assert!(kept.bundle().matches("BEGIN CERTIFICATE").count() <= 2, "day {day}");
            assert_eq!(Kept::read(&kept.data()), Some(kept.clone()), "day {day}");
            bundles.push(kept.bundle());
        }
    }
    assert_eq!(
        changes,
        [(61, Change::Announced), (61, Change::Serves), (122, Change::Announced), (122, Change::Serves)]
    );
}

#[test]
fn a_next_certificate_waits_as_long_as_its_ca_is_not_known() {
    let plan = plan();
    let at = now() + 61 * DAY;
    let (announced, change) = plan.next((Some(&first()), None), false, at).unwrap().unwrap();
    assert_eq!(change, Change::Announced);
    assert_eq!(plan.next((Some(&announced), None), false, at + 20 * DAY).unwrap(), None);
    // A next one that has become old itself is made anew, and not served.
    let mut stale = first();
    stale.next = Some(first().current);
    let (anew, change) = plan.next((Some(&stale), None), true, at).unwrap().unwrap();
    assert_eq!(change, Change::Announced);
    assert_ne!(anew.next, stale.next);
}

#[test]
fn a_bad_certificate_is_replaced_at_once() {
    let plan = plan();
    let good = first();
    let expired = now() + 91 * DAY;
    let (fresh, change) = plan.next((Some(&good), None), false, expired).unwrap().unwrap();
    assert!(matches!(change, Change::Made(reason) if reason.contains("xpired")));
    fresh.current.check("injector.mesh.svc", expired).unwrap();
    assert!(fresh.bundle().contains(good.current.ca.trim()));

    let mut data = good.data();
    data.insert("tls.crt".to_owned(), "garbage".to_owned());
    data.insert("previous-ca.crt".to_owned(), "garbage".to_owned());
    let broken = Kept::read(&data).unwrap();
    assert!(!broken.bundle().contains("garbage"));
    let (fresh, _) = plan.next((Some(&broken), None), false, now()).unwrap().unwrap();
    fresh.current.check("injector.mesh.svc", now()).unwrap();

    for key in CURRENT {
        let mut data = good.data();
        data.remove(key);
        assert_eq!(Kept::read(&data), None, "{key}");
    }
    // Another Service in front of it.
    let moved = Plan { names: vec!["injector.other.svc".to_owned()], ..plan };
    let (fresh, _) = moved.next((Some(&good), None), false, now()).unwrap().unwrap();
    fresh.current.check("injector.other.svc", now()).unwrap();
}

#[test]
fn the_wait_for_a_bundle_is_a_minute_or_less_with_a_short_life() {
    for (life, wait) in [(90 * DAY, 60), (Duration::from_secs(30), 1), (Duration::from_secs(1200), 20)] {
        assert_eq!(Plan { life, ..plan() }.settles_within(), Duration::from_secs(wait), "{life:?}");
    }
}

#[test]
fn what_is_served_stays_trusted_after_its_secret_is_lost() {
    let (kept, _) = plan().next((None, None), false, now()).unwrap().unwrap();
    assert_eq!(kept.previous_ca, None);
    let serving = Some(kept.current.clone());
    let (fresh, change) = plan().next((None, serving.clone()), false, now()).unwrap().unwrap();
    assert!(matches!(change, Change::Made(_)) && fresh.current != kept.current);
    assert_eq!(fresh.previous_ca.as_ref(), Some(&kept.current.ca));
    // One that API servers do not take any more need not be.
    let (fresh, _) = plan().next((None, serving), false, now() + 10_000 * DAY).unwrap().unwrap();
    assert_eq!(fresh.previous_ca, None);
}
