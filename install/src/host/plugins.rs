// SPDX-License-Identifier: Apache-2.0
//! The runtime's plugins, asked for their versions as CRI-O asks them before it takes a file.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use serde::Deserialize;

use super::files::Stamp;
use super::layout::Layout;
use crate::conflist::effective::Binary;

/// Deadline of one plugin. It answers within some milliseconds, but later on a node that is booting.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes; usual is one line.
const MAX_ANSWER: u64 = 64 << 10;

/// The answers so far, so that a binary is asked again only after it has changed.
#[derive(Debug, Default)]
pub(crate) struct Plugins(Mutex<HashMap<PathBuf, (Stamp, Binary)>>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    supported_versions: Option<Vec<String>>,
    msg: Option<String>,
}

impl Plugins {
    /// Asks the plugin `kind` of the runtime's folders.
    pub(crate) fn ask(&self, layout: &Layout, kind: &str) -> Binary {
        let folders: Vec<_> = layout.plugin_dirs.iter().map(|folder| layout.at(folder)).collect();
        // libcni takes the first regular file, executable or not, and no name with a path in it.
        let found = folders.iter().map(|folder| folder.join(kind)).find_map(|path| {
            let path = layout.at(&layout.root.on_node(&path));
            let metadata = fs::metadata(&path).ok()?;
            metadata.is_file().then(|| (path, Stamp::of(&metadata)))
        });
        let Some((path, stamp)) = found.filter(|_| !kind.contains('/')) else {
            // A folder that is not mounted here may hold it.
            let is_whole =
                layout.root.path() == Path::new("/") || folders.iter().all(|folder| folder.is_dir());
            return if is_whole { Binary::Missing } else { Binary::Silent };
        };
        let known = self.known().get(&path).filter(|(known, _)| *known == stamp).cloned();
        if let Some((_, binary)) = known {
            return binary;
        }
        match version(&path) {
            Ok(binary) => {
                self.known().insert(path, (stamp, binary.clone()));
                binary
            }
            // It is being written, and an event follows.
            Err(_) => Binary::Silent,
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, (Stamp, Binary)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks one binary with libcni's own words. An error only where it may answer later as it is.
fn version(path: &Path) -> io::Result<Binary> {
    let mut command = Command::new(path);
    command.env_clear().env("CNI_COMMAND", "VERSION").env("CNI_CONTAINERID", "dummy");
    command.env("CNI_NETNS", "dummy").env("CNI_IFNAME", "dummy").env("CNI_PATH", "dummy");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = match command.spawn() {
        Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => return Err(error),
        // A program that cannot run in this container, such as one without its libraries, may run on the node.
        Err(_) => return Ok(Binary::Silent),
        Ok(child) => child,
    };
    let (mut stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (sender, answer) = mpsc::channel();
    let reader = thread::Builder::new().name("plugin-version".to_owned()).spawn(move || {
        if let Some(stdin) = &mut stdin {
            // An error is ignored: a plugin that has answered already reads no more.
            let _ = stdin.write_all(br#"{"cniVersion":"1.1.0"}"#);
        }
        drop(stdin);
        let mut text = Vec::new();
        if let Some(stdout) = stdout {
            let _ = stdout.take(MAX_ANSWER).read_to_end(&mut text);
        }
        let _ = sender.send(text);
    });
    let text = reader.ok().and_then(|_| answer.recv_timeout(ANSWERS_WITHIN).ok());
    // Also one that has ended, which is reaped then.
    let _ = child.kill();
    let _ = child.wait();
    Ok(text.map_or(Binary::Silent, |text| read(&text)))
}

fn read(answer: &[u8]) -> Binary {
    match serde_json::from_slice(answer) {
        Ok(Answer { supported_versions: Some(versions), .. }) => Binary::Speaks(versions),
        // A plugin from before VERSION.
        Ok(Answer { msg: Some(msg), .. }) if msg.contains("unknown CNI_COMMAND: VERSION") => {
            Binary::Speaks(vec!["0.1.0".to_owned()])
        }
        _ => Binary::Silent,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::conflist::Loader;
    use crate::host::root::HostRoot;

    #[test]
    fn a_plugin_is_asked_once_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        let layout = Layout {
            root: HostRoot::new(folder.path()),
            runtime: String::new(),
            conf_dir: "/net.d".into(),
            loader: Loader::crio(None),
            bin_dirs: Vec::new(),
            plugin_dirs: vec!["/bin".into()],
            state_dir: "/state".into(),
            runtime_socket: None,
            plugin: PathBuf::new(),
            handlers: Default::default(),
            complaints: Vec::new(),
        };
        let plugins = Plugins::default();
        let write = |script: &str| {
            let path = folder.path().join("bin/a");
            let new = folder.path().join("bin/new");
            fs::write(
                &new,
                format!("#!/bin/sh\necho x >> {}\n{script}", folder.path().join("asked").display()),
            )
            .unwrap();
            fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(new, path).unwrap();
        };
        let speaks = |versions: &[&str]| Binary::Speaks(versions.iter().map(|v| (*v).to_owned()).collect());
        assert_eq!(plugins.ask(&layout, "a"), Binary::Missing);
        for (script, expected) in [
            (
                r#"cat > /dev/null; echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'"#,
                speaks(&["0.4.0", "1.0.0"]),
            ),
            (r#"echo '{"code":4,"msg":"unknown CNI_COMMAND: VERSION"}'; exit 1"#, speaks(&["0.1.0"])),
            ("exit 1", Binary::Silent),
        ] {
            write(script);
            fs::write(folder.path().join("asked"), "").unwrap();
            // A file that another test's child holds open for a moment is busy.
            let mut found = plugins.ask(&layout, "a");
            for _ in 0..100 {
                if found == expected {
                    break;
                }
                thread::park_timeout(Duration::from_millis(20));
                found = plugins.ask(&layout, "a");
            }
            assert_eq!(found, expected, "{script}");
            assert_eq!(plugins.ask(&layout, "a"), expected);
            assert_eq!(fs::read_to_string(folder.path().join("asked")).unwrap(), "x\n", "{script}");
        }
        assert_eq!(plugins.ask(&layout, "../net.d/a"), Binary::Missing);
        let mut partly = layout;
        partly.plugin_dirs.push("/not/mounted".into());
        assert_eq!(plugins.ask(&partly, "b"), Binary::Silent);
    }
}
