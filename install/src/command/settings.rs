// SPDX-License-Identifier: Apache-2.0
//! Settings of a person → the plugin's decision. A file of annotations and the options over it pass the plugin's own
//! grammar, so values and errors are those of a pod.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use culvert_cni::pod::{self, Annotations, Decided, Decision, Reason};
use culvert_cni::protocol::{Fields, repeated};
use culvert_cni::redirect::policy::Policy;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::cli::annotations::{Options, Settings};
use crate::command::answer::Exit;

/// The prefix of our annotations.
pub(crate) const OWN: &str = "culvert.dev/";
/// The annotation that onboards a pod.
const ONBOARD: &str = "culvert.dev/redirect";
/// Port that must stay reachable on a machine that is administered over the network.
const SSH: &str = "22";
const SSH_SETTING: &str = "exclude-inbound-ports";
/// Largest file that is read, in bytes; all annotations of a pod are at most 256 KiB.
const MAX_FILE: u64 = 4 << 20;
/// The plugin's `type` in a conflist.
const PLUGIN: &str = "culvert-cni";

/// Reasons why there is no decision.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// A file has the wrong content.
    #[error("{}: {what}", path.display())]
    Malformed {
        path: PathBuf,
        /// The fault, and the expected content.
        what: String,
    },
    /// A setting is refused.
    #[error("{0}")]
    Settings(String),
    /// The annotations of the file do not onboard the pod.
    #[error(
        "{}: no pod with these annotations is redirected ({}); `{ONBOARD}: enabled` is what is missing, and `explain` says \
         more",
        path.display(),
        reason.as_str()
    )]
    NotOnboarded { path: PathBuf, reason: Reason },
}

impl SettingsError {
    /// Exit code: 1 if a file cannot be read, else 64.
    pub(crate) const fn exit(&self) -> Exit {
        match self {
            Self::Unreadable { .. } => Exit::Attention,
            Self::Malformed { .. } | Self::Settings(_) | Self::NotOnboarded { .. } => Exit::Usage,
        }
    }
}

/// The part of the plugin's entry that every pod of a node shares.
#[derive(Debug, Default)]
pub(crate) struct NodeEntry {
    pub defaults: pod::Settings,
    /// Namespaces whose pods are never redirected.
    pub excluded: Vec<String>,
}

/// Reads the entry of a conflist, or an entry alone as `agent --entry` takes it. Without a file nothing is set.
pub(crate) fn node_entry(conflist: Option<&Path>) -> Result<NodeEntry, SettingsError> {
    let Some(path) = conflist else { return Ok(NodeEntry::default()) };
    let malformed = |what: String| SettingsError::Malformed { path: path.to_owned(), what };
    let text = read(path)?;
    let no_conflist =
        |error: serde_json::Error| malformed(format!("no conflist with a culvert-cni entry: {error}"));
    let ConflistFile { plugins } = serde_json::from_str(&text).map_err(no_conflist)?;
    let entry = match plugins {
        None => {
            let keys: BTreeMap<String, &RawValue> = serde_json::from_str(&text).map_err(no_conflist)?;
            // Any other file would pass for an entry that sets nothing.
            if !keys.keys().any(|key| ENTRY_KEYS.contains(&key.as_str())) {
                let words = format!(
                    "neither a conflist (plugins) nor a culvert-cni entry ({})",
                    ENTRY_KEYS.join(", ")
                );
                return Err(malformed(words));
            }
            serde_json::from_str(&text).map_err(no_conflist)?
        }
        Some(plugins) => {
            let mut entries = plugins.into_iter().filter(|plugin| plugin.kind == PLUGIN);
            match (entries.next(), entries.next()) {
                (Some(entry), None) => entry,
                (Some(_), Some(_)) => {
                    return Err(malformed(format!("two plugins of type {PLUGIN}: which one counts?")));
                }
                (None, _) => {
                    let words =
                        format!("no plugin of type {PLUGIN}: is this the conflist that the runtime uses?");
                    return Err(malformed(words));
                }
            }
        }
    };
    let PluginEntry { redirect, locked, exclude_namespaces, .. } = entry;
    let redirect = redirect.filter(|raw| raw.get() != "null");
    let defaults = pod::Settings::of_node(redirect, &locked.unwrap_or_default())
        .map_err(|error| malformed(error.to_string()))?;
    Ok(NodeEntry { defaults, excluded: exclude_namespaces.unwrap_or_default() })
}

/// Keys of an entry that a file of `agent --entry` may have.
const ENTRY_KEYS: [&str; 8] = [
    "redirect",
    "locked",
    "excludeNamespaces",
    "onUnknown",
    "logFile",
    "logLevel",
    "stateDir",
    "agentSocket",
];

#[derive(Deserialize)]
struct ConflistFile<'a> {
    #[serde(borrow)]
    plugins: Option<Vec<PluginEntry<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PluginEntry<'a> {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(borrow)]
    redirect: Option<&'a RawValue>,
    locked: Option<Vec<String>>,
    exclude_namespaces: Option<Vec<String>>,
}

/// Decides as the plugin would for a pod with the file's annotations and `options` over them. Without a file the pod
/// counts as onboarded.
pub(crate) fn decide(settings: &Settings, defaults: &pod::Settings) -> Result<Decided, SettingsError> {
    let Settings { annotations: file, options } = settings;
    decide_by(merged(file.as_deref(), options)?, options, defaults)
}

/// Work for `redirect`, and notes about it.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The redirect that is wanted.
    pub policy: Policy,
    /// Settings with another effect than their author may expect.
    pub warnings: Vec<String>,
    /// True if the SSH port stays out without a setting that says so.
    pub keeps_ssh: bool,
}

/// Decides for `redirect`. Without a named `netns`, on a machine of its own, the SSH port stays out unless a setting
/// names the redirected ports.
pub(crate) fn wanted(settings: &Settings, netns: Option<&Path>) -> Result<Wanted, SettingsError> {
    let Settings { annotations: file, options } = settings;
    let defaults = pod::Settings::default();
    let mut annotations = merged(file.as_deref(), options)?;
    let mut decided = decide_by(annotations.clone(), options, &defaults)?;
    let ssh_name = format!("{OWN}{SSH_SETTING}");
    let names_ports = decided.sources.contains_key(SSH_SETTING)
        || decided.sources.contains_key("include-inbound-ports")
        || annotations.contains_key(&ssh_name);
    let redirects_inbound =
        matches!(&decided.decision, Decision::Redirect(policy) if policy.inbound.redirect.is_enabled());
    let keeps_ssh = netns.is_none() && redirects_inbound && !names_ports;
    if keeps_ssh {
        annotations.insert(ssh_name, SSH.to_owned());
        decided = decide_by(annotations, options, &defaults)?;
    }
    match (decided.decision, file) {
        (Decision::Redirect(policy), _) => {
            Ok(Wanted { policy: *policy, warnings: decided.warnings, keeps_ssh })
        }
        (Decision::PassThrough(reason), Some(path)) => {
            Err(SettingsError::NotOnboarded { path: path.clone(), reason })
        }
        // Without a file the pod counts as onboarded.
        (Decision::PassThrough(reason), None) => Err(SettingsError::Settings(reason.as_str().to_owned())),
    }
}

fn merged(file: Option<&Path>, Options(options): &Options) -> Result<Annotations, SettingsError> {
    let mut annotations = match file {
        Some(path) => {
            parse(&read(path)?).map_err(|what| SettingsError::Malformed { path: path.to_owned(), what })?
        }
        None => Annotations::from([(ONBOARD.to_owned(), "enabled".to_owned())]),
    };
    annotations.extend(options.iter().map(|(name, value)| (format!("{OWN}{name}"), value.clone())));
    Ok(annotations)
}

fn decide_by(
    annotations: Annotations,
    Options(options): &Options,
    defaults: &pod::Settings,
) -> Result<Decided, SettingsError> {
    let mut decided = pod::decide_policy(&annotations, defaults).map_err(|error| {
        // A person who typed an option looks for its name.
        let as_typed = |said: String, (name, _): &(&str, String)| {
            said.replace(&format!("{OWN}{name} "), &format!("--{name} "))
        };
        SettingsError::Settings(options.iter().fold(error.to_string(), as_typed))
    })?;
    for (name, _) in options {
        if let Some(source) = decided.sources.get_mut(name) {
            *source = format!("--{name}");
        }
    }
    Ok(decided)
}

/// Parses annotations as `kubectl get -o jsonpath='{.metadata.annotations}'` prints them, or as they stand in a
/// manifest.
fn parse(text: &str) -> Result<Annotations, String> {
    let entries = if text.trim_start().starts_with('{') { parse_json(text)? } else { parse_yaml(text)? };
    entries
        .into_iter()
        .map(|(key, value)| match value {
            Value::String(text) => Ok((key, text)),
            Value::Object(_) | Value::Array(_) => Err(format!(
                "{key:?} is no text: only the annotations belong here, as kubectl get pod NAME -o \
                 jsonpath='{{.metadata.annotations}}' prints them"
            )),
            other => {
                Err(format!("{key:?} is {other}, which is no text: put it in quotes, as in a pod's metadata"))
            }
        })
        .collect()
}

fn parse_json(text: &str) -> Result<BTreeMap<String, Value>, String> {
    let Fields(fields) =
        serde_json::from_str(text).map_err(|error| format!("no JSON object of annotations: {error}"))?;
    if let Some(key) = repeated(&fields) {
        return Err(format!("{key:?} stands twice: which value should count?"));
    }
    let value = |(key, raw): (String, &RawValue)| {
        serde_json::from_str(raw.get()).map(|value| (key, value)).map_err(|error| error.to_string())
    };
    fields.into_iter().map(value).collect()
}

fn parse_yaml(text: &str) -> Result<BTreeMap<String, Value>, String> {
    serde_saphyr::from_str_with_options::<Option<BTreeMap<String, Value>>>(
        text,
        serde_saphyr::options! { emit_comments: false },
    )
    .map(Option::unwrap_or_default)
    .map_err(|error| format!("no `key: value` lines of annotations: {error}"))
}

fn read(path: &Path) -> Result<String, SettingsError> {
    let unreadable = |source| SettingsError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes)).map_err(unreadable)?;
    String::from_utf8(bytes)
        .map_err(|_| SettingsError::Malformed { path: path.to_owned(), what: "no UTF-8 text".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(text: &str) -> Result<Vec<(String, String)>, String> {
        parse(text).map(|annotations| annotations.into_iter().collect())
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn annotations_are_json_or_lines_of_a_manifest() {
        let on = vec![pair("a.b/c", "1"), pair("culvert.dev/redirect", "enabled")];
        let config = vec![pair("k", "redirect:\n  dns: {}\n")];
        let rows = [
            (r#"{"culvert.dev/redirect":"enabled","a.b/c":"1"}"#, on.clone()),
            ("culvert.dev/redirect: enabled\na.b/c: \"1\"\n", on.clone()),
            (
                "    # indented, as it stands in a manifest\n    a.b/c: '1'\n    culvert.dev/redirect: enabled\n",
                on,
            ),
            ("k: |\n  redirect:\n    dns: {}\n", config),
            (r#"{"k":"\ud83d\ude00 \u003c"}"#, vec![pair("k", "😀 <")]),
            ("", vec![]),
            ("# nothing\n", vec![]),
            ("{}", vec![]),
        ];
        for (text, expected) in rows {
            assert_eq!(annotations(text), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn what_are_no_annotations_is_named() {
        for (text, named) in [
            ("culvert.dev/inbound-port: 15006", "\"culvert.dev/inbound-port\" is 15006, which is no text"),
            ("a: true", "in quotes"),
            ("a:", "in quotes"),
            ("metadata:\n  annotations:\n    a: b\n", "only the annotations belong here"),
            (r#"{"a":"1","a":"2"}"#, "twice"),
            ("a: x\na: y\n", "no `key: value` lines"),
            (r#"{"a":"1""#, "no JSON object"),
            ("- a", "no `key: value` lines"),
            ("just a text", "no `key: value` lines"),
        ] {
            let said = annotations(text).expect_err(text);
            assert!(said.contains(named), "{text:?}: {said}");
        }
    }

    fn asking(pairs: &[(&'static str, &str)]) -> Settings {
        let options = pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Settings { annotations: None, options: Options(options) }
    }

    #[test]
    fn an_option_is_refused_in_the_annotations_own_words() {
        let error = wanted(&asking(&[("inbound-port", "x"), ("proxy-uid", "0")]), None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--proxy-uid must be a uid from 1 to 4294967294: it is \"0\"; --inbound-port must be a port from 1 to 65535: it \
             is \"x\""
        );
        assert_eq!(error.exit(), Exit::Usage);
    }

    #[test]
    fn the_ssh_port_stays_out_unless_somebody_says_which_ports() {
        let netns = Some(Path::new("/x"));
        for (pairs, netns, expected) in [
            (&[][..], None, "22"),
            (&[], netns, ""),
            (&[("exclude-inbound-ports", "80")], None, "80"),
            (&[("exclude-inbound-ports", "")], None, ""),
            (&[("include-inbound-ports", "22")], None, ""),
            (&[("redirect-inbound", "disabled")], None, ""),
        ] {
            let wanted = wanted(&asking(pairs), netns).unwrap();
            assert_eq!(wanted.policy.inbound.exclude_ports.to_string(), expected, "{pairs:?}");
            assert_eq!(wanted.keeps_ssh, expected == "22", "{pairs:?}");
            assert_eq!(wanted.warnings, [""; 0], "{pairs:?}");
        }
    }

    #[test]
    fn a_conflist_gives_defaults_and_locks() {
        let folder = tempfile::tempdir().unwrap();
        let file = |text: &str| {
            let path = folder.path().join("10-x.conflist");
            std::fs::write(&path, text).unwrap();
            node_entry(Some(&path)).map(|entry| entry.defaults).map_err(|error| error.to_string())
        };
        let entry = r#"{"type":"culvert-cni","redirect":{"proxyUid":7},"locked":["proxyUid"]}"#;
        let defaults = file(&format!(r#"{{"name":"n","plugins":[{{"type":"bridge"}},{entry}]}}"#)).unwrap();
        let decided = decide(&asking(&[]), &defaults).unwrap();
        assert_eq!(decided.sources["proxy-uid"], "redirect.proxyUid in the conflist");
        let error = decide(&asking(&[("proxy-uid", "8")]), &defaults).unwrap_err().to_string();
        assert_eq!(error, "proxy-uid is locked on this node: --proxy-uid may not set it to \"8\"");

        // The entry alone, as the chart hands it to the agent.
        let alone = r#"{"excludeNamespaces":["storage"],"onUnknown":"allow","redirect":{"proxyUid":7},"locked":["proxyUid"]}"#;
        assert_eq!(file(alone).unwrap(), defaults);
        let path = folder.path().join("10-x.conflist");
        assert_eq!(node_entry(Some(&path)).unwrap().excluded, ["storage"]);
        assert_eq!(file(r#"{"excludeNamespaces":[]}"#).unwrap(), pod::Settings::default());

        for (text, named) in [
            (r#"{"plugins":[{"type":"bridge"}]}"#.to_owned(), "no plugin of type culvert-cni"),
            (format!(r#"{{"plugins":[{entry},{entry}]}}"#), "which one counts?"),
            (r#"{"plugins":[{"type":"culvert-cni","redirect":{"x":1}}]}"#.to_owned(), "redirect: \"x\""),
            ("{}".to_owned(), "plugins"),
            (r#"{"apiVersion":"v1"}"#.to_owned(), "neither a conflist"),
            (r#"{"redirect":{"x":1}}"#.to_owned(), "redirect: \"x\""),
        ] {
            let error = file(&text).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        assert_eq!(node_entry(Some(Path::new("/does/not/exist"))).unwrap_err().exit(), Exit::Attention);
    }
}
