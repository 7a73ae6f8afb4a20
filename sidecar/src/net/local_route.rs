// SPDX-License-Identifier: Apache-2.0
//! Asks the kernel's routes for one address, as `ip route get ADDRESS` does.

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

/// From linux/netlink.h and linux/rtnetlink.h: message types, the flag of a request, the attribute of a destination, and the
/// type of a route to the host itself.
const NLMSG_ERROR: u16 = 2;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REQUEST: u16 = 1;
const RTA_DST: u16 = 1;
const RTN_LOCAL: u8 = 2;

/// Size of `struct nlmsghdr`, of `struct rtmsg`, and of an attribute's head.
const HEADER: usize = 16;
const ROUTE: usize = 12;
const ATTRIBUTE: usize = 4;

/// Returns true if a packet to this address is for this host: an address of an interface, or in a prefix that a route of type
/// local makes its own.
pub(super) fn is_local(ip: IpAddr) -> io::Result<bool> {
    let fd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    send(fd.as_raw_fd(), &request(ip.to_canonical()), MsgFlags::empty())?;
    // The kernel answers within the call above, so there is nothing to wait for.
    let mut answer = [0; 1024];
    let length = recv(fd.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
    read(&answer[..length])
}

fn request(ip: IpAddr) -> Vec<u8> {
    let (family, address) = match ip {
        IpAddr::V4(ip) => (AddressFamily::Inet as u8, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AddressFamily::Inet6 as u8, ip.octets().to_vec()),
    };
    let attribute = ATTRIBUTE + address.len();
    let mut message = Vec::with_capacity(HEADER + ROUTE + attribute);
    // Netlink is in the host's byte order, and no length here exceeds 44.
    message.extend(((HEADER + ROUTE + attribute) as u32).to_ne_bytes());
    message.extend(RTM_GETROUTE.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence and sender: there is one request, and the kernel fills the sender in.
    message.extend([0; 8]);
    message.extend([family, (address.len() * 8) as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    message.extend((attribute as u16).to_ne_bytes());
    message.extend(RTA_DST.to_ne_bytes());
    message.extend(address);
    message
}

fn read(answer: &[u8]) -> io::Result<bool> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    match kind.ok_or_else(short)? {
        // The type is the last byte before the flags.
        RTM_NEWROUTE => Ok(*answer.get(HEADER + 7).ok_or_else(short)? == RTN_LOCAL),
        NLMSG_ERROR => {
            let code = answer.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
            let errno = Errno::from_raw(i32::from_ne_bytes(code.ok_or_else(short)?).saturating_neg());
            match errno {
                Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL => Ok(false),
                other => Err(other.into()),
            }
        }
        other => Err(io::Error::other(format!("an answer of type {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_hosts_addresses_are_local_and_others_are_not() {
        // All of 127.0.0.0/8 is, by the route that lo's address makes.
        for (ip, local) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("192.0.2.77", false),
            ("2001:db8::77", false),
            ("255.255.255.255", false),
            ("224.0.0.1", false),
            ("ff02::1", false),
        ] {
            assert_eq!(is_local(ip.parse().unwrap()).unwrap(), local, "{ip}");
        }
    }

    #[test]
    fn no_answer_is_trusted_further_than_it_goes() {
        let mut route = vec![0; HEADER + ROUTE];
        route[4..6].copy_from_slice(&RTM_NEWROUTE.to_ne_bytes());
        route[HEADER + 7] = RTN_LOCAL;
        assert!(read(&route).unwrap());
        for length in 0..=HEADER + 7 {
            assert!(read(&route[..length]).is_err(), "{length}");
        }
        route[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        route[HEADER..HEADER + 4].copy_from_slice(&(-(Errno::ENETUNREACH as i32)).to_ne_bytes());
        assert!(!read(&route).unwrap());
        route[HEADER..HEADER + 4].copy_from_slice(&(-(Errno::EPERM as i32)).to_ne_bytes());
        assert!(read(&route).is_err());
    }
}
