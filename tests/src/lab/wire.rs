//! The cable itself: forged frames, and a look at everything that passes.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::family::At;
use crate::lab::host::Host;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const TCP: u8 = 6;

/// An answer over a cable takes microseconds: what has not come by then does not come.
const ANSWERED_WITHIN: Duration = Duration::from_millis(500);

/// Flags of a TCP segment.
pub mod flags {
    /// The connection ends on this side.
    pub const FIN: u8 = 0x01;
    /// SYN: a connection begins.
    pub const SYN: u8 = 0x02;
    /// The connection is reset.
    pub const RST: u8 = 0x04;
    /// ACK: something is acknowledged.
    pub const ACK: u8 = 0x10;
}

/// A hardware address.
pub type Mac = [u8; 6];

/// One interface, opened for raw frames in both directions.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    mac: Mac,
}

/// A TCP segment without data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The claimed sender.
    pub source: SocketAddr,
    /// The receiver.
    pub destination: SocketAddr,
    /// See [`flags`].
    pub flags: u8,
}

impl Segment {
    /// A request for a connection.
    pub fn syn(source: impl At, destination: impl At) -> Self {
        Self { source: source.at(), destination: destination.at(), flags: flags::SYN }
    }

    /// Returns true if this accepts the connection that `request` asks for, from any sender.
    pub fn accepts(&self, request: &Self) -> bool {
        self.destination == request.source
            && self.flags & (flags::SYN | flags::ACK) == flags::SYN | flags::ACK
    }

    /// Returns true if this refuses the connection that `request` asks for, from any sender.
    pub fn refuses(&self, request: &Self) -> bool {
        self.destination == request.source && self.flags & flags::RST != 0
    }
}

impl Host {
    /// Opens an interface for raw frames. Frames that pass from now on can be seen.
    pub fn wire_of(&self, interface: &str) -> Result<Wire> {
        self.namespace()
            .run(|| Wire::open(interface))
            .with_context(|| format!("cannot open {interface} of {}", self.name()))
    }

    /// Hardware address of an interface.
    pub fn mac(&self, interface: &str) -> Result<Mac> {
        let address = self.namespace().run(|| link_address(interface))?;
        address.addr().ok_or_else(|| anyhow!("{interface} has no hardware address"))
    }
}

impl Wire {
    fn open(interface: &str) -> Result<Self> {
        let address = link_address(interface)?;
        let mac = address.addr().ok_or_else(|| anyhow!("{interface} has no hardware address"))?;
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
        bind(socket.as_raw_fd(), &address)?;
        Ok(Self { socket, mac })
    }

    /// Sends a segment to the hardware address `to`, with any addresses in it.
    pub fn send(&self, to: Mac, segment: Segment) -> Result<()> {
        let frame = frame(self.mac, to, segment);
        let sent = send(self.socket.as_raw_fd(), &frame, MsgFlags::empty()).context("cannot send a frame")?;
        if sent != frame.len() {
            return Err(io::Error::from(ErrorKind::WriteZero).into());
        }
        Ok(())
    }

    /// Waits for a TCP segment that `wanted` accepts, in either direction.
    pub fn see(&self, within: Duration, wanted: impl Fn(&Segment) -> bool) -> Result<Option<Segment>> {
        let deadline = Instant::now() + within;
        let mut buffer = vec![0; 65536];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let micros = left.subsec_micros().max(1);
            let timeout = TimeVal::new(left.as_secs().try_into()?, micros.into());
            setsockopt(&self.socket, sockopt::ReceiveTimeout, &timeout)?;
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => {
                    if let Some(segment) = parse(&buffer[..length]).filter(&wanted) {
                        return Ok(Some(segment));
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(e) => return Err(e).context("cannot receive a frame"),
            }
        }
    }

    /// Sends a forged request for a connection and says how it was answered.
    pub fn knock(&self, to: Mac, request: Segment) -> Result<Knock> {
        Ok(self.knock_all(to, &[request])?[0])
    }

    /// Sends forged requests for connections, each from a port of its own, and says how each was answered.
    pub fn knock_all(&self, to: Mac, requests: &[Segment]) -> Result<Vec<Knock>> {
        for request in requests {
            self.send(to, *request)?;
        }
        let mut answers = vec![Knock::Silence; requests.len()];
        let deadline = Instant::now() + ANSWERED_WITHIN;
        while answers.contains(&Knock::Silence) {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.see(left, |s| requests.iter().any(|r| s.accepts(r) || s.refuses(r)))?;
            let Some(answer) = answer else { break };
            for (request, slot) in requests.iter().zip(&mut answers) {
                if answer.accepts(request) {
                    *slot = Knock::Accepted;
                } else if answer.refuses(request) {
                    *slot = Knock::Refused;
                }
            }
        }
        Ok(answers)
    }
}

/// The answer to a request for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knock {
    /// By SYN and ACK: something listens there.
    Accepted,
    /// Refused by a segment with RST.
    Refused,
    /// No segment came before the deadline.
    Silence,
}

/// The kernel's own address structure of an interface: nothing else makes one without `unsafe`.
fn link_address(interface: &str) -> Result<LinkAddr> {
    getifaddrs()?
        .filter(|found| found.interface_name == interface)
        .find_map(|found| found.address?.as_link_addr().copied())
        .filter(|address| address.family() == Some(AddressFamily::Packet))
        .ok_or_else(|| anyhow!("no interface {interface}"))
}

fn frame(from: Mac, to: Mac, segment: Segment) -> Vec<u8> {
    let tcp = tcp(segment);
    let mut frame = Vec::new();
    frame.extend(to);
    frame.extend(from);
    match (segment.source.ip(), segment.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend(ETHERTYPE_IPV4);
            let length = u16::try_from(20 + tcp.len()).expect("a small packet").to_be_bytes();
            let mut header = vec![0x45, 0, length[0], length[1], 0, 1, 0x40, 0, 64, TCP, 0, 0];
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum = internet_checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            frame.extend(header);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend(ETHERTYPE_IPV6);
            let length = u16::try_from(tcp.len()).expect("a small packet").to_be_bytes();
            frame.extend([0x60, 0, 0, 0, length[0], length[1], TCP, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (source, destination) => panic!("{source} and {destination} are of two families"),
    }
    frame.extend(tcp);
    frame
}

fn tcp(segment: Segment) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(segment.source.port().to_be_bytes());
    tcp.extend(segment.destination.port().to_be_bytes());
    tcp.extend(1_000_000u32.to_be_bytes());
    tcp.extend(0u32.to_be_bytes());
    // Five words of header, the flags, a window, no checksum yet, nothing urgent.
    tcp.extend([0x50, segment.flags, 0xff, 0xff, 0, 0, 0, 0]);

    let mut pseudo = Vec::new();
    for address in [segment.source.ip(), segment.destination.ip()] {
        match address {
            IpAddr::V4(v4) => pseudo.extend(v4.octets()),
            IpAddr::V6(v6) => pseudo.extend(v6.octets()),
        }
    }
    pseudo.extend([0, TCP]);
    pseudo.extend(u16::try_from(tcp.len()).expect("a small packet").to_be_bytes());
    pseudo.extend(&tcp);
    let sum = internet_checksum(&pseudo).to_be_bytes();
    tcp[16..18].copy_from_slice(&sum);
    tcp
}

/// RFC 1071, over an even number of bytes.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

fn parse(frame: &[u8]) -> Option<Segment> {
    let kind: [u8; 2] = frame.get(12..14)?.try_into().ok()?;
    let packet = frame.get(14..)?;
    let (source, destination, tcp): (IpAddr, IpAddr, &[u8]) = match kind {
        ETHERTYPE_IPV4 if *packet.get(9)? == TCP => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            let address = |at: usize| Some(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?.into());
            (address(12)?, address(16)?, packet.get(header..)?)
        }
        ETHERTYPE_IPV6 if *packet.get(6)? == TCP => {
            let address = |at: usize| Some(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?.into());
            (address(8)?, address(24)?, packet.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    Some(Segment {
        source: (source, port(0)?).into(),
        destination: (destination, port(2)?).into(),
        flags: *tcp.get(13)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_framed_is_parsed() {
        for (source, destination) in [("10.77.0.1:4444", "127.0.0.1:80"), ("[fd77::1]:4444", "[::6]:80")] {
            let syn = Segment::syn(source, destination);
            assert_eq!(parse(&frame([1; 6], [2; 6], syn)), Some(syn));
        }
    }

    #[test]
    fn a_packet_with_its_checksum_sums_up_to_nothing() {
        let syn = Segment::syn("10.77.0.1:4444", "127.0.0.1:80");
        assert_eq!(internet_checksum(&frame([1; 6], [2; 6], syn)[14..34]), 0);
    }
}
