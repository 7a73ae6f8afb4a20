//! The servers in the pod: nginx for all that is asked, and a sink for bodies, as nginx answers before it has read them.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use culvert_tests::pod::bench::contender::{READY_WITHIN, cpu_seconds, find, listens};
use culvert_tests::process::{Process, lab_exec};
use culvert_tests::server::Server;
use culvert_tests::until::until_some;
use culvert_tests::{Family, Lab};

/// Port of nginx.
pub(crate) const SMALL: u16 = 8080;
/// Port of the sink.
pub(crate) const SINK: u16 = 8081;
/// Port of nginx for HTTP/2 without TLS.
pub(crate) const HTTP_2: u16 = 8082;

/// Bodies by path.
pub(crate) const BODIES: [(&str, usize); 3] = [("1k", 1024), ("100k", 100 * 1024), ("10m", 10 * 1024 * 1024)];

const APPLICATION: u32 = 1000;
const BUFFER: usize = 64 * 1024;

/// The servers; they end with this value.
#[derive(Debug)]
pub(crate) struct Servers {
    nginx: Process,
    _sink: Server,
}

impl Servers {
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let folder = writable(lab, "server", APPLICATION)?;
        for (name, length) in BODIES {
            fs::write(folder.join(name), "x".repeat(length))?;
        }
        let config = folder.join("nginx.conf");
        let http = NGINX.replace("FOLDER", &folder.display().to_string());
        fs::write(&config, nginx_config(&folder, NGINX_PROCESSES, &http))?;
        let program = find("nginx").context("no nginx")?;
        // The sockets of thousands of kept connections.
        let mut command = lab_exec::command(lab.pod.namespace(), APPLICATION, Some(20_000), &program)?;
        command.arg("-e").arg("stderr").arg("-c").arg(&config).env_clear();
        let nginx = Process::start(command)?;
        let ready = || listens(&lab.pod, HTTP_2).ok().filter(|listens| *listens);
        until_some(READY_WITHIN, ready).with_context(|| format!("no nginx: {}", nginx.stderr().text()))?;
        let sink = lab.pod.as_uid(APPLICATION).serve((Family::V4.pod(), SINK), swallow)?;
        Ok(Self { nginx, _sink: sink })
    }

    /// CPU time of nginx; the sink's is this program's own.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(self.nginx.pid())
    }
}

/// Makes a folder for a program that is not root.
pub(crate) fn writable(lab: &Lab, name: &str, uid: u32) -> Result<PathBuf> {
    let folder = lab.folder().join(name);
    fs::create_dir_all(&folder)?;
    fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
    std::os::unix::fs::chown(&folder, Some(uid), Some(uid))?;
    Ok(folder)
}

/// Takes bodies whole, and answers then.
fn swallow(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut buffer, mut filled) = (vec![0; BUFFER], 0);
    loop {
        let head = loop {
            if let Some(end) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            match stream.read(&mut buffer[filled..])? {
                0 => return Ok(()),
                n => filled += n,
            }
        };
        let mut body = length(&buffer[..head])?.saturating_sub(filled - head);
        while body > 0 {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                // No client of this bench sends the next request before the answer.
                n => body = body.saturating_sub(n),
            }
        }
        filled = 0;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
    }
}

fn length(head: &[u8]) -> io::Result<usize> {
    let head = std::str::from_utf8(head).map_err(io::Error::other)?;
    let value = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse())
    });
    value.unwrap_or(Ok(0)).map_err(io::Error::other)
}

/// A configuration of nginx: its processes, and its part about HTTP. Its files are in the folder.
pub(crate) fn nginx_config(folder: &Path, processes: &str, http: &str) -> String {
    NGINX_FRAME
        .replace("FOLDER", &folder.display().to_string())
        .replace("PROCESSES", processes)
        .replace("HTTP", http)
}

const NGINX_FRAME: &str = r#"
daemon off;
PROCESSES
pid FOLDER/pid;
error_log stderr error;
events { worker_connections 15000; }
http {
  access_log off;
  client_body_temp_path FOLDER/client;
  proxy_temp_path FOLDER/proxy;
  fastcgi_temp_path FOLDER/fastcgi;
  uwsgi_temp_path FOLDER/uwsgi;
  scgi_temp_path FOLDER/scgi;
  keepalive_timeout 1h;
  keepalive_requests 1000000000;
  HTTP
}
"#;

/// One process: the server's work is not what is measured.
const NGINX_PROCESSES: &str = "master_process off;";
/// With fewer streams some would be refused before a client has heard of the limit.
const NGINX: &str = r#"
  sendfile on;
  open_file_cache max=16 inactive=1h;
  http2_max_concurrent_streams 2048;
  server {
    listen 8080 backlog=4096;
    listen 8082 http2 backlog=4096;
    root FOLDER;
    location = / { return 200 "ok"; }
  }
"#;
