// SPDX-License-Identifier: Apache-2.0
//! The name servers in a resolv.conf. Search lists and options are the client's: it applies them before it asks.

use crate::net::addrs::is_loopback;
use nix::net::if_::if_nametoindex;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

/// Port of name servers.
const PORT: u16 = 53;

/// Servers that are used: as many as glibc and musl use.
const MOST: usize = 3;

/// Bytes that are read. The kubelet writes some hundred.
const MOST_BYTES: u64 = 64 * 1024;

/// State of a file, by which a change is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileState {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl FileState {
    /// # Errors
    /// The kernel's, if there is no such file.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let of = path.metadata()?;
        Ok(Self { modified: of.modified().ok(), bytes: of.len(), inode: of.ino() })
    }
}

/// Reads the servers of a file, without the one that listens at `own_port` of loopback.
///
/// # Errors
/// The kernel's.
pub(crate) fn read(path: &Path, own_port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(servers(&String::from_utf8_lossy(&bytes), own_port))
}

/// Returns true for an address of the pod itself. No socket can be bound to any other, and this needs no right.
pub(crate) fn is_in_pod(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    is_loopback(ip) || UdpSocket::bind((ip, 0)).is_ok()
}

/// Returns the servers in the order of the text, each once.
fn servers(text: &str, own_port: u16) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        // A comment begins a line; behind an address the rest of the line means nothing.
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(server) = words.next().and_then(address) else { continue };
        let own = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let is_own = own_port == PORT && own.contains(&server.ip());
        if !is_own && !servers.contains(&server) {
            servers.push(server);
        }
    }
    servers.truncate(MOST);
    servers
}

/// Reads an address, one of a link with its interface by name or number: `fe80::1%eth0`.
fn address(text: &str) -> Option<SocketAddr> {
    let Some((ip, interface)) = text.split_once('%') else {
        let ip = match text.parse::<IpAddr>().ok()?.to_canonical() {
            // What no address names is this host, for the kernel and for glibc.
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        return Some(SocketAddr::new(ip, PORT));
    };
    let scope = interface.parse().ok().or_else(|| if_nametoindex(interface).ok())?;
    Some(SocketAddrV6::new(ip.parse().ok()?, PORT, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as_text(text: &str, own_port: u16) -> Vec<String> {
        servers(text, own_port).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_servers_are_those_that_glibc_would_ask() {
        let kubelets =
            "search shop.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n";
        assert_eq!(read_as_text(kubelets, 15053), ["10.96.0.10:53"]);
        let text = "# nameserver 192.0.2.1\n;nameserver 192.0.2.2\nnameserver\t2001:db8::1 \n  nameserver 192.0.2.3 # here\n\
                    nameserver web.mesh\nnameserver\nnameservers 192.0.2.4\nnameserver 192.0.2.3\nnameserver ::ffff:192.0.2.5\n\
                    nameserver 192.0.2.6\r\n";
        assert_eq!(read_as_text(text, 15053), ["[2001:db8::1]:53", "192.0.2.3:53", "192.0.2.5:53"]);
        assert!(read_as_text("", 15053).is_empty());
    }

    #[test]
    fn a_link_local_server_has_an_interface() {
        assert_eq!(read_as_text("nameserver fe80::1%7\n", 15053), ["[fe80::1%7]:53"]);
        assert_eq!(read_as_text("nameserver fe80::1%lo\n", 15053), ["[fe80::1%1]:53"]);
        assert!(read_as_text("nameserver fe80::1%no-such-link\n", 15053).is_empty());
    }

    #[test]
    fn the_server_never_asks_itself() {
        let text =
            "nameserver 127.0.0.1\nnameserver ::1\nnameserver 0.0.0.0\nnameserver ::\nnameserver 192.0.2.1\n";
        assert_eq!(read_as_text(text, 53), ["192.0.2.1:53"]);
        // A server of the pod's own, such as systemd-resolved.
        assert_eq!(read_as_text(text, 15053), ["127.0.0.1:53", "[::1]:53", "192.0.2.1:53"]);
    }

    #[test]
    fn servers_of_the_pod_are_told_from_those_outside() {
        for (ip, is_here) in [
            ("127.0.0.53", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_in_pod(ip.parse().unwrap()), is_here, "{ip}");
        }
    }

    #[test]
    fn a_change_of_the_file_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        assert!(FileState::of(&path).is_err());
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        let seen = FileState::of(&path).unwrap();
        assert_eq!(read(&path, 0).unwrap(), ["192.0.2.1:53".parse().unwrap()]);
        assert_eq!(FileState::of(&path).unwrap(), seen);
        let other = folder.path().join("other");
        std::fs::write(&other, "nameserver 192.0.2.2\n").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_ne!(FileState::of(&path).unwrap(), seen, "of the same length");
    }
}
