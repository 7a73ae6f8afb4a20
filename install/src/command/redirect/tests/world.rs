// SPDX-License-Identifier: Apache-2.0
//! Network namespaces for tests of `redirect`: an own one, and a peer's behind a veth pair.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;

use culvert_cni::netlink::{ACK, Batch, CREATE, EXCL, Socket};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::SockProtocol;

use crate::command::answer::Answer;
use crate::{Colour, Streams};

/// Runs `work` on a thread with its own network namespace, and a folder for records.
pub(crate) fn in_own_namespace(work: impl FnOnce(&Path) + Send + 'static) {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root: they make network namespaces");
        let folder = tempfile::tempdir().unwrap();
        work(&folder.path().join("state"));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command line as a person would type it.
pub(crate) fn redirect(state_dir: &Path, verb: &str, options: &[&str]) -> Answer {
    let mut args: Vec<OsString> =
        ["culvert-install", "redirect", verb].iter().chain(options).map(OsString::from).collect();
    args.extend(["--state-dir".into(), state_dir.into()]);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = crate::run(args, Streams { out: &mut out, err: &mut err, colour: Colour::Plain });
    Answer { out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap(), exit }
}

/// A machine at the other end of a cable: 10.90.0.2; this one is 10.90.0.1.
pub(crate) struct Peer {
    netns: File,
    path: String,
}

impl Peer {
    /// Path of its network namespace.
    pub(crate) fn netns(&self) -> &str {
        &self.path
    }

    /// Connects from there.
    pub(crate) fn connect(&self, to: &'static str) -> io::Result<TcpStream> {
        self.there(move || TcpStream::connect(to))
    }

    /// Listens there.
    pub(crate) fn listen(&self, on: &'static str) -> TcpListener {
        self.there(move || TcpListener::bind(on)).unwrap()
    }

    /// A socket stays in the namespace in which it was made.
    fn there<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let netns = self.netns.try_clone().unwrap();
        thread::spawn(move || {
            setns(&netns, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
        .join()
        .unwrap()
    }
}

pub(crate) fn peer_over_veth() -> Peer {
    let netns = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    })
    .join()
    .unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
    let peer = Peer { netns, path };
    veth("near", "far", &peer.netns);
    link_up("lo");
    // The kernel would add a link-local address at some later moment, and the tests compare addresses before and after.
    // 1 is IN6_ADDR_GEN_MODE_NONE.
    fs::write("/proc/sys/net/ipv6/conf/near/addr_gen_mode", "1").unwrap();
    address("near", Ipv4Addr::new(10, 90, 0, 1));
    link_up("near");
    peer.there(|| {
        link_up("lo");
        address("far", Ipv4Addr::new(10, 90, 0, 2));
        link_up("far");
    });
    peer
}

const NEW_LINK: u16 = 16; // RTM_NEWLINK
const NEW_ADDRESS: u16 = 20; // RTM_NEWADDR
const IFF_UP: u32 = 1;

fn ask(
    kind: u16,
    flags: u16,
    fixed: &[u8],
    attributes: impl FnOnce(&mut culvert_cni::netlink::Attributes<'_>),
) {
    let mut batch = Batch::default();
    batch.message(kind, flags | ACK, fixed, attributes);
    Socket::open(SockProtocol::NetlinkRoute).unwrap().transact(&batch).unwrap();
}

/// `struct ifinfomsg`: family, padding, type, index, flags, change.
fn link(index: u32, flags: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..].copy_from_slice(&flags.to_ne_bytes());
    fixed
}

/// Sets an interface up.
pub(crate) fn link_up(name: &str) {
    ask(NEW_LINK, 0, &link(if_nametoindex(name).unwrap(), IFF_UP), |_| {});
}

fn veth(here: &str, there: &str, netns: &File) {
    ask(NEW_LINK, CREATE | EXCL, &link(0, 0), |a| {
        a.text(3, here); // IFLA_IFNAME
        a.nested(18, |info| {
            info.text(1, "veth"); // IFLA_LINKINFO: IFLA_INFO_KIND
            info.nested(2, |data| {
                // IFLA_INFO_DATA: VETH_INFO_PEER, which begins with a struct ifinfomsg
                let mut peer = link(0, 0).to_vec();
                attribute(&mut peer, 3, format!("{there}\0").as_bytes());
                attribute(&mut peer, 28, &netns.as_raw_fd().to_ne_bytes()); // IFLA_NET_NS_FD
                data.bytes(1, &peer);
            });
        });
    });
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    let length = u16::try_from(4 + payload.len()).unwrap();
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn address(name: &str, address: Ipv4Addr) {
    // struct ifaddrmsg: family, prefix length, flags, scope, interface
    let mut fixed = [2, 24, 0, 0, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&if_nametoindex(name).unwrap().to_ne_bytes());
    ask(NEW_ADDRESS, CREATE | EXCL, &fixed, |a| {
        a.bytes(2, &address.octets()); // IFA_LOCAL
        a.bytes(1, &address.octets()); // IFA_ADDRESS
    });
}
