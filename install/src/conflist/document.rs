// SPDX-License-Identifier: Apache-2.0
//! A configuration as libcni reads it, and the byte range of each plugin in its text.

use std::ops::Range;

use culvert_cni::protocol::{CniVersion, Fields};
use serde_json::value::RawValue;

use super::entry::TYPE;
use super::go_json::{self, tolerated};

/// Largest file that is read, in bytes: libcni's own bound.
pub(crate) const MAX_BYTES: u64 = 2 << 20;

/// Reasons why libcni would not load a file, or we could not edit it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    /// A file without text, such as one that is larger than libcni's bound.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// A link whose target is gone.
    #[error("it cannot be read: it is a link that leads nowhere")]
    LeadsNowhere,
    /// Not a JSON object, for example half a file.
    #[error("it is no JSON object: {0}")]
    Json(String),
    /// A key that libcni needs and the file lacks.
    #[error("its key {0:?} is missing or empty")]
    Missing(&'static str),
    /// A key with a value of the wrong kind.
    #[error("its key {key:?}: {problem}")]
    Key {
        key: &'static str,
        /// Message of the JSON parser.
        problem: String,
    },
    /// A plugin without a type; counted from 0.
    #[error("plugin {0} of its list has no type")]
    NoType(usize),
    /// A list that makes no network.
    #[error(
        "its list names no plugin but culvert-cni, which makes no network by itself: the network plugin has to write it anew"
    )]
    Alone,
    /// A file whose plugins only go behind others.
    #[error(
        "it names only {0}, which goes behind a network plugin and makes no network: no pod can start by it. Its owner has to \
         put it into the network's own list, or to remove the file"
    )]
    ChainedOnly(String),
    /// A plugin that CRI-O does not find.
    #[error("its plugin {0} is in none of the runtime's folders of plugins")]
    NoPlugin(String),
    /// A plugin that does not answer VERSION with the file's version, as CRI-O wants it to.
    #[error("its plugin {kind} does not speak cniVersion {version}, but {speaks}")]
    PluginVersion { kind: String, version: String, speaks: String },
    /// A version in which our plugin would refuse every pod.
    #[error(
        "its cniVersion is {0}: culvert-cni speaks 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0, and would refuse every pod"
    )]
    Version(String),
}

/// A list of plugins: a `.conflist`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conflist<'a> {
    /// The whole file.
    pub text: &'a str,
    pub name: String,
    /// `cniVersion`, if the file has one.
    pub cni_version: Option<String>,
    /// `cniVersions`: further versions that a runtime may choose from.
    pub cni_versions: Vec<String>,
    /// True if libcni 1.3 and later reads no drop-in folder for this network.
    pub inlined_only: bool,
    /// The plugins in chain order; never empty.
    pub plugins: Vec<Plugin>,
}

/// One plugin of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plugin {
    /// The plugin's type, which is its binary's name.
    pub kind: String,
    /// Byte range of its object in the text.
    pub span: Range<usize>,
}

/// A single plugin: a `.conf` or a `.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conf<'a> {
    pub object: &'a str,
    /// Empty where the file has none: libcni itself does not need it here.
    pub name: String,
    /// `cniVersion`, if the file has one.
    pub cni_version: Option<String>,
    pub kind: String,
}

impl<'a> Conflist<'a> {
    /// Reads a list as libcni does: of a key that stands twice the last one counts.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Invalid> {
        // A span of this text is the same in the file's own.
        let tolerated = tolerated(text);
        let fields = fields(&tolerated)?;
        let raw = fields.last("plugins").ok_or(Invalid::Missing("plugins"))?;
        let elements: Vec<&RawValue> = serde_json::from_str(raw.get())
            .map_err(|error| Invalid::Key { key: "plugins", problem: error.to_string() })?;
        let mut plugins = Vec::new();
        for (index, element) in elements.into_iter().enumerate() {
            let kind = self::fields(element.get()).and_then(|fields| fields.of_struct("type", Keys::Sorted));
            let kind = kind.ok().flatten();
            let kind = kind.filter(|kind| !kind.is_empty()).ok_or(Invalid::NoType(index))?;
            let start = offset(&tolerated, element.get());
            plugins.push(Plugin { kind, span: start..start + element.get().len() });
        }
        if plugins.is_empty() {
            return Err(Invalid::Missing("plugins"));
        }
        // libcni takes a bool or its name as a string.
        let inlined_only = fields
            .last("loadOnlyInlinedPlugins")
            .is_some_and(|raw| raw.get() == "true" || raw.get().eq_ignore_ascii_case("\"true\""));
        let cni_versions = match fields.last("cniVersions") {
            None => Vec::new(),
            Some(raw) => serde_json::from_str(raw.get())
                .map_err(|error| Invalid::Key { key: "cniVersions", problem: error.to_string() })?,
        };
        let (name, cni_version) = (fields.name()?, fields.string("cniVersion")?);
        Ok(Self { text, name, cni_version, cni_versions, inlined_only, plugins })
    }

    /// The version that a runtime will choose: the newest of those named that libcni knows, and else `cniVersion`.
    pub(crate) fn chosen_version(&self) -> Option<String> {
        let named =
            self.cni_versions.iter().chain(self.cni_version.iter().filter(|_| !self.cni_versions.is_empty()));
        let known = named.filter(|version| ordered(version) <= ordered(NEWEST));
        known.max_by_key(|version| ordered(version)).or(self.cni_version.as_ref()).cloned()
    }

    /// Fails unless our plugin speaks the version that a runtime will choose.
    pub(crate) fn speakable(&self) -> Result<(), Invalid> {
        speakable(self.chosen_version().as_deref())
    }

    /// Fails unless one of the plugins makes a network.
    pub(crate) fn makes_network(&self) -> Result<(), Invalid> {
        makes_network(&self.kinds())
    }

    /// Types of the plugins in chain order.
    pub(crate) fn kinds(&self) -> Vec<&str> {
        self.plugins.iter().map(|plugin| plugin.kind.as_str()).collect()
    }

    /// Text of one plugin.
    pub(crate) fn plugin(&self, index: usize) -> Option<&'a str> {
        self.text.get(self.plugins.get(index)?.span.clone())
    }
}

impl<'a> Conf<'a> {
    /// Reads a single plugin's configuration as libcni does.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Invalid> {
        let tolerated = tolerated(text);
        let fields = fields(&tolerated)?;
        let kind = fields.of_struct("type", Keys::Sorted)?.filter(|kind| !kind.is_empty());
        let kind = kind.ok_or(Invalid::Missing("type"))?;
        let object = text.trim_matches([' ', '\t', '\r', '\n']);
        let name = fields.of_struct("name", Keys::AsTheyStand)?.unwrap_or_default();
        Ok(Self { object, name, cni_version: fields.of_struct("cniVersion", Keys::AsTheyStand)?, kind })
    }
}

/// The newest version of today's libcni, which skips newer ones that a file offers in `cniVersions`.
const NEWEST: &str = "1.1.0";

/// Plugins that go behind another one: each of them fails, or makes no network, as the first of a chain. The reference
/// plugins of that kind, and those of other meshes.
const CHAINED: [&str; 13] = [
    "bandwidth",
    "consul-cni",
    "egress-cni",
    "firewall",
    "istio-cni",
    "kuma-cni",
    "linkerd-cni",
    "portmap",
    "rdma",
    "route-override",
    "sbr",
    "tuning",
    "vrf",
];

/// Fails unless a plugin among `kinds` makes a network.
pub(super) fn makes_network(kinds: &[&str]) -> Result<(), Invalid> {
    let theirs: Vec<_> = kinds.iter().copied().filter(|kind| *kind != TYPE).collect();
    if theirs.is_empty() {
        return Err(Invalid::Alone);
    }
    if theirs.iter().all(|kind| CHAINED.contains(kind)) {
        return Err(Invalid::ChainedOnly(theirs.join(", ")));
    }
    Ok(())
}

/// Fails unless our plugin speaks `version`. None means 0.2.0 or older, which has no chains.
pub(super) fn speakable(version: Option<&str>) -> Result<(), Invalid> {
    match version {
        Some(version) if CniVersion::parse(version).is_some() => Ok(()),
        other => Err(Invalid::Version(other.unwrap_or("missing").to_owned())),
    }
}

/// Sort key that puts `1.10.0` behind `1.9.0`; what is not a version comes first.
fn ordered(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

/// Offset of `part` in `text`. The parser returns slices of its input.
fn offset(text: &str, part: &str) -> usize {
    part.as_ptr() as usize - text.as_ptr() as usize
}

/// Order in which Go meets the keys of an object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    /// Those of the file itself.
    AsTheyStand,
    /// Those of a plugin, which libcni writes anew from a map.
    Sorted,
}

struct Object<'a>(Vec<(String, &'a RawValue)>);

fn fields(text: &str) -> Result<Object<'_>, Invalid> {
    match serde_json::from_str(text) {
        Ok(Fields(fields)) => Ok(Object(fields)),
        Err(_) if text.trim().is_empty() => Err(Invalid::Json("it is empty".to_owned())),
        Err(error) => Err(Invalid::Json(error.to_string())),
    }
}

impl<'a> Object<'a> {
    fn last(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    fn string(&self, key: &'static str) -> Result<Option<String>, Invalid> {
        let Some(raw) = self.last(key) else { return Ok(None) };
        let text = go_json::string(raw.get());
        text.map(Some).map_err(|error| Invalid::Key { key, problem: error.to_string() })
    }

    /// Reads a field that libcni reads into a struct: the case of the key does not matter, the last one counts, and `null` is
    /// as if it were not there.
    fn of_struct(&self, key: &'static str, keys: Keys) -> Result<Option<String>, Invalid> {
        let mut all: Vec<_> = self.0.iter().filter(|(name, _)| go_json::is_field(name, key)).collect();
        if keys == Keys::Sorted {
            all.sort_by_key(|(name, _)| name.as_str());
        }
        let mut found = None;
        for (_, raw) in all.into_iter().filter(|(_, raw)| raw.get() != "null") {
            let text = go_json::string(raw.get());
            found = Some(text.map_err(|error| Invalid::Key { key, problem: error.to_string() })?);
        }
        Ok(found)
    }

    fn name(&self) -> Result<String, Invalid> {
        self.string("name")?.filter(|name| !name.is_empty()).ok_or(Invalid::Missing("name"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each answer is that of Go 1.24's encoding/json through libcni's own types.
    #[test]
    fn a_file_loads_where_it_loads_in_go() {
        let list =
            |plugin: &str| format!("{{\"name\":\"n\",\"cniVersion\":\"1.0.0\",\"plugins\":[{plugin}]}}");
        for (plugin, kind) in [
            (r#"{"Type":"a"}"#, Some("a")),
            (r#"{"TYPE":"b","type":"a"}"#, Some("a")),
            // libcni sorts the keys before it reads them.
            (r#"{"type":"a","TYPE":"b"}"#, Some("a")),
            (r#"{"tYPE":"b","TYPE":"a"}"#, Some("b")),
            (r#"{"type":"a","type":"b"}"#, Some("b")),
            (r#"{"Type":null,"type":"a"}"#, Some("a")),
            (r#"{"Type":5,"type":"a"}"#, None),
            (r#"{"type":null}"#, None),
            (r#"{"type":"a","note":"\ud800"}"#, Some("a")),
            ("{\"type\":\"a\",\"note\":\"\u{10fffe}\"}", Some("a")),
        ] {
            let text = list(plugin);
            let found = Conflist::parse(&text).ok();
            assert_eq!(found.as_ref().map(|list| list.kinds()), kind.map(|kind| vec![kind]), "{plugin}");
            assert_eq!(found.and_then(|list| list.plugin(0)), kind.map(|_| plugin), "{plugin}");
        }
        for (conf, expected) in [
            (r#"{"Name":"n","CNIVersion":"1.0.0","Type":"a"}"#, Some(("n", Some("1.0.0"), "a"))),
            // A single plugin's own file is read as it stands.
            (r#"{"name":"n","NAME":"m","type":"a"}"#, Some(("m", None, "a"))),
            ("{\"name\":\"n\u{10fffe}\",\"type\":\"a\"}", Some(("n\u{fffd}", None, "a"))),
            (r#"{"name":["n"],"type":"a"}"#, None),
        ] {
            let found = Conf::parse(conf).ok();
            let found = found
                .as_ref()
                .map(|conf| (conf.name.as_str(), conf.cni_version.as_deref(), conf.kind.as_str()));
            assert_eq!(found, expected, "{conf}");
        }
        // The keys of a list itself count as they are written.
        for text in [r#"{"Name":"n","plugins":[{"type":"a"}]}"#, r#"{"name":"n","Plugins":[{"type":"a"}]}"#] {
            assert!(Conflist::parse(text).is_err(), "{text}");
        }
    }
}
