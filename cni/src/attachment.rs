// SPDX-License-Identifier: Apache-2.0
//! The record of an attachment in `stateDir`: one small JSON each, 0600, written by rename.
//!
//! Records are an aid, not the truth: the kernel's rules carry their owner's id themselves. So a record that cannot be
//! written is only a warning, and DEL works without one.

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

/// Largest record that is read, in bytes; most are below 2 KiB.
const MAX_RECORD: u64 = 256 << 10;
/// Limit for the settings in one record, in bytes: beyond it the record has none, and the agent asks the runtime.
const MAX_SETTINGS: usize = 64 << 10;
/// Limit for the records read at once: some ten times the pods of the largest nodes.
const MAX_RECORDS: usize = 4096;
/// Engine in the record of an attachment that went through because its annotations were not available.
pub const NO_ENGINE: &str = "none";
/// Longest file name, in bytes: 255 on Linux, less room for the additions to a temporary file's name.
const MAX_NAME: usize = 230;

/// One attachment of a pod, as ADD left it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Name of the CNI network, from the conflist.
    pub network: String,
    /// Id of the pod's sandbox.
    pub container_id: String,
    /// Interface inside the sandbox.
    pub ifname: String,
    /// Path of the network namespace, as the runtime passed it.
    pub netns: String,
    /// `namespace/name` of the pod, where the runtime passed it.
    pub pod: Option<String>,
    /// Name of the engine that wrote the rules, or [`NO_ENGINE`].
    pub engine: String,
    /// Changes beside the rules, which DEL undoes.
    pub footprint: Footprint,
    /// Identity of the namespace at that path: paths and inodes are reused, but not both together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_id: Option<NetnsId>,
    /// Inputs of the decision, so that the agent verifies a pod by these, not by the node's defaults of a later day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub considered: Option<Considered>,
}

/// The inputs of a decision about a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Considered {
    /// Annotations of the pod that can influence a decision, see [`pod::concerns_us`].
    pub annotations: Annotations,
    /// The conflist's `redirect` at the time, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<String>,
    /// The conflist's `locked` at the time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locked: Vec<String>,
}

impl Record {
    /// Returns true if the attachment is in `namespace`. A record that was left behind is not: the inode may be another
    /// namespace's by now, but the path no longer leads there.
    pub(crate) fn is_in(&self, namespace: NetnsId) -> bool {
        self.netns_id.is_none_or(|id| id == namespace)
            && NetnsId::of(Path::new(&self.netns)).is_ok_and(|id| id == namespace)
    }
}

impl Considered {
    /// Take the inputs from `conf` and `annotations`; `None` if they are larger than 64 KiB.
    pub(crate) fn new(conf: &NetConf<'_>, annotations: &Annotations) -> Option<Self> {
        let ours = annotations.iter().filter(|(name, _)| pod::concerns_us(name));
        let annotations: Annotations = ours.map(|(name, value)| (name.clone(), value.clone())).collect();
        let redirect = conf.redirect.map(|raw| raw.get().to_owned());
        let held = annotations.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
            + redirect.as_ref().map_or(0, String::len);
        (held <= MAX_SETTINGS).then(|| Self { annotations, redirect, locked: conf.locked.clone() })
    }

    /// Make the decision again from these inputs.
    pub fn decide(&self) -> Result<Decided, SettingsError> {
        let Self { annotations, redirect, locked } = self;
        // ADD stored a JSON object, so a parse error means that the record was edited or damaged.
        let redirect = redirect.as_deref().map(serde_json::from_str).transpose();
        let redirect: Option<&RawValue> =
            redirect.map_err(|error| format!("the record's redirect: {error}"))?;
        pod::decide_policy(annotations, &Settings::of_node(redirect, locked)?)
    }
}

/// The folder of records, `stateDir`.
#[derive(Clone, Debug)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// Use `folder`, which need not exist yet.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Write `record`, replacing an older one of the same attachment.
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

    /// Read the record of this attachment, if there is a readable one.
    pub(crate) fn read(&self, network: &str, attachment: &Attachment) -> Option<Record> {
        self.read_file(&file_name(&attachment.container_id, network, &attachment.ifname))
    }

    /// Remove the record of this attachment; no record is no error.
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

    /// Read up to 4,096 records; those that cannot be read are left out.
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

    /// Read the records of the container's other attachments.
    pub(crate) fn others_of(&self, network: &str, attachment: &Attachment) -> Vec<Record> {
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

    /// Read the records of redirected attachments in `namespace`, without the one of `attachment`: containers may share a
    /// namespace.
    pub(crate) fn others_in(
        &self,
        namespace: NetnsId,
        network: &str,
        attachment: &Attachment,
    ) -> Vec<Record> {
        let own = file_name(&attachment.container_id, network, &attachment.ifname);
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.') && *name != own)
            .take(MAX_RECORDS)
            .filter_map(|name| self.read_file(&name))
            .filter(|record| record.engine != NO_ENGINE && record.is_in(namespace))
            .collect()
    }

    /// Remove the records of `network` whose attachment is not in `valid`, and temporary files of killed ADDs. Continues
    /// after a failure; returns the number of removed files and all failures.
    pub(crate) fn retain(&self, network: &str, valid: &[ValidAttachment]) -> (usize, Vec<io::Error>) {
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

/// Returns true if the process that writes the temporary file is alive; its pid ends the file's name.
fn is_being_written(temporary: &str) -> bool {
    let process = temporary.rsplit('.').next().unwrap_or_default();
    Path::new("/proc").join(process).exists()
}

/// `container~network~ifname.json`; a longer name is cut, and a checksum keeps it unique.
fn file_name(container_id: &str, network: &str, ifname: &str) -> String {
    let mut name = format!("{}~{}~{}", escape(container_id), escape(network), escape(ifname));
    if name.len() > MAX_NAME {
        let checksum = crate::redirect::owner::checksum(name.as_bytes());
        name.truncate(MAX_NAME - 17);
        name = format!("{name}-{checksum:016x}");
    }
    format!("{name}.json")
}

/// Escape bytes other than letters, digits and `_.-` as `%XX`, so that no name can leave the folder.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}
