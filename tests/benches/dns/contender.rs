//! The contenders, and the cost of a running one.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use culvert_tests::process::Process;
use culvert_tests::until::until_some;
use culvert_tests::{Lab, pod::sidecar, process::binaries::Binaries, process::lab_exec};

/// The server at the other end of the cable.
pub(crate) const SERVER: &str = "192.0.2.10:53";

/// Each contender listens here.
const AT: &str = "127.0.0.1:15053";

pub(crate) const READY_WITHIN: Duration = Duration::from_secs(20);

/// Nothing, our sidecar, or a peer.
#[derive(Debug)]
pub(crate) struct Contender {
    name: String,
    command: Option<(PathBuf, Vec<String>)>,
}

/// One that runs in the pod.
#[derive(Debug)]
pub(crate) struct Running(Process);

impl Contender {
    /// All that can be had here.
    pub(crate) fn all(lab: &Lab) -> Result<Vec<Self>> {
        let mut all = vec![Self { name: "direct".into(), command: None }];
        let folder = lab.folder().display().to_string();
        for (name, variable, config) in [
            ("dnsmasq", "CULVERT_BENCH_DNSMASQ", DNSMASQ),
            ("unbound", "CULVERT_BENCH_UNBOUND", UNBOUND),
            ("envoy", "CULVERT_BENCH_ENVOY", ENVOY),
        ] {
            let Some(program) = find(name, variable) else { continue };
            let path = format!("{folder}/{name}.conf{}", if name == "envoy" { ".yaml" } else { "" });
            fs::write(&path, config.replace("FOLDER", &folder))?;
            let conf = format!("--conf-file={path}");
            let arguments: Vec<&str> = match name {
                "dnsmasq" => vec!["--keep-in-foreground", &conf],
                "unbound" => vec!["-d", "-p", "-c", &path],
                _ => vec!["-c", &path, "--concurrency", "2", "-l", "warn", "--disable-hot-restart"],
            };
            let command = Some((program, arguments.into_iter().map(str::to_owned).collect()));
            all.push(Self { name: name.into(), command });
        }
        fs::write(lab.folder().join("mesh.yaml"), MESH)?;
        fs::write(lab.folder().join("resolv.conf"), "nameserver 192.0.2.10\n")?;
        let options: Vec<String> = [
            "--concurrency=2",
            "--dns-port=15053",
            "--verify-redirect=off",
            "--dataplane=web-1",
            &format!("--resolv-conf={folder}/resolv.conf"),
            &format!("--resources={folder}/mesh.yaml"),
        ]
        .map(str::to_owned)
        .into();
        let ours = Binaries::built()?.sidecar.clone();
        all.push(Self { name: "culvert".into(), command: Some((ours, options.clone())) });
        let others = env::var_os("CULVERT_BENCH_OTHERS").unwrap_or_default();
        for program in env::split_paths(&others).filter(|path| path.is_file()) {
            let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
            all.push(Self { name, command: Some((program, options.clone())) });
        }
        Ok(all)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the address to ask.
    pub(crate) fn address(&self) -> SocketAddr {
        let at = if self.command.is_some() { AT } else { SERVER };
        at.parse().expect("an address")
    }

    /// Starts it and waits until it answers; `None` for direct, which needs no start.
    pub(crate) fn start(&self, lab: &Lab) -> Result<Option<Running>> {
        let Some((program, arguments)) = &self.command else { return Ok(None) };
        let mut command = lab_exec::command(lab.pod.namespace(), sidecar::UID, None, program)?;
        command.args(arguments).env_clear();
        let mut process = Process::start(command)?;
        let answers = until_some(READY_WITHIN, || match process.ended() {
            Ok(None) => is_bound(lab).transpose(),
            Ok(Some(status)) => Some(Err(anyhow::anyhow!("it ended: {status}"))),
            Err(error) => Some(Err(error)),
        });
        match answers {
            Some(Ok(())) => Ok(Some(Running(process))),
            Some(Err(error)) => Err(error.context(process.stderr().text())),
            None => bail!("it has no port after {READY_WITHIN:?}: {}", process.stderr().text()),
        }
    }
}

/// Returns `Some` once the port is bound.
fn is_bound(lab: &Lab) -> Result<Option<()>> {
    let text = lab.pod.proc_net("udp")?;
    // 15053 in hexadecimal digits.
    Ok(text.lines().any(|line| line.contains("0100007F:3ACD ")).then_some(()))
}

fn find(name: &str, variable: &str) -> Option<PathBuf> {
    if let Some(path) = env::var_os(variable) {
        return Some(path.into());
    }
    let folders = env::var_os("PATH").unwrap_or_default();
    // Where Debian puts a daemon, which an ordinary PATH leaves out.
    let also = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&folders).chain(also).map(|folder| folder.join(name)).find(|path| path.is_file())
}

impl Running {
    /// CPU time so far, user and kernel.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = self.read("stat")?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum();
        // The kernel's USER_HZ, the same on every architecture that Rust knows of with Linux.
        Ok(ticks as f64 / 100.0)
    }

    /// Memory that is its own.
    pub(crate) fn pss_bytes(&self) -> Result<f64> {
        let rollup = self.read("smaps_rollup")?;
        let kib = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"));
        Ok(kib.context("no Pss in smaps_rollup")?.trim().parse::<f64>()? * 1024.0)
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = Path::new("/proc").join(self.0.pid().to_string()).join(file);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }
}

const MESH: &str = "
type: Mesh
name: default
---
type: Dataplane
name: web-1
mesh: default
networking:
  address: 10.77.0.1
  transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}
  inbound: [{port: 8080, tags: {kuma.io/service: web}}]
";

const DNSMASQ: &str = "
port=15053
listen-address=127.0.0.1
bind-interfaces
no-resolv
no-hosts
no-poll
server=192.0.2.10
cache-size=0
dns-forward-max=10000
host-record=web.mesh,240.0.0.2,fd00:fd00::2,30
user=
pid-file=
log-facility=-
";

const UNBOUND: &str = r#"
server:
  interface: 127.0.0.1@15053
  do-ip6: no
  num-threads: 2
  so-reuseport: yes
  username: ""
  chroot: ""
  directory: "FOLDER"
  pidfile: ""
  logfile: ""
  use-syslog: no
  module-config: "iterator"
  msg-cache-size: 0
  rrset-cache-size: 0
  cache-max-ttl: 0
  outgoing-range: 4096
  num-queries-per-thread: 2048
  local-zone: "mesh." static
  # By default it knows that there is no test.
  local-zone: "test." nodefault
  local-data: "web.mesh. 30 IN A 240.0.0.2"
  local-data: "web.mesh. 30 IN AAAA fd00:fd00::2"
forward-zone:
  name: "."
  forward-addr: 192.0.2.10
remote-control:
  control-enable: no
"#;

const ENVOY: &str = r#"
static_resources:
  listeners:
  - name: dns
    address: {socket_address: {protocol: UDP, address: 127.0.0.1, port_value: 15053}}
    listener_filters:
    - name: envoy.filters.udp.dns_filter
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.udp.dns_filter.v3.DnsFilterConfig
        stat_prefix: dns
        client_config:
          max_pending_lookups: 4096
          resolver_timeout: 5s
          typed_dns_resolver_config:
            name: envoy.network.dns_resolver.cares
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
              resolvers: [{socket_address: {address: 192.0.2.10, port_value: 53}}]
              dns_resolver_options: {no_default_search_domain: true}
        server_config:
          inline_dns_table:
            virtual_domains:
            - name: web.mesh
              endpoint: {address_list: {address: [240.0.0.2, "fd00:fd00::2"]}}
"#;
