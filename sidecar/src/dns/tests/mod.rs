// SPDX-License-Identifier: Apache-2.0
//! The server on real sockets of loopback, with servers that behave and servers that do not.

mod load;
mod loops;
mod misbehaving;
mod streams;

use super::*;
use crate::dns::message::{HEADER, answers, question_end};
use crate::dns::names::{Reach, tests::mesh};
use crate::metrics::MetricRegistry;
use crate::net::addrs::Family;
use crate::observe::readiness::{Readiness, ReadinessMetrics};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::UdpSocket;
use tokio::runtime::Handle;
use tokio::time::timeout;

/// Longest wait for what must come, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A deadline that no test waits for.
const NEVER: Duration = Duration::from_secs(600);

/// A deadline that tests do wait for.
const SHORT: Duration = Duration::from_millis(500);

/// A server under test.
struct World {
    dns: Arc<Dns>,
    port: u16,
    readiness: Readiness,
    _running: listen::RunningDns,
}

impl World {
    /// Serves on a free port of both families and asks these servers.
    fn new(servers: &[SocketAddr], deadline: Duration) -> Self {
        Self::with(servers, deadline, |_| ())
    }

    fn with(servers: &[SocketAddr], deadline: Duration, change: impl FnOnce(&mut Dns)) -> Self {
        let metrics = MetricRegistry::new().add::<DnsMetrics>();
        let mut dns = Dns::new(0, "/no/such/file".into(), 1 << 20, (metrics, QueryLogger::off()), None);
        Arc::get_mut(&mut dns.way).unwrap().deadline = deadline;
        change(&mut dns);
        let dns = Arc::new(dns);
        dns.servers.store(Arc::new(Servers::default().follow(servers, |_| false)));
        let (port, sockets) = free_port();
        let readiness = Readiness::new(ReadinessMetrics::default());
        let running = listen::serve(&dns, sockets, &[Handle::current()], &readiness, |_| ()).unwrap();
        Self { dns, port, readiness, _running: running }
    }

    fn v4(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    fn v6(&self) -> SocketAddr {
        (Ipv6Addr::LOCALHOST, self.port).into()
    }

    fn count(&self, answered: Answered) -> u64 {
        self.dns.metrics.queries[answered].get()
    }

    fn outcome(&self, outcome: metrics::Outcome) -> u64 {
        self.dns.metrics.upstream.outcomes[outcome].get()
    }

    /// Asks by UDP from a socket of its own.
    async fn ask(&self, query: &[u8]) -> Vec<u8> {
        let client = client(self.v4()).await;
        client.send(query).await.unwrap();
        received(&client).await
    }
}

/// Ports that are free for both transports in both families.
fn free_port() -> (u16, listen::Sockets) {
    for _ in 0..100 {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        drop(socket);
        if let Ok(sockets) = listen::bind(port, "--dns-port") {
            return (port, sockets);
        }
    }
    panic!("no port is free");
}

/// A client's socket that is connected to the server.
async fn client(server: SocketAddr) -> UdpSocket {
    let any = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(any).await.unwrap();
    socket.connect(server).await.unwrap();
    socket
}

/// The next datagram.
async fn received(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let length = timeout(PATIENCE, client.recv(&mut buffer)).await.expect("an answer").unwrap();
    buffer.truncate(length);
    buffer
}

/// A query for A or AAAA of a name.
fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut message = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[&[0][..], &kind.to_be_bytes(), &[0, 1]].concat());
    message
}

/// A server's answer: the query's bytes as a response with `count` addresses that end in `last`.
fn answer(query: &[u8], last: u8, count: u8) -> Vec<u8> {
    let end = question_end(query).unwrap();
    let mut message = query[..end].to_vec();
    message[2] |= 0x80;
    message[7] = count;
    message[HEADER - 1] = 0;
    for _ in 0..count {
        message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, last]);
    }
    message
}

/// The last byte of the only address.
#[track_caller]
fn last_of(reply: &[u8]) -> u8 {
    assert_eq!(reply[7], 1, "one answer: {reply:?}");
    *reply.last().unwrap()
}

fn code(reply: &[u8]) -> u8 {
    reply[3] & 0xf
}

/// A server of the pod, with the queries that it got.
struct Upstream {
    address: SocketAddr,
    queries: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Upstream {
    /// Answers each datagram with any number of others.
    async fn answering(at: &str, behaviour: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind(at).await.unwrap();
        let (address, queries) = (socket.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let seen = Arc::clone(&queries);
        tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                seen.lock().unwrap().push(buffer[..length].to_vec());
                for answer in behaviour(&buffer[..length]) {
                    // The one who asked may have what it wants.
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Self { address, queries }
    }

    /// Answers every query with an address that ends in `last`.
    async fn good(last: u8) -> Self {
        Self::answering("127.0.0.1:0", move |query| vec![answer(query, last, 1)]).await
    }

    async fn silent() -> Self {
        Self::answering("127.0.0.1:0", |_| Vec::new()).await
    }

    fn count(&self) -> usize {
        self.queries.lock().unwrap().len()
    }

    fn last_query(&self) -> Vec<u8> {
        self.queries.lock().unwrap().last().unwrap().clone()
    }
}

#[tokio::test]
async fn a_query_goes_to_a_server_and_its_answer_back_with_nothing_changed_but_the_id() {
    let v4 = Upstream::good(1).await;
    let v6 = Upstream::answering("[::1]:0", |query| vec![answer(query, 1, 1)]).await;
    for server in [&v4, &v6] {
        let world = World::new(&[server.address], NEVER);
        for at in [world.v4(), world.v6()] {
            // Mixed case, a type without a name, EDNS with a cookie, and checking disabled.
            let mut query = query(0xbeef, "wWw.eXample.CoM", 65_280);
            query[3] |= 0x10;
            query[HEADER - 1] = 1;
            query.extend_from_slice(&[0, 0, 41, 16, 0, 0, 0, 0x80, 0, 0, 12, 0, 10, 0, 8]);
            query.extend_from_slice(b"cookie!!");
            let client = client(at).await;
            client.send(&query).await.unwrap();
            let reply = received(&client).await;
            assert_eq!(server.last_query()[2..], query[2..]);
            assert_eq!(reply, answer(&query, 1, 1));
        }
        assert_eq!((world.count(Answered::Forwarded), world.dns.metrics.active.get()), (2, 0));
        assert_eq!(world.outcome(metrics::Outcome::Answered), 2);
        assert_eq!(world.readiness.check(), Ok(()));
    }
}

#[tokio::test]
async fn each_query_has_a_port_and_an_id_of_its_own() {
    let ports = Arc::new(Mutex::new(Vec::new()));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn({
        let ports = Arc::clone(&ports);
        async move {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                ports.lock().unwrap().push((from.port(), id_of(&buffer)));
                let _ = socket.send_to(&answer(&buffer[..length], 1, 1), from).await;
            }
        }
    });
    let world = World::new(&[address], NEVER);
    for _ in 0..50 {
        world.ask(&query(1, "a.test", 1)).await;
    }
    let distinct = |of: &dyn Fn(&(u16, u16)) -> u16| {
        let mut all: Vec<_> = ports.lock().unwrap().iter().map(of).collect();
        all.sort_unstable();
        all.dedup();
        all.len()
    };
    // Of 50 numbers drawn from 28,000 and from 65,536, more than 10 that are drawn again do not happen in a lifetime.
    let (ports, ids) = (distinct(&|(port, _)| *port), distinct(&|(_, id)| *id));
    assert!(ports > 40 && ids > 40, "{ports} ports, {ids} ids");
}

#[tokio::test]
async fn names_of_the_mesh_need_no_server() {
    let world = World::new(&[], NEVER);
    let named = mesh(&[("web.mesh", 30, &["192.0.2.7"], &[(80, "http")])]);
    world.dns.names.store(Arc::new(Names::of(named, Reach::ALL)));
    let reply = world.ask(&query(7, "WEB.mesh", 1)).await;
    assert_eq!((id_of(&reply), code(&reply), last_of(&reply)), (7, 0, 7));
    let other_family = world.ask(&query(8, "web.mesh", 28)).await;
    assert_eq!((code(&other_family), other_family[7]), (0, 0), "no data, no NXDOMAIN");
    let service = world.ask(&query(9, "_http._tcp.web.mesh", 33)).await;
    assert_eq!((code(&service), service[7]), (0, 1));
    let elsewhere = world.ask(&query(10, "web.test", 1)).await;
    assert_eq!(code(&elsewhere), SERVFAIL);
    let counts = [Answered::Mesh, Answered::NoData, Answered::Failed].map(|answered| world.count(answered));
    assert_eq!(counts, [2, 1, 1]);
    // The table goes with the plan: the next query sees another one.
    world.dns.names.store(Arc::default());
    assert_eq!(code(&world.ask(&query(11, "web.mesh", 1)).await), SERVFAIL);
}

/// A source of names that knows what it was asked for, and puts one name in force.
#[derive(Debug, Default)]
struct Source {
    asked: Mutex<Vec<String>>,
    used: AtomicUsize,
    /// The server that the name is for, once it is there.
    dns: std::sync::OnceLock<Arc<Dns>>,
}

impl NameSource for Source {
    fn knows(&self, host: &Arc<str>) -> bool {
        self.used.fetch_add(1, Ordering::Relaxed);
        self.asked.lock().unwrap().iter().any(|asked| **asked == **host)
    }

    fn ask(&self, host: Arc<str>) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        self.asked.lock().unwrap().push(host.to_string());
        if *host == *"web.mesh" {
            let named = mesh(&[("web.mesh", 30, &["192.0.2.7"], &[(80, "http")])]);
            let ends = [".mesh".into()].into();
            let mesh = Arc::new(crate::plan::names::MeshNames { ends, ..(*named).clone() });
            self.dns.get().unwrap().put_names(&mesh);
        }
        Box::pin(std::future::ready(*host != *"late.mesh"))
    }
}

#[tokio::test]
async fn a_name_that_the_mesh_may_have_is_asked_for_once_and_no_other_is() {
    let server = Upstream::good(9).await;
    let source = Arc::new(Source::default());
    let world = World::with(&[server.address], NEVER, |dns| dns.source = Some(Arc::clone(&source) as _));
    source.dns.set(Arc::clone(&world.dns)).unwrap();
    let mesh = crate::plan::names::MeshNames { ends: [".mesh".into()].into(), ..Default::default() };
    world.dns.put_names(&Arc::new(mesh));
    for (name, kind, last) in [
        ("web.test", 1, 9),
        ("mesh", 1, 9),
        // Nobody has it, and the servers have the word.
        ("db.mesh", 1, 9),
        ("db.mesh", 1, 9),
        // There was no answer in time, and the same again.
        ("late.mesh", 1, 9),
        ("Web.Mesh", 1, 7),
        ("web.mesh", 1, 7),
    ] {
        let reply = world.ask(&query(7, name, kind)).await;
        assert_eq!((code(&reply), last_of(&reply)), (0, last), "{name}");
    }
    let used = source.used.load(Ordering::Relaxed);
    let port = world.ask(&query(8, "_http._tcp.web.mesh", 33)).await;
    assert_eq!((code(&port), port[7]), (0, 1));
    assert_eq!(source.used.load(Ordering::Relaxed), used + 1, "each use counts");
    assert_eq!(*source.asked.lock().unwrap(), ["db.mesh", "late.mesh", "web.mesh"]);
}

#[tokio::test]
async fn bytes_that_are_no_query_get_no_answer_or_an_error() {
    let server = Upstream::good(1).await;
    let world = World::new(&[server.address], NEVER);
    let client = client(world.v4()).await;
    let good = query(1, "a.test", 1);
    for silent in [&[][..], &[1], &good[..11], &answer(&good, 1, 1), &[0; 5000]] {
        client.send(silent).await.unwrap();
    }
    let mut update = good.clone();
    update[2] = 5 << 3;
    client.send(&update).await.unwrap();
    assert_eq!(code(&received(&client).await), message::NOTIMP);
    client.send(&good[..good.len() - 1]).await.unwrap();
    assert_eq!(code(&received(&client).await), message::FORMERR);
    client.send(&good).await.unwrap();
    assert!(answers(&received(&client).await, &good));
    assert_eq!((world.count(Answered::Dropped), world.count(Answered::Rejected)), (5, 2));
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn the_servers_follow_resolv_conf() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    let metrics = MetricRegistry::new().add::<DnsMetrics>();
    let dns = Arc::new(Dns::new(15053, path.clone(), 1024, (metrics, QueryLogger::off()), None));
    let readiness = Readiness::new(ReadinessMetrics::default());
    let following = tokio::spawn(watch::follow_servers(Arc::clone(&dns), &readiness));
    let reason = readiness.check().unwrap_err();
    assert!(reason.contains("resolv.conf names no server"), "{reason}");
    let becomes = async |text: &str, expected: &[&str]| {
        std::fs::write(&path, text).unwrap();
        let reached = async {
            let addresses =
                || dns.servers.load().addresses().iter().map(ToString::to_string).collect::<Vec<_>>();
            while addresses() != expected || readiness.check().is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{text}: {:?}", dns.servers.load()));
    };
    becomes("nameserver 192.0.2.1\n", &["192.0.2.1:53"]).await;
    becomes("nameserver 192.0.2.2\nnameserver 2001:db8::1\n", &["192.0.2.2:53", "[2001:db8::1]:53"]).await;
    following.abort();
    // A file that is empty for a moment changes nothing, nor does one that is gone.
    std::fs::write(&path, "").unwrap();
    dns.read_servers();
    std::fs::remove_file(&path).unwrap();
    dns.read_servers();
    assert_eq!(dns.servers.load().addresses().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_names_follow_the_plan_and_the_routes() {
    let metrics = MetricRegistry::new().add::<DnsMetrics>();
    let dns = Arc::new(Dns::new(15053, "/no/such/file".into(), 1024, (metrics, QueryLogger::off()), None));
    let both: &[&str] = &["240.0.0.2", "fd00:fd00::2"];
    let plan = Arc::new(ArcSwap::new(mesh(&[("web.mesh", 30, both, &[])])));
    let has_v6 = Arc::new(AtomicUsize::new(0));
    let (in_force, way) = (Arc::clone(&plan), Arc::clone(&has_v6));
    let reaches = move |family| family == Family::V4 || way.load(Ordering::SeqCst) == 1;
    let following =
        tokio::spawn(watch::follow_names(Arc::clone(&dns), move || in_force.load_full(), reaches));
    let asked = |name: &str, kind| match dns.decide(&query(1, name, kind), Transport::Udp, nobody()) {
        Fate::Reply(reply) => Some(reply[7]),
        Fate::Relay(_) | Fate::Silence => None,
    };
    // At once, without a turn of the task.
    assert_eq!((asked("web.mesh", 1), asked("web.mesh", 28)), (Some(1), Some(0)));
    assert_eq!(asked("api.mesh", 1), None);
    // The clock stands: what is awaited comes by the event alone, and time then by the poll.
    plan.store(mesh(&[("api.mesh", 30, both, &[])]));
    dns.plan_changed.notify_one();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!((asked("api.mesh", 1), asked("api.mesh", 28), asked("web.mesh", 1)), (Some(1), Some(0), None));
    has_v6.store(1, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((asked("api.mesh", 1), asked("api.mesh", 28)), (Some(1), Some(1)));
    following.abort();
}

/// A client without a socket.
fn nobody() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 9).into()
}

#[tokio::test]
async fn a_server_that_cannot_serve_says_so() {
    let readiness = Readiness::new(ReadinessMetrics::default());
    let mut serving = watch::Serving::new(readiness.clone());
    serving.fails(&std::io::ErrorKind::OutOfMemory.into());
    assert!(readiness.check().unwrap_err().starts_with("DNS: queries cannot be received: "));
    serving.works();
    assert_eq!(readiness.check(), Ok(()));
    drop(serving);
    assert!(readiness.check().unwrap_err().starts_with("DNS: the server has ended"));
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_with_the_options_name() {
    let world = World::new(&[], NEVER);
    let errors = listen::bind(world.port, "--dns-port").unwrap_err();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(
        errors[0]
            .to_string()
            .starts_with(&format!("cannot listen on 127.0.0.1:{} (--dns-port): ", world.port))
    );
}

#[tokio::test]
async fn the_log_has_a_line_for_each_query() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dns.log");
    let target = crate::options::config::AccessLog::File(path.clone());
    let server = Upstream::good(1).await;
    let world = World::with(&[server.address], NEVER, |dns| {
        dns.log = QueryLogger::start(&target, dns.metrics.log_dropped.clone()).unwrap();
    });
    world.dns.names.store(Arc::new(Names::of(mesh(&[("web.mesh", 30, &["192.0.2.7"], &[])]), Reach::ALL)));
    let client = client(world.v4()).await;
    for asked in [query(1, "web.mesh", 1), query(2, "web.mesh", 28), query(3, "a.test", 1), vec![0; 12]] {
        client.send(&asked).await.unwrap();
        received(&client).await;
    }
    client.send(&[0; 3]).await.unwrap();
    world.dns.log.finish(PATIENCE);
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<_> =
        lines.iter().map(|line| format!("{} {} {}", line["name"], line["type"], line["answer"])).collect();
    let expected = [
        r#""web.mesh." "A" "mesh""#,
        r#""web.mesh." "AAAA" "no_data""#,
        r#""a.test." "A" "forwarded""#,
        r#"null null "rejected""#,
    ];
    assert_eq!(found, expected, "and none for what is no query");
    let client = client.local_addr().unwrap().to_string();
    assert!(lines.iter().all(|line| line["client"] == client && line["by"] == "udp"));
    let servers: Vec<_> = lines.iter().map(|line| line["server"].as_str()).collect();
    assert_eq!(servers, [None, None, Some(&*server.address.to_string()), None]);
    assert!(lines[2]["ms"].as_f64().unwrap() > 0.0);
}

/// The memory of a query that waits, besides its socket.
#[tokio::test]
async fn a_querys_task_is_small() {
    let world = World::new(&[], NEVER);
    let bytes = size_of_val(&world.dns.relay(&[], Transport::Udp, nobody()));
    // 600 of a dev build, of which 56 are the log's.
    assert!(bytes <= 640, "{bytes} bytes");
}
