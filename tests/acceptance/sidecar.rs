//! The sidecar as a program: options, readiness, what it says about connections, how it ends.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use culvert_tests::server::{answers_at_the_end, echo};
use culvert_tests::{Family, Host, Lab, eventually, http};
use rustix::process::Signal;

use crate::support::{APP, assert_refused};

const SOON: Duration = Duration::from_secs(5);

/// A lab whose pod is onboarded.
fn onboarded() -> Result<Lab> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    Ok(lab)
}

#[test]
fn a_wrong_option_is_named_and_ends_it_before_it_is_ready() -> Result<()> {
    let lab = onboarded()?;
    let wrong: [(&[&str], &str); 14] = [
        (&["--inbound-port", "70000"], "inbound-port"),
        (&["--inbound-port", "-1"], "inbound-port"),
        (&["--outbound-port", "http"], "outbound-port"),
        (&["--admin-address", "localhost"], "admin-address"),
        (&["--admin-address", "127.0.0.1:99999"], "admin-address"),
        (&["--status-address", "nowhere"], "status-address"),
        (&["--connect-timeout", "soon"], "connect-timeout"),
        (&["--idle-timeout", "-1s"], "idle-timeout"),
        (&["--drain-time", "1 parsec"], "drain-time"),
        (&["--log-level", "loud"], "log-level"),
        (&["--concurrency", "-2"], "concurrency"),
        (&["--circuit-breaker-max-connections", "many"], "circuit-breaker-max-connections"),
        (&["--inbound-port", "15001", "--outbound-port", "15001"], "15001"),
        (&["--no-such-option"], "no-such-option"),
    ];
    for (options, word) in wrong {
        let mut sidecar = lab.pod.sidecar().options(options).start_unready()?;
        let status = sidecar.wait(SOON).with_context(|| format!("{options:?}"))?;
        assert_eq!(status.code(), Some(64), "{options:?}: {}", sidecar.stderr().text());
        assert!(sidecar.stderr().text().contains(word), "{options:?}: {}", sidecar.stderr().text());
    }
    Ok(())
}

#[test]
fn a_wrong_variable_is_named_like_a_wrong_option() -> Result<()> {
    let lab = onboarded()?;
    for (name, value) in
        [("CULVERT_INBOUND_PORT", "70000"), ("CULVERT_IDLE_TIMEOUT", "never"), ("CULVERT_LOG_LEVEL", "loud")]
    {
        let mut sidecar = lab.pod.sidecar().env(name, value).start_unready()?;
        let status = sidecar.wait(SOON).context(name)?;
        let said = sidecar.stderr().text();
        assert_eq!(status.code(), Some(64), "{name}: {said}");
        let option = name.trim_start_matches("CULVERT_").to_lowercase().replace('_', "-");
        assert!(said.contains(name) || said.contains(&option), "{name}: {said}");
    }
    Ok(())
}

#[test]
fn a_port_in_use_is_named_and_ends_it_before_it_is_ready() -> Result<()> {
    let lab = onboarded()?;
    for (at, port) in [
        ("[::]:15001", "15001"),
        ("0.0.0.0:15006", "15006"),
        ("[::]:15020", "15020"),
        ("127.0.0.1:9901", "9901"),
    ] {
        let _occupant = lab.pod.listen(at)?;
        let mut sidecar = lab.pod.sidecar().start_unready()?;
        let status = sidecar.wait(SOON).context(at)?;
        let said = sidecar.stderr().text();
        assert_eq!(status.code(), Some(64), "{at}: {said}");
        assert!(said.contains(port), "{at}: {said}");
    }
    Ok(())
}

#[test]
fn an_option_may_come_from_the_environment() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[("inbound-port", "7006"), ("outbound-port", "7001")])?.expect_success();
    let settings = lab.pod.sidecar().env("CULVERT_INBOUND_PORT", "7006").env("CULVERT_OUTBOUND_PORT", "7001");
    let _sidecar = settings.start()?;
    for family in Family::BOTH {
        let _server = lab.peer.serve((family.outside(), 80), echo())?;
        let mut stream = lab.pod.as_uid(APP).connect((family.outside(), 80))?;
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
    }
    Ok(())
}

#[test]
fn only_the_two_listeners_and_the_status_port_can_be_seen_from_outside() -> Result<()> {
    let lab = onboarded()?;
    let _sidecar = lab.pod.sidecar().start()?;
    let mut outside: Vec<u16> = listening(&lab.pod)?
        .into_iter()
        .filter(|at| !at.ip().to_canonical().is_loopback())
        .map(|at| at.port())
        .collect();
    outside.sort_unstable();
    outside.dedup();
    assert_eq!(outside, [15_001, 15_006, 15_020]);
    Ok(())
}

#[test]
fn the_status_port_answers_kubelet() -> Result<()> {
    let lab = onboarded()?;
    let _sidecar = lab.pod.sidecar().start()?;
    for family in Family::BOTH {
        for path in ["/ready", "/live", "/metrics"] {
            let answer = http::get(lab.peer.connect((family.pod(), 15_020))?, path)?;
            assert_eq!(answer.status, 200, "{family} {path}: {}", answer.body);
        }
        let answer = http::get(lab.peer.connect((family.pod(), 15_020))?, "/quitquitquit")?;
        assert_eq!(answer.status, 404, "{family}: {}", answer.body);
    }
    Ok(())
}

#[test]
fn a_pod_that_the_plugin_missed_never_becomes_ready_and_says_why() -> Result<()> {
    let lab = Lab::new()?;
    let sidecar = lab.pod.sidecar().start_unready()?;
    eventually!(sidecar.status("/live").is_ok_and(|answer| answer.status == 200), SOON);
    // Long enough for several attempts.
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        let answer = sidecar.status("/ready")?;
        assert_eq!(answer.status, 503, "{}", answer.body);
    }
    let why = sidecar.status("/ready")?.body;
    assert!(why.contains("redirect"), "{why}");
    // The plugin's repair comes: the sidecar notices by itself.
    lab.add(&[])?.expect_success();
    eventually!(sidecar.status("/ready").is_ok_and(|answer| answer.status == 200), SOON);
    Ok(())
}

#[test]
fn without_an_inbound_listener_or_without_the_check_it_is_ready_at_once() -> Result<()> {
    for options in [["--inbound-port", "0"], ["--verify-redirect", "off"]] {
        let lab = Lab::new()?;
        let _sidecar = lab.pod.sidecar().options(options).start().with_context(|| format!("{options:?}"))?;
    }
    Ok(())
}

#[test]
fn a_connection_is_recorded_when_it_ends() -> Result<()> {
    let lab = onboarded()?;
    let sidecar = lab.pod.sidecar().start()?;
    for family in Family::BOTH {
        let target: SocketAddr = (family.outside(), 80).into();
        let _server = lab.peer.serve(target, answers_at_the_end())?;
        let mut stream = lab.pod.as_uid(APP).connect(target)?;
        let client = stream.local_addr()?;
        stream.write_all(b"seven..")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new())?;
        drop(stream);
        let record = sidecar
            .access(SOON, |record| (record["orig_dst"] == target.to_string()).then(|| record.clone()))
            .with_context(|| format!("no record for {target}: {}", sidecar.stdout().text()))?;
        assert_eq!(record["src.addr"], client.to_string(), "{record}");
        assert_eq!(record["direction"], "outbound", "{record}");
        assert_eq!((&record["bytes_sent"], &record["bytes_recv"]), (&7.into(), &7.into()), "{record}");
    }
    Ok(())
}

#[test]
fn a_connection_can_be_seen_while_it_is_open() -> Result<()> {
    let lab = onboarded()?;
    let sidecar = lab.pod.sidecar().start()?;
    for family in Family::BOTH {
        let target: SocketAddr = (family.outside(), 80).into();
        let _server = lab.peer.serve(target, echo())?;
        let stream = lab.pod.as_uid(APP).connect(target)?;
        eventually!(sidecar.admin("/connections").is_ok_and(|all| all.body.contains(&target.to_string())));
        drop(stream);
        eventually!(sidecar.admin("/connections").is_ok_and(|all| !all.body.contains(&target.to_string())));
    }
    Ok(())
}

#[test]
fn connections_are_counted_by_direction_and_family() -> Result<()> {
    let lab = onboarded()?;
    let sidecar = lab.pod.sidecar().start()?;
    for (family, name) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
        let _outside = lab.peer.serve((family.outside(), 80), echo())?;
        let _inside = lab.pod.serve((family.pod(), 8080), echo())?;
        for (direction, actor, target) in [
            ("outbound", lab.pod.as_uid(APP), (family.outside(), 80)),
            ("inbound", lab.peer.as_root(), (family.pod(), 8080)),
        ] {
            let counter = format!("cluster.{direction}_passthrough_{name}.upstream_cx_total");
            let before = sidecar.stat(&counter)?;
            let mut stream = actor.connect(target)?;
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0])?;
            eventually!(sidecar.stat(&counter).is_ok_and(|now| now == before + 1));
        }
    }
    Ok(())
}

#[test]
fn sigterm_drains_open_connections_before_the_exit() -> Result<()> {
    let lab = onboarded()?;
    let mut sidecar = lab.pod.sidecar().options(["--drain-delay", "1s", "--drain-time", "10s"]).start()?;
    let _outside = lab.peer.serve("192.0.2.10:80", echo())?;
    let inside = lab.pod.serve("10.77.0.2:8080", echo())?;
    let mut open = lab.pod.as_uid(APP).connect("192.0.2.10:80")?;
    let start = Instant::now();
    sidecar.signal(Signal::TERM)?;
    eventually!(sidecar.status("/ready").is_ok_and(|answer| answer.status == 503));

    // Endpoints are slow to forget a pod: for the delay new connections are served, both ways.
    for (actor, target) in [(lab.peer.as_root(), "10.77.0.2:8080"), (lab.pod.as_uid(APP), "192.0.2.10:80")] {
        let mut stream = actor.connect(target)?;
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0]).with_context(|| format!("{target} during the delay"))?;
    }

    // Then inbound closes, and outbound serves on as long as something is open.
    eventually!(lab.peer.connect("10.77.0.2:8080").is_err(), SOON);
    assert!(start.elapsed() > Duration::from_millis(900), "inbound closed after {:?}", start.elapsed());
    open.write_all(b"y")?;
    open.read_exact(&mut [0]).context("the open connection")?;
    let mut late = lab.pod.as_uid(APP).connect("192.0.2.10:80")?;
    late.write_all(b"z")?;
    late.read_exact(&mut [0]).context("a new outbound connection")?;
    assert!(sidecar.is_running()?);

    drop((open, late, inside));
    assert_eq!(sidecar.wait(SOON)?.code(), Some(0), "{}", sidecar.stderr().text());
    assert!(start.elapsed() < Duration::from_secs(8), "ended after {:?}", start.elapsed());
    Ok(())
}

#[test]
fn connections_still_open_after_the_drain_time_are_reset() -> Result<()> {
    let lab = onboarded()?;
    let mut sidecar = lab.pod.sidecar().options(["--drain-delay", "0s", "--drain-time", "1s"]).start()?;
    let _outside = lab.peer.serve("192.0.2.10:80", echo())?;
    let mut open = lab.pod.as_uid(APP).connect("192.0.2.10:80")?;
    open.write_all(b"x")?;
    open.read_exact(&mut [0])?;
    let start = Instant::now();
    sidecar.signal(Signal::TERM)?;
    crate::support::assert_reset(open, "an open connection at the end");
    assert!((900..4000).contains(&start.elapsed().as_millis()), "reset after {:?}", start.elapsed());
    assert_eq!(sidecar.wait(SOON)?.code(), Some(0));
    Ok(())
}

#[test]
fn a_second_signal_ends_it_now() -> Result<()> {
    let lab = onboarded()?;
    let mut sidecar = lab.pod.sidecar().options(["--drain-delay", "60s", "--drain-time", "60s"]).start()?;
    let _outside = lab.peer.serve("192.0.2.10:80", echo())?;
    let mut open = lab.pod.as_uid(APP).connect("192.0.2.10:80")?;
    open.write_all(b"x")?;
    open.read_exact(&mut [0])?;
    sidecar.signal(Signal::TERM)?;
    eventually!(sidecar.status("/ready").is_ok_and(|answer| answer.status == 503));
    let start = Instant::now();
    sidecar.signal(Signal::TERM)?;
    assert_eq!(sidecar.wait(SOON)?.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(1), "ended after {:?}", start.elapsed());
    Ok(())
}

#[test]
fn a_native_sidecar_can_close_the_inbound_half_alone() -> Result<()> {
    let lab = onboarded()?;
    let mut sidecar = lab.pod.sidecar().options(["--drain-delay", "0s", "--drain-time", "1s"]).start()?;
    let _outside = lab.peer.serve("192.0.2.10:80", echo())?;
    let _inside = lab.pod.serve("10.77.0.2:8080", echo())?;
    sidecar.signal(Signal::USR2)?;
    eventually!(lab.peer.connect("10.77.0.2:8080").is_err(), SOON);
    assert_refused(lab.peer.connect("10.77.0.2:8080"), "inbound");
    let mut stream = lab.pod.as_uid(APP).connect("192.0.2.10:80")?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;
    assert!(sidecar.is_running()?);
    Ok(())
}

/// Every TCP address on which a host listens.
fn listening(host: &Host) -> Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for file in ["tcp", "tcp6"] {
        for line in host.proc_net(file)?.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            // 0A: TCP_LISTEN
            if let [_, local, _, "0A", ..] = fields[..] {
                found.push(proc_address(local).with_context(|| format!("{local} in /proc/net/{file}"))?);
            }
        }
    }
    Ok(found)
}

/// `0100007F:1F90`: words of four bytes, each in the machine's order.
fn proc_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    for word in address.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    match bytes.len() {
        4 => Some((<[u8; 4]>::try_from(bytes).ok()?, port).into()),
        _ => Some((Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?), port).into()),
    }
}
