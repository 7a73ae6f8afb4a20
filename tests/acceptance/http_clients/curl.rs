//! curl: refusals of `Expect`, HTTP/2, and events that come one by one.

use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use culvert_tests::server::Behaviour;

use super::origin::{Asked, http_1, http_2};
use super::{PATIENCE, everywhere, program, start};

#[test]
fn http_1_0_and_1_1_on_kept_connections() -> Result<()> {
    everywhere(|world, way| {
        let server = world.serve(way, http_1())?;
        let url = world.url(way);
        ensure!(world.curl(way, &[&url, &url])? == "ok 0ok 0", "two requests on a connection");
        ensure!(server.accepted() == 1, "{} connections", server.accepted());
        let as_1_0 = ["--http1.0", "-H", "Connection: keep-alive", &url, &url];
        ensure!(world.curl(way, &as_1_0)? == "ok 0ok 0", "two requests of HTTP/1.0 on a connection");
        ensure!(server.accepted() == 2, "{} connections", server.accepted());
        ensure!(world.curl(way, &["--http1.0", "-d", "four", &url])? == "ok 4", "a body of HTTP/1.0");
        Ok(())
    })
}

/// Refuses to be asked, and takes bodies that come at once.
fn refuses_to_be_asked(heard: &Arc<Mutex<Vec<String>>>) -> impl Behaviour + use<> {
    let heard = Arc::clone(heard);
    move |stream: TcpStream| {
        let mut answers = stream.try_clone()?;
        let mut requests = BufReader::new(stream);
        while let Some(mut asked) = Asked::head(&mut requests)? {
            let first = asked.first.trim_end().to_owned();
            heard.lock().expect("no panic").push(format!("{first}, expects: {}", asked.expects));
            if asked.expects {
                answers.write_all(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno")?;
                continue;
            }
            asked.read_body(&mut requests)?;
            answers.write_all(asked.answer("ok").as_bytes())?;
        }
        Ok(())
    }
}

/// curl asks because the body is long, and sends the request again then, without `Expect`.
#[test]
fn a_servers_417_reaches_the_client_and_the_body_comes_without_expect() -> Result<()> {
    everywhere(|world, way| {
        let heard = Arc::default();
        let _server = world.serve(way, refuses_to_be_asked(&heard))?;
        let body = world.lab.folder().join("body");
        fs::write(&body, "b".repeat(1_500_000))?;
        let out = world.curl(way, &["-d", &format!("@{}", body.display()), &world.url(way)])?;
        ensure!(out == "ok 1500000", "{out:?}");
        let heard = heard.lock().expect("no panic").clone();
        ensure!(heard == ["POST / HTTP/1.1, expects: true", "POST / HTTP/1.1, expects: false"], "{heard:?}");
        Ok(())
    })
}

/// A client that got its 417 sends the next request at once, as curl does, unless the end of the connection came with the answer.
#[test]
fn a_client_that_got_a_417_has_the_end_of_the_connection_with_it() -> Result<()> {
    everywhere(|world, way| {
        let _server = world.serve(way, refuses_to_be_asked(&Arc::default()))?;
        for _ in 0..50 {
            let mut client = world.connect(way)?;
            client.write_all(
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
            )?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\nno") {
                let mut byte = [0];
                ensure!(client.read(&mut byte)? == 1, "a cut answer: {:?}", String::from_utf8_lossy(&answer));
                answer.push(byte[0]);
            }
            client.set_nonblocking(true)?;
            let end = client.read(&mut [0]).map_err(|error| error.kind());
            ensure!(end == Ok(0), "{end:?}");
        }
        Ok(())
    })
}

#[test]
fn http_2_by_prior_knowledge() -> Result<()> {
    everywhere(|world, way| {
        let _server = world.serve(way, http_2())?;
        let arguments = ["--http2-prior-knowledge", "-w", " by %{http_version}", "-d", "four"];
        let out = world.curl(way, &[&arguments[..], &[&world.url(way)]].concat())?;
        ensure!(out == "ok 4 by 2", "{out:?}");
        Ok(())
    })
}

/// Sends an event whenever it is told to, and ends the stream then.
fn events(told: Receiver<&'static str>) -> impl Behaviour {
    let told = Mutex::new(told);
    move |mut stream: TcpStream| {
        Asked::head(&mut BufReader::new(stream.try_clone()?))?;
        stream.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        )?;
        while let Ok(event) = told.lock().expect("no panic").recv_timeout(PATIENCE) {
            let line = format!("data: {event}\n\n");
            write!(stream, "{:x}\r\n{line}\r\n", line.len())?;
        }
        stream.write_all(b"0\r\n\r\n")
    }
}

#[test]
fn an_event_arrives_before_the_stream_goes_on() -> Result<()> {
    let curl = program("curl")?;
    everywhere(|world, way| {
        let (tell, told) = channel();
        let _server = world.serve(way, events(told))?;
        let arguments = ["-sSN", "--max-time", "60", &world.url(way)];
        let mut client = start(world.client(way), &curl, &arguments)?;
        for event in ["first", "second"] {
            tell.send(event)?;
            let line = format!("data: {event}");
            let seen = client.stdout().wait_for(PATIENCE, |found| (found == line).then_some(()));
            seen.with_context(|| format!("no {event} event: {}", client.stderr().text()))?;
        }
        drop(tell);
        ensure!(client.wait(PATIENCE)?.success(), "{}", client.stderr().text());
        Ok(())
    })
}
