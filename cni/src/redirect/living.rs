// SPDX-License-Identifier: Apache-2.0
//! Connections that are open when rules are written into a network namespace (repair, `redirect apply`).
//!
//! Without rules nothing was tracked, so conntrack would take such a connection's next segment for a new connection and
//! redirect it, and the pod's kernel would reset it. With `nf_conntrack_tcp_loose` = 0 the segment is invalid for conntrack,
//! and the connection stays direct.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Limit for the connections that are listed one by one.
const MAX_LISTED: usize = 10_000;
/// `TCP_ESTABLISHED` to `TCP_CLOSE_WAIT` of net/tcp_states.h that still carry data, as /proc/net/tcp writes them.
const CARRYING: [&str; 4] = ["01", "04", "05", "08"];

/// A connection that stays direct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Established {
    /// Address and port of the pod.
    pub local: SocketAddr,
    /// Address and port of the peer.
    pub remote: SocketAddr,
}

/// List the TCP connections of this thread's network namespace, without loopback; at most 10,000 a family.
pub fn established() -> io::Result<Vec<Established>> {
    let mut found = Vec::new();
    for name in ["tcp", "tcp6"] {
        // Not /proc/net: that shows the main thread's namespace.
        let table = match fs::read_to_string(format!("/proc/thread-self/net/{name}")) {
            Ok(table) => table,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let elsewhere = |connection: &Established| !connection.remote.ip().to_canonical().is_loopback();
        found.extend(table.lines().skip(1).filter_map(parse).filter(elsewhere).take(MAX_LISTED));
    }
    Ok(found)
}

/// Parse a line of /proc/net/tcp or tcp6: `sl local remote state …`, addresses as hexadecimal words in host byte order.
fn parse(line: &str) -> Option<Established> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    let connection = Established { local: address(local)?, remote: address(remote)? };
    CARRYING.contains(&state).then_some(connection)
}

fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let mut octets = Vec::with_capacity(16);
    for word in ip.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        octets.extend_from_slice(&word.to_ne_bytes());
    }
    let ip = match octets.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(octets.as_slice()).map(Ipv4Addr::from).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(octets.as_slice()).map(Ipv6Addr::from).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_families_are_parsed() {
        let v4 = "   1: 0200000A:9C40 010200C0:0050 01 00000000:00000000 00:00000000 00000000  0 0 0 1 0";
        let v6 = "   2: 000080FD000000000000000002000000:9C40 0000000000000000FFFF0000010200C0:0050 08 0:0 0:0 0 0 0 0";
        let listening = "   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 0";
        if cfg!(target_endian = "little") {
            let found = parse(v4).unwrap();
            assert_eq!(
                (found.local.to_string(), found.remote.to_string()),
                ("10.0.0.2:40000".into(), "192.0.2.1:80".into())
            );
            assert_eq!(parse(v6).unwrap().remote.to_string(), "192.0.2.1:80");
        }
        assert_eq!(parse(listening), None);
        assert_eq!(parse("garbage"), None);
    }
}
