// SPDX-License-Identifier: Apache-2.0
//! The record of an attachment in `stateDir`: one small JSON each, 0600, written by rename.
//!
//! A record is help, not truth: the kernel's rules carry their owner's id themselves. So one that cannot be written is a
//! warning, and DEL works without.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::netns::NetnsId;
use crate::pod::{self, Annotations, Decided, Settings, SettingsError};
use crate::protocol::{Attachment, NetConf, ValidAttachment};
use crate::redirect::Footprint;

/// The largest record that is read, in bytes; ours are mostly below 2 KiB.
const MAX_RECORD: u64 = 256 << 10;
/// The most that is kept of a pod's settings, in bytes: beyond, the runtime has to be asked.
const MAX_SETTINGS: usize = 64 << 10;
/// The most records that are read at once: some ten times the pods of the largest nodes.
const MAX_RECORDS: usize = 4096;
/// The engine of an attachment that was let through since nobody knew its annotations.
pub const NO_ENGINE: &str = "none";
/// The longest file name of Linux' file systems, less room for what a temporary file is called.
const MAX_NAME: usize = 230;

/// What is kept of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The network's name.
    pub network: String,
    /// The sandbox's id.
    pub container_id: String,
    /// The interface in the sandbox.
    pub ifname: String,
    /// The path of the network namespace.
    pub netns: String,
    /// The pod's namespace and name, where the runtime said them.
    pub pod: Option<String>,
    /// The engine that wrote the rules.
    pub engine: String,
    /// What was changed beside the rules.
    pub footprint: Footprint,
    /// Which namespace that path named: paths and inodes are used again, but not both together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_id: Option<NetnsId>,
    /// What was decided by, so that verify holds a pod to that, whatever became of the node's defaults since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub considered: Option<Considered>,
}

/// The words that a pod's policy was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Considered {
    /// The pod's annotations, those that [`pod::concerns_us`].
    pub annotations: Annotations,
    /// The conflist's `redirect`, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<String>,
    /// The conflist's `locked`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locked: Vec<String>,
}

impl Considered {
    /// What `conf` and `annotations` say; `None` where that is too much to be kept.
    pub fn new(conf: &NetConf<'_>, annotations: &Annotations) -> Option<Self> {
        let ours = annotations.iter().filter(|(name, _)| pod::concerns_us(name));
        let annotations: Annotations = ours.map(|(name, value)| (name.clone(), value.clone())).collect();
        let redirect = conf.redirect.map(|raw| raw.get().to_owned());
        let held = annotations.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
            + redirect.as_ref().map_or(0, String::len);
        (held <= MAX_SETTINGS).then(|| Self { annotations, redirect, locked: conf.locked.clone() })
    }

    /// Decide by them again.
    pub fn decide(&self) -> Result<Decided, SettingsError> {
        let Self { annotations, redirect, locked } = self;
        // It was read as an object once: what is none any more comes from a record that somebody spoiled.
        let redirect = redirect.as_deref().map(serde_json::from_str).transpose();
        let redirect: Option<&RawValue> =
            redirect.map_err(|error| format!("the record's redirect: {error}"))?;
        pod::decide_policy(annotations, &Settings::of_node(redirect, locked)?)
    }
}

/// The folder of records.
#[derive(Debug)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// Records in `folder`, which need not exist.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Write `record` in place of an older one of the same attachment.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let name = file_name(&record.container_id, &record.network, &record.ifname);
        let temporary = self.folder.join(format!(".{name}.{}", std::process::id()));
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            fs::rename(&temporary, self.folder.join(&name))
        };
        write().inspect_err(|_| drop(fs::remove_file(&temporary)))
    }

    /// The record of this attachment, if there is a readable one.
    pub fn read(&self, network: &str, attachment: &Attachment) -> Option<Record> {
        self.read_file(&file_name(&attachment.container_id, network, &attachment.ifname))
    }

    /// Remove the record of this attachment; that there is none is fine.
    pub fn remove(&self, network: &str, attachment: &Attachment) -> io::Result<()> {
        match fs::remove_file(self.folder.join(file_name(
            &attachment.container_id,
            network,
            &attachment.ifname,
        ))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// All records, the first 4,096 of them; those that cannot be read are left out.
    pub fn all(&self) -> io::Result<Vec<Record>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names
            .filter(|name| !name.starts_with('.'))
            .take(MAX_RECORDS)
            .filter_map(|name| self.read_file(&name))
            .collect())
    }

    /// All other attachments of the same container.
    pub fn others_of(&self, network: &str, attachment: &Attachment) -> Vec<Record> {
        let own = file_name(&attachment.container_id, network, &attachment.ifname);
        let mut prefix = format!("{}~", escape(&attachment.container_id));
        prefix.truncate(MAX_NAME - 17);
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(&prefix) && *name != own)
            .filter_map(|name| self.read_file(&name))
            .filter(|record| record.container_id == attachment.container_id)
            .collect()
    }

    /// Remove the records of `network` whose attachment is not in `valid`, and what a killed ADD left unfinished. Goes on
    /// after a failure; says how many went, and every failure.
    pub fn retain(&self, network: &str, valid: &[ValidAttachment]) -> (usize, Vec<io::Error>) {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (0, Vec::new()),
            Err(error) => return (0, vec![error]),
        };
        let (mut removed, mut errors) = (0, Vec::new());
        for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            let is_stale = match name.strip_prefix('.') {
                Some(temporary) => !is_being_written(temporary),
                None => self.read_file(&name).is_some_and(|record| {
                    let known = |valid: &ValidAttachment| {
                        valid.container_id == record.container_id && valid.ifname == record.ifname
                    };
                    record.network == network && !valid.iter().any(known)
                }),
            };
            if is_stale {
                match fs::remove_file(self.folder.join(&name)) {
                    Ok(()) => removed += 1,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => errors.push(error),
                }
            }
        }
        (removed, errors)
    }

    fn read_file(&self, name: &str) -> Option<Record> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits())
            .open(self.folder.join(name))
            .ok()?;
        let mut bytes = Vec::new();
        file.take(MAX_RECORD).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

/// Whether the process whose number ends a temporary file's name is alive.
fn is_being_written(temporary: &str) -> bool {
    let process = temporary.rsplit('.').next().unwrap_or_default();
    Path::new("/proc").join(process).exists()
}

/// `container~network~ifname.json`; longer ones are cut, and a checksum tells them apart.
fn file_name(container_id: &str, network: &str, ifname: &str) -> String {
    let mut name = format!("{}~{}~{}", escape(container_id), escape(network), escape(ifname));
    if name.len() > MAX_NAME {
        let checksum = crate::redirect::owner::checksum(name.as_bytes());
        name.truncate(MAX_NAME - 17);
        name = format!("{name}-{checksum:016x}");
    }
    format!("{name}.json")
}

/// Bytes that are not letters, digits or `_.-` as `%XX`: the rest of the name is ASCII, and no name leaves the folder.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}
