// SPDX-License-Identifier: Apache-2.0
//! The plugin's configuration as the runtime passes it on stdin: the conflist's entry, and the runtime's additions.
//!
//! Runtimes and most plugins read JSON as Go's encoding/json does, so this does too: bytes that are not UTF-8 become U+FFFD,
//! and a key counts in any case, the last one where there are several.
//!
//! Each top-level value is first kept as raw JSON under its key, and then parsed on its own. So values of other plugins are
//! never parsed; a `RawValue` behind `#[serde(flatten)]` or `Value` would lose bytes.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::{Code, Failure};
use super::version::CniVersion;
use crate::log;
use crate::shown::shown;

/// Capability under which containerd (1.5 and up) and CRI-O (1.28 and up) pass every annotation of the pod.
pub const POD_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

const DEFAULT_LOG_FILE: &str = "/var/log/culvert/cni.log";
const DEFAULT_STATE_DIR: &str = "/run/culvert/attachments";
const DEFAULT_EXCLUDED_NAMESPACE: &str = "kube-system";

/// Keys that runtimes, libcni and Multus add to any plugin's configuration; they cause no warning.
const FOREIGN_KEYS: [&str; 10] = [
    "name",
    "type",
    "capabilities",
    "args",
    "ipam",
    "dns",
    // The list's, some runtimes copy it; it may name versions to come.
    "cniVersions",
    "cni.dev/attachments",
    "cni.dev/valid-attachments",
    "disableCheck",
];

/// Handling of a pod whose annotations are not available.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnUnknown {
    /// Pass it through without a redirect, with a warning in the log.
    #[default]
    Allow,
    /// Fail the ADD with code 11, so that the runtime tries again.
    Deny,
}

/// An attachment in GC's list of valid ones.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct ValidAttachment {
    /// Id of the pod's sandbox.
    #[serde(rename = "containerID")]
    pub(crate) container_id: String,
    /// Interface inside the sandbox.
    pub(crate) ifname: String,
}

/// The result of the plugins before this one in the chain, as raw JSON, with its top-level fields.
#[derive(Debug)]
pub struct PrevResult<'a> {
    /// The whole object, byte by byte.
    pub(crate) raw: &'a RawValue,
    /// Top-level fields in their order.
    pub(crate) fields: Vec<(String, &'a RawValue)>,
}

/// The parsed configuration, with defaults for missing keys.
#[derive(Debug)]
pub struct NetConf<'a> {
    /// Version in which the result is written.
    pub version: CniVersion,
    /// Name of the network; part of an attachment's key.
    pub(crate) name: String,
    /// Result of the plugins before this one; `null` counts as none.
    pub prev_result: Option<PrevResult<'a>>,
    /// Annotations of the pod, if the runtime passes them. `Some(None)`: passed as `null`.
    pub(crate) annotations: Option<Option<&'a RawValue>>,
    /// Node-wide defaults of the redirect, parsed later, together with the annotations.
    pub redirect: Option<&'a RawValue>,
    /// Keys of `redirect` that a pod may not change.
    pub locked: Vec<String>,
    /// Kubernetes namespaces whose pods pass through untouched.
    pub exclude_namespaces: Vec<String>,
    /// Handling of a pod whose annotations are not available.
    pub(crate) on_unknown: OnUnknown,
    /// Lowest level of the lines that are logged.
    pub(crate) log_level: log::Level,
    /// Log file; an empty path switches it off.
    pub(crate) log_file: PathBuf,
    /// Folder of the attachments' records.
    pub(crate) state_dir: PathBuf,
    /// Socket of the node agent; an empty path switches it off.
    pub(crate) agent_socket: PathBuf,
    /// For GC: the attachments that the runtime still knows, if it passes them.
    pub(crate) valid_attachments: Option<Vec<ValidAttachment>>,
    /// Warnings for the log, about unknown keys.
    pub warnings: Vec<String>,
}

impl<'a> NetConf<'a> {
    /// Read only the version in `stdin`; `None` if it is missing or not supported.
    pub(crate) fn version_of(stdin: &[u8]) -> Option<CniVersion> {
        let Fields(fields) = serde_json::from_slice(stdin).ok()?;
        CniVersion::parse(&serde_json::from_str::<String>(last(&fields, "cniVersion")?.get()).ok()?)
    }

    /// Parse the configuration on stdin. An error has code 1, 6 or 7.
    pub fn parse(stdin: &'a [u8]) -> Result<Self, Failure> {
        if stdin.iter().all(u8::is_ascii_whitespace) {
            return Err(Failure::new(
                Code::Decode,
                "stdin is empty: a container runtime sends the configuration there",
            ));
        }
        let Fields(fields) =
            serde_json::from_slice(stdin).map_err(|error| not_an_object("stdin", &error, stdin))?;
        let take = |key: &str| last(&fields, key);

        if let Some(key) = repeated(&fields) {
            let message = format!("the configuration has a key twice: {}", shown(key));
            return Err(Failure::new(Code::Decode, message));
        }
        let version = version(take("cniVersion"))?;
        let Text(name) = value(take("name"), "name", A_STRING)?.unwrap_or_default();
        if name.is_empty() {
            return Err(Failure::new(Code::Config, "the network has no name: \"name\" is missing or empty"));
        }
        let log_level = log_level(take("logLevel"))?;
        let on_unknown = on_unknown(take("onUnknown"))?;
        let path = |key: &str, default: &str| -> Result<PathBuf, Failure> {
            Ok(value(take(key), key, A_STRING)?.unwrap_or_else(|| PathBuf::from(default)))
        };
        Ok(Self {
            version,
            name,
            prev_result: prev_result(take("prevResult"))?,
            annotations: annotations(take("runtimeConfig"))?,
            redirect: take("redirect").filter(|raw| raw.get() != "null"),
            locked: value(take("locked"), "locked", STRINGS)?.unwrap_or_default(),
            exclude_namespaces: value(take("excludeNamespaces"), "excludeNamespaces", STRINGS)?
                .unwrap_or_else(|| vec![DEFAULT_EXCLUDED_NAMESPACE.to_owned()]),
            on_unknown,
            log_level,
            log_file: path("logFile", DEFAULT_LOG_FILE)?,
            state_dir: path("stateDir", DEFAULT_STATE_DIR)?,
            agent_socket: path("agentSocket", crate::agent::DEFAULT_SOCKET)?,
            valid_attachments: value(
                take("cni.dev/valid-attachments"),
                "cni.dev/valid-attachments",
                "a list of attachments",
            )?,
            warnings: fields.iter().filter_map(|(key, _)| unknown_key(key)).collect(),
        })
    }
}

/// All keys that the plugin reads; `cni.dev/valid-attachments` is in [`FOREIGN_KEYS`].
const OWN_KEYS: [&str; 11] = [
    "cniVersion",
    "prevResult",
    "runtimeConfig",
    "redirect",
    "locked",
    "excludeNamespaces",
    "onUnknown",
    "logLevel",
    "logFile",
    "stateDir",
    "agentSocket",
];

fn unknown_key(key: &str) -> Option<String> {
    let known = OWN_KEYS.iter().chain(&FOREIGN_KEYS).any(|known| known.eq_ignore_ascii_case(key));
    (!known).then(|| format!("a key of the configuration is unknown and ignored: {}", shown(key)))
}

/// Returns a key that occurs more than once, if there is one.
pub fn repeated<'a>(fields: &'a [(String, &RawValue)]) -> Option<&'a str> {
    let mut keys: Vec<&str> = fields.iter().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    keys.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

/// Returns the value of `key` in any case, the last one, as Go's encoding/json takes a field's value.
fn last<'a>(fields: &[(String, &'a RawValue)], key: &str) -> Option<&'a RawValue> {
    fields.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| *value)
}

const A_STRING: &str = "a string";
const STRINGS: &str = "a list of strings";

/// Parse the value under `key` as `T`, which is `kind`; an explicit `null` counts as absent.
fn value<'a, T: Deserialize<'a>>(
    raw: Option<&'a RawValue>,
    key: &str,
    kind: &str,
) -> Result<Option<T>, Failure> {
    let Some(raw) = raw else { return Ok(None) };
    serde_json::from_str::<Option<T>>(raw.get()).map_err(|_| {
        let message = format!("the configuration's {key} must be {kind}: it is {}", shown(raw.get()));
        Failure::new(Code::Decode, message)
    })
}

fn version(raw: Option<&RawValue>) -> Result<CniVersion, Failure> {
    let supported = || CniVersion::ALL.map(CniVersion::as_str).join(", ");
    let wrong = |what: String| {
        let message = format!("this plugin supports cniVersion {}: {what}", supported());
        Failure::new(Code::IncompatibleVersion, message)
    };
    match value::<Text>(raw, "cniVersion", A_STRING)? {
        None => Err(wrong("the configuration has none, which means 0.2.0".to_owned())),
        Some(Text(text)) => {
            CniVersion::parse(&text).ok_or_else(|| wrong(format!("the configuration's is {}", shown(text))))
        }
    }
}

fn log_level(raw: Option<&RawValue>) -> Result<log::Level, Failure> {
    let Some(Text(name)) = value(raw, "logLevel", A_STRING)? else { return Ok(log::Level::Info) };
    log::Level::parse(&name).ok_or_else(|| {
        let message = format!("logLevel must be one of error, warn, info, debug: it is {}", shown(name));
        Failure::new(Code::Config, message)
    })
}

fn on_unknown(raw: Option<&RawValue>) -> Result<OnUnknown, Failure> {
    let Some(Text(name)) = value(raw, "onUnknown", A_STRING)? else { return Ok(OnUnknown::Allow) };
    match name.as_str() {
        "allow" => Ok(OnUnknown::Allow),
        "deny" => Ok(OnUnknown::Deny),
        other => {
            let message = format!("onUnknown must be allow or deny: it is {}", shown(other));
            Err(Failure::new(Code::Config, message))
        }
    }
}

/// Returns the failure for a value that is no JSON, or another type's.
fn not_an_object(what: &str, error: &serde_json::Error, value: &[u8]) -> Failure {
    let why = if error.is_data() {
        format!("it is {}", shown(String::from_utf8_lossy(value)))
    } else {
        error.to_string()
    };
    Failure::new(Code::Decode, format!("{what} is not a JSON object: {why}"))
}

fn prev_result(raw: Option<&RawValue>) -> Result<Option<PrevResult<'_>>, Failure> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(None) };
    let Fields(fields) = serde_json::from_str(raw.get())
        .map_err(|error| not_an_object("prevResult", &error, raw.get().as_bytes()))?;
    Ok(Some(PrevResult { raw, fields }))
}

fn annotations(raw: Option<&RawValue>) -> Result<Option<Option<&RawValue>>, Failure> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(None) };
    let Fields(fields) = serde_json::from_str(raw.get())
        .map_err(|error| not_an_object("runtimeConfig", &error, raw.get().as_bytes()))?;
    let found = fields.into_iter().find(|(key, _)| key == POD_ANNOTATIONS);
    Ok(found.map(|(_, value)| (value.get() != "null").then_some(value)))
}

/// The fields of a JSON object in their order, with raw values.
pub struct Fields<'a>(pub Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields: Self::Value = Vec::new();
                while let Some((Text(key), value)) = map.next_entry()? {
                    fields.push((key, value));
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(InOrder).map(Fields)
    }
}

/// A JSON string, read as Go does: half of a surrogate pair becomes U+FFFD, where serde_json's own strings are an error.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Text(pub(crate) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Lossy;
        impl Visitor<'_> for Lossy {
            type Value = String;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<String, E> {
                Ok(String::from_utf8_lossy(bytes).into_owned())
            }

            fn visit_str<E>(self, text: &str) -> Result<String, E> {
                Ok(text.to_owned())
            }
        }
        deserializer.deserialize_bytes(Lossy).map(Text)
    }
}

/// Replace each byte that is not UTF-8 by U+FFFD.
pub(crate) fn utf8(bytes: Vec<u8>) -> Vec<u8> {
    if std::str::from_utf8(&bytes).is_ok() {
        return bytes;
    }
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::result_reply;

    fn code(stdin: &str) -> Code {
        NetConf::parse(stdin.as_bytes()).map(|conf| format!("{conf:?}")).expect_err(stdin).code
    }

    #[test]
    fn each_error_has_its_code() {
        let rows = [
            ("", Code::Decode),
            ("  \n", Code::Decode),
            ("{", Code::Decode),
            ("[]", Code::Decode),
            ("null", Code::Decode),
            (r#"{"cniVersion":"1.0.0","name":"n"} trailing"#, Code::Decode),
            (r#"{"cniVersion":5,"name":"n"}"#, Code::Decode),
            (r#"{"cniVersion":"1.0.0","cniVersion":"1.0.0","name":"n"}"#, Code::Decode),
            (r#"{"cniVersion":"1.0.0","name":"n","prevResult":5}"#, Code::Decode),
            (r#"{"cniVersion":"1.0.0","name":"n","runtimeConfig":[]}"#, Code::Decode),
            (r#"{"cniVersion":"1.0.0","name":"n","logFile":5}"#, Code::Decode),
            (r#"{"name":"n"}"#, Code::IncompatibleVersion),
            (r#"{"cniVersion":"0.2.0","name":"n"}"#, Code::IncompatibleVersion),
            (r#"{"cniVersion":"2.0.0","name":"n"}"#, Code::IncompatibleVersion),
            (r#"{"cniVersion":"1.0.0"}"#, Code::Config),
            (r#"{"cniVersion":"1.0.0","name":"n","onUnknown":"maybe"}"#, Code::Config),
            (r#"{"cniVersion":"1.0.0","name":"n","logLevel":"loud"}"#, Code::Config),
        ];
        for (stdin, expected) in rows {
            assert_eq!(code(stdin), expected, "{stdin}");
        }
        assert_eq!(code(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))), Code::Decode);
    }

    #[test]
    fn the_page_shows_the_entry_with_its_defaults() {
        let page = include_str!("../../README.md");
        let (_, rest) = page.split_once("```json\n").expect("an entry");
        let (shown, _) = rest.split_once("```").expect("its end");
        let shown = shown.replacen('{', r#"{"cniVersion":"1.0.0","name":"n","#, 1);
        let shown = NetConf::parse(shown.as_bytes()).expect("as the page shows it");
        let minimal = NetConf::parse(br#"{"cniVersion":"1.0.0","name":"n"}"#).expect("a minimal one");
        assert_eq!(format!("{shown:?}"), format!("{minimal:?}"));
        for key in OWN_KEYS.iter().skip(3) {
            assert!(page.contains(&format!("`{key}`")), "{key} is not in README.md");
        }
    }

    #[test]
    fn annotations_may_be_absent_null_or_there() {
        let parse = |runtime: &str| {
            let stdin = format!(r#"{{"cniVersion":"1.0.0","name":"n","runtimeConfig":{runtime}}}"#);
            let conf = NetConf::parse(stdin.as_bytes()).unwrap();
            conf.annotations.map(|raw| raw.map(|raw| raw.get().to_owned()))
        };
        assert_eq!(parse("null"), None);
        assert_eq!(parse("{}"), None);
        assert_eq!(parse(r#"{"io.kubernetes.cri.pod-annotations":null}"#), Some(None));
        assert_eq!(parse(r#"{"io.kubernetes.cri.pod-annotations":{}}"#), Some(Some("{}".to_owned())));
    }

    #[test]
    fn unknown_keys_are_a_warning_but_those_of_runtimes_are_not() {
        let stdin =
            br#"{"cniVersion":"0.3.1","name":"n","type":"culvert-cni","capabilities":{},"args":{},"typo":1}"#;
        let conf = NetConf::parse(stdin).unwrap();
        assert_eq!(conf.warnings, ["a key of the configuration is unknown and ignored: \"typo\""]);
    }

    #[test]
    fn json_is_read_as_go_reads_it() {
        let rows: [(&[u8], &str); 6] = [
            (br#"{"CNIVERSION":"1.0.0","Name":"n"}"#, "n"),
            // The last one counts, in any case.
            (br#"{"cniVersion":"1.0.0","name":"m","NAME":"n"}"#, "n"),
            (br#"{"cniVersion":"1.0.0","NAME":"m","name":"n"}"#, "n"),
            (b"{\"cniVersion\":\"1.0.0\",\"name\":\"n\xff\xe2\x82\"}", "n\u{fffd}\u{fffd}\u{fffd}"),
            (b"{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"x\xfe\":\"\xff\"}", "n"),
            (br#"{"cniVersion":"1.0.0","name":"n","cniVersions":["1.0.0","9.9.9"]}"#, "n"),
        ];
        for (stdin, name) in rows {
            let shown = String::from_utf8_lossy(stdin);
            let stdin = utf8(stdin.to_vec());
            let conf = NetConf::parse(&stdin).unwrap_or_else(|failure| panic!("{shown}: {failure:?}"));
            assert_eq!((conf.version, conf.name.as_str()), (CniVersion::V1_0_0, name), "{shown}");
        }
        let half = NetConf::parse(br#"{"cniVersion":"1.0.0","name":"n\ud800"}"#).unwrap();
        assert!(half.name.starts_with('n') && half.name.contains('\u{fffd}'), "{:?}", half.name);
        let outside = utf8(b"{\"cniVersion\":\"1.0.0\",\"name\":\"n\"\xff}".to_vec());
        assert_eq!(NetConf::parse(&outside).unwrap_err().code, Code::Decode);
    }

    #[test]
    fn prev_result_is_handed_on_to_the_byte() {
        let rows = [
            (r#"{ "cniVersion" : "1.0.0", "x":[1,  2.50], "\u0061":"\ud83d\ude00" }"#, None),
            (r#"{"ips":[]}"#, Some(r#"{"cniVersion":"1.0.0","ips":[]}"#)),
            (r#"{"cniVersion":"0.3.1","x": 1.0}"#, Some(r#"{"cniVersion":"1.0.0","x":1.0}"#)),
            (r#"{}"#, Some(r#"{"cniVersion":"1.0.0"}"#)),
        ];
        for (prev_result, expected) in rows {
            let stdin = format!(r#"{{"cniVersion":"1.0.0","name":"n","prevResult":{prev_result}}}"#);
            let conf = NetConf::parse(stdin.as_bytes()).unwrap();
            let reply = result_reply(conf.version, conf.prev_result.as_ref().unwrap());
            assert_eq!(String::from_utf8(reply).unwrap(), expected.unwrap_or(prev_result));
        }
        let none = NetConf::parse(br#"{"cniVersion":"1.0.0","name":"n","prevResult":null}"#).unwrap();
        assert!(none.prev_result.is_none());
    }
}
