// SPDX-License-Identifier: Apache-2.0
//! Listening sockets of this thread's network namespace.

use std::fs;
use std::io;

use culvert_cni::redirect::policy::Protocol;

/// A socket that accepts what arrives on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listener {
    pub protocol: Protocol,
    pub port: u16,
    /// Uid of the process that opened it.
    pub uid: u32,
}

/// Tables of /proc with the state of net/tcp_states.h in which a socket accepts: `TCP_LISTEN`, and for UDP
/// `TCP_CLOSE`, which means "not connected" there.
const TABLES: [(&str, Protocol, &str); 4] = [
    ("tcp", Protocol::Tcp, "0A"),
    ("tcp6", Protocol::Tcp, "0A"),
    ("udp", Protocol::Udp, "07"),
    ("udp6", Protocol::Udp, "07"),
];

/// Lists the listeners of both families.
pub(crate) fn listeners() -> io::Result<Vec<Listener>> {
    let mut found = Vec::new();
    for (name, protocol, state) in TABLES {
        // /proc/net would show the main thread's namespace.
        match fs::read_to_string(format!("/proc/thread-self/net/{name}")) {
            Ok(table) => {
                let listeners = table.lines().skip(1).filter_map(|line| parse(line, state));
                found.extend(listeners.map(|(port, uid)| Listener { protocol, port, uid }));
            }
            // A kernel without IPv6 has no such table.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Parses a line of /proc/net/tcp: `sl local remote state queues timer retransmits uid …`.
fn parse(line: &str, wanted: &str) -> Option<(u16, u32)> {
    let mut fields = line.split_whitespace();
    let (local, state, uid) = (fields.nth(1)?, fields.nth(1)?, fields.nth(3)?);
    let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    (state == wanted).then_some((port, uid.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let listening =
            "   0: 00000000:3A9E 00000000:0000 0A 00000000:00000000 00:00000000 00000000  5678        0 9 1";
        let open =
            "   1: 0200000A:9C40 010200C0:0050 01 00000000:00000000 00:00000000 00000000     0        0 9 1";
        assert_eq!(parse(listening, "0A"), Some((15006, 5678)));
        assert_eq!(parse(listening, "07"), None);
        assert_eq!(parse(open, "0A"), None);
        assert_eq!(parse("garbage", "0A"), None);
    }

    #[test]
    fn ones_own_listener_is_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(
            listeners().unwrap().iter().any(|found| found.port == port && found.protocol == Protocol::Tcp)
        );
    }
}
