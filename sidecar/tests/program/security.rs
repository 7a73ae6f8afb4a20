// SPDX-License-Identifier: Apache-2.0
//! Access to the ports, and bounds on its use.

use super::*;
use std::collections::BTreeSet;

/// Sends so many bytes and reads the answer to its end.
fn raw(sidecar: &Sidecar, port: usize, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", sidecar.ports[port])).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // Refused before all was sent is fine.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn status_of(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// The local addresses that a process listens on, as /proc writes them.
fn listens_on(pid: u32) -> Vec<(String, u16)> {
    let sockets: BTreeSet<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut found = Vec::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // 0A is LISTEN, 07 what UDP has for it.
            if sockets.contains(fields[9]) && ["0A", "07"].contains(&fields[3]) {
                let (ip, port) = fields[1].split_once(':').unwrap();
                found.push((ip.to_owned(), u16::from_str_radix(port, 16).unwrap()));
            }
        }
    }
    found
}

#[test]
fn nothing_listens_outside_loopback_but_the_two_data_ports_and_the_status_port() {
    let sidecar = Sidecar::start(&["--verify-redirect=off"]);
    // While the listeners are handed to the workers, their descriptors move; the status port serves after all others.
    assert!(!sidecar.ask(STATUS, "GET /ready").is_empty());
    let found = listens_on(sidecar.child.id());
    assert_eq!(found.len(), 4, "{found:?}");
    for (ip, port) in found {
        // 127.0.0.1, least significant byte first.
        assert_eq!(ip == "0100007F", port == sidecar.ports[ADMIN], "{ip}:{port}");
    }
}

#[test]
fn a_browser_led_to_the_admin_by_a_foreign_page_is_refused() {
    let sidecar = Sidecar::start(&["--verify-redirect=off", "--drain-delay=1h"]);
    let local = "Host: localhost";
    for (name, line, headers, status) in [
        ("a person", "GET / HTTP/1.1", vec![local], "200"),
        ("DNS rebinding", "GET /overview HTTP/1.1", vec!["Host: evil.example"], "403"),
        (
            "DNS rebinding by the other Host",
            "GET / HTTP/1.1",
            vec![local, "Host: evil.example"],
            "403 or 400",
        ),
        ("a name in the request line", "GET http://evil.example/ HTTP/1.1", vec![local], "403"),
        ("a foreign form", "POST /quitquitquit HTTP/1.1", vec![local, "Origin: http://evil.example"], "403"),
        ("a sandboxed frame", "POST /drain HTTP/1.1", vec![local, "Origin: null"], "403"),
        ("an image of a foreign page", "GET /quitquitquit HTTP/1.1", vec![local], "405"),
        (
            "another port's page",
            "POST /logging?level=info HTTP/1.1",
            vec![local, "Origin: http://localhost:1"],
            "200",
        ),
    ] {
        let request = format!("{line}\r\n{}\r\nConnection: close\r\n\r\n", headers.join("\r\n"));
        let answer = raw(&sidecar, ADMIN, request.as_bytes());
        assert!(status.contains(status_of(&answer)) && !answer.is_empty(), "{name}: {answer}");
    }
    assert!(sidecar.ask(STATUS, "GET /ready").starts_with("HTTP/1.1 200 "), "it was drained");
}

#[test]
fn requests_are_bounded_in_size() {
    let sidecar = Sidecar::start(&["--verify-redirect=off"]);
    for port in [STATUS, ADMIN] {
        let long_head =
            format!("GET /ready HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
        assert_eq!(status_of(&raw(&sidecar, port, long_head.as_bytes())), "431");
        let many = format!("GET /ready HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(500));
        assert_eq!(status_of(&raw(&sidecar, port, many.as_bytes())), "431");
        assert_eq!(status_of(&raw(&sidecar, port, b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\r\n\r\n")), "400");
    }
    // A body is not waited for.
    let body =
        b"POST /logging?level=info HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\nx";
    let start = Instant::now();
    assert_eq!(status_of(&raw(&sidecar, ADMIN, body)), "200");
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn a_peer_that_hoards_connections_does_not_keep_the_kubelet_out() {
    let sidecar = Sidecar::start(&["--verify-redirect=off"]);
    let hoard: Vec<_> =
        (0..200).map(|_| TcpStream::connect(("127.0.0.1", sidecar.ports[STATUS])).unwrap()).collect();
    assert!(sidecar.ask(STATUS, "GET /ready").starts_with("HTTP/1.1 200 "));
    // The oldest was closed for it.
    let mut oldest = &hoard[0];
    oldest.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(oldest.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn what_a_peer_sends_never_becomes_a_label() {
    let sidecar = Sidecar::start(&["--verify-redirect=off"]);
    let series = |page: &str| {
        page.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' ').map(|(name, _)| name.to_owned()))
            .collect::<BTreeSet<_>>()
    };
    let before = series(sidecar.ask(STATUS, "GET /metrics").split_once("\r\n\r\n").unwrap().1);
    for n in 0..20 {
        let _ = raw(&sidecar, OUTBOUND, format!("GET /{n} HTTP/1.1\r\nHost: h{n}\r\n\r\n").as_bytes());
        sidecar.ask(STATUS, &format!("GET /nothing{n}"));
    }
    let after = series(sidecar.ask(STATUS, "GET /metrics").split_once("\r\n\r\n").unwrap().1);
    assert!(before.len() > 100);
    assert_eq!(before, after);
}
