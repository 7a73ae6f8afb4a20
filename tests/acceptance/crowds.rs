//! The sidecar under many connections, and beside peers that are slow or gone: nothing is lost, and memory stays bounded.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_tests::process::Process;
use culvert_tests::server::{echo, silent, sink};
use culvert_tests::until::uninterrupted;
use culvert_tests::{Actor, Family, Host, Lab, Payload, Sidecar, eventually, process::lab_exec};
use rustix::process::Signal;

use crate::support::{APP, assert_reset, read_all};

/// The longest that a crowd may take for one step on a busy machine.
const A_WHILE: Duration = Duration::from_secs(90);

/// A part of the crowd, as a process of its own: this one could not hold both ends.
struct Crowd(Process);

impl Crowd {
    fn start(host: &Host, arguments: &[&str]) -> Result<Self> {
        let program = lab_exec::beside_current_program("lab-crowd")?;
        let mut command = lab_exec::command(host.namespace(), APP, None, &program)?;
        command.args(arguments);
        Ok(Self(Process::start(command)?))
    }

    fn says(&self, word: &str) -> Result<()> {
        self.0
            .stdout()
            .wait_for(A_WHILE, |line| (line == word).then_some(()))
            .with_context(|| format!("never {word}: {}", self.0.stderr().text()))
    }

    fn go_on(&self) -> Result<()> {
        self.0.signal(Signal::USR1)
    }
}

/// The sidecar's memory of its own and its open files. Not `Pss`: in that the program's pages count by how many processes run
/// it, which are sometimes the sidecars of other tests.
#[derive(Debug, Clone, Copy)]
struct Size {
    kib: u64,
    files: usize,
}

fn size_of(sidecar: &Sidecar<'_>) -> Result<Size> {
    let folder = format!("/proc/{}", sidecar.pid());
    let memory = fs::read_to_string(format!("{folder}/smaps_rollup"))?;
    let kib = memory
        .lines()
        .find_map(|line| line.strip_prefix("Pss_Anon:")?.trim().strip_suffix(" kB")?.parse().ok())
        .context("no Pss_Anon")?;
    Ok(Size { kib, files: fs::read_dir(format!("{folder}/fd"))?.count() })
}

/// As many as the files of one process allow: 9,500 where the hard limit is 20,000.
const HELD: usize = 9500;
/// Connections of a crowd that end and are opened again.
const REPLACED: usize = 4000;

/// The sidecar's sizes around three crowds: at the start, while each is there, and after each.
struct Sizes {
    start: Size,
    up: Vec<Size>,
    after: Vec<Size>,
}

fn three_crowds(workers: &str) -> Result<Sizes> {
    let lab = Lab::new()?;
    for host in [&lab.pod, &lab.peer] {
        host.set_sysctl("net.ipv4.ip_local_port_range", "16000 65535")?;
    }
    lab.add(&[])?.expect_success();
    let many =
        ["--circuit-breaker-max-connections", "20000", "--circuit-breaker-max-pending-requests", "20000"];
    let sidecar = lab.pod.sidecar().options(many).options(["--concurrency", workers]).start()?;
    // The pages that are read while it is busy are part of what it always needs.
    for path in ["/connections", "/stats"] {
        sidecar.admin(path)?;
    }
    let server = Crowd::start(&lab.peer, &["serve", "192.0.2.10:8080"])?;
    server.says("serving")?;
    let start = size_of(&sidecar)?;
    let mut sizes = Sizes { start, up: Vec::new(), after: Vec::new() };
    for seed in ["1", "2", "3"] {
        let held = HELD.to_string();
        let mut crowd =
            Crowd::start(&lab.pod, &["visit", "192.0.2.10:8080", &held, &REPLACED.to_string(), seed])?;
        crowd.says("up")?;
        sizes.up.push(size_of(&sidecar)?);
        let active = sidecar.stat("cluster.outbound_passthrough_ipv4.upstream_cx_active")?;
        assert_eq!(active as usize, HELD);
        crowd.go_on()?;
        crowd.says("replaced")?;
        crowd.go_on()?;
        crowd.says("closed")?;
        // The sidecar notices a reset in its own time.
        eventually!(size_of(&sidecar).is_ok_and(|size| size.files <= start.files + 2), A_WHILE);
        sizes.after.push(size_of(&sidecar)?);
        crowd.go_on()?;
        ensure!(crowd.0.wait(A_WHILE)?.success(), "{}", crowd.0.stderr().text());
    }
    let total = sidecar.stat("cluster.outbound_passthrough_ipv4.upstream_cx_total")?;
    assert_eq!(total as usize, 3 * (HELD + REPLACED));
    let Sizes { start, up, after } = &sizes;
    let each = (up[0].kib - start.kib) as f64 / HELD as f64;
    println!("{workers} workers: at first {start:?}, up {up:?}, {each:.2} KiB a connection, after {after:?}");
    assert!(each <= 2.0, "{each:.2} KiB of memory per idle connection");
    Ok(sizes)
}

/// Each worker has an arena of its own, which grows to the largest share of a crowd that it ever had. The shares are the
/// scheduler's: on a busy machine one worker may get most of one crowd and few of the next. So the memory is flat where one
/// worker has all of each crowd, and of two workers neither has more than that.
#[test]
fn nine_thousand_five_hundred_connections_come_and_go_and_leave_nothing() -> Result<()> {
    let one = three_crowds("1")?;
    let (up, after) = (&one.up, &one.after);
    // Flat: the next crowd uses what the last one left. A crowd's worth of a leak would be 80 % more.
    assert!(up[2].kib <= up[1].kib + up[1].kib / 6, "{up:?}");
    assert!(after[2].kib <= after[1].kib + after[1].kib / 10, "{after:?}");
    let two = three_crowds("2")?;
    // Three leaks would be three crowds.
    let crowd = up[0].kib - one.start.kib;
    let grown = two.up[2].kib - two.start.kib;
    assert!(grown <= 2 * crowd, "{grown} KiB for two workers, {crowd} for a crowd of one");
    Ok(())
}

#[test]
fn slow_readers_cost_a_bounded_amount_of_memory() -> Result<()> {
    const READERS: usize = 40;
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let sidecar = lab.pod.sidecar().start()?;
    let _server = lab.peer.serve("192.0.2.10:8080", silent())?;
    let before = size_of(&sidecar)?;
    let stuck: Vec<TcpStream> = (0..READERS)
        .map(|_| {
            let stream = lab.pod.as_uid(APP).connect("192.0.2.10:8080")?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        })
        .collect::<Result<_>>()?;
    // Until every queue on the way is full.
    let chunk = vec![b'x'; 256 * 1024];
    let mut quiet_since = Instant::now();
    let deadline = Instant::now() + A_WHILE;
    let mut sent = 0;
    while quiet_since.elapsed() < Duration::from_millis(700) {
        ensure!(Instant::now() < deadline, "still taking after {A_WHILE:?}");
        for mut stream in &stuck {
            while let Ok(n) = stream.write(&chunk) {
                sent += n;
                quiet_since = Instant::now();
            }
        }
        thread::yield_now();
    }
    let grown = size_of(&sidecar)?.kib.saturating_sub(before.kib);
    println!("{sent} bytes under way, {grown} KiB of memory for {READERS} slow readers");
    // A scratch buffer's worth each; as much again for what the allocator cannot use between them.
    assert!(grown <= (READERS as u64) * 2 * 64 + 1024, "{grown} KiB for {READERS} slow readers");
    Ok(())
}

/// The cable is pulled: no FIN, no reset. Who waits for nothing would wait for ever.
#[test]
fn a_peer_that_vanishes_is_noticed_by_keep_alive() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let sidecar = lab.pod.sidecar().options(["--tcp-keepalive", "1s"]).start()?;
    let mut open = Vec::new();
    for family in Family::BOTH {
        let server = lab.peer.serve((family.outside(), 8080), echo())?;
        let mut stream = lab.pod.as_uid(APP).connect(&server)?;
        stream.set_read_timeout(Some(A_WHILE))?;
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        open.push((server, stream));
    }
    lab.peer.set_down("eth0")?;
    let start = Instant::now();
    for (server, stream) in open {
        assert_reset(stream, "the application's end");
        drop(server);
    }
    // A second of silence, then nine questions, a second apart.
    assert!((8..40).contains(&start.elapsed().as_secs()), "noticed after {:?}", start.elapsed());
    eventually!(sidecar.access_log().len() == 2);
    for record in sidecar.access_log() {
        assert_eq!(record["reason"], "server_reset", "{record}");
    }
    Ok(())
}

#[test]
fn a_cable_that_is_pulled_for_a_moment_loses_nothing() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let _sidecar = lab.pod.sidecar().start()?;
    let _server = lab.peer.serve("192.0.2.10:8080", sink())?;
    let payload = Payload { bytes: 64 * 1024 * 1024, seed: 11 };
    let stream = lab.pod.as_uid(APP).connect("192.0.2.10:8080")?;
    stream.set_write_timeout(Some(A_WHILE))?;
    stream.set_read_timeout(Some(A_WHILE))?;
    thread::scope(|scope| {
        let mut writer = stream.try_clone()?;
        let writing = scope.spawn(move || {
            payload.write_to(&mut writer)?;
            writer.shutdown(std::net::Shutdown::Write)
        });
        for _ in 0..3 {
            lab.peer.set_down("eth0")?;
            thread::park_timeout(Duration::from_millis(100));
            lab.peer.set_up("eth0")?;
            thread::park_timeout(Duration::from_millis(100));
        }
        writing.join().expect("no panic")?;
        assert_eq!(read_all(&stream)?, payload.checksum().to_string());
        Ok(())
    })
}

/// Requests go on, each on a connection of its own, while the sidecar drains: every accepted connection is served. The
/// application ends after its peers, as in a pod; until then it is served too.
#[test]
fn draining_under_load_loses_nothing_that_was_promised() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let mut sidecar = lab.pod.sidecar().options(["--drain-delay", "1s", "--drain-time", "20s"]).start()?;
    let inside = lab.pod.as_uid(APP).serve("10.77.0.2:8080", echo())?;
    let outside = lab.peer.serve("192.0.2.10:8080", echo())?;
    let (peer, app) = (lab.peer.as_root(), lab.pod.as_uid(APP));
    // The outbound half serves as long as something is open: as an application that is not done yet.
    let mut held = app.connect("192.0.2.10:8080")?;
    held.write_all(b"x")?;
    held.read_exact(&mut [0])?;
    let inbound_is_closed = AtomicBool::new(false);
    let (inbound, outbound) = thread::scope(|scope| {
        let peers: Vec<_> =
            (0..3).map(|_| scope.spawn(|| visit_until_refused(peer, "10.77.0.2:8080"))).collect();
        let own: Vec<_> =
            (0..3).map(|_| scope.spawn(|| visit_until(app, "192.0.2.10:8080", &inbound_is_closed))).collect();
        // All of them are at it.
        eventually!(inside.accepted() > 20 && outside.accepted() > 20);
        sidecar.signal(Signal::TERM)?;
        let sum = |all: Vec<ScopedJoinHandle<'_, Result<u32>>>| -> Result<u32> {
            all.into_iter().map(|one| one.join().expect("no panic")).sum()
        };
        let inbound = sum(peers);
        inbound_is_closed.store(true, Relaxed);
        anyhow::Ok((inbound?, sum(own)?))
    })?;
    drop((held, inside));
    assert_eq!(sidecar.wait(A_WHILE)?.code(), Some(0), "{}", sidecar.stderr().text());
    println!("{inbound} inbound and {outbound} outbound connections, all served");
    let records = sidecar.access_log();
    assert_eq!(records.len(), (inbound + outbound + 1) as usize);
    for record in records {
        assert_eq!(record["reason"], "ok", "{record}");
    }
    Ok(())
}

/// One connection with one question; `false` if it was not let in.
fn visit(actor: Actor<'_>, to: &str) -> Result<bool> {
    let Ok(mut stream) = actor.connect(to) else { return Ok(false) };
    stream.write_all(to.as_bytes()).context("the question")?;
    let mut answer = vec![0; to.len()];
    stream.read_exact(&mut answer).context("the answer")?;
    ensure!(answer == to.as_bytes(), "another answer");
    stream.shutdown(Shutdown::Write)?;
    ensure!(uninterrupted(|| stream.read(&mut answer)).context("the end")? == 0, "more came");
    Ok(true)
}

fn visit_until(actor: Actor<'_>, to: &str, over: &AtomicBool) -> Result<u32> {
    let mut served = 0;
    while !over.load(Relaxed) {
        ensure!(visit(actor, to)?, "{to}: refused after {served}");
        served += 1;
    }
    Ok(served)
}

/// The kernel may take a connection in the very moment between the sidecar's last look and the end of the port, and
/// resets it with the port: it was never let in. No other connection may be cut off.
fn visit_until_refused(actor: Actor<'_>, to: &str) -> Result<u32> {
    let mut served = 0;
    loop {
        match visit(actor, to) {
            Ok(true) => served += 1,
            Ok(false) => return Ok(served),
            Err(error) => {
                ensure!(!visit(actor, to)?, "{to} is still open: {error:#}, after {served}");
                return Ok(served);
            }
        }
    }
}
