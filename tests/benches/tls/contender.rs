//! The contenders, and the cost of a running one.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use culvert_tests::process::Process;
use culvert_tests::until::until_some;
use culvert_tests::{Lab, pod::sidecar, process::binaries::Binaries, process::lab_exec};

const READY_WITHIN: Duration = Duration::from_secs(20);

/// The sidecar, or Envoy.
#[derive(Debug)]
pub(crate) struct Contender {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
}

/// One that runs in the pod.
#[derive(Debug)]
pub(crate) struct Running(Process);

impl Contender {
    /// All that can be had here, ours first.
    pub(crate) fn all(lab: &Lab) -> Result<Vec<Self>> {
        let identity = lab.folder().join("identity").display().to_string();
        let mesh = lab.folder().join("mesh.yaml");
        fs::write(&mesh, MESH)?;
        let options = vec![
            "--concurrency=2".to_owned(),
            "--circuit-breaker-max-connections=100000".to_owned(),
            format!("--identity={identity}"),
            format!("--resources={}", mesh.display()),
        ];
        let ours = Binaries::built()?.sidecar.clone();
        let mut all = vec![Self { name: "culvert".into(), program: ours, arguments: options.clone() }];
        let others = env::var_os("CULVERT_BENCH_OTHERS").unwrap_or_default();
        for program in env::split_paths(&others).filter(|path| path.is_file()) {
            let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
            all.push(Self { name, program, arguments: options.clone() });
        }
        if let Some(program) = find_envoy() {
            let config = lab.folder().join("envoy.yaml");
            fs::write(&config, ENVOY.replace("IDENTITY", &identity))?;
            let config = config.display().to_string();
            let arguments = ["-c", &config, "--concurrency", "2", "-l", "warn", "--disable-hot-restart"];
            let arguments = arguments.map(str::to_owned).into();
            all.push(Self { name: "envoy".into(), program, arguments });
        }
        Ok(all)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Puts the redirect in place and starts it.
    pub(crate) fn start(&self, lab: &Lab) -> Result<Running> {
        lab.add(&[])?.expect_success();
        let mut command = lab_exec::command(lab.pod.namespace(), sidecar::UID, None, &self.program)?;
        command.args(&self.arguments).env_clear();
        let mut process = Process::start(command)?;
        let listens = until_some(READY_WITHIN, || match process.ended() {
            Ok(None) => listens(lab).transpose(),
            Ok(Some(status)) => Some(Err(anyhow::anyhow!("it ended: {status}"))),
            Err(error) => Some(Err(error)),
        });
        match listens {
            Some(Ok(())) => Ok(Running(process)),
            Some(Err(error)) => Err(error.context(process.stderr().text())),
            None => bail!("it does not listen after {READY_WITHIN:?}: {}", process.stderr().text()),
        }
    }

    /// Takes the redirect away again.
    pub(crate) fn clear(&self, lab: &Lab) -> Result<()> {
        lab.del()?.expect_success();
        Ok(())
    }
}

/// Returns `Some` once 15006 is in listening state. Dialling is no way to find out: Envoy would dial itself, again and again.
fn listens(lab: &Lab) -> Result<Option<()>> {
    for table in ["tcp", "tcp6"] {
        let text = lab.pod.proc_net(table)?;
        if text.lines().any(|line| line.contains(":3A9E ") && line.contains(" 0A ")) {
            return Ok(Some(()));
        }
    }
    Ok(None)
}

fn find_envoy() -> Option<PathBuf> {
    if let Some(path) = env::var_os("CULVERT_BENCH_ENVOY") {
        return Some(path.into());
    }
    let folders = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&folders).map(|folder| folder.join("envoy")).find(|path| path.is_file())
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
mtls:
  enabledBackend: ca
  backends:
    - {name: ca, type: provided, mode: STRICT}
---
type: Dataplane
name: member
networking:
  address: 10.77.0.1
  inbound:
    - {port: 8080, tags: {kuma.io/service: member}}
    - {port: 8081, tags: {kuma.io/service: member}}
    - {port: 8082, tags: {kuma.io/service: member}}
    - {port: 8083, tags: {kuma.io/service: member}}
";

const ENVOY: &str = r#"
static_resources:
  listeners:
  - name: inbound:passthrough:ipv4
    address: {socket_address: {address: 0.0.0.0, port_value: 15006}}
    use_original_dst: true
    traffic_direction: INBOUND
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: inbound_passthrough_ipv4
          cluster: inbound:passthrough:ipv4
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            alpn_protocols: [kuma]
            tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3, ecdh_curves: [X25519]}
            tls_certificates:
            - certificate_chain: {filename: "IDENTITY/tls.crt"}
              private_key: {filename: "IDENTITY/tls.key"}
            validation_context:
              trusted_ca: {filename: "IDENTITY/ca.crt"}
              match_typed_subject_alt_names:
              - san_type: URI
                matcher: {prefix: "spiffe://default/"}
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
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        max_session_keys: 8
        common_tls_context:
          alpn_protocols: [kuma]
          tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3, ecdh_curves: [X25519]}
          tls_certificates:
          - certificate_chain: {filename: "IDENTITY/tls.crt"}
            private_key: {filename: "IDENTITY/tls.key"}
          validation_context:
            trusted_ca: {filename: "IDENTITY/ca.crt"}
            match_typed_subject_alt_names:
            - san_type: URI
              matcher: {exact: "spiffe://default/member"}
  - name: inbound:passthrough:ipv4
    type: ORIGINAL_DST
    lb_policy: CLUSTER_PROVIDED
    connect_timeout: 10s
    circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000}]}
    upstream_bind_config: {source_address: {address: 127.0.0.6, port_value: 0}}
"#;
