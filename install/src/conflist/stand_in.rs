// SPDX-License-Identifier: Apache-2.0
//! Lists of ours that stand before a neighbour's file, which stays as it is: a single plugin, or a list that cannot be replaced.
//! Pure.
//!
//! ```text
//! 10-net.0-culvert.conflist   ours: the same plugin, and our entry behind it
//! 10-net.conf                 the neighbour's, which names and removes it as it likes
//! ```
//! Runtimes order names by bytes, so ours is taken wherever the neighbour's file would be. Where another file is between the two,
//! ours goes: see [`stale`].

use super::document::{Conf, Conflist, Invalid};
use super::edit::{Ensured, ensure, wrap};
use super::effective::{Choice, Kind, Loaded, kind};
use super::entry::{Entry, TYPE};
use super::go_json;
use super::position::Position;

/// Suffix of a list of ours, in place of the neighbour's `.conf`: `0` is before the `c` of `.conf` and the `j` of `.json`.
const SUFFIX: &str = ".0-culvert.conflist";
/// Endings of the files that a list of ours stands before, in the runtimes' order.
const SOURCES: [&str; 3] = ["conf", "conflist", "json"];

/// State of the list of ours that is to stand before a single plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StandIn {
    AsItShould,
    /// The list says what the plugin's own file says, but our entry is missing or differs: edit it to this text.
    Edit(String),
    /// The list is missing, or the plugin's own file says something else by now: write this text.
    Write(String),
}

/// Returns the name of our list before the file `name`.
pub(crate) fn name_before(name: &str) -> Option<String> {
    let (stem, ending) = name.rsplit_once('.')?;
    SOURCES.contains(&ending).then(|| format!("{stem}{SUFFIX}"))
}

/// Returns true for a list of ours, also under a name that a neighbour gave it, such as `….cilium_bak`.
pub(crate) fn is_ours(name: &str) -> bool {
    name.contains(SUFFIX)
}

/// Returns the names of the files that a list of ours may stand before.
pub(crate) fn sources(name: &str) -> Vec<String> {
    let stem = name.strip_suffix(SUFFIX);
    stem.map(|stem| SOURCES.map(|ending| format!("{stem}.{ending}")).to_vec()).unwrap_or_default()
}

/// Compares the list of ours `present` with the single plugin `conf` that it is to stand before.
pub(crate) fn check(
    present: Option<&str>,
    conf: &str,
    entry: &Entry,
    position: &Position,
) -> Result<StandIn, Invalid> {
    let whole = wrap(conf, entry)?;
    if present == Some(whole.as_str()) {
        return Ok(StandIn::AsItShould);
    }
    let Some(present) = present.filter(|present| represents_single(present, conf)) else {
        return Ok(StandIn::Write(whole));
    };
    Ok(match ensure(present, entry, position) {
        Ok(Ensured::AsItShould) => StandIn::AsItShould,
        Ok(Ensured::Needs(text)) => StandIn::Edit(text),
        Err(_) => StandIn::Write(whole),
    })
}

/// Returns true if our list `ours` says what its neighbour's file `name` says.
pub(crate) fn represents(ours: &str, name: &str, theirs: &str) -> bool {
    match kind(name) {
        Some(Kind::List) => represents_list(ours, theirs),
        Some(Kind::Single) => represents_single(ours, theirs),
        None => false,
    }
}

/// Returns true if the list `ours` begins with the plugins of the list `theirs`, our entry left out of both. Plugins that others
/// added behind are theirs, as in a neighbour's own list.
pub(crate) fn represents_list(ours: &str, theirs: &str) -> bool {
    let (Ok(ours), Ok(theirs)) = (Conflist::parse(ours), Conflist::parse(theirs)) else { return false };
    let plugins = |list: &Conflist<'_>| -> Option<Vec<serde_json::Value>> {
        let others = (0..list.plugins.len()).filter(|index| list.plugins[*index].kind != TYPE);
        others.map(|index| go_json::value(list.plugin(index)?)).collect()
    };
    let head = |list: &Conflist<'_>| (list.name.clone(), list.cni_version.clone(), list.cni_versions.clone());
    head(&ours) == head(&theirs)
        && plugins(&ours).zip(plugins(&theirs)).is_some_and(|(ours, theirs)| ours.starts_with(&theirs))
}

/// Returns true if the first plugin of `list`, its name and its version are those of `conf`.
fn represents_single(list: &str, conf: &str) -> bool {
    let (Ok(list), Ok(conf)) = (Conflist::parse(list), Conf::parse(conf)) else { return false };
    (&list.name, &list.cni_version) == (&conf.name, &conf.cni_version)
        && list
            .plugin(0)
            .and_then(go_json::value)
            .is_some_and(|first| Some(first) == go_json::value(conf.object))
}

/// Finds a list of ours that must go: its neighbour's file is gone, or it would be taken in place of `chosen`, the runtime's
/// choice among the neighbours' files. One behind that choice does no harm, and is needed again when that goes.
pub(crate) fn stale<'a>(files: &'a [Loaded], chosen: &Choice) -> Option<&'a str> {
    let is_there = |wanted: &String| {
        files.iter().any(|(name, text)| name == wanted && *text != Err(Invalid::LeadsNowhere))
    };
    let ours = files.iter().map(|(name, _)| name.as_str()).filter(|name| is_ours(name));
    ours.into_iter().find(|ours| {
        let sources = sources(ours);
        match chosen {
            _ if !sources.iter().any(is_there) => true,
            // A file that is being written is broken for a moment. Without our list no pod could start meanwhile.
            Choice::File { name, .. } | Choice::Broken { name, .. } => {
                !sources.contains(name) && *ours < name.as_str()
            }
            Choice::Empty => true,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::effective::{Binary, Loader, effective};
    use super::super::samples::SINGLE;
    use super::*;

    fn entry() -> Entry {
        Entry::new(Path::new("/run/culvert"), None).unwrap()
    }

    fn conf(kind: &str) -> String {
        format!("{{\"name\":\"n\",\"cniVersion\":\"0.3.1\",\"type\":\"{kind}\"}}")
    }

    #[test]
    fn a_list_of_ours_is_before_its_file_and_behind_what_is_before_that() {
        for name in [
            "00-multus.conf",
            "10-net.conflist",
            "10-weave.json",
            "80-openshift-network.conf",
            ".conf",
            "a b.conf",
            "x.y.conf",
        ] {
            let ours = name_before(name).unwrap();
            assert!(ours.as_str() < name && is_ours(&ours), "{ours}");
            assert!(sources(&ours).contains(&name.to_owned()), "{ours}");
            let stem = name.rsplit_once('.').unwrap().0;
            for theirs in [format!("{stem}-x.conflist"), format!("{stem}.-.conf"), format!("{stem}0.conf")] {
                assert_eq!(theirs < ours, theirs.as_str() < name, "{theirs} and {ours}");
            }
        }
        assert_eq!((name_before("10-net.conflist.bak"), name_before("10-net")), (None, None));
    }

    #[test]
    fn a_list_of_ours_follows_what_its_file_says_and_keeps_what_others_add() {
        for (name, _, text) in SINGLE {
            let is =
                |present: Option<&str>, text: &str| check(present, text, &entry(), &Position::Last).unwrap();
            let StandIn::Write(ours) = is(None, text) else { panic!("{name}") };
            assert_eq!(is(Some(&ours), text), StandIn::AsItShould, "{name}");
            // The same, written otherwise.
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            assert_eq!(is(Some(&ours), &value.to_string()), StandIn::AsItShould, "{name}");
            let behind = ours.replace("\n  ]", ",{\"type\":\"istio-cni\"}\n  ]");
            assert_ne!(behind, ours);
            assert_eq!(is(Some(&behind), text), StandIn::AsItShould, "{name}");
            let without = super::super::remove(&ours).unwrap().unwrap();
            assert!(matches!(is(Some(&without), text), StandIn::Edit(_)), "{name}");
            let anew = text.replacen("\"name\"", "\"mtu\":1,\"name\"", 1);
            assert!(
                matches!(is(Some(&ours), &anew), StandIn::Write(text) if text.contains("\"mtu\":1")),
                "{name}"
            );
            assert!(matches!(is(Some("half"), text), StandIn::Write(_)), "{name}");
        }
    }

    #[test]
    fn a_plugin_that_goes_behind_another_gets_no_list() {
        for kind in ["linkerd-cni", "istio-cni", "kuma-cni", "portmap", "tuning", "bandwidth", "firewall"] {
            let error = check(None, &conf(kind), &entry(), &Position::Last).unwrap_err();
            assert_eq!(error, Invalid::ChainedOnly(kind.to_owned()));
            let list =
                format!("{{\"name\":\"n\",\"cniVersion\":\"0.3.1\",\"plugins\":[{{\"type\":\"{kind}\"}}]}}");
            assert_eq!(ensure(&list, &entry(), &Position::Last), Err(error));
        }
        assert!(check(None, &conf("bridge"), &entry(), &Position::Last).is_ok());
    }

    #[test]
    fn a_list_of_ours_goes_with_its_file_and_where_it_would_be_taken_for_another() {
        let list = "{\"name\":\"n\",\"cniVersion\":\"0.3.1\",\"plugins\":[{\"type\":\"a\"}]}";
        let ours = "10-a.0-culvert.conflist";
        for (name, theirs, is_stale) in [
            ("its file is there", &[("10-a.conf", conf("a"))][..], false),
            ("of the other ending", &[("10-a.json", conf("a"))], false),
            ("its file is gone", &[], true),
            ("and another is there", &[("20-b.conflist", list.to_owned())], true),
            // It is needed again when that goes.
            (
                "another is before both",
                &[("01-linkerd-cni.conf", conf("linkerd-cni")), ("10-a.conf", conf("a"))],
                false,
            ),
            ("another is between", &[("10-a.1.conflist", list.to_owned()), ("10-a.conf", conf("a"))], true),
            ("its file is half written", &[("10-a.conf", "{".to_owned())], false),
            // Only where that list cannot be replaced, which the caller finds out.
            ("a list of its name", &[("10-a.conflist", list.to_owned())], false),
        ] {
            let theirs: Vec<_> =
                theirs.iter().map(|(name, text)| ((*name).to_owned(), Ok(text.clone()))).collect();
            let chosen = effective(theirs.iter(), &Loader::containerd(1), &|_| Binary::Silent);
            let mut files = theirs;
            files.push((ours.to_owned(), Ok(list.to_owned())));
            assert_eq!(stale(&files, &chosen), is_stale.then_some(ours), "{name}: {chosen:?}");
        }
        let both = [("80-x.conf", conf("a")), ("80-x.conflist", list.to_owned())];
        let both = both.map(|(name, text)| (name.to_owned(), Ok(text)));
        let chosen = Choice::File { name: "80-x.conf".to_owned(), kind: Kind::Single };
        assert_eq!(effective(both.iter(), &Loader::containerd(1), &|_| Binary::Silent), chosen);
    }

    #[test]
    fn a_list_of_ours_says_what_a_neighbours_list_says() {
        let list =
            |plugins: &str| format!("{{\"name\":\"n\",\"cniVersion\":\"0.3.1\",\"plugins\":[{plugins}]}}");
        let theirs = list("{\"type\":\"a\"},{\"type\":\"portmap\"}");
        for (name, ours, is_same) in [
            ("ours behind", "{\"type\":\"a\"},{\"type\":\"portmap\"},{\"type\":\"culvert-cni\"}", true),
            ("ours between", "{\"type\":\"a\"},{\"type\":\"culvert-cni\"},{\"type\":\"portmap\"}", true),
            ("another's behind", "{\"type\":\"a\"},{\"type\":\"portmap\"},{\"type\":\"istio-cni\"}", true),
            ("one less", "{\"type\":\"a\"},{\"type\":\"culvert-cni\"}", false),
            ("one changed", "{\"type\":\"a\",\"mtu\":1},{\"type\":\"portmap\"}", false),
        ] {
            assert_eq!(represents(&list(ours), "10-a.conflist", &theirs), is_same, "{name}");
        }
        assert!(!represents(&theirs.replace("\"n\"", "\"m\""), "10-a.conflist", &theirs));
    }
}
