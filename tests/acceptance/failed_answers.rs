//! Answers of 5xx eject their endpoint: later connections pass it over, open ones go on, and it comes back.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use culvert_tests::server::{Behaviour, echo};
use culvert_tests::{Lab, Sidecar, eventually};

use crate::documents::{SOON, TRANSPARENT};
use crate::http_clients::origin::http_2;
use crate::http_ports::{GET, rest};
use crate::support::APP;
use crate::walkthrough::{onboarded, with_documents};

/// The outbound to `web`, whose first endpoint fails; both are ports of the peer.
const CALL: &str = "127.0.0.1:7100";
const FAULTY: &str = "192.0.2.10:81";
const WELL: &str = "192.0.2.10:82";
const EJECTIONS: &str = "cluster.web.outlier_detection.ejections_enforced_total";
const ACTIVE: &str = "cluster.web.outlier_detection.ejections_active";

struct World {
    lab: Lab,
    folder: PathBuf,
}

impl World {
    fn new(protocol: &str, detectors: &str) -> Result<Self> {
        let (lab, folder) = onboarded()?;
        let web = |number: u16| {
            format!(
                "---\n{{type: Dataplane, name: web-{number}, networking: {{address: 192.0.2.10, inbound: [{{port: 8{number}, \
                 tags: {{kuma.io/service: web, kuma.io/protocol: {protocol}}}}}]}}}}\n"
            )
        };
        let text = format!(
            "{{type: Mesh, name: default}}\n---\n{{type: Dataplane, name: here, networking: {{address: 10.77.0.2, {TRANSPARENT}, \
             inbound: [{{port: 9000, tags: {{kuma.io/service: here}}}}], outbound: [{{port: 7100, tags: {{kuma.io/service: web}}}}]}}}}\n{}{}---\n\
             {{type: MeshCircuitBreaker, name: b, spec: {{to: [{{targetRef: {{kind: Mesh}}, default: {{outlierDetection: {{\
             maxEjectionPercent: 100, healthyPanicThreshold: 0, baseEjectionTime: 3s, detectors: {{{detectors}}}}}}}}}]}}}}\n",
            web(1),
            web(2)
        );
        fs::write(folder.join("mesh.yaml"), text)?;
        Ok(Self { lab, folder })
    }

    fn sidecar(&self) -> Result<Sidecar<'_>> {
        with_documents(&self.lab, &self.folder, &["--dataplane", "here"])
    }

    fn connect(&self) -> Result<TcpStream> {
        Ok(self.lab.pod.as_uid(APP).connect(CALL)?)
    }

    /// Statuses of so many calls, each by a connection of its own.
    fn calls(&self, number: usize) -> Result<Vec<String>> {
        let one = |_| -> Result<String> {
            let mut stream = self.connect()?;
            stream.write_all(format!("{}\r\nConnection: close\r\n\r\n", GET.trim_end()).as_bytes())?;
            let answer = rest(&mut stream)?;
            Ok(answer.split(' ').nth(1).unwrap_or_default().to_owned())
        };
        (0..number).map(one).collect()
    }
}

/// Answers each request with this status.
fn says(status: u16) -> impl Behaviour {
    move |mut stream: TcpStream| {
        let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let n = stream.read(&mut buffer)?;
            if n == 0 {
                return Ok(());
            }
            heard.extend_from_slice(&buffer[..n]);
            if heard.ends_with(b"\r\n\r\n") {
                heard.clear();
                stream.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
            }
        }
    }
}

fn count(all: &[String], status: &str) -> usize {
    all.iter().filter(|one| *one == status).count()
}

#[test]
fn an_endpoint_that_answers_5xx_is_passed_over_and_comes_back() -> Result<()> {
    let world = World::new("http", "totalFailures: {consecutive: 3}")?;
    let peer = &world.lab.peer;
    let _servers = (peer.serve(FAULTY, says(500))?, peer.serve(WELL, says(200))?);
    let sidecar = world.sidecar()?;
    let all = world.calls(6)?;
    ensure!((count(&all, "500"), count(&all, "200")) == (3, 3), "in turn: {all:?}");
    assert_eq!(sidecar.stat(EJECTIONS)?, 1);
    let clusters = sidecar.admin("/clusters")?.body;
    ensure!(clusters.contains(&format!("web::{FAULTY}::health_flags::/failed_outlier_check")), "{clusters}");
    let all = world.calls(6)?;
    ensure!(count(&all, "200") == 6, "while it is ejected: {all:?}");
    // A trial connects, and then its answers are counted from the beginning.
    let mut failed = 0;
    eventually!(
        {
            failed += world.calls(1).map_or(0, |all| count(&all, "500"));
            sidecar.stat(EJECTIONS).is_ok_and(|ejections| ejections == 2)
        },
        SOON
    );
    assert_eq!(failed, 3);
    Ok(())
}

#[test]
fn answers_of_one_connection_count_and_it_goes_on() -> Result<()> {
    const ANSWER: usize = "HTTP/1.1 200 X\r\nContent-Length: 0\r\n\r\n".len();
    for (status, ejects) in [(500, false), (502, true)] {
        let world = World::new("http", "gatewayFailures: {consecutive: 2}")?;
        let peer = &world.lab.peer;
        let _servers = (peer.serve(FAULTY, says(status))?, peer.serve(WELL, says(200))?);
        let sidecar = world.sidecar()?;
        let mut streams = [world.connect()?, world.connect()?];
        for round in 0..4 {
            let mut answers = Vec::new();
            for stream in &mut streams {
                stream.write_all(GET.as_bytes())?;
                let mut answer = [0; ANSWER];
                stream.read_exact(&mut answer)?;
                answers.push(String::from_utf8_lossy(&answer[9..12]).into_owned());
            }
            answers.sort();
            assert_eq!(answers, ["200".to_owned(), status.to_string()], "round {round}");
        }
        assert_eq!(sidecar.stat(ACTIVE)?, u64::from(ejects), "{status}");
    }
    Ok(())
}

#[test]
fn a_server_that_breaks_http_2_is_passed_over_too() -> Result<()> {
    let world = World::new("grpc", "gatewayFailures: {consecutive: 2}")?;
    let peer = &world.lab.peer;
    // The preface comes back, which is no frame.
    let _servers = (peer.serve(FAULTY, echo())?, peer.serve(WELL, http_2())?);
    let sidecar = world.sidecar()?;
    let call = || -> Result<String> {
        let url = format!("http://{CALL}/");
        let arguments = [
            "-s",
            "-o",
            "/dev/null",
            "--max-time",
            "20",
            "--http2-prior-knowledge",
            "-w",
            "%{http_code}",
            &url,
        ];
        let ran = world.lab.pod.as_uid(APP).run(|| Command::new("curl").args(arguments).output())?;
        Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
    };
    let all = (0..4).map(|_| call()).collect::<Result<Vec<_>>>()?;
    ensure!((count(&all, "502"), count(&all, "200")) == (2, 2), "in turn: {all:?}");
    assert_eq!(sidecar.stat(EJECTIONS)?, 1);
    let all = (0..4).map(|_| call()).collect::<Result<Vec<_>>>()?;
    ensure!(count(&all, "200") == 4, "while it is ejected: {all:?}");
    Ok(())
}
