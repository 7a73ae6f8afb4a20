//! Each annotation of the pod, by the landing of its connections, in both families and by every engine.

use anyhow::Result;
use culvert_tests::{Family, Lab, Landed, Landing};

use crate::support::{APP, Rows, SIDECAR, by_every_engine};

/// A pod with these annotations, a listener in the sidecar's place, and servers at the usual targets: port 80 outside,
/// port 8080 in the pod.
fn pod_with(engine: &str, annotations: &[(&str, &str)]) -> Result<(Lab, Landing)> {
    pod_with_ports(engine, annotations, 15_006, 15_001)
}

fn pod_with_ports(
    engine: &str,
    annotations: &[(&str, &str)],
    inbound: u16,
    outbound: u16,
) -> Result<(Lab, Landing)> {
    let lab = Lab::new()?;
    lab.add(&[annotations, &[("engine", engine)]].concat())?.expect_success();
    let mut landing = Landing::in_place_of_sidecar(&lab.pod, inbound, outbound)?;
    for family in Family::BOTH {
        landing.target(&lab.peer, (family.outside(), 80))?;
        landing.target(&lab.pod, (family.pod(), 8080))?;
    }
    Ok((lab, landing))
}

fn proxy_uid_says_who_the_sidecar_is(engine: &str) -> Result<()> {
    for uid in [1, 1337, 65_535, 4_294_967_294] {
        let (lab, landing) = pod_with(engine, &[("proxy-uid", &uid.to_string())])?;
        let mut rows = Rows::of(&landing);
        for family in Family::BOTH {
            rows.direct("the sidecar", lab.pod.as_uid(uid), (family.outside(), 80))?;
            rows.inbound("the sidecar to its own pod", lab.pod.as_uid(uid), (family.pod(), 8080))?;
            rows.direct("the hop", lab.pod.as_uid(uid).from(family.hop()), (family.pod(), 8080))?;
            rows.outbound("the default uid", lab.pod.as_uid(SIDECAR), (family.outside(), 80))?;
            rows.outbound("root", lab.pod.as_root(), (family.outside(), 80))?;
        }
    }
    Ok(())
}

fn redirect_inbound_disabled_leaves_what_comes_in_alone(engine: &str) -> Result<()> {
    let (lab, landing) = pod_with(engine, &[("redirect-inbound", "disabled")])?;
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        rows.direct("peer", lab.peer.as_root(), (family.pod(), 8080))?;
        rows.row("peer to a closed port", lab.peer.as_root(), (family.pod(), 81), Landed::Refused)?;
        rows.direct("sidecar to its own pod", lab.pod.as_uid(SIDECAR), (family.pod(), 8080))?;
        rows.outbound("application", lab.pod.as_uid(APP), (family.outside(), 80))?;
        rows.direct("sidecar", lab.pod.as_uid(SIDECAR), (family.outside(), 80))?;
    }
    Ok(())
}

fn redirect_outbound_disabled_leaves_what_goes_out_alone(engine: &str) -> Result<()> {
    let (lab, landing) = pod_with(engine, &[("redirect-outbound", "disabled")])?;
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        rows.direct("application", lab.pod.as_uid(APP), (family.outside(), 80))?;
        rows.direct("root", lab.pod.as_root(), (family.outside(), 80))?;
        rows.inbound("peer", lab.peer.as_root(), (family.pod(), 8080))?;
        rows.inbound("sidecar to its own pod", lab.pod.as_uid(SIDECAR), (family.pod(), 8080))?;
        rows.direct("the hop", lab.pod.as_uid(SIDECAR).from(family.hop()), (family.pod(), 8080))?;
    }
    Ok(())
}

fn both_directions_disabled_leave_everything_alone(engine: &str) -> Result<()> {
    let (lab, landing) =
        pod_with(engine, &[("redirect-inbound", "disabled"), ("redirect-outbound", "disabled")])?;
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        rows.direct("application", lab.pod.as_uid(APP), (family.outside(), 80))?;
        rows.direct("peer", lab.peer.as_root(), (family.pod(), 8080))?;
        rows.direct("sidecar to its own pod", lab.pod.as_uid(SIDECAR), (family.pod(), 8080))?;
    }
    Ok(())
}

fn redirect_enabled_in_so_many_words_is_the_default(engine: &str) -> Result<()> {
    let (lab, landing) =
        pod_with(engine, &[("redirect-inbound", "enabled"), ("redirect-outbound", "enabled")])?;
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        rows.outbound("application", lab.pod.as_uid(APP), (family.outside(), 80))?;
        rows.inbound("peer", lab.peer.as_root(), (family.pod(), 8080))?;
    }
    Ok(())
}

fn inbound_port_and_outbound_port_say_where_the_sidecar_listens(engine: &str) -> Result<()> {
    let (lab, landing) =
        pod_with_ports(engine, &[("inbound-port", "7006"), ("outbound-port", "7001")], 7006, 7001)?;
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        rows.outbound("application", lab.pod.as_uid(APP), (family.outside(), 80))?;
        rows.inbound("peer", lab.peer.as_root(), (family.pod(), 8080))?;
        rows.inbound("peer to a default port", lab.peer.as_root(), (family.pod(), 15_006))?;
        rows.inbound("peer to a default port", lab.peer.as_root(), (family.pod(), 15_001))?;
        rows.inbound("sidecar to its own pod", lab.pod.as_uid(SIDECAR), (family.pod(), 8080))?;
    }
    for port in ["7006", "7001"] {
        let reserved = lab.pod.sysctl("net.ipv4.ip_local_reserved_ports")?;
        assert!(holds_port(&reserved, port), "{port} is not in {reserved}");
    }
    Ok(())
}

fn status_port_is_the_one_port_that_is_not_redirected(engine: &str) -> Result<()> {
    let (lab, mut landing) = pod_with(engine, &[("status-port", "7020")])?;
    for family in Family::BOTH {
        landing.target(&lab.pod, (family.pod(), 7020))?;
        landing.target(&lab.pod, (family.pod(), 15_020))?;
    }
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        rows.direct("peer to the status port", lab.peer.as_root(), (family.pod(), 7020))?;
        rows.inbound("peer to the default status port", lab.peer.as_root(), (family.pod(), 15_020))?;
    }
    Ok(())
}

/// Values of an exclude list, with ports that it holds and ports beside them.
const LISTS: [(&str, &[u16], &[u16]); 5] = [
    ("22", &[22], &[21, 23, 2222]),
    ("22,443", &[22, 443], &[23, 442, 444]),
    ("8000-8003", &[8000, 8001, 8003], &[7999, 8004]),
    ("22, 7000-7001 ,443", &[22, 7000, 7001, 443], &[7002, 444]),
    ("1-100,50-200,65535", &[1, 100, 150, 200, 65_535], &[201, 65_534]),
];

fn excluded_inbound_ports_are_reached_directly(engine: &str) -> Result<()> {
    for (list, excluded, others) in LISTS {
        let (lab, mut landing) = pod_with(engine, &[("exclude-inbound-ports", list)])?;
        for family in Family::BOTH {
            for port in excluded {
                landing.target(&lab.pod, (family.pod(), *port))?;
            }
        }
        let mut rows = Rows::of(&landing);
        for family in Family::BOTH {
            for port in excluded {
                rows.direct(&format!("{list}: peer"), lab.peer.as_root(), (family.pod(), *port))?;
                // No list touches what goes out.
                rows.outbound(
                    &format!("{list}: application"),
                    lab.pod.as_uid(APP),
                    (family.outside(), *port),
                )?;
                // No exclusion touches the sidecar's calls to its own pod.
                rows.inbound(&format!("{list}: sidecar"), lab.pod.as_uid(SIDECAR), (family.pod(), *port))?;
            }
            for port in others {
                rows.inbound(&format!("{list}: peer"), lab.peer.as_root(), (family.pod(), *port))?;
            }
        }
    }
    Ok(())
}

fn excluded_outbound_ports_are_reached_directly(engine: &str) -> Result<()> {
    for (list, excluded, others) in LISTS {
        let (lab, mut landing) = pod_with(engine, &[("exclude-outbound-ports", list)])?;
        for family in Family::BOTH {
            for port in excluded {
                landing.target(&lab.peer, (family.outside(), *port))?;
            }
        }
        let mut rows = Rows::of(&landing);
        for family in Family::BOTH {
            for port in excluded {
                rows.direct(&format!("{list}: application"), lab.pod.as_uid(APP), (family.outside(), *port))?;
                rows.inbound(&format!("{list}: peer"), lab.peer.as_root(), (family.pod(), *port))?;
                rows.inbound(&format!("{list}: sidecar"), lab.pod.as_uid(SIDECAR), (family.pod(), *port))?;
            }
            for port in others {
                rows.outbound(
                    &format!("{list}: application"),
                    lab.pod.as_uid(APP),
                    (family.outside(), *port),
                )?;
            }
        }
    }
    Ok(())
}

fn an_excluded_port_that_is_closed_is_refused_by_the_kernel(engine: &str) -> Result<()> {
    let (lab, landing) =
        pod_with(engine, &[("exclude-inbound-ports", "22"), ("exclude-outbound-ports", "22")])?;
    let mut rows = Rows::of(&landing);
    for family in Family::BOTH {
        rows.row("peer", lab.peer.as_root(), (family.pod(), 22), Landed::Refused)?;
        rows.row("application", lab.pod.as_uid(APP), (family.outside(), 22), Landed::Refused)?;
    }
    Ok(())
}

by_every_engine! {
    proxy_uid_says_who_the_sidecar_is,
    redirect_inbound_disabled_leaves_what_comes_in_alone,
    redirect_outbound_disabled_leaves_what_goes_out_alone,
    both_directions_disabled_leave_everything_alone,
    redirect_enabled_in_so_many_words_is_the_default,
    inbound_port_and_outbound_port_say_where_the_sidecar_listens,
    status_port_is_the_one_port_that_is_not_redirected,
    excluded_inbound_ports_are_reached_directly,
    excluded_outbound_ports_are_reached_directly,
    an_excluded_port_that_is_closed_is_refused_by_the_kernel,
}

/// Returns true if a list as the kernel prints it (`7001,7006-7007`) holds a port.
pub(crate) fn holds_port(list: &str, port: &str) -> bool {
    let port: u16 = port.parse().expect("a port");
    list.split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&port))
    })
}
