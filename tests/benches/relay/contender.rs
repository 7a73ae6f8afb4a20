//! The contenders, and the cost of a running one.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use culvert_tests::process::Process;
use culvert_tests::until::until_some;
use culvert_tests::{Lab, pod::sidecar, process::binaries::Binaries, process::lab_exec};

const OUTBOUND: u16 = 15001;
const READY_WITHIN: Duration = Duration::from_secs(20);

/// Nothing, our sidecar, or a peer.
#[derive(Debug)]
pub(crate) struct Contender {
    name: String,
    command: Option<(PathBuf, Vec<String>)>,
}

/// One that runs in the pod.
#[derive(Debug)]
pub(crate) struct Running {
    process: Process,
    pub ready_after: Duration,
}

impl Contender {
    /// All that can be had here.
    pub(crate) fn all(lab: &Lab) -> Result<Vec<Self>> {
        let mut all = vec![Self { name: "direct".into(), command: None }];
        for (name, variable, config, text) in [
            ("envoy", "CULVERT_BENCH_ENVOY", "envoy.yaml", ENVOY),
            ("haproxy", "CULVERT_BENCH_HAPROXY", "haproxy.cfg", HAPROXY),
        ] {
            let Some(program) = find(name, variable) else { continue };
            let config = lab.folder().join(config);
            fs::write(&config, text)?;
            let config = config.display().to_string();
            let arguments: Vec<&str> = match name {
                "envoy" => vec!["-c", &config, "--concurrency", "2", "-l", "warn", "--disable-hot-restart"],
                _ => vec!["-db", "-f", &config],
            };
            let command = Some((program, arguments.into_iter().map(str::to_owned).collect()));
            all.push(Self { name: name.into(), command });
        }
        let options = ["--concurrency=2", "--circuit-breaker-max-connections=100000"].map(str::to_owned);
        let command = Some((Binaries::built()?.sidecar.clone(), options.to_vec()));
        all.push(Self { name: "culvert".into(), command });
        let others = env::var_os("CULVERT_BENCH_OTHERS").unwrap_or_default();
        for program in env::split_paths(&others).filter(|path| path.is_file()) {
            let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
            all.push(Self { name, command: Some((program, options.to_vec())) });
        }
        Ok(all)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Puts the redirect in place and starts it; `None` for direct, which needs neither.
    pub(crate) fn start(&self, lab: &Lab) -> Result<Option<Running>> {
        let Some((program, arguments)) = &self.command else { return Ok(None) };
        lab.add(&[])?.expect_success();
        let mut command = lab_exec::command(lab.pod.namespace(), sidecar::UID, None, program)?;
        command.args(arguments).env_clear();
        let start = Instant::now();
        let mut process = Process::start(command)?;
        let listens = until_some(READY_WITHIN, || match process.ended() {
            Ok(None) => listens(lab).transpose(),
            Ok(Some(status)) => Some(Err(anyhow::anyhow!("it ended: {status}"))),
            Err(error) => Some(Err(error)),
        });
        match listens {
            Some(Ok(())) => Ok(Some(Running { process, ready_after: start.elapsed() })),
            Some(Err(error)) => Err(error.context(process.stderr().text())),
            None => bail!("it does not listen after {READY_WITHIN:?}: {}", process.stderr().text()),
        }
    }

    /// Takes the redirect away again.
    pub(crate) fn clear(&self, lab: &Lab) -> Result<()> {
        if self.command.is_some() {
            lab.del()?.expect_success();
        }
        Ok(())
    }
}

/// Returns `Some` once the port is in listening state. Dialling is no way to find out: Envoy would dial itself, again and again.
fn listens(lab: &Lab) -> Result<Option<()>> {
    let listener = format!(":{OUTBOUND:04X} ");
    for table in ["tcp", "tcp6"] {
        let text = lab.pod.proc_net(table)?;
        let found = text.lines().any(|line| line.contains(&listener) && line.contains(" 0A "));
        if found {
            return Ok(Some(()));
        }
    }
    Ok(None)
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
        let path = Path::new("/proc").join(self.process.pid().to_string()).join(file);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }
}

const ENVOY: &str = r#"
static_resources:
  listeners:
  - name: outbound:passthrough:ipv4
    address: {socket_address: {address: 0.0.0.0, port_value: 15001}}
    use_original_dst: true
    traffic_direction: OUTBOUND
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: outbound_passthrough_ipv4
          cluster: outbound:passthrough:ipv4
  clusters:
  - name: outbound:passthrough:ipv4
    type: ORIGINAL_DST
    lb_policy: CLUSTER_PROVIDED
    connect_timeout: 10s
    circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000}]}
"#;

const HAPROXY: &str = "
global
  maxconn 7000
  nbthread 2
defaults
  mode tcp
  option splice-auto
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen outbound
  bind 0.0.0.0:15001
  server orig 0.0.0.0:0
";
