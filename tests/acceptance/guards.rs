//! Destinations that the sidecar refuses to forward to. Each refusal is counted as `loop_rejected`.

use std::io::{self, ErrorKind};

use anyhow::Result;
use culvert_tests::server::{self, echo, who};
use culvert_tests::{Actor, At, Family, Lab, Sidecar, eventually, http};

use crate::support::{APP, SIDECAR, assert_taken_and_reset, read_all};

/// Connections that have to be refused, each with the number that the counter of refusals grows by.
fn refused(sidecar: &Sidecar<'_>, what: &str, actor: Actor<'_>, to: impl At) -> Result<()> {
    let before = sidecar.stat("loop_rejected")?;
    assert_taken_and_reset(actor.connect(to), what);
    eventually!(sidecar.stat("loop_rejected").is_ok_and(|now| now == before + 1));
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
fn refused_connections_are_not_counted_as_forwarded() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let sidecar = lab.pod.sidecar().start()?;
    let forwarded = || -> Result<Vec<u64>> {
        ["inbound", "outbound"]
            .iter()
            .map(|direction| sidecar.stat(&format!("cluster.{direction}_passthrough_ipv4.upstream_cx_total")))
            .collect()
    };
    let before = forwarded()?;
    refused(&sidecar, "application to 15001", lab.pod.as_uid(APP), "127.0.0.1:15001")?;
    assert_eq!(forwarded()?, before);
    Ok(())
}

/// The clients that try to reach a port that is not meant for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Peer,
    Application,
    PodsRoot,
    SidecarsUid,
}

/// The result that a client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Got {
    /// Refused by the kernel: the port is closed.
    Refused,
    /// The connection was accepted and reset.
    Reset,
    /// The answer of the application's service.
    Service,
    /// The answer of the status port.
    Status,
    /// The answer of the admin port.
    Admin,
}

/// A service on all addresses of the pod, and one on its loopback alone.
const SERVICE: u16 = 8080;
const PRIVATE: u16 = 8081;

/// The due result for each port that a client might want to reach through the sidecar.
fn due(who: Who, family: Family, to: std::net::IpAddr, port: u16) -> Got {
    let (pod, hop) = (to == family.pod(), to == family.hop());
    match (who, port) {
        (Who::Peer, SERVICE) => Got::Service,
        (Who::Peer, 15_020) => Got::Status,
        // Through the inbound listener: a port of the sidecar, or a closed port of the pod's address.
        (Who::Peer, _) => Got::Reset,
        // Back through the inbound listener, excluded or not; the hop's own address is loopback to it.
        (Who::SidecarsUid, SERVICE) if pod => Got::Service,
        (Who::SidecarsUid, _) if pod || hop => Got::Reset,
        // Directly.
        (_, 15_001 | 15_006) => Got::Reset,
        (_, 15_020) => Got::Status,
        (_, SERVICE) => Got::Service,
        (_, 9901) if to == Family::V4.loopback() => Got::Admin,
        (_, PRIVATE) if to == family.loopback() => Got::Service,
        _ => Got::Refused,
    }
}

fn got(actor: Actor<'_>, to: std::net::SocketAddr) -> Result<Got> {
    let stream = match actor.connect(to) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(Got::Refused),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(Got::Reset),
        Err(error) => return Err(error.into()),
    };
    Ok(match http::get(stream, "/config_dump") {
        Ok(answer) if answer.body.starts_with("service") => Got::Service,
        Ok(answer) if answer.status == 200 => Got::Admin,
        Ok(_) => Got::Status,
        Err(error) if is_reset(&error) => Got::Reset,
        Err(error) => return Err(error),
    })
}

fn is_reset(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    // Written to after the reset had come.
    matches!(kind, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe))
}

#[test]
fn no_client_reaches_the_sidecars_own_ports_through_the_sidecar() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let sidecar = lab.pod.sidecar().start()?;
    let mut servers = vec![lab.pod.as_uid(APP).serve("[::]:8080", server::http("service"))?];
    for family in Family::BOTH {
        servers.push(lab.pod.as_uid(APP).serve((family.loopback(), PRIVATE), server::http("service"))?);
    }
    let mut wrong = Vec::new();
    let mut tried = 0;
    for family in Family::BOTH {
        for who in [Who::Peer, Who::Application, Who::PodsRoot, Who::SidecarsUid] {
            let actor = match who {
                Who::Peer => lab.peer.as_root(),
                Who::Application => lab.pod.as_uid(APP),
                Who::PodsRoot => lab.pod.as_root(),
                Who::SidecarsUid => lab.pod.as_uid(SIDECAR),
            };
            for to in [family.pod(), family.loopback(), family.hop()] {
                // A peer's loopback is its own; forged packets have tests of their own.
                if who == Who::Peer && to != family.pod() {
                    continue;
                }
                for port in [15_001, 15_006, 15_020, 15_053, 9901, SERVICE, PRIVATE] {
                    let (due, got) = (due(who, family, to, port), got(actor, (to, port).into()));
                    tried += 1;
                    if !matches!(got, Ok(got) if got == due) {
                        wrong.push(format!("{who:?} to {to} port {port}: {due:?} is due, but {got:?}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "of {tried}:\n{}", wrong.join("\n"));
    // Nothing goes round in circles either.
    eventually!(sidecar.admin("/connections").is_ok_and(|all| !all.body.contains("orig_dst")));
    Ok(())
}
