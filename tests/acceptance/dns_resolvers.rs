//! The resolvers of applications at the sidecar's DNS server: glibc, dig and Node.js as they are, musl's and Go's ways by raw
//! queries; answers of every size, queries in a row and all at once, and a cache in the pod.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::process::{Process, lab_exec};
use culvert_tests::server::{Server, UdpEcho};
use culvert_tests::until::{DEADLINE, uninterrupted};
use culvert_tests::{Family, eventually};

use crate::dns_server::{
    A, AAAA, HEADER, SERVFAIL, World, code, id_of, last_of, query, question, read_frame, records, write_frame,
};
use crate::support::{APP, by_every_engine};

/// A resolver ends by itself; its own deadline is longer than any server here takes.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Folder that resolvers see as `/etc`: what they ask is decided there.
fn etc(world: &World) -> Result<PathBuf> {
    let folder = world.lab.folder().join("etc");
    fs::create_dir_all(&folder)?;
    for (file, text) in [
        ("resolv.conf", format!("nameserver {}\n", Family::V4.outside())),
        ("nsswitch.conf", "hosts: dns\n".to_owned()),
        ("hosts", String::new()),
    ] {
        fs::write(folder.join(file), text)?;
    }
    Ok(folder)
}

/// Runs a program of the machine as an application of the pod, and returns what it prints.
fn run(world: &World, program: &str, arguments: &[&str]) -> Result<String> {
    let etc = etc(world)?;
    let files = (None, Some(&*etc));
    let mut command = lab_exec::command_with_etc(world.lab.pod.namespace(), APP, files, Path::new(program))?;
    command.args(arguments).env_clear();
    let mut process = Process::start(command)?;
    let status = process.wait(ENDS_WITHIN).with_context(|| program.to_owned())?;
    let text = process.stdout().text();
    ensure!(status.success(), "{program} {arguments:?}: {status}\n{text}\n{}", process.stderr().text());
    Ok(text)
}

/// Runs dig, which asks once and waits for long.
fn dig(world: &World, arguments: &[&str]) -> Result<String> {
    let server = format!("@{}", Family::V4.outside());
    run(world, "/usr/bin/dig", &[&[&*server, "+tries=1", "+timeout=30"], arguments].concat())
}

fn resolvers_find_both_families(engine: &str) -> Result<()> {
    let world = World::new(engine)?;
    let _sidecar = world.sidecar()?;
    let glibc = run(&world, "/usr/bin/getent", &["ahosts", "web.test"])?;
    ensure!(glibc.contains("198.51.100.1 ") && glibc.contains("2001:db8::1 "), "{glibc}");
    for (arguments, expected) in [
        (&["+short", "web.test", "A"][..], "198.51.100.1"),
        (&["+short", "wEb.TeSt", "AAAA"], "2001:db8::1"),
        (&["+short", "+tcp", "web.test"], "198.51.100.1"),
        (&["+short", "+noedns", "web.test"], "198.51.100.1"),
        (&["+short", "+bufsize=4096", "+dnssec", "web.test"], "198.51.100.1"),
        // On one connection, one after the other.
        (
            &["+short", "+tcp", "+keepopen", "a.test", "b.test", "c.test"],
            "198.51.100.1\n198.51.100.1\n198.51.100.1",
        ),
    ] {
        let found = dig(&world, arguments)?;
        ensure!(found == expected, "dig {arguments:?}: {found}");
    }
    let missing = dig(&world, &["none.test"])?;
    ensure!(missing.contains("status: NXDOMAIN"), "{missing}");
    // It asks again by TCP what is truncated.
    let long = dig(&world, &["+short", "long.test"])?;
    ensure!(long.lines().count() == 200, "{} addresses", long.lines().count());
    if Path::new("/usr/bin/node").exists() {
        let script = "const dns = require('dns');
            dns.lookup('web.test', {all: true}, (error, all) => console.log(error || all.map((one) => one.address).sort().join()));
            dns.resolve4('a.test', (error, all) => console.log(error || all.join()));
            dns.resolve6('a.test', (error, all) => console.log(error || all.join()));
            dns.resolve4('none.test', (error) => console.log(error.code));";
        let mut found: Vec<_> =
            run(&world, "/usr/bin/node", &["-e", script])?.lines().map(str::to_owned).collect();
        found.sort();
        ensure!(
            found == ["198.51.100.1", "198.51.100.1,2001:db8::1", "2001:db8::1", "ENOTFOUND"],
            "{found:?}"
        );
    }
    Ok(())
}

/// Sends queries from one socket without waiting, and returns the answers with their senders in the order of ids.
fn all_from_one_socket(
    world: &World,
    asked: &[(IpAddr, Vec<u8>)],
) -> Result<Vec<(u16, SocketAddr, Vec<u8>)>> {
    let family = Family::of(asked[0].0);
    let socket = world.app().udp((family.any(), 0))?;
    for (server, query) in asked {
        socket.send_to(query, (*server, 53))?;
    }
    let mut answers = Vec::new();
    let mut buffer = [0; 4096];
    for _ in asked {
        let (length, from) = uninterrupted(|| socket.recv_from(&mut buffer))?;
        answers.push((id_of(&buffer), from, buffer[..length].to_vec()));
    }
    answers.sort();
    Ok(answers)
}

fn two_queries_of_one_socket_are_both_answered(engine: &str) -> Result<()> {
    let world = World::new(engine)?;
    let _sidecar = world.sidecar()?;
    for family in Family::BOTH {
        for round in 0..20 {
            let (one, two) = (2 * round, 2 * round + 1);
            let server = family.outside();
            // As glibc, and Go where it is told to use one socket.
            let both = [(server, query(one, "web.test", A)), (server, query(two, "web.test", AAAA))];
            let answers = all_from_one_socket(&world, &both)?;
            let found: Vec<_> = answers.iter().map(|(id, from, answer)| (*id, *from, answer.len())).collect();
            let at = SocketAddr::new(server, 53);
            // A question of 14 bytes, and a record of 12 more than its address.
            ensure!(found == [(one, at, HEADER + 14 + 16), (two, at, HEADER + 14 + 28)], "{found:?}");
        }
    }
    Ok(())
}

fn every_server_of_a_list_answers_when_all_are_asked_at_once(engine: &str) -> Result<()> {
    let world = World::new(engine)?;
    let sidecar = world.sidecar()?;
    for family in Family::BOTH {
        // As musl: both questions to each of three servers from one socket, and the first answer counts.
        let servers = [family.outside(), family.peer(), family.pod()];
        for round in 0..10 {
            let asked: Vec<_> = servers
                .iter()
                .flat_map(|server| {
                    [
                        (*server, query(2 * round, "web.test", A)),
                        (*server, query(2 * round + 1, "web.test", AAAA)),
                    ]
                })
                .collect();
            let answers = all_from_one_socket(&world, &asked)?;
            let found: BTreeSet<_> = answers.iter().map(|(id, from, _)| (*from, *id)).collect();
            let expected: BTreeSet<_> =
                asked.iter().map(|(server, query)| (SocketAddr::new(*server, 53), id_of(query))).collect();
            ensure!(found == expected, "{found:?}");
        }
    }
    ensure!(sidecar.stat("dns.queries.loop")? == 0);
    Ok(())
}

by_every_engine! {
    resolvers_find_both_families,
    two_queries_of_one_socket_are_both_answered,
    every_server_of_a_list_answers_when_all_are_asked_at_once,
}

/// An OPT record that says how long an answer may be.
fn with_edns(mut query: Vec<u8>, payload: u16) -> Vec<u8> {
    query[HEADER - 1] = 1;
    query.extend_from_slice(&[&[0, 0, 41][..], &payload.to_be_bytes(), &[0; 6]].concat());
    query
}

/// A server's answer to a name `nCOUNT.…`: as many addresses as it says, or truncated where they do not fit.
fn sized(query: &[u8], by_tcp: bool) -> Vec<u8> {
    let (name, end) = question(query);
    let count: u16 = name[1..].split('.').next().and_then(|count| count.parse().ok()).unwrap_or_default();
    let has_edns = query[HEADER - 1] == 1;
    let most = match query[end..] {
        _ if by_tcp => usize::from(u16::MAX),
        [0, 0, 41, high, low, ..] if has_edns => usize::from(u16::from_be_bytes([high, low])),
        _ => 512,
    };
    let opt: &[u8] = if has_edns { &query[end..end + 11] } else { &[] };
    let mut message = query[..end].to_vec();
    message[2] |= 0x80;
    message[6..8].copy_from_slice(&count.to_be_bytes());
    for at in 0..count {
        let [high, low] = at.to_be_bytes();
        message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 198, 18, high, low]);
    }
    if message.len() + opt.len() > most {
        message.truncate(end);
        message[2] |= 2;
        message[6..8].fill(0);
    }
    message.extend_from_slice(opt);
    message
}

#[test]
fn answers_of_every_size_come_whole_or_by_tcp() -> Result<()> {
    let world = World::new("auto")?;
    let server = Family::V4.peer();
    let _datagrams = UdpEcho::answering(world.lab.peer.udp((server, 53))?, |query| sized(query, false))?;
    let streams: Server = world.lab.peer.serve((server, 53), |mut stream: TcpStream| {
        loop {
            let query = read_frame(&mut stream)?;
            write_frame(&mut stream, &sized(&query, true))?;
        }
    })?;
    world.names(&[server])?;
    let _sidecar = world.sidecar()?;
    let asked = Family::V4.outside();
    for (id, (name, payload, length, count)) in (1..).zip([
        // A name of 16 bytes on the wire: 12 + 20 + 30 · 16 = 512.
        ("n30.abcdefghij", None, 512, 30),
        ("n31.abcdefghij", None, 528, 31),
        ("n31.abcdefghij", Some(1232), 539, 31),
        // 12 + 25 + 253 · 16 + 11 = 4,096.
        ("n253.abcdefghijklmn", Some(4096), 4096, 253),
        ("n254.abcdefghijklmn", Some(4096), 4112, 254),
        ("n4000.test", Some(4096), 12 + 16 + 4000 * 16 + 11, 4000),
        ("n4000.test", None, 12 + 16 + 4000 * 16, 4000),
    ]) {
        let plain = query(id, name, A);
        let whole = payload.map_or(plain.clone(), |payload| with_edns(plain, payload));
        let answer = world.ask(asked, &whole)?;
        if length <= usize::from(payload.unwrap_or(512)) {
            ensure!((answer.len(), records(&answer)) == (length, count), "{name} {payload:?}");
            continue;
        }
        ensure!(answer[2] & 2 != 0 && records(&answer) == 0, "{name} {payload:?} is not truncated");
        let answer = world.ask_by_tcp(asked, &whole)?;
        ensure!((answer.len(), records(&answer)) == (length, count), "{name} {payload:?} by TCP");
        ensure!(answer == sized(&whole, true), "{name}: other bytes");
    }
    ensure!(streams.accepted() == 4, "{} connections", streams.accepted());
    Ok(())
}

#[test]
fn queries_in_a_row_on_one_connection_need_not_wait() -> Result<()> {
    const MANY: u16 = 200;
    let world = World::new("auto")?;
    let _sidecar = world.sidecar()?;
    for family in Family::BOTH {
        let mut stream = world.app().connect((family.outside(), 53))?;
        let mut bytes = Vec::new();
        for id in 0..MANY {
            let query = query(id, "web.test", A);
            bytes.extend_from_slice(&(query.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&query);
        }
        let mut writing = stream.try_clone()?;
        let sent = thread::spawn(move || writing.write_all(&bytes));
        let mut ids = BTreeSet::new();
        for _ in 0..MANY {
            let answer = read_frame(&mut stream)?;
            ensure!(last_of(&answer)? == 1);
            ids.insert(id_of(&answer));
        }
        sent.join().expect("no panic")?;
        ensure!(ids.len() == usize::from(MANY), "{} answers", ids.len());
    }
    Ok(())
}

/// A server that answers none before it has as many different questions; their number.
fn holds(socket: UdpSocket, many: usize) -> Result<Arc<AtomicUsize>> {
    let came = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&came);
    socket.set_read_timeout(Some(ENDS_WITHIN))?;
    thread::spawn(move || {
        let mut names = BTreeSet::new();
        let mut held = Vec::new();
        let mut buffer = [0; 512];
        // A test that is over sends no more.
        while let Ok((length, from)) = uninterrupted(|| socket.recv_from(&mut buffer)) {
            held.push((buffer[..length].to_vec(), from));
            names.insert(question(&buffer[..length]).0);
            seen.store(names.len(), Ordering::SeqCst);
            if names.len() == many {
                // The last first. One that is lost is missed by the test.
                for (query, from) in held.drain(..).rev() {
                    let _ = socket.send_to(&sized(&query, false), from);
                }
            }
        }
    });
    Ok(came)
}

#[test]
fn a_thousand_queries_at_once_each_get_their_own_answer() -> Result<()> {
    const MANY: u16 = 1000;
    /// Queries that are sent before the next are: as many as the kernel keeps for a socket of any size.
    const BATCH: usize = 100;
    let world = World::new("auto")?;
    let server = Family::V4.peer();
    let came = holds(world.lab.peer.udp((server, 53))?, usize::from(MANY))?;
    world.names(&[server])?;
    let sidecar = world.sidecar()?;
    let sockets: Vec<UdpSocket> =
        (0..20).map(|_| world.app().udp(("0.0.0.0", 0))).collect::<std::io::Result<_>>()?;
    let name = |id: u16| format!("n{}.x{id}.test", id % 20);
    for batch in (0..MANY).collect::<Vec<_>>().chunks(BATCH) {
        for &id in batch {
            let socket = &sockets[usize::from(id) % sockets.len()];
            socket.send_to(&query(id, &name(id), A), (Family::V4.outside(), 53))?;
        }
        let last = usize::from(batch[batch.len() - 1]);
        eventually!(came.load(Ordering::SeqCst) > last, DEADLINE);
    }
    let mut ids = BTreeSet::new();
    let mut buffer = [0; 1024];
    for socket in &sockets {
        for _ in 0..usize::from(MANY) / sockets.len() {
            let (length, _) = uninterrupted(|| socket.recv_from(&mut buffer))?;
            let (found, _) = question(&buffer[..length]);
            let id = id_of(&buffer);
            ensure!(found == name(id) && records(&buffer) == id % 20, "{id}: {found}");
            ids.insert(id);
        }
    }
    ensure!(ids.len() == usize::from(MANY), "{} answers", ids.len());
    ensure!(sidecar.stat("dns.queries.forwarded")? == u64::from(MANY));
    ensure!(sidecar.stat("dns.queries_active")? == 0);
    Ok(())
}

/// A cache in the pod that knows nothing: it passes each query on to a server outside, with an id and a port of its own.
struct Cache {
    passed_on: Arc<AtomicUsize>,
}

impl Cache {
    /// Listens at `127.0.0.1:53` as root, as no other user may.
    fn start(world: &World) -> Result<Self> {
        let listening = Arc::new(world.lab.pod.udp("127.0.0.1:53")?);
        let asking = Arc::new(world.lab.pod.udp("0.0.0.0:0")?);
        for socket in [&listening, &asking] {
            socket.set_read_timeout(Some(ENDS_WITHIN))?;
        }
        let clients = Arc::<Mutex<HashMap<u16, (SocketAddr, u16)>>>::default();
        let passed_on = Arc::<AtomicUsize>::default();
        let (known, count) = (Arc::clone(&clients), Arc::clone(&passed_on));
        let (from, to) = (Arc::clone(&listening), Arc::clone(&asking));
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, client)) = uninterrupted(|| from.recv_from(&mut buffer)) {
                let id = count.fetch_add(1, Ordering::SeqCst) as u16;
                let mut clients = known.lock().unwrap_or_else(PoisonError::into_inner);
                clients.insert(id, (client, id_of(&buffer)));
                drop(clients);
                buffer[..2].copy_from_slice(&id.to_be_bytes());
                let _ = to.send_to(&buffer[..length], (Family::V4.outside(), 53));
            }
        });
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, _)) = uninterrupted(|| asking.recv_from(&mut buffer)) {
                let client = clients.lock().unwrap_or_else(PoisonError::into_inner).remove(&id_of(&buffer));
                let Some((client, id)) = client else { continue };
                buffer[..2].copy_from_slice(&id.to_be_bytes());
                let _ = listening.send_to(&buffer[..length], client);
            }
        });
        Ok(Self { passed_on })
    }

    fn passed_on(&self) -> usize {
        self.passed_on.load(Ordering::SeqCst)
    }
}

#[test]
fn a_cache_in_the_pod_whose_queries_are_redirected_too_is_found_out() -> Result<()> {
    let world = World::new("auto")?;
    let cache = Cache::start(&world)?;
    world.names(&["127.0.0.1".parse()?])?;
    let sidecar = world.sidecar()?;
    let failed = world.ask(Family::V4.outside(), &query(1, "web.test", A))?;
    ensure!(code(&failed) == SERVFAIL);
    let rounds = cache.passed_on();
    ensure!(rounds < 300, "{rounds} rounds");
    ensure!(sidecar.stat("dns.queries.loop")? > 0);
    let says = |line: &str| line.contains("come back").then_some(());
    ensure!(sidecar.stderr().wait_for(DEADLINE, says).is_some(), "the log does not name the cache");
    // It is asked no more, by any question.
    ensure!(code(&world.ask(Family::V4.outside(), &query(2, "other.test", AAAA))?) == SERVFAIL);
    ensure!(cache.passed_on() == rounds);
    ensure!(sidecar.stat("dns.queries_active")? == 0, "none is left in flight");
    Ok(())
}

#[test]
fn a_cache_in_the_pod_whose_user_is_let_out_answers() -> Result<()> {
    let world = World::with(&[("exclude-outbound-ports-for-uids", "*:53:0")])?;
    let cache = Cache::start(&world)?;
    world.names(&["127.0.0.1".parse()?])?;
    let sidecar = world.sidecar()?;
    for id in 1..50 {
        // Two that are there together look like the begin of a loop.
        let server = Family::V4.outside();
        let both = [(server, query(2 * id, "web.test", A)), (server, query(2 * id + 1, "web.test", A))];
        for (_, _, answer) in all_from_one_socket(&world, &both)? {
            ensure!(last_of(&answer)? == 1, "{answer:?}");
        }
    }
    ensure!(sidecar.stat("dns.queries.forwarded")? == 98 && sidecar.stat("dns.queries.loop")? == 0);
    ensure!(cache.passed_on() >= 98);
    Ok(())
}

#[test]
fn a_sidecar_of_another_uid_with_a_server_on_loopback_asks_itself_once() -> Result<()> {
    let world = World::new("auto")?;
    world.names(&["127.0.0.1".parse()?, "::1".parse()?])?;
    let sidecar = world.settings().options(["--verify-redirect", "off"]).uid(4000).start()?;
    for (id, by_tcp) in [(1, false), (2, true)] {
        let (asked, server) = (query(id, "web.test", A), Family::V4.outside());
        let failed = if by_tcp { world.ask_by_tcp(server, &asked)? } else { world.ask(server, &asked)? };
        ensure!(code(&failed) == SERVFAIL, "{failed:?}");
    }
    // Each of both servers once, and each query is known when it comes back.
    let loops = sidecar.stat("dns.queries.loop")?;
    ensure!(loops == 4, "{loops} loops");
    Ok(())
}

/// A service with a named port, and this pod.
const DOCUMENTS: &str = "{type: Mesh, name: default}
---
{type: Dataplane, name: here, networking: {address: 10.77.0.2, transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001},
  inbound: [{port: 9000, tags: {kuma.io/service: here}}]}}
---
{type: Dataplane, name: web-1, networking: {address: 10.77.0.1, inbound: [{port: 8080, name: main, tags: {kuma.io/service: web}}]}}
";

/// A world with documents, and the options that a sidecar needs for them.
fn with_names() -> Result<(World, Vec<String>)> {
    let world = World::new("auto")?;
    let folder = world.lab.folder();
    fs::write(folder.join("mesh.yaml"), DOCUMENTS)?;
    // The sidecar's log, where its user may write.
    let log = folder.join("log");
    fs::create_dir(&log)?;
    fs::set_permissions(&log, fs::Permissions::from_mode(0o777))?;
    let options = [
        "--resources".to_owned(),
        folder.join("mesh.yaml").display().to_string(),
        "--dataplane".to_owned(),
        "here".to_owned(),
        "--dns-log".to_owned(),
        log.join("dns.log").display().to_string(),
    ];
    Ok((world, options.into()))
}

#[test]
fn resolvers_find_names_of_the_mesh_and_the_log_says_what_they_asked() -> Result<()> {
    let (world, options) = with_names()?;
    let mut sidecar = world.settings().options(options).start()?;
    let (four, six) =
        (dig(&world, &["+short", "web.mesh", "A"])?, dig(&world, &["+short", "web.mesh", "AAAA"])?);
    ensure!(four.parse::<Ipv4Addr>()?.octets()[0] >= 240 && six.starts_with("fd00:fd00::"), "{four} {six}");
    let glibc = run(&world, "/usr/bin/getent", &["ahosts", "WEB.mesh"])?;
    ensure!(glibc.contains(&four) && glibc.contains(&six), "{glibc}");
    for (arguments, expected) in [
        (&["+short", "_main._tcp.web.mesh", "SRV"][..], "0 0 8080 web.mesh."),
        (&["+short", "-x", &four], "web.mesh."),
        (&["+short", "-x", &six], "web.mesh."),
        (&["+short", "+tcp", "web.mesh"], &four),
        (&["+short", "web.mesh", "TXT"], ""),
        (&["+short", "web.test"], "198.51.100.1"),
    ] {
        let found = dig(&world, arguments)?;
        ensure!(found == expected, "dig {arguments:?}: {found}");
    }
    // It exists, and has nothing of the kind.
    let nothing = dig(&world, &["web.mesh", "TXT"])?;
    ensure!(nothing.contains("status: NOERROR") && nothing.contains("ANSWER: 0, AUTHORITY: 1"), "{nothing}");
    let version = dig(&world, &["+edns=1", "+noednsneg", "web.mesh"])?;
    ensure!(version.contains("status: BADVERS"), "{version}");
    let page: serde_json::Value = serde_json::from_str(&sidecar.admin("/overview")?.body)?;
    ensure!(
        page["dns"]["names"].as_u64() > Some(0) && page["dns"]["servers"][0][1] == "in use",
        "{}",
        page["dns"]
    );

    // Its end writes the log out.
    sidecar.admin_post("/quitquitquit")?;
    sidecar.wait(ENDS_WITHIN)?;
    let log = fs::read_to_string(world.lab.folder().join("log/dns.log"))?;
    let lines: Vec<serde_json::Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let count = |name: &str, kind: &str, answer: &str| {
        let is = |line: &&serde_json::Value| {
            line["name"] == name && line["type"] == kind && line["answer"] == answer
        };
        lines.iter().filter(is).count()
    };
    // dig by UDP and TCP; glibc's name has another case.
    let found = [
        count("web.mesh.", "A", "mesh"),
        count("WEB.mesh.", "AAAA", "mesh"),
        count("web.mesh.", "TXT", "no_data"),
        count("_main._tcp.web.mesh.", "SRV", "mesh"),
        count("web.test.", "A", "forwarded"),
    ];
    ensure!(found == [2, 1, 2, 1, 1], "{found:?}\n{log}");
    let server =
        |line: &serde_json::Value| line["answer"] != "forwarded" || line["server"] == "192.0.2.10:53";
    ensure!(lines.iter().all(server), "{log}");
    Ok(())
}

#[test]
fn a_family_that_comes_or_goes_is_followed() -> Result<()> {
    let (world, options) = with_names()?;
    let _sidecar = world.settings().options(options).start()?;
    let has =
        |kind| world.ask(Family::V4.outside(), &query(7, "web.mesh", kind)).map(|answer| records(&answer));
    ensure!((has(A)?, has(AAAA)?) == (1, 1));
    world.lab.pod.set_sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
    eventually!(has(AAAA).is_ok_and(|count| count == 0), DEADLINE);
    ensure!(has(A)? == 1);
    world.lab.pod.set_sysctl("net.ipv6.conf.all.disable_ipv6", "0")?;
    world.lab.pod.add_address("eth0", "fd77::2/64")?;
    world.lab.pod.add_route("default", Family::V6.peer())?;
    eventually!(has(AAAA).is_ok_and(|count| count == 1), DEADLINE);
    Ok(())
}
