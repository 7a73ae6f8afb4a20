//! A program under test: what it prints, how it ends, and that it ends.

pub mod binaries;
pub mod lab_exec;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// A running program whose output is collected. Dropped, it is killed and waited for.
#[derive(Debug)]
pub struct Process {
    child: Child,
    status: Option<ExitStatus>,
    stdout: Output,
    stderr: Output,
}

impl Process {
    /// Starts a command. Its standard input is empty.
    pub fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let stdout = Output::collect(child.stdout.take().context("no standard output")?);
        let stderr = Output::collect(child.stderr.take().context("no standard error")?);
        Ok(Self { child, status: None, stdout, stderr })
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns its standard output so far.
    pub fn stdout(&self) -> &Output {
        &self.stdout
    }

    /// Returns its standard error so far.
    pub fn stderr(&self) -> &Output {
        &self.stderr
    }

    /// The address that a program of the installer says it listens on for an option, `--listen` for example.
    pub fn address_of(&self, option: &str, within: Duration) -> Result<SocketAddr> {
        let said =
            |line: &str| line.contains(option).then(|| line.split("address=").nth(1)?.trim().parse().ok())?;
        self.stderr.wait_for(within, said).with_context(|| format!("it does not listen for {option}"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.raw_pid(), signal).with_context(|| format!("cannot send {signal:?}"))
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
            if self.status.is_some() {
                self.stdout.finish();
                self.stderr.finish();
            }
        }
        Ok(self.status)
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        if !ends_within(&self.child, within)? {
            bail!("still running after {within:?}");
        }
        let status = self.child.wait()?;
        self.status = Some(status);
        self.stdout.finish();
        self.stderr.finish();
        Ok(status)
    }

    fn raw_pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        self.stdout.finish();
        self.stderr.finish();
        if thread::panicking() {
            eprintln!("--- standard error of process {}:\n{}", self.child.id(), self.stderr.text());
        }
    }
}

/// Waits for the end of a child, without reaping it.
pub(crate) fn ends_within(child: &Child, within: Duration) -> Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let deadline = Instant::now() + within;
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Describes the end of a program in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => format!("{status:?}"),
    }
}

/// The lines that a program wrote, as they come.
#[derive(Debug)]
pub struct Output {
    lines: Arc<Lines>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Lines {
    found: Mutex<Found>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Found {
    lines: Vec<String>,
    over: bool,
}

impl Output {
    fn collect(pipe: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Lines::default());
        let reader = thread::spawn({
            let lines = Arc::clone(&lines);
            move || {
                for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    lines.found.lock().unwrap_or_else(PoisonError::into_inner).lines.push(line);
                    lines.more.notify_all();
                }
                lines.found.lock().unwrap_or_else(PoisonError::into_inner).over = true;
                lines.more.notify_all();
            }
        });
        Self { lines, reader: Some(reader) }
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.found.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }

    /// All lines so far, as one text.
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// Waits for a line, past or future, from which `pick` makes something.
    pub fn wait_for<T>(&self, within: Duration, mut pick: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + within;
        let mut found = self.lines.found.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = 0;
        loop {
            while let Some(line) = found.lines.get(seen) {
                if let Some(picked) = pick(line) {
                    return Some(picked);
                }
                seen += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if found.over || left.is_zero() {
                return None;
            }
            found = self.lines.more.wait_timeout(found, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the last line; the program has ended.
    fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
