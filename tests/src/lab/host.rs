//! One network namespace with what a test does in it: the pod, or a peer outside.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::process::Uid;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::set_thread_res_uid;
use socket2::{Domain, Protocol, Socket, Type};

use crate::family::At;
use crate::kernel::link::{Cidr, Links, everything};
use crate::kernel::netns::Namespace;
use crate::kernel::nft::Ruleset;
use crate::server::{Behaviour, Server};
use crate::until::{DEADLINE, once_free, uninterrupted, until_some};

/// A pod, or a peer of it.
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
}

impl Host {
    /// A host with nothing but a loopback interface.
    pub fn new(name: &str) -> Result<Self> {
        let namespace = Namespace::new(name)?;
        namespace.run(|| Links::open()?.up("lo"))?;
        Ok(Self { namespace })
    }

    /// A host that another program made: a pod of a container runtime.
    pub fn existing(namespace: Namespace) -> Self {
        Self { namespace }
    }

    /// The namespace of the host.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        self.namespace.name()
    }

    /// Lays a cable between an interface here and one of `other`.
    pub fn wire(&self, interface: &str, other: &Host, other_interface: &str) -> Result<()> {
        self.namespace.run(|| {
            let mut links = Links::open()?;
            links.veth(interface, &other.namespace, other_interface)?;
            links.up(interface)
        })?;
        other.namespace.run(|| Links::open()?.up(other_interface))?;
        for (host, interface) in [(self, interface), (other, other_interface)] {
            host.namespace.run(|| {
                let mut links = Links::open()?;
                until_some(DEADLINE, || links.is_running(interface).unwrap_or_default().then_some(()))
                    .with_context(|| format!("{interface} of {} does not come up", host.name()))
            })?;
        }
        Ok(())
    }

    /// Pulls the cable of an interface: neither end notices but by silence. IPv6 addresses go with it.
    pub fn set_down(&self, interface: &str) -> Result<()> {
        self.namespace.run(|| Links::open()?.down(interface))
    }

    /// Puts the cable back in.
    pub fn set_up(&self, interface: &str) -> Result<()> {
        self.namespace.run(|| Links::open()?.up(interface))
    }

    /// Gives an interface an address, as in `add_address("eth0", "10.77.0.9/24")`.
    pub fn add_address(&self, interface: &str, cidr: &str) -> Result<()> {
        let cidr: Cidr = cidr.parse()?;
        self.namespace.run(|| Links::open()?.add_address(interface, cidr))
    }

    /// Sends what goes to `cidr` (`"default"`: what nothing else takes) by way of `gateway`.
    pub fn add_route(&self, cidr: &str, gateway: IpAddr) -> Result<()> {
        let to = if cidr == "default" { everything(gateway) } else { cidr.parse()? };
        self.namespace.run(|| Links::open()?.add_route(to, gateway))
    }

    /// Makes every address of `cidr` the host's own, without adding one to an interface.
    pub fn add_local_route(&self, cidr: &str) -> Result<()> {
        let cidr: Cidr = cidr.parse()?;
        self.namespace.run(|| Links::open()?.add_local_route(cidr))
    }

    /// The names of the interfaces.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        self.namespace.run(|| Ok(Links::open()?.list()?.into_iter().map(|(name, _)| name).collect()))
    }

    /// The kernel's number of an interface: the scope of a link-local address.
    pub fn interface_index(&self, interface: &str) -> Result<u32> {
        self.namespace.run(|| Links::open()?.index(interface))
    }

    /// The addresses of an interface.
    pub fn addresses(&self, interface: &str) -> Result<Vec<IpAddr>> {
        self.namespace.run(|| Links::open()?.addresses(interface))
    }

    /// Reads a sysctl: `sysctl("net.ipv4.tcp_tw_reuse")`.
    pub fn sysctl(&self, name: &str) -> Result<String> {
        let path = sysctl_path(name);
        let text = self
            .namespace
            .run(|| fs::read_to_string(&path))
            .with_context(|| format!("cannot read {name}"))?;
        Ok(text.trim().to_owned())
    }

    /// Writes a sysctl of this namespace.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = sysctl_path(name);
        self.namespace
            .run(|| fs::write(&path, value))
            .with_context(|| format!("cannot set {name} to {value}"))
    }

    /// Reads a file of `/proc/net` as this host has it.
    pub fn proc_net(&self, file: &str) -> Result<String> {
        let path = format!("/proc/thread-self/net/{file}");
        self.namespace.run(|| fs::read_to_string(&path)).with_context(|| format!("cannot read {path}"))
    }

    /// Every nftables table, chain, rule and set of this host.
    pub fn ruleset(&self) -> Result<Ruleset> {
        self.namespace.run(Ruleset::dump)
    }

    /// Acts as a user.
    pub fn as_uid(&self, uid: u32) -> Actor<'_> {
        Actor { host: self, uid, source: None, patience: DEADLINE }
    }

    /// Returns an actor with uid 0.
    pub fn as_root(&self) -> Actor<'_> {
        self.as_uid(0)
    }

    /// Connects as root, within the deadline.
    pub fn connect(&self, to: impl At) -> io::Result<TcpStream> {
        self.as_root().connect(to)
    }

    /// Listens as root, at one address.
    pub fn listen(&self, at: impl At) -> io::Result<TcpListener> {
        self.as_root().listen(at)
    }

    /// Opens a UDP socket as root.
    pub fn udp(&self, at: impl At) -> io::Result<UdpSocket> {
        self.as_root().udp(at)
    }

    /// Starts a server as root; it ends when the value is dropped.
    pub fn serve(&self, at: impl At, behaviour: impl Behaviour) -> Result<Server> {
        self.as_root().serve(at, behaviour)
    }
}

fn sysctl_path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name.replace('.', "/"))
}

/// An actor on a host: a uid, perhaps with a source address of its own.
///
/// ```text
/// pod.as_uid(1000).connect("192.0.2.10:80")
/// pod.as_uid(5678).from("127.0.0.6").connect("10.77.0.2:8080")
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Actor<'a> {
    host: &'a Host,
    uid: u32,
    source: Option<IpAddr>,
    patience: Duration,
}

impl<'a> Actor<'a> {
    /// Uses a source address rather than the kernel's choice.
    pub fn from(self, source: impl ToIp) -> Self {
        Self { source: Some(source.to_ip()), ..self }
    }

    /// Waits no longer than this for a connection.
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Returns the host that this actor is on.
    pub fn host(&self) -> &'a Host {
        self.host
    }

    /// Runs `work` on a thread of its own that is in the host's namespace and has the uid, and no capability unless
    /// the uid is 0.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let uid = Uid::from_raw(self.uid);
        self.host.namespace.run(|| {
            if !uid.is_root() {
                // Of this thread only: libc's call changes every thread of the process.
                set_thread_res_uid(uid, uid, uid)
                    .unwrap_or_else(|e| panic!("cannot become uid {}: {e}", self.uid));
                // The change closed /proc/<pid> of the whole process to other processes, the plugin among them.
                set_dumpable_behavior(DumpableBehavior::Dumpable).expect("a process may open itself");
            }
            work()
        })
    }

    /// Opens a TCP connection.
    pub fn connect(&self, to: impl At) -> io::Result<TcpStream> {
        let to = to.at();
        self.run(|| {
            let socket = self.socket(to, Type::STREAM, Protocol::TCP)?;
            socket.connect_timeout(&to.into(), self.patience)?;
            Ok(socket.into())
        })
    }

    /// Listens for TCP connections. The IPv6 wildcard takes IPv4 as well.
    pub fn listen(&self, at: impl At) -> io::Result<TcpListener> {
        let at = at.at();
        self.run(|| {
            let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            if at.ip() == IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED) {
                socket.set_only_v6(false)?;
            }
            socket.bind(&at.into())?;
            socket.listen(1024)?;
            Ok(socket.into())
        })
    }

    /// Opens a UDP socket at an address.
    pub fn udp(&self, at: impl At) -> io::Result<UdpSocket> {
        let at = at.at();
        self.run(|| {
            let socket = once_free(|| UdpSocket::bind(at))?;
            socket.set_read_timeout(Some(DEADLINE))?;
            socket.set_write_timeout(Some(DEADLINE))?;
            Ok(socket)
        })
    }

    /// Starts a server; it ends when the value is dropped.
    pub fn serve(&self, at: impl At, behaviour: impl Behaviour) -> Result<Server> {
        let at = at.at();
        let listener = once_free(|| self.listen(at))
            .with_context(|| format!("{} cannot listen at {at} as uid {}", self.host.name(), self.uid))?;
        Server::start(listener, behaviour)
    }

    /// Sends a datagram and returns the answer with its sender.
    pub fn ask_udp(&self, to: impl At, question: &[u8]) -> Result<(Vec<u8>, SocketAddr)> {
        let to = to.at();
        let any = crate::family::Family::of(to.ip()).any();
        let socket = self.udp((self.source.unwrap_or(any), 0))?;
        socket.set_read_timeout(Some(self.patience))?;
        socket.send_to(question, to)?;
        let mut answer = vec![0; 65536];
        let (length, sender) = uninterrupted(|| socket.recv_from(&mut answer))
            .map_err(|e| anyhow!("no answer from {to}: {e}"))?;
        answer.truncate(length);
        Ok((answer, sender))
    }

    fn socket(&self, to: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(to), kind, Some(protocol))?;
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        Ok(socket)
    }
}

/// Anything that names an address: `"127.0.0.6"` or an [`IpAddr`].
pub trait ToIp {
    /// The address. Panics on a text that is none: a test's own mistake.
    fn to_ip(&self) -> IpAddr;
}

impl ToIp for IpAddr {
    fn to_ip(&self) -> IpAddr {
        *self
    }
}

impl ToIp for &str {
    fn to_ip(&self) -> IpAddr {
        self.parse().unwrap_or_else(|e| panic!("{self}: {e}"))
    }
}
