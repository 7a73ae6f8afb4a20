//! The sidecar is a wire: what goes in at one end comes out at the other, both ways, over both families.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::panic::resume_unwind;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use culvert_tests::server::{
    Behaviour, Server, answers_at_the_end, answers_in_two_writes, closes_first, echo, exchanges,
    reads_slowly, resets, resets_after_a_byte, silent, speaks_first, who,
};
use culvert_tests::until::uninterrupted;
use culvert_tests::{Actor, Checksum, Family, Lab, Payload, Sidecar, eventually};
use socket2::SockRef;

use crate::support::{APP, assert_reset, assert_taken_and_reset, read_all, seen};

/// A way through the sidecar.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// From an application in the pod to a server outside.
    Outbound(Family),
    /// From a peer to an application in the pod.
    Inbound(Family),
}

impl Way {
    const ALL: [Self; 4] = [
        Self::Outbound(Family::V4),
        Self::Outbound(Family::V6),
        Self::Inbound(Family::V4),
        Self::Inbound(Family::V6),
    ];

    fn client(self, lab: &Lab) -> Actor<'_> {
        match self {
            Self::Outbound(_) => lab.pod.as_uid(APP),
            Self::Inbound(_) => lab.peer.as_root(),
        }
    }

    fn target(self) -> SocketAddr {
        match self {
            Self::Outbound(family) => (family.outside(), 8080).into(),
            Self::Inbound(family) => (family.pod(), 8080).into(),
        }
    }

    fn serve(self, lab: &Lab, behaviour: impl Behaviour) -> Result<Server> {
        match self {
            Self::Outbound(_) => lab.peer.serve(self.target(), behaviour),
            Self::Inbound(_) => lab.pod.as_uid(APP).serve(self.target(), behaviour),
        }
    }

    fn connect(self, lab: &Lab) -> io::Result<TcpStream> {
        self.client(lab).connect(self.target())
    }
}

/// Runs a test over every way through one sidecar with these options, all ways at once.
fn every_way(options: &[&str], test: impl Fn(Way, &Lab, &Sidecar<'_>) -> Result<()> + Sync) -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let sidecar = lab.pod.sidecar().options(options).start()?;
    thread::scope(|scope| {
        let test = |way: Way| test(way, &lab, &sidecar).with_context(|| format!("{way:?}"));
        let running = Way::ALL.map(|way| scope.spawn(move || test(way)));
        // All are waited for before the first failure is reported.
        let ended = running.map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        ended.into_iter().collect()
    })
}

#[test]
fn a_question_gets_its_answer() -> Result<()> {
    every_way(&[], |way, lab, _| {
        let _server = way.serve(lab, echo())?;
        let mut stream = way.connect(lab)?;
        for question in ["hello", "again"] {
            stream.write_all(question.as_bytes())?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            assert_eq!(answer, question.as_bytes(), "{way:?}");
        }
        Ok(())
    })
}

#[test]
fn outside_the_pod_is_seen_and_inside_the_hop() -> Result<()> {
    every_way(&[], |way, lab, _| {
        let _server = way.serve(lab, who())?;
        let client = seen(way.connect(lab)?)?;
        let expected = match way {
            Way::Outbound(family) => family.pod(),
            Way::Inbound(family) => family.hop(),
        };
        assert_eq!(client.ip(), expected, "{way:?}");
        Ok(())
    })
}

#[test]
fn a_server_may_speak_first() -> Result<()> {
    every_way(&[], |way, lab, _| {
        let _server = way.serve(lab, speaks_first("220 ready\n"))?;
        let mut stream = way.connect(lab)?;
        let mut greeting = [0; 10];
        stream.read_exact(&mut greeting)?;
        assert_eq!(&greeting, b"220 ready\n", "{way:?}");
        Ok(())
    })
}

#[test]
fn a_client_may_close_its_half_and_still_hear_the_answer() -> Result<()> {
    every_way(&[], |way, lab, _| {
        let _server = way.serve(lab, answers_at_the_end())?;
        let mut stream = way.connect(lab)?;
        stream.write_all(b"that was all")?;
        stream.shutdown(Shutdown::Write)?;
        assert_eq!(read_all(stream)?, "that was all", "{way:?}");
        Ok(())
    })
}

#[test]
fn a_server_may_close_its_half_and_still_hear_the_client() -> Result<()> {
    every_way(&[], |way, lab, _| {
        let (heard, hears) = channel();
        let _server = way.serve(lab, closes_first("goodbye", heard))?;
        let mut stream = way.connect(lab)?;
        let mut farewell = String::new();
        stream.read_to_string(&mut farewell)?;
        assert_eq!(farewell, "goodbye", "{way:?}");
        for word in ["one ", "more ", "word"] {
            stream.write_all(word.as_bytes())?;
        }
        stream.shutdown(Shutdown::Write)?;
        assert_eq!(hears.recv_timeout(Duration::from_secs(5))?, b"one more word", "{way:?}");
        Ok(())
    })
}

#[test]
fn a_reset_by_the_server_reaches_the_client() -> Result<()> {
    every_way(&[], |way, lab, _| {
        let server = way.serve(lab, resets())?;
        assert_taken_and_reset(way.connect(lab), &format!("{way:?} at once"));
        drop(server);
        let _server = way.serve(lab, resets_after_a_byte())?;
        let mut stream = way.connect(lab)?;
        stream.write_all(b"x")?;
        assert_reset(stream, &format!("{way:?} after a byte"));
        Ok(())
    })
}

#[test]
fn a_reset_by_the_client_reaches_the_server() -> Result<()> {
    every_way(&[], |way, lab, _| {
        let (ended, ends) = channel();
        let _server = way.serve(lab, move |mut stream: TcpStream| {
            stream.read_exact(&mut [0])?;
            stream.write_all(b"x")?;
            let _ = ended.send(uninterrupted(|| stream.read(&mut [0])).map_err(|e| e.kind()));
            Ok(())
        })?;
        let mut stream = way.connect(lab)?;
        stream.write_all(b"x")?;
        // A reset overtakes what is under way: nothing may be.
        stream.read_exact(&mut [0])?;
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        drop(stream);
        assert_eq!(ends.recv_timeout(Duration::from_secs(5))?, Err(ErrorKind::ConnectionReset), "{way:?}");
        Ok(())
    })
}

#[test]
fn a_closed_port_resets_the_client() -> Result<()> {
    every_way(&[], |way, lab, _| {
        assert_taken_and_reset(way.connect(lab), &format!("{way:?}"));
        Ok(())
    })
}

#[test]
fn an_address_without_a_host_resets_the_client_within_the_connect_timeout() -> Result<()> {
    every_way(&["--connect-timeout", "1s"], |way, lab, _| {
        let Way::Outbound(family) = way else { return Ok(()) };
        // No host has this address: the kernel asks for it in vain, for longer than the timeout.
        let nobody = if family == Family::V4 { "10.77.0.200:80" } else { "[fd77::200]:80" };
        let start = Instant::now();
        assert_taken_and_reset(lab.pod.as_uid(APP).connect(nobody), nobody);
        let waited = start.elapsed();
        assert!((900..2500).contains(&waited.as_millis()), "{way:?}: reset after {waited:?}");
        Ok(())
    })
}

#[test]
fn sixty_four_mebibytes_go_both_ways_at_once_unchanged() -> Result<()> {
    every_way(&[], |way, lab, _| {
        let to_server = Payload { bytes: 64 << 20, seed: 1 };
        let to_client = Payload { bytes: 64 << 20, seed: 2 };
        let _server = way.serve(lab, exchanges(to_client))?;
        let mut stream = way.connect(lab)?;
        let mut sending = stream.try_clone()?;
        let sender = thread::spawn(move || -> io::Result<()> {
            to_server.write_to(&mut sending)?;
            sending.shutdown(Shutdown::Write)
        });
        let received = Checksum::of(&mut (&mut stream).take(to_client.bytes as u64))?;
        assert_eq!(received, to_client.checksum(), "{way:?}: to the client");
        sender.join().expect("the sender does not panic")?;
        assert_eq!(read_all(stream)?, to_server.checksum().to_string(), "{way:?}: to the server");
        Ok(())
    })
}

#[test]
fn a_slow_reader_gets_everything() -> Result<()> {
    every_way(&[], |way, lab, _| {
        let payload = Payload { bytes: 8 << 20, seed: 3 };
        let _server = way.serve(lab, reads_slowly(32 << 10, Duration::from_millis(1)))?;
        let mut stream = way.connect(lab)?;
        payload.write_to(&mut stream)?;
        stream.shutdown(Shutdown::Write)?;
        assert_eq!(read_all(stream)?, payload.checksum().to_string(), "{way:?}");
        Ok(())
    })
}

#[test]
fn a_reader_that_stops_stops_the_writer() -> Result<()> {
    every_way(&[], |way, lab, _| {
        let server = way.serve(lab, silent())?;
        let mut stream = way.connect(lab)?;
        stream.set_write_timeout(Some(Duration::from_millis(500)))?;
        let (mut sent, piece) = (0, vec![0; 64 << 10]);
        let stopped = loop {
            match stream.write(&piece) {
                Ok(n) => sent += n,
                Err(e) => break e,
            }
            assert!(sent < 64 << 20, "{way:?}: {sent} bytes went to nobody");
        };
        assert!(matches!(stopped.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{way:?}: {stopped}");
        assert_eq!(server.accepted(), 1);
        Ok(())
    })
}

#[test]
fn a_byte_goes_through_at_once() -> Result<()> {
    every_way(&[], |way, lab, _| {
        let _server = way.serve(lab, echo())?;
        let mut stream = way.connect(lab)?;
        stream.set_nodelay(true)?;
        let mut took = [Duration::ZERO; 51];
        for round_trip in &mut took {
            let start = Instant::now();
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0])?;
            *round_trip = start.elapsed();
        }
        took.sort_unstable();
        // Delayed acknowledgements and Nagle's algorithm would cost 40 ms each; one or the other may meet a busy machine.
        assert!(took[25] < Duration::from_millis(20), "{way:?}: round trips took {took:?}");
        Ok(())
    })
}

/// A sidecar that is slow to acknowledge would cost each new connection to such a server 40 ms, which the application did
/// not have without it: as soon as the connection delays its acknowledgements (`TCP_QUICKACK`).
#[test]
fn a_first_answer_in_two_writes_is_not_kept_back() -> Result<()> {
    every_way(&[], |way, lab, _| {
        let _server = way.serve(lab, answers_in_two_writes())?;
        let mut took = Vec::new();
        for _ in 0..15 {
            let mut stream = way.connect(lab)?;
            let start = Instant::now();
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0; 2])?;
            took.push(start.elapsed());
        }
        // The quickest: a busy machine is slow now and then, the timer of a put off acknowledgement each time.
        let quickest = took.iter().min();
        assert!(quickest < Some(&Duration::from_millis(30)), "{way:?}: answers took {took:?}");
        Ok(())
    })
}

#[test]
fn two_hundred_connections_at_once_are_kept_apart() -> Result<()> {
    every_way(&[], |way, lab, _| {
        let _server = way.serve(lab, echo())?;
        let mut streams = (0..200).map(|_| way.connect(lab)).collect::<io::Result<Vec<_>>>()?;
        for (number, stream) in streams.iter_mut().enumerate() {
            stream.write_all(format!("{number:04}").as_bytes())?;
        }
        for (number, stream) in streams.iter_mut().enumerate() {
            let mut answer = [0; 4];
            stream.read_exact(&mut answer)?;
            assert_eq!(answer, format!("{number:04}").as_bytes(), "{way:?}");
        }
        Ok(())
    })
}

#[test]
fn the_end_of_a_connection_ends_it_on_the_other_side() -> Result<()> {
    every_way(&[], |way, lab, _| {
        let server = way.serve(lab, echo())?;
        let mut stream = way.connect(lab)?;
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        assert_eq!(server.open(), 1, "{way:?}");
        drop(stream);
        eventually!(server.open() == 0);
        Ok(())
    })
}

#[test]
fn an_idle_connection_ends_after_the_idle_timeout_and_not_before() -> Result<()> {
    every_way(&["--idle-timeout", "1s"], |way, lab, _| {
        let _server = way.serve(lab, echo())?;
        let mut stream = way.connect(lab)?;
        for _ in 0..4 {
            thread::park_timeout(Duration::from_millis(400));
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0]).context("a connection in use was ended")?;
        }
        let start = Instant::now();
        let end = uninterrupted(|| stream.read(&mut [0]));
        assert!(
            matches!(&end, Ok(0)) || end.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset),
            "{end:?}"
        );
        assert!(
            (700..3000).contains(&start.elapsed().as_millis()),
            "{way:?}: ended after {:?}",
            start.elapsed()
        );
        Ok(())
    })
}

#[test]
fn a_pod_may_call_itself_by_its_own_address() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let _sidecar = lab.pod.sidecar().start()?;
    for family in Family::BOTH {
        let _server = lab.pod.serve((family.pod(), 8080), who())?;
        let client = seen(lab.pod.as_uid(APP).connect((family.pod(), 8080))?)?;
        assert_eq!(client.ip(), family.pod(), "{family}");
    }
    Ok(())
}

#[test]
fn a_pod_whose_ipv6_is_off_is_carried_in_ipv4() -> Result<()> {
    let lab = Lab::new()?;
    lab.pod.set_sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
    lab.add(&[])?.expect_success();
    let _sidecar = lab.pod.sidecar().start()?;
    for way in [Way::Outbound(Family::V4), Way::Inbound(Family::V4)] {
        let _server = way.serve(&lab, answers_at_the_end())?;
        let mut stream = way.connect(&lab)?;
        stream.write_all(b"hello")?;
        stream.shutdown(Shutdown::Write)?;
        assert_eq!(read_all(stream)?, "hello", "{way:?}");
    }
    Ok(())
}
