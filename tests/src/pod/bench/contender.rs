//! A program that is measured in a pod, and the cost of a running one.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::lab::Lab;
use crate::lab::host::Host;
use crate::pod::sidecar;
use crate::process::binaries::Binaries;
use crate::process::{Process, lab_exec};
use crate::until::until_some;

/// From start to listening, on a busy machine.
pub const READY_WITHIN: Duration = Duration::from_secs(20);

/// The kernel's USER_HZ, the same on every architecture that Rust knows of with Linux.
pub(crate) const TICKS: f64 = 100.0;

/// A peer may keep workers beside its first process: it is asked to end, and gets this long.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Open files of a contender: two for each of its connections, and more.
const FILES: u64 = 20_000;

/// Nothing at all, our sidecar, or a peer.
#[derive(Debug, Clone)]
pub struct Contender {
    name: String,
    command: Option<(PathBuf, Vec<String>)>,
}

/// A contender that runs in the pod. Dropped, it is asked to end, then killed.
#[derive(Debug)]
pub struct Running {
    process: Option<Process>,
    /// From start to listening.
    pub ready_after: Duration,
}

impl Contender {
    /// Nothing: what it costs is NaN.
    pub fn direct() -> Self {
        Self { name: "direct".into(), command: None }
    }

    /// A program with its arguments.
    pub fn new<S: Into<String>>(
        name: &str,
        program: PathBuf,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Self { name: name.to_owned(), command: Some((program, arguments)) }
    }

    /// The built sidecar.
    pub fn ours(name: &str, arguments: &[String]) -> Result<Self> {
        Ok(Self::new(name, Binaries::built()?.sidecar.clone(), arguments))
    }

    /// Other builds of the sidecar, named by `CULVERT_BENCH_OTHERS` (as PATH).
    pub fn other_builds(arguments: &[String]) -> Vec<Self> {
        let others = env::var_os("CULVERT_BENCH_OTHERS").unwrap_or_default();
        let files = env::split_paths(&others).filter(|path| path.is_file());
        files
            .map(|program| {
                let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
                Self::new(&name, program, arguments)
            })
            .collect()
    }

    /// A peer where it is installed, with its configuration in the lab's folder. `CONFIG` in an argument is that file.
    pub fn peer(
        lab: &Lab,
        name: &str,
        (file, text): (&str, &str),
        arguments: &[&str],
    ) -> Result<Option<Self>> {
        let Some(program) = find(name) else { return Ok(None) };
        let config = lab.folder().join(file);
        fs::write(&config, text)?;
        let config = config.display().to_string();
        let arguments = arguments.iter().map(|argument| argument.replace("CONFIG", &config));
        Ok(Some(Self::new(name, program, arguments)))
    }

    /// Envoy where it is installed.
    pub fn envoy(lab: &Lab, config: &str) -> Result<Option<Self>> {
        let arguments = ["-c", "CONFIG", "--concurrency", "2", "-l", "warn", "--disable-hot-restart"];
        Self::peer(lab, "envoy", ("envoy.yaml", config), &arguments)
    }

    /// Names it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns true if it is no program.
    pub fn is_direct(&self) -> bool {
        self.command.is_none()
    }

    /// Starts it under the sidecar's uid, and waits until it `listens`.
    pub fn start(&self, lab: &Lab, listens: impl Fn(&Host) -> Result<bool>) -> Result<Running> {
        let start = Instant::now();
        let Some((program, arguments)) = &self.command else {
            return Ok(Running { process: None, ready_after: start.elapsed() });
        };
        let mut command = lab_exec::command(lab.pod.namespace(), sidecar::UID, Some(FILES), program)?;
        command.args(arguments).env_clear();
        let mut process = Process::start(command)?;
        let ready = until_some(READY_WITHIN, || match process.ended() {
            Ok(None) => listens(&lab.pod).map(|listens| listens.then_some(())).transpose(),
            Ok(Some(status)) => Some(Err(anyhow::anyhow!("it ended: {status}"))),
            Err(error) => Some(Err(error)),
        });
        match ready {
            Some(Ok(())) => Ok(Running { process: Some(process), ready_after: start.elapsed() }),
            Some(Err(error)) => Err(error.context(process.stderr().text())),
            None => bail!("it does not listen after {READY_WITHIN:?}: {}", process.stderr().text()),
        }
    }
}

/// Returns true once a TCP port is in listening state. Dialling is no way to find out: Envoy would dial itself, again and again.
pub fn listens(host: &Host, port: u16) -> Result<bool> {
    let listener = format!(":{port:04X} ");
    for table in ["tcp", "tcp6"] {
        let text = host.proc_net(table)?;
        if text.lines().any(|line| line.contains(&listener) && line.contains(" 0A ")) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Finds a program by `CULVERT_BENCH_<NAME>`, then in PATH.
pub fn find(name: &str) -> Option<PathBuf> {
    if let Some(path) = env::var_os(format!("CULVERT_BENCH_{}", name.to_uppercase())) {
        return Some(path.into());
    }
    let folders = env::var_os("PATH").unwrap_or_default();
    // Where Debian puts a daemon, which an ordinary PATH leaves out.
    let also = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&folders).chain(also).map(|folder| folder.join(name)).find(|path| path.is_file())
}

impl Running {
    /// CPU time so far, user and kernel, of the process and its workers; NaN without a process.
    pub fn cpu_seconds(&self) -> Result<f64> {
        self.each(cpu_seconds)
    }

    /// Memory that is its own and its workers'; NaN without a process.
    pub fn pss_bytes(&self) -> Result<f64> {
        self.each(|pid| {
            let rollup = read(pid, "smaps_rollup")?;
            let kib = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"));
            Ok(kib.context("no Pss in smaps_rollup")?.trim().parse::<f64>()? * 1024.0)
        })
    }

    fn each(&self, of: impl Fn(u32) -> Result<f64>) -> Result<f64> {
        let Some(process) = &self.process else { return Ok(f64::NAN) };
        let mut sum = of(process.pid())?;
        for worker in children(process.pid())? {
            sum += of(worker)?;
        }
        Ok(sum)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(process) = &mut self.process else { return };
        // Killed outright, a master would leave its workers behind, and its port with them. SIGQUIT of nginx waits.
        if children(process.pid()).is_ok_and(|workers| !workers.is_empty()) {
            let _ = process.signal(Signal::TERM);
            let _ = process.wait(ENDS_WITHIN);
        }
    }
}

/// CPU time that a process has had, user and kernel.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = read(pid, "stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / TICKS)
}

/// Processes that a process started.
fn children(of: u32) -> Result<Vec<u32>> {
    let mut parents = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that ended meanwhile is nobody's.
        let Ok(stat) = read(pid, "stat") else { continue };
        let parent =
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.insert(pid, parent);
    }
    Ok(parents.into_iter().filter(|(_, parent)| *parent == Some(of)).map(|(pid, _)| pid).collect())
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = Path::new("/proc").join(pid.to_string()).join(file);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}
