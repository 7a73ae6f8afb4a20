//! The addresses of a pod: what a peer reaches without culvert it reaches with it, through the sidecar.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::server::who;
use culvert_tests::{Family, Lab};
use socket2::{Domain, Protocol, Socket, Type};

use crate::support::{APP, seen};

const SOON: Duration = Duration::from_secs(10);
const PORT: u16 = 8080;

/// The way by which an address comes to the pod.
#[derive(Clone, Copy, Debug)]
enum Given {
    /// The lab has it from the beginning.
    Before,
    /// On an interface.
    On(&'static str),
    /// By a route of type local, without an address of an interface.
    Local,
}

/// An address of the pod.
struct Row {
    given: Given,
    /// The address or prefix that the pod gets.
    cidr: &'static str,
    /// The address that the peer calls.
    called: &'static str,
    /// The peer's own address where it matters.
    from: Option<&'static str>,
    /// True if the application sees the pod's own address as its client, rather than the source of the hop: that one cannot
    /// be answered on a link.
    of_a_link: bool,
}

const fn row(given: Given, cidr: &'static str, called: &'static str) -> Row {
    Row { given, cidr, called, from: None, of_a_link: false }
}

const ROWS: [Row; 18] = [
    row(Given::Before, "10.77.0.2/24", "10.77.0.2"),
    row(Given::Before, "fd77::2/64", "fd77::2"),
    row(Given::On("eth0"), "10.77.0.9/24", "10.77.0.9"),
    row(Given::On("eth0"), "fd77::9/64", "fd77::9"),
    row(Given::On("eth0"), "2001:db8:9::2/64", "2001:db8:9::2"),
    row(Given::On("eth0"), "fec0::2/64", "fec0::2"),
    row(Given::On("eth0"), "169.254.7.2/16", "169.254.7.2"),
    row(Given::On("eth0"), "240.0.0.2/24", "240.0.0.2"),
    row(Given::On("eth0"), "100.64.0.2/10", "100.64.0.2"),
    row(Given::On("lo"), "10.99.0.1/32", "10.99.0.1"),
    row(Given::On("lo"), "fd99::1/128", "fd99::1"),
    // On lo, each address of the prefix is the host's own.
    row(Given::On("lo"), "198.51.100.1/24", "198.51.100.77"),
    row(Given::Local, "203.0.113.0/24", "203.0.113.5"),
    row(Given::Local, "2001:db8:77::/64", "2001:db8:77::5"),
    Row { of_a_link: true, ..row(Given::Before, "fe80::2/64", "fe80::2") },
    // From a scope of the link to an address of another.
    Row { from: Some("fe80::1"), ..row(Given::Before, "fd77::2/64", "fd77::2") },
    Row { from: Some("fd77::1"), of_a_link: true, ..row(Given::Before, "fe80::2/64", "fe80::2") },
    Row { from: Some("192.0.2.10"), ..row(Given::Before, "10.77.0.2/24", "10.77.0.2") },
];

impl Row {
    fn give(&self, lab: &Lab) -> Result<()> {
        match self.given {
            Given::Before => return Ok(()),
            Given::On(interface) => lab.pod.add_address(interface, self.cidr)?,
            Given::Local => lab.pod.add_local_route(self.cidr)?,
        }
        let called: IpAddr = self.called.parse()?;
        let (gateway, length) = (Family::of(called).pod(), if called.is_ipv4() { 32 } else { 128 });
        lab.peer.add_route(&format!("{called}/{length}"), gateway)
    }

    /// Calls the application, which says the address of its client.
    fn call(&self, lab: &Lab) -> Result<IpAddr> {
        let scope = lab.peer.interface_index("eth0")?;
        let scoped = |ip: &str, port: u16| -> Result<SocketAddr> {
            Ok(match ip.parse()? {
                IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, port, 0, scope).into(),
                ip => SocketAddr::new(ip, port),
            })
        };
        let (to, from) = (scoped(self.called, PORT)?, self.from.map(|from| scoped(from, 0)).transpose()?);
        let connected = lab.peer.as_root().run(|| -> io::Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
            if let Some(from) = from {
                socket.bind(&from.into())?;
            }
            socket.set_read_timeout(Some(SOON))?;
            socket.connect_timeout(&to.into(), SOON)?;
            Ok(socket.into())
        });
        Ok(seen(connected?)?.ip())
    }
}

#[test]
fn what_a_peer_reaches_without_culvert_it_reaches_with_it() -> Result<()> {
    let mut wrong = Vec::new();
    for row in &ROWS {
        let mut clients = Vec::new();
        for with in [false, true] {
            let lab = Lab::new()?;
            if with {
                lab.add(&[])?.expect_success();
            }
            let _application = lab.pod.as_uid(APP).serve(("::", PORT), who())?;
            let _sidecar = with.then(|| lab.pod.sidecar().start()).transpose()?;
            // After the sidecar's start.
            row.give(&lab)?;
            clients.push(row.call(&lab).map_err(|error| format!("{error:#}")));
        }
        let called: IpAddr = row.called.parse()?;
        let due = if row.of_a_link { called } else { Family::of(called).hop() };
        let as_due = matches!(&clients[..], [Ok(without), Ok(with)] if *without != due && *with == due);
        if !as_due {
            wrong.push(format!("{:?} {} called {}: {clients:?}", row.given, row.cidr, row.called));
        }
    }
    ensure!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn an_address_that_comes_late_is_reached_by_all_that_call_it_at_once() -> Result<()> {
    const AT_ONCE: usize = 32;
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let _application = lab.pod.as_uid(APP).serve(("::", PORT), who())?;
    let _sidecar = lab.pod.sidecar().options(["--concurrency", "4"]).start()?;
    for n in 20..30 {
        for (family, address) in [(Family::V4, format!("10.77.0.{n}")), (Family::V6, format!("fd77::{n}"))] {
            let length = if family == Family::V4 { 24 } else { 64 };
            lab.pod.add_address("eth0", &format!("{address}/{length}"))?;
            let to = SocketAddr::new(address.parse()?, PORT);
            let clients: Vec<Result<IpAddr>> = thread::scope(|scope| {
                let call = || Ok(seen(lab.peer.connect(to)?)?.ip());
                let calling: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(call)).collect();
                calling.into_iter().map(|one| one.join().expect("no panic")).collect()
            });
            let lost =
                clients.iter().filter(|client| !matches!(client, Ok(ip) if *ip == family.hop())).count();
            ensure!(lost == 0, "{lost} of {AT_ONCE} to {to}: {:?}", clients.iter().find(|one| one.is_err()));
        }
    }
    Ok(())
}

#[test]
fn an_application_may_spell_ipv4_as_mapped_ipv6() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let sidecar = lab.pod.sidecar().start()?;
    let _server = lab.peer.serve((Family::V4.outside(), 80), who())?;
    let client = seen(lab.pod.as_uid(APP).connect("[::ffff:192.0.2.10]:80")?).context("mapped")?;
    ensure!(client.ip() == Family::V4.pod(), "{client}");
    let record = sidecar.access(SOON, |record| Some(record["orig_dst"].as_str()?.to_owned()));
    ensure!(record.as_deref() == Some("192.0.2.10:80"), "{record:?}");
    Ok(())
}
