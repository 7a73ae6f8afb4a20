//! The sidecar, run as it runs in a pod: its uid, no capability, no new privileges.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Result, anyhow};
use rustix::process::Signal;
use serde_json::Value;

use crate::http::{self, Response};
use crate::lab::host::Host;
use crate::process::binaries::Binaries;
use crate::process::lab_exec;
use crate::process::{Output, Process, describe};
use crate::until::until_some;

/// The sidecar's uid in a pod with defaults.
pub const UID: u32 = 5678;

/// From start to ready, on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// A sidecar in a pod. Dropped, it is killed.
#[derive(Debug)]
pub struct Sidecar<'a> {
    pod: &'a Host,
    process: Process,
    status_port: u16,
    admin_port: u16,
}

/// A sidecar before its start.
#[derive(Debug)]
pub struct Settings<'a> {
    pod: &'a Host,
    uid: u32,
    files: Option<u64>,
    etc: Option<PathBuf>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    status_port: u16,
    admin_port: u16,
}

impl Host {
    /// A sidecar for this pod; its access log goes to standard output.
    pub fn sidecar(&self) -> Settings<'_> {
        Settings {
            pod: self,
            uid: UID,
            files: None,
            etc: None,
            arguments: vec!["--access-log".into(), "stdout".into()],
            environment: Vec::new(),
            status_port: 15020,
            admin_port: 9901,
        }
    }
}

impl<'a> Settings<'a> {
    /// Adds options: `["--idle-timeout", "2s"]`. The port of `--status-address` and `--admin-address` is noted.
    pub fn options<S: AsRef<OsStr>>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(options.into_iter().map(|o| o.as_ref().to_owned()));
        let port = |name: &str| {
            let value = self.arguments.iter().skip_while(|a| *a != name).nth(1)?;
            value.to_str()?.rsplit_once(':')?.1.parse().ok()
        };
        self.status_port = port("--status-address").unwrap_or(self.status_port);
        self.admin_port = port("--admin-address").unwrap_or(self.admin_port);
        self
    }

    /// Sets a variable of the environment, which is empty otherwise.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().into()));
        self
    }

    /// Runs it as another uid.
    pub fn uid(self, uid: u32) -> Self {
        Self { uid, ..self }
    }

    /// Limits its open files.
    pub fn open_files(self, files: u64) -> Self {
        Self { files: Some(files), ..self }
    }

    /// Lets it see a folder as `/etc`, as [`Lab::hosts`](crate::Lab::hosts) makes one.
    pub fn etc(self, folder: &Path) -> Self {
        Self { etc: Some(folder.to_owned()), ..self }
    }

    /// Starts it without waiting for anything.
    pub fn start_unready(self) -> Result<Sidecar<'a>> {
        let Self { pod, uid, files, etc, arguments, environment, status_port, admin_port } = self;
        let sidecar = &Binaries::built()?.sidecar;
        let mut command: Command =
            lab_exec::command_with_etc(pod.namespace(), uid, (files, etc.as_deref()), sidecar)?;
        command.args(arguments).env_clear().envs(environment);
        Ok(Sidecar { pod, process: Process::start(command)?, status_port, admin_port })
    }

    /// Starts it and waits until it says that it is ready.
    pub fn start(self) -> Result<Sidecar<'a>> {
        let mut sidecar = self.start_unready()?;
        sidecar.wait_ready()?;
        Ok(sidecar)
    }
}

impl Sidecar<'_> {
    /// Waits until `/ready` answers 200.
    pub fn wait_ready(&mut self) -> Result<()> {
        let mut last = String::from("no answer");
        let ready = until_some(READY_WITHIN, || {
            if let Ok(Some(status)) = self.process.ended() {
                return Some(Err(anyhow!("the sidecar ended: {}", describe(status))));
            }
            match self.status("/ready") {
                Ok(Response { status: 200, .. }) => Some(Ok(())),
                Ok(response) => {
                    last = format!("{}: {}", response.status, response.body);
                    None
                }
                Err(e) => {
                    last = format!("{e:#}");
                    None
                }
            }
        });
        ready
            .unwrap_or_else(|| {
                Err(anyhow!("the sidecar was not ready within {READY_WITHIN:?}; at last {last}"))
            })
            .map_err(|e| e.context(format!("standard error:\n{}", self.process.stderr().text())))
    }

    /// Asks a path of its status port, from within the pod.
    pub fn status(&self, path: &str) -> Result<Response> {
        http::get(self.pod.connect(("127.0.0.1", self.status_port))?, path)
    }

    /// Asks a path of its admin port, from within the pod.
    pub fn admin(&self, path: &str) -> Result<Response> {
        http::get(self.pod.connect(("127.0.0.1", self.admin_port))?, path)
    }

    /// Posts to a path of its admin port, from within the pod.
    pub fn admin_post(&self, path: &str) -> Result<Response> {
        http::request(self.pod.connect(("127.0.0.1", self.admin_port))?, "POST", path)
    }

    /// The value of an Envoy-like counter in `/stats`.
    pub fn stat(&self, name: &str) -> Result<u64> {
        let all = self.admin("/stats")?.body;
        all.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(found, _)| *found == name)
            .and_then(|(_, value)| value.trim().parse().ok())
            .ok_or_else(|| anyhow!("no {name} in /stats:\n{all}"))
    }

    /// All metrics as Prometheus reads them.
    pub fn metrics(&self) -> Result<String> {
        Ok(self.status("/metrics")?.body)
    }

    /// Waits for a record of the access log from which `pick` makes something.
    pub fn access<T>(&self, within: Duration, mut pick: impl FnMut(&Value) -> Option<T>) -> Option<T> {
        self.process.stdout().wait_for(within, |line| pick(&serde_json::from_str(line).ok()?))
    }

    /// All records of the access log so far.
    pub fn access_log(&self) -> Vec<Value> {
        self.stdout().lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Returns its standard output, line by line.
    pub fn stdout(&self) -> &Output {
        self.process.stdout()
    }

    /// Returns its standard error, line by line.
    pub fn stderr(&self) -> &Output {
        self.process.stderr()
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Returns true as long as the process runs.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.process.ended()?.is_none())
    }

    /// Waits for its end.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        self.process.wait(within)
    }
}
