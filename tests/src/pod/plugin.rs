//! The plugin, run as a runtime runs it: environment, standard input, standard output.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::family::Family;
use crate::lab::Lab;
use crate::lab::host::Host;
use crate::process::binaries::Binaries;
use crate::process::{describe, ends_within};

/// Capability and key of the pod's annotations.
pub const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// Well above the 5 s within which ADD has to answer; what takes longer is killed.
const KILLED_AFTER: Duration = Duration::from_secs(20);

/// The container id of a lab's pod, in the form of containerd.
pub const CONTAINER_ID: &str = "8a4c2d6f90b1e3577a9bc0dde4f21386c5d7e8f9a0b1c2d3e4f5061728394a5b";

impl Lab {
    /// ADD for the pod, which carries these annotations (without `culvert.dev/`) beside `redirect: enabled`.
    pub fn add(&self, annotations: &[(&str, &str)]) -> Result<Outcome> {
        self.invoke("ADD")?.redirect().annotations(annotations).run()
    }

    /// DEL for the pod.
    pub fn del(&self) -> Result<Outcome> {
        self.invoke("DEL")?.run()
    }

    /// A call of the plugin about the pod's `eth0`, to be changed before it is run.
    pub fn invoke(&self, verb: &str) -> Result<Invocation<'_>> {
        self.invoke_for(&self.pod, verb)
    }

    /// A call of the plugin about the `eth0` of another host of this lab.
    pub fn invoke_for<'a>(&'a self, pod: &Host, verb: &str) -> Result<Invocation<'a>> {
        let binary = &Binaries::built()?.cni;
        let environment = [
            ("CNI_COMMAND", OsString::from(verb)),
            ("CNI_CONTAINERID", CONTAINER_ID.into()),
            ("CNI_NETNS", pod.namespace().path().into()),
            ("CNI_IFNAME", "eth0".into()),
            (
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=8a4c2d6f;K8S_POD_UID=0b1c".into(),
            ),
            ("CNI_PATH", binary.parent().unwrap_or(Path::new("/")).into()),
            // Containerd hands over its whole environment; nothing of it may matter.
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
        ];
        Ok(Invocation {
            program: binary.clone(),
            under: Vec::new(),
            node: &self.node,
            environment: environment.into_iter().map(|(name, value)| (name.into(), value)).collect(),
            config: json!({
                "cniVersion": "1.0.0",
                "name": "lab",
                "type": "culvert-cni",
                "logFile": self.folder().join("cni.log"),
                "stateDir": self.folder().join("attachments"),
                "agentSocket": self.folder().join("agent.sock"),
                "runtimeConfig": { ANNOTATIONS: {} },
                "prevResult": previous_result(),
            }),
            stdin: None,
            beforehand: None,
        })
    }

    /// The plugin's log so far.
    pub fn plugin_log(&self) -> String {
        std::fs::read_to_string(self.folder().join("cni.log")).unwrap_or_default()
    }
}

/// The result of a bridge plugin for the lab's pod, with a key that no standard knows.
pub fn previous_result() -> Value {
    let ip = |family: Family, prefix: u8| {
        json!({
            "address": format!("{}/{prefix}", family.pod()),
            "gateway": family.peer(),
            "interface": 2,
        })
    };
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            { "name": "cni0", "mac": "02:00:00:00:00:01" },
            { "name": "veth8a4c2d6f", "mac": "02:00:00:00:00:02" },
            { "name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": "/var/run/netns/cni-8a4c2d6f" },
        ],
        "ips": [ip(Family::V4, 24), ip(Family::V6, 64)],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        "dns": {},
        "x-unknown": { "kept": [1, 2.50, "ü"] },
    })
}

/// One call of the plugin, before it is made.
#[derive(Debug, Clone)]
pub struct Invocation<'a> {
    program: PathBuf,
    under: Vec<OsString>,
    node: &'a Host,
    environment: BTreeMap<OsString, OsString>,
    config: Value,
    stdin: Option<Vec<u8>>,
    beforehand: Option<fn() -> Result<()>>,
}

impl Invocation<'_> {
    /// Adds the annotation that onboards the pod.
    pub fn redirect(self) -> Self {
        self.annotation("culvert.dev/redirect", "enabled")
    }

    /// Adds annotations, each name without its `culvert.dev/`.
    pub fn annotations(mut self, annotations: &[(&str, &str)]) -> Self {
        for (name, value) in annotations {
            self = self.annotation(&format!("culvert.dev/{name}"), value);
        }
        self
    }

    /// Adds an annotation by its whole name.
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.config["runtimeConfig"][ANNOTATIONS][name] = value.into();
        self
    }

    /// Sets a key of the configuration.
    pub fn config(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.config[key] = value.into();
        self
    }

    /// Leaves a key of the configuration out.
    pub fn without_config(mut self, key: &str) -> Self {
        self.config.as_object_mut().and_then(|config| config.remove(key));
        self
    }

    /// The version in which configuration and prevResult are written.
    pub fn cni_version(mut self, version: &str) -> Self {
        self.config["prevResult"]["cniVersion"] = version.into();
        self.config("cniVersion", version)
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.insert(name.into(), value.as_ref().into());
        self
    }

    /// Leaves a variable of the environment out.
    pub fn without_env(mut self, name: &str) -> Self {
        self.environment.remove(OsStr::new(name));
        self
    }

    /// Sends these bytes instead of the configuration.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Does something on the thread that starts the plugin: what it changes about itself, the plugin inherits.
    pub fn beforehand(self, work: fn() -> Result<()>) -> Self {
        Self { beforehand: Some(work), ..self }
    }

    /// Runs another binary instead.
    pub fn program(mut self, program: &Path) -> Self {
        self.program = program.into();
        self
    }

    /// Has another program start the plugin, whose path is added to these words: `under(["strace", "-f"])`.
    pub fn under(mut self, words: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.under = words.into_iter().map(Into::into).collect();
        self
    }

    /// The configuration as it will be sent.
    pub fn netconf(&self) -> &Value {
        &self.config
    }

    /// Runs the plugin in the node's namespace and waits for its end.
    pub fn run(self) -> Result<Outcome> {
        let stdin = self.stdin.unwrap_or_else(|| self.config.to_string().into_bytes());
        let mut words = self.under.into_iter().chain([self.program.clone().into_os_string()]);
        let mut command = Command::new(words.next().context("no program")?);
        command
            .args(words)
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (started, mut child) = self.node.namespace().run(|| {
            self.beforehand.map_or(Ok(()), |work| work())?;
            let started = Instant::now();
            let child =
                command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
            anyhow::Ok((started, child))
        })?;

        let mut input = child.stdin.take().context("no standard input")?;
        let writer = thread::spawn(move || {
            // A plugin need not read what it refuses.
            let _ = input.write_all(&stdin);
        });
        let stdout = read_all(child.stdout.take().context("no standard output")?);
        let stderr = read_all(child.stderr.take().context("no standard error")?);
        let in_time = ends_within(&child, KILLED_AFTER)?;
        let took = started.elapsed();
        if !in_time {
            child.kill()?;
        }
        let status = child.wait()?;
        let _ = writer.join();
        Ok(Outcome {
            status,
            took,
            stdout: stdout.join().unwrap_or_default(),
            stderr: String::from_utf8_lossy(&stderr.join().unwrap_or_default()).into_owned(),
        })
    }
}

fn read_all(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        let _ = pipe.read_to_end(&mut all);
        all
    })
}

/// The outcome of a call.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Exit status of the process.
    pub status: ExitStatus,
    /// From its start to its end.
    pub took: Duration,
    /// Standard output, byte for byte.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

/// An error as the CNI specification has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniError {
    /// Error code as in the table of `cni/README.md`.
    pub code: u64,
    /// For the operator.
    pub msg: String,
    /// More for the operator.
    pub details: String,
    /// The version that the error is written in.
    pub cni_version: String,
}

impl Outcome {
    /// The one JSON document on standard output; `None` where it is empty.
    #[track_caller]
    pub fn document(&self) -> Option<Value> {
        if self.stdout.is_empty() {
            return None;
        }
        match serde_json::from_slice(&self.stdout) {
            Ok(document) => Some(document),
            Err(e) => panic!("standard output is not one JSON document: {e}\n{self}"),
        }
    }

    /// Fails unless the call succeeded. Returns the printed document, `null` where nothing was printed.
    #[track_caller]
    pub fn expect_success(&self) -> Value {
        assert!(self.status.success(), "expected success\n{self}");
        self.document().unwrap_or_default()
    }

    /// Fails unless the call was answered with an error of this code, in one JSON document and exit code 1.
    #[track_caller]
    pub fn expect_error(&self, code: u64) -> CniError {
        assert_eq!(self.status.code(), Some(1), "expected exit 1 for error {code}\n{self}");
        let document =
            self.document().unwrap_or_else(|| panic!("expected error {code}, nothing was printed\n{self}"));
        let fields = document.as_object().cloned().unwrap_or_else(Map::new);
        let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let error = CniError {
            code: fields.get("code").and_then(Value::as_u64).unwrap_or_else(|| panic!("no code\n{self}")),
            msg: text("msg"),
            details: text("details"),
            cni_version: text("cniVersion"),
        };
        assert_eq!(error.code, code, "another code was expected\n{self}");
        assert!(!error.msg.is_empty(), "the error has no message\n{self}");
        error
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { status, took, stdout, stderr } = self;
        writeln!(f, "{} after {took:?}", describe(*status))?;
        writeln!(f, "standard output: {}", String::from_utf8_lossy(stdout))?;
        write!(f, "standard error: {stderr}")
    }
}
