//! What the sidecar refuses to forward: contract §5, guards. Each refusal is counted as `loop_rejected`.

use anyhow::Result;
use culvert_tests::server::{echo, who};
use culvert_tests::{Actor, At, Family, Lab, Sidecar, eventually};

use crate::support::{APP, SIDECAR, assert_refused, read_all};

/// Connections that have to be refused, each with the number that the counter of refusals grows by.
fn refused(sidecar: &Sidecar<'_>, what: &str, actor: Actor<'_>, to: impl At) -> Result<()> {
    let before = sidecar.stats_ending("loop_rejected")?;
    assert_refused(actor.connect(to), what);
    eventually!(sidecar.stats_ending("loop_rejected").is_ok_and(|now| now == before + 1));
    Ok(())
}

#[test]
fn a_connection_that_was_never_redirected_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let sidecar = lab.pod.sidecar().start()?;
    for family in Family::BOTH {
        for port in [15_001, 15_006] {
            for address in [family.loopback(), family.pod()] {
                let what = format!("application to {address} port {port}");
                refused(&sidecar, &what, lab.pod.as_uid(APP), (address, port))?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_connection_to_a_port_of_the_sidecar_in_its_own_pod_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let sidecar = lab.pod.sidecar().start()?;
    for family in Family::BOTH {
        for port in [15_001, 15_006, 9901] {
            let what = format!("peer to {} port {port}", family.pod());
            refused(&sidecar, &what, lab.peer.as_root(), (family.pod(), port))?;
        }
    }
    Ok(())
}

#[test]
fn a_port_of_the_sidecar_elsewhere_is_a_port_like_any_other() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let _sidecar = lab.pod.sidecar().start()?;
    for family in Family::BOTH {
        for port in [15_001, 15_006, 15_020, 9901] {
            let _server = lab.peer.serve((family.outside(), port), who())?;
            let seen = read_all(lab.pod.as_uid(APP).connect((family.outside(), port))?)?;
            assert!(!seen.is_empty(), "{family} port {port}");
        }
    }
    Ok(())
}

#[test]
fn a_call_of_the_sidecars_uid_to_loopback_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let sidecar = lab.pod.sidecar().start()?;
    let mut services = Vec::new();
    for address in ["127.0.0.2", "127.0.0.6", "::6"] {
        services.push(lab.pod.serve((address, 8080), echo())?);
        refused(&sidecar, address, lab.pod.as_uid(SIDECAR), (address, 8080))?;
    }
    assert!(services.iter().all(|service| service.accepted() == 0), "a loopback service was reached");
    Ok(())
}

#[test]
fn what_was_refused_is_not_counted_as_forwarded() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let sidecar = lab.pod.sidecar().start()?;
    let before = sidecar.stats_ending("passthrough_ipv4.upstream_cx_total")?;
    refused(&sidecar, "application to 15001", lab.pod.as_uid(APP), "127.0.0.1:15001")?;
    assert_eq!(sidecar.stats_ending("passthrough_ipv4.upstream_cx_total")?, before);
    Ok(())
}
