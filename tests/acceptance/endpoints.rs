//! Endpoints that fail before a byte of the application was sent: each is followed by the next, is counted as the failure of
//! that endpoint, and comes back by one trial at a time.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use culvert_tests::server::{Server, resets, silent, speaks_first, who};
use culvert_tests::tls::TlsServer;
use culvert_tests::tls::authority::Credentials;
use culvert_tests::until::uninterrupted;
use culvert_tests::{Authority, Family, Lab, Sidecar, Wish, eventually};
use serde_json::Value;

use crate::documents::TRANSPARENT;
use crate::support::{APP, read_all, seen};

const SOON: Duration = Duration::from_secs(20);
/// The pause after a first failure.
const PAUSE: Duration = Duration::from_secs(5);
/// Connections at once, and after these one after the other.
const MANY: usize = 20;
const GREETING: &str = "220 hello";

/// The two endpoints of `web`: the first fails, the second is well.
const FAULTY: &str = "192.0.2.20:81";
const WELL: &str = "192.0.2.10:82";

/// The fault of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Nothing listens.
    Refused,
    /// A router says that there is no way.
    Unreachable,
    /// Packets get lost without a word.
    BlackHole,
    /// It resets each connection as soon as it has taken it.
    TlsReset,
    TlsExpired,
    TlsOtherService,
    TlsForeignAuthority,
    /// It speaks first, and not TLS.
    TlsPlain,
    /// It takes the connection and never answers the handshake.
    TlsFrozen,
}

impl Fault {
    const ALL: [Self; 9] = [
        Self::Refused,
        Self::Unreachable,
        Self::BlackHole,
        Self::TlsReset,
        Self::TlsExpired,
        Self::TlsOtherService,
        Self::TlsForeignAuthority,
        Self::TlsPlain,
        Self::TlsFrozen,
    ];

    /// Returns true if the mesh speaks TLS. Faults of the network are tried with it too, as its handshake comes after them.
    fn tls(self) -> bool {
        !matches!(self, Self::Refused | Self::Unreachable)
    }

    /// Returns true if it shows by silence alone.
    fn is_slow(self) -> bool {
        matches!(self, Self::BlackHole | Self::TlsFrozen)
    }
}

/// The bytes that applications said to the endpoint that is well, one text for each connection.
type Heard = Arc<Mutex<Vec<String>>>;

/// Greets, echoes until the client's end, and notes what it heard.
fn greets(mut stream: impl Read + Write, heard: &Heard) -> io::Result<()> {
    stream.write_all(GREETING.as_bytes())?;
    let (mut all, mut buffer) = (Vec::new(), [0; 64]);
    loop {
        match uninterrupted(|| stream.read(&mut buffer))? {
            0 => break,
            n => {
                all.extend_from_slice(&buffer[..n]);
                stream.write_all(&buffer[..n])?;
            }
        }
    }
    heard.lock().unwrap_or_else(PoisonError::into_inner).push(String::from_utf8_lossy(&all).into_owned());
    Ok(())
}

/// A lab with an outbound to `web`, whose first endpoint has a fault.
struct World {
    lab: Lab,
    authority: Authority,
    tls: bool,
    heard: Heard,
}

impl World {
    fn new(tls: bool) -> Result<Self> {
        let lab = Lab::new()?;
        lab.add(&[])?.expect_success();
        let world = Self { lab, authority: Authority::new("mesh default")?, tls, heard: Heard::default() };
        world.authority.service("here")?.write(&world.lab.folder().join("identity"))?;
        let mtls = "mtls: {enabledBackend: ca, backends: [{name: ca, type: provided, mode: STRICT}]}";
        let mesh =
            format!("{{type: Mesh, name: default{}}}", if tls { format!(", {mtls}") } else { String::new() });
        let web = |(number, at): (usize, &str)| {
            let (ip, port) = at.rsplit_once(':').unwrap_or((at, "80"));
            format!(
                "---\n{{type: Dataplane, name: web-{number}, networking: {{address: {ip}, inbound: [{{port: {port}, tags: {{kuma.io/service: web}}}}]}}}}\n"
            )
        };
        let text = format!(
            "{mesh}\n---\n{{type: Dataplane, name: here, networking: {{address: 10.77.0.2, {TRANSPARENT}, inbound: [{{port: 9000, tags: {{kuma.io/service: here}}}}], outbound: [{{port: 7100, tags: {{kuma.io/service: web}}}}]}}}}\n{}",
            [FAULTY, WELL].into_iter().enumerate().map(web).collect::<String>()
        );
        fs::create_dir(world.lab.folder().join("mesh"))?;
        fs::write(world.lab.folder().join("mesh/mesh.yaml"), text)?;
        Ok(world)
    }

    fn sidecar(&self) -> Result<Sidecar<'_>> {
        let folder = |name: &str| self.lab.folder().join(name).display().to_string();
        let options =
            ["--resources", &folder("mesh"), "--dataplane", "here", "--identity", &folder("identity")];
        self.lab.pod.sidecar().options(options).start()
    }

    /// A member behind its sidecar, or without TLS the application itself.
    fn serve(&self, at: &str, credentials: Credentials) -> Result<Server> {
        let (tls, heard) =
            (self.tls.then(|| TlsServer::new(&credentials, 0)).transpose()?, Arc::clone(&self.heard));
        self.lab.peer.serve(at, move |stream: TcpStream| match &tls {
            Some(tls) => {
                let mut stream = tls.over(stream).map_err(io::Error::other)?;
                greets(&mut stream, &heard)?;
                stream.conn.send_close_notify();
                stream.flush()
            }
            None => greets(stream, &heard),
        })
    }

    fn serve_well(&self, at: &str) -> Result<Server> {
        self.serve(at, self.authority.service("web")?)
    }

    /// Sets the faulty endpoint up.
    fn fault(&self, fault: Fault) -> Result<Option<Server>> {
        let peer = &self.lab.peer;
        let expired = Wish { uris: &["spiffe://default/web"], time: (-7200, -3600) };
        match fault {
            Fault::Unreachable => peer.set_sysctl("net.ipv4.ip_forward", "1")?,
            // The peer does not forward, and says nothing about it.
            Fault::BlackHole => {}
            _ => peer.add_address("lo", "192.0.2.20/32")?,
        }
        Ok(Some(match fault {
            Fault::Refused | Fault::Unreachable | Fault::BlackHole => return Ok(None),
            Fault::TlsReset => peer.serve(FAULTY, resets())?,
            Fault::TlsExpired => self.serve(FAULTY, self.authority.issue(&expired)?)?,
            Fault::TlsOtherService => self.serve(FAULTY, self.authority.service("db")?)?,
            Fault::TlsForeignAuthority => {
                self.serve(FAULTY, Authority::new("another mesh")?.service("web")?)?
            }
            Fault::TlsPlain => peer.serve(FAULTY, speaks_first("220 not TLS"))?,
            Fault::TlsFrozen => peer.serve(FAULTY, silent())?,
        }))
    }

    /// Says a word of its own, before or after the greeting, and hears both once. Returns the time until it heard something.
    fn talk(&self, word: &str, speaks_first: bool) -> Result<Duration> {
        let started = Instant::now();
        let mut stream = self.lab.pod.as_uid(APP).connect("127.0.0.1:7100")?;
        let mut greeting = [0; GREETING.len()];
        if speaks_first {
            stream.write_all(word.as_bytes())?;
            stream.read_exact(&mut greeting)?;
        } else {
            stream.read_exact(&mut greeting)?;
            stream.write_all(word.as_bytes())?;
        }
        let took = started.elapsed();
        ensure!(greeting == *GREETING.as_bytes(), "{}", String::from_utf8_lossy(&greeting));
        let mut echo = vec![0; word.len()];
        stream.read_exact(&mut echo)?;
        ensure!(echo == word.as_bytes(), "{}", String::from_utf8_lossy(&echo));
        stream.shutdown(Shutdown::Write)?;
        let rest = read_all(stream)?;
        ensure!(rest.is_empty(), "{rest}");
        Ok(took)
    }
}

/// The value of an endpoint in `/clusters`.
fn of_endpoint(sidecar: &Sidecar<'_>, endpoint: &str, name: &str) -> Result<String> {
    let all = sidecar.admin("/clusters")?.body;
    let line = all.lines().find_map(|line| line.strip_prefix(&format!("web::{endpoint}::{name}::")));
    line.map(str::to_owned).with_context(|| format!("no {name} of {endpoint} in {all}"))
}

fn failures(sidecar: &Sidecar<'_>, endpoint: &str) -> Result<usize> {
    Ok(of_endpoint(sidecar, endpoint, "cx_connect_fail")?.parse()?)
}

/// Trials that may be made in this time at most.
fn trials_within(time: Duration) -> usize {
    (0..)
        .scan((Duration::ZERO, PAUSE), |(due, pause), _| {
            *due += *pause;
            *pause = (*pause * 2).min(Duration::from_secs(60));
            Some(*due)
        })
        .take_while(|due| *due <= time)
        .count()
}

/// The outcome of many connections.
struct Outcome {
    results: Vec<Result<Duration>>,
    took: Duration,
}

impl Outcome {
    /// Talks once for each word: half of them at once, the others one after the other.
    fn of(world: &World, words: &[String]) -> Self {
        let started = Instant::now();
        let (at_once, later) = words.split_at(words.len() / 2);
        let mut results: Vec<_> = thread::scope(|scope| {
            let talk = |(n, word): (usize, &'_ String)| {
                let word = word.clone();
                scope.spawn(move || world.talk(&word, n % 2 == 0))
            };
            let talking: Vec<_> = at_once.iter().enumerate().map(talk).collect();
            talking.into_iter().map(|one| one.join().unwrap_or_else(|_| Err(anyhow!("a panic")))).collect()
        });
        results.extend(later.iter().enumerate().map(|(n, word)| world.talk(word, n % 2 == 0)));
        Self { results, took: started.elapsed() }
    }

    fn lost(&self) -> Vec<String> {
        self.results.iter().filter_map(|one| one.as_ref().err()).map(|error| format!("{error:#}")).collect()
    }

    /// Slow ones among those at once, and among the later ones.
    fn slow(&self) -> [usize; 2] {
        let slow = |one: &&Result<Duration>| one.as_ref().is_ok_and(|took| *took > Duration::from_secs(1));
        let (at_once, later) = self.results.split_at(self.results.len() / 2);
        [at_once, later].map(|half| half.iter().filter(slow).count())
    }

    fn figures(&self) -> String {
        let (lost, all, [at_once, later]) = (self.lost().len(), self.results.len(), self.slow());
        let longest = self.results.iter().flatten().max().copied().unwrap_or_default();
        format!(
            "{lost} of {all} lost; slower than 1 s: {at_once} of those at once, {later} later; longest {longest:?}"
        )
    }
}

fn no_connection_is_lost(fault: Fault) -> Result<()> {
    let world = World::new(fault.tls())?;
    let faulty = world.fault(fault)?;
    let well = world.serve_well(WELL)?;
    let sidecar = world.sidecar()?;
    let words: Vec<String> = (0..2 * MANY).map(|n| format!("word {n};")).collect();
    let outcome = Outcome::of(&world, &words);
    let (figures, took) = (outcome.figures(), outcome.took);
    if std::env::var_os("CULVERT_TEST_FIGURES").is_some() {
        eprintln!("{fault:?}: {figures}");
    }
    let reasons: BTreeSet<_> =
        sidecar.access_log().iter().map(|record| record["error"].to_string()).collect();
    ensure!(outcome.lost().is_empty(), "{figures}: {:?}, {reasons:?}", outcome.lost().first());
    if fault.is_slow() {
        ensure!(outcome.slow()[1] <= trials_within(took), "{figures} in {took:?}");
    }
    // Each word was heard once, by the one that is well.
    let heard = || world.heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
    eventually!(heard().len() == words.len(), SOON);
    ensure!(heard().into_iter().collect::<BTreeSet<_>>() == words.iter().cloned().collect(), "{:?}", heard());
    ensure!(well.accepted() == words.len());
    // The failures are those of the one endpoint.
    let failed = failures(&sidecar, FAULTY)?;
    ensure!(failed >= 1 && failed <= MANY + trials_within(took), "{failed} failures in {took:?}");
    ensure!(failures(&sidecar, WELL)? == 0);
    ensure!(sidecar.stat("cluster.web.upstream_cx_connect_fail")? == failed as u64);
    ensure!(sidecar.stat("cluster.web.upstream_rq_retry")? == failed as u64);
    ensure!(sidecar.stat("cluster.web.outlier_detection.ejections_enforced_total")? == 1);
    ensure!(ejected(&sidecar)? == [true, false]);
    drop(faulty);
    if matches!(fault, Fault::Unreachable | Fault::BlackHole) {
        world.lab.peer.add_address("lo", "192.0.2.20/32")?;
    }
    comes_back(&world, &sidecar)
}

/// The outlier state of both endpoints, in which `/clusters` and `/stats` agree.
fn ejected(sidecar: &Sidecar<'_>) -> Result<[bool; 2]> {
    let flags = [FAULTY, WELL].map(|endpoint| of_endpoint(sidecar, endpoint, "health_flags"));
    let mut ejected = [false; 2];
    for (flags, ejected) in flags.into_iter().zip(&mut ejected) {
        let flags = flags?;
        *ejected = flags == "/failed_outlier_check";
        ensure!(*ejected || flags == "healthy", "{flags}");
    }
    let active = sidecar.stat("cluster.web.outlier_detection.ejections_active")?;
    ensure!(active == ejected.into_iter().filter(|&one| one).count() as u64, "{active}, but {ejected:?}");
    Ok(ejected)
}

/// Mends the faulty endpoint, which a trial finds out; no connection is lost meanwhile.
fn comes_back(world: &World, sidecar: &Sidecar<'_>) -> Result<()> {
    let mended = world.serve_well(FAULTY)?;
    let (mut talked, mut lost) = (0, Vec::new());
    let mut talk = || {
        talked += 1;
        lost.extend(world.talk(&format!("later {talked};"), false).err());
    };
    eventually!(
        {
            talk();
            mended.accepted() > 0
        },
        SOON
    );
    ensure!(ejected(sidecar)? == [false, false]);
    let before = mended.accepted();
    (0..4).for_each(|_| talk());
    ensure!(mended.accepted() == before + 2, "they do not take turns");
    ensure!(lost.is_empty(), "{lost:?}");
    Ok(())
}

#[test]
fn no_connection_is_lost_to_an_endpoint_that_fails_before_the_first_byte() {
    let wrong: Vec<String> = thread::scope(|scope| {
        let rows = Fault::ALL.map(|fault| (fault, scope.spawn(move || no_connection_is_lost(fault))));
        rows.into_iter()
            .filter_map(|(fault, row)| match row.join() {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("{fault:?}: {error:#}")),
                Err(_) => Some(format!("{fault:?}: a panic")),
            })
            .collect()
    });
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn an_endpoint_that_failed_is_tried_by_one_connection_at_a_time_with_growing_pauses() -> Result<()> {
    const THREADS: usize = 8;
    let world = World::new(false)?;
    let (_refused, _well) = (world.fault(Fault::Refused)?, world.serve_well(WELL)?);
    let sidecar = world.sidecar()?;
    let started = Instant::now();
    for n in 0..2 {
        world.talk(&format!("first {n};"), true)?;
    }
    ensure!(failures(&sidecar, FAULTY)? == 1);
    // Until a second trial was made: after 5 and 15 seconds.
    let calls = thread::scope(|scope| -> Result<usize> {
        let calling: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| -> Result<usize> {
                    let mut calls = 0;
                    while failures(&sidecar, FAULTY)? < 3 && started.elapsed() < Duration::from_secs(60) {
                        for _ in 0..10 {
                            world.talk("x", true)?;
                        }
                        calls += 10;
                    }
                    Ok(calls)
                })
            })
            .collect();
        calling.into_iter().map(|one| one.join().map_err(|_| anyhow!("a panic"))?).sum()
    })?;
    let (failed, took) = (failures(&sidecar, FAULTY)?, started.elapsed());
    ensure!(failed >= 3, "only {failed} in {took:?}");
    ensure!(failed <= 1 + trials_within(took), "{failed} failures in {took:?} and {calls} calls");
    ensure!(calls > 100, "only {calls} calls in {took:?}");
    Ok(())
}

/// Calls the pod's own service, which has no other endpoint, and returns what the application heard last of its client.
fn a_call_to_oneself(family: Family, mode: Option<&str>, more: &str) -> Result<(Result<IpAddr>, Vec<Value>)> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let authority = Authority::new("mesh default")?;
    let folder = |name: &str| lab.folder().join(name).display().to_string();
    authority.service("web")?.write(&lab.folder().join("identity"))?;
    let mtls = mode.map_or(String::new(), |mode| {
        format!(", mtls: {{enabledBackend: ca, backends: [{{name: ca, type: provided, mode: {mode}}}]}}")
    });
    let text = format!(
        "{{type: Mesh, name: default{mtls}}}\n---\n{{type: Dataplane, name: here, networking: {{address: '{}', {TRANSPARENT}, inbound: [{{port: 8080, tags: {{kuma.io/service: web}}}}], outbound: [{{port: 7100, tags: {{kuma.io/service: web}}}}]}}}}\n{more}",
        family.pod()
    );
    fs::create_dir(lab.folder().join("mesh"))?;
    fs::write(lab.folder().join("mesh/mesh.yaml"), text)?;
    let _application = lab.pod.as_uid(APP).serve((family.pod(), 8080), who())?;
    let options = ["--resources", &folder("mesh"), "--dataplane", "here", "--identity", &folder("identity")];
    let sidecar = lab.pod.sidecar().options(options).start()?;
    let heard = lab.pod.as_uid(APP).connect("127.0.0.1:7100").map_err(Into::into).and_then(seen);
    eventually!(sidecar.access_log().len() == 2, SOON);
    Ok((heard.map(|client| client.ip()), sidecar.access_log()))
}

#[test]
fn a_call_through_the_pods_own_service_goes_through_the_inbound_rules() -> Result<()> {
    let denied = "---\n{type: MeshTrafficPermission, name: none, spec: {targetRef: {kind: Mesh}, from: [{targetRef: {kind: Mesh}, default: {action: Deny}}]}}\n";
    for family in Family::BOTH {
        for (mode, more, reason) in [
            (None, "", "ok"),
            (Some("STRICT"), "", "ok"),
            (Some("PERMISSIVE"), "", "ok"),
            (Some("STRICT"), denied, "forbidden"),
        ] {
            let (heard, records) = a_call_to_oneself(family, mode, more)?;
            let of = |direction: &str| records.iter().find(|record| record["direction"] == direction);
            let (inbound, outbound) =
                (of("inbound").context("no inbound")?, of("outbound").context("no outbound")?);
            let what = format!("{family} {mode:?}: {heard:?}, {records:#?}");
            ensure!(inbound["reason"] == reason, "{what}");
            ensure!(outbound["cluster"] == "web", "{what}");
            // From the hop, so through the inbound side; under mTLS as a member like any other.
            ensure!(heard.ok() == (reason == "ok").then_some(family.hop()), "{what}");
            let peer = mode.map(|_| "spiffe://default/web");
            ensure!(inbound["peer"].as_str() == peer, "{what}");
        }
    }
    Ok(())
}
