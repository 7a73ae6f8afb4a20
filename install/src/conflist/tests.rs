// SPDX-License-Identifier: Apache-2.0
//! Tests of the edit: nothing else changes, and removal gives back every byte.

use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;

use super::effective::{Binary, effective};
use super::samples::{SAMPLES, SINGLE};
use super::*;

fn entry() -> Entry {
    let settings = r#"{"onUnknown":"deny","redirect":{"excludeInboundPorts":"22","engine":"auto"}}"#;
    Entry::new(Path::new("/run/culvert"), Some(settings)).unwrap()
}

fn put_in(text: &str, position: &Position) -> String {
    match ensure(text, &entry(), position).unwrap() {
        Ensured::Needs(text) => text,
        Ensured::AsItShould => panic!("it is there already: {text}"),
    }
}

fn kinds(text: &str) -> Vec<String> {
    Conflist::parse(text).unwrap().kinds().into_iter().map(str::to_owned).collect()
}

/// The configuration as a runtime reads it.
fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn every_primarys_file_comes_back_to_the_byte() {
    for (name, _, text) in SAMPLES {
        let with = put_in(text, &Position::Last);
        insta::assert_snapshot!(name, with);
        let mut kinds_before = kinds(text);
        kinds_before.push(TYPE.to_owned());
        assert_eq!(kinds(&with), kinds_before, "{name}");
        assert_eq!(ensure(&with, &entry(), &Position::Last), Ok(Ensured::AsItShould), "{name}");
        assert_eq!(remove(&with).unwrap().as_deref(), Some(text), "{name}");
        assert_eq!(remove(text), Ok(None), "{name}");
        // Everything but the list is unchanged.
        let (mut before, mut after) = (value(text), value(&with));
        assert_eq!(
            after["plugins"].as_array_mut().and_then(Vec::pop),
            Some(value(&entry().compact(""))),
            "{name}"
        );
        assert_eq!(before.take(), after.take(), "{name}");
    }
}

#[test]
fn a_single_plugin_becomes_a_list_of_the_same_name_and_version() {
    for (name, _, text) in SINGLE {
        let list = wrap(text, &entry()).unwrap();
        insta::assert_snapshot!(name, list);
        let (conf, parsed) = (Conf::parse(text).unwrap(), Conflist::parse(&list).unwrap());
        assert_eq!((&parsed.name, &parsed.cni_version), (&conf.name, &conf.cni_version), "{name}");
        assert_eq!(parsed.plugin(0), Some(conf.object), "{name}: its own text is kept");
        assert_eq!(ensure(&list, &entry(), &Position::Last), Ok(Ensured::AsItShould), "{name}");
        assert!(unwrap(&list, text), "{name}");
        assert!(unwrap(&remove(&list).unwrap().unwrap(), text), "{name}");
        assert!(!unwrap(&list, &text.replace("\"name\"", "\"mtu\":1,\"name\"")), "{name}");
        assert!(!unwrap(&list.replace("0.3.", "0.4."), text), "{name}");
    }
}

#[test]
fn the_place_in_the_chain() {
    let list = |kinds: &[&str]| {
        let plugins: Vec<_> = kinds.iter().map(|kind| format!("{{\"type\":\"{kind}\"}}")).collect();
        format!("{{\"name\":\"n\",\"cniVersion\":\"1.0.0\",\"plugins\":[{}]}}", plugins.join(","))
    };
    let after = |kind: &str| Position::After(kind.to_owned());
    for (name, before, position, expected) in [
        ("last", &["a", "portmap", "b"][..], Position::Last, &["a", "portmap", "b", TYPE][..]),
        ("after", &["a", "portmap", "b"], after("portmap"), &["a", "portmap", TYPE, "b"]),
        ("after the first", &["a", "b"], after("a"), &["a", TYPE, "b"]),
        ("after the last of two", &["a", "x", "b", "x", "c"], after("x"), &["a", "x", "b", "x", TYPE, "c"]),
        ("after none", &["a", "b"], after("nobody"), &["a", "b", TYPE]),
        ("twice", &["a", TYPE, "b", TYPE], Position::Last, &["a", "b", TYPE]),
        ("first", &[TYPE, "a"], Position::Last, &["a", TYPE]),
        ("before portmap", &["a", TYPE, "portmap"], Position::Last, &["a", "portmap", TYPE]),
        ("before what it should stand behind", &["a", TYPE, "x"], after("x"), &["a", "x", TYPE]),
        ("an old entry of ours", &["a", TYPE, "b"], Position::Last, &["a", "b", TYPE]),
    ] {
        assert_eq!(kinds(&put_in(&list(before), &position)), expected, "{name}");
    }
    // A plugin that came later may stand behind ours: two that both want to be last would never rest.
    let with = put_in(&list(&["a"]), &Position::Last);
    let later = with.replacen("]}", ",{\"type\":\"istio-cni\"}]}", 1);
    assert_eq!(kinds(&later), ["a", TYPE, "istio-cni"]);
    assert_eq!(ensure(&later, &entry(), &Position::Last), Ok(Ensured::AsItShould));
}

#[test]
fn a_neighbour_may_write_our_entry_in_its_own_way() {
    for (name, _, text) in SAMPLES {
        let with = put_in(text, &Position::Last);
        let rewritten = serde_json::to_string_pretty(&value(&with)).unwrap();
        assert_eq!(ensure(&rewritten, &entry(), &Position::Last), Ok(Ensured::AsItShould), "{name}");
        let without = remove(&rewritten).unwrap().unwrap();
        assert_eq!(value(&without), value(text), "{name}");
    }
}

#[test]
fn what_libcni_would_not_load_is_named() {
    for (text, said) in [
        ("", "no JSON object"),
        ("{\"name\":\"n\",\"plugins\":[{\"type\":\"a\"}", "no JSON object"),
        ("[]", "no JSON object"),
        ("{\"name\":\"n\"}", "\"plugins\" is missing"),
        ("{\"name\":\"n\",\"plugins\":[]}", "\"plugins\" is missing or empty"),
        ("{\"name\":\"n\",\"plugins\":{}}", "\"plugins\""),
        ("{\"name\":\"n\",\"plugins\":[{\"type\":\"a\"},{}]}", "plugin 1"),
        ("{\"name\":\"n\",\"plugins\":[5]}", "plugin 0"),
        ("{\"name\":\"\",\"plugins\":[{\"type\":\"a\"}]}", "\"name\""),
        ("{\"name\":5,\"plugins\":[{\"type\":\"a\"}]}", "\"name\""),
        ("{\"plugins\":[{\"type\":\"a\"}]}", "\"name\""),
    ] {
        let error = Conflist::parse(text).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
        assert!(ensure(text, &entry(), &Position::Last).is_err(), "{text}");
        assert!(remove(text).is_err(), "{text}");
    }
    assert!(Conf::parse("{\"name\":\"n\"}").unwrap_err().to_string().contains("\"type\""));
}

/// With a version that our plugin does not speak every pod of the node would fail.
#[test]
fn a_version_that_would_fail_every_pod_gets_no_entry() {
    for (versions, is_fine) in [
        ("\"cniVersion\":\"0.3.0\",", true),
        ("\"cniVersion\":\"1.1.0\",", true),
        ("\"cniVersion\":\"0.2.0\",", false),
        ("\"cniVersion\":\"1.2.0\",", false),
        ("\"cniVersion\":\"\",", false),
        ("", false),
        ("\"cniVersion\":\"0.2.0\",\"cniVersions\":[\"0.4.0\"],", true),
        // libcni skips versions to come.
        ("\"cniVersion\":\"0.4.0\",\"cniVersions\":[\"0.4.0\",\"1.10.0\",\"1.1.0\"],", true),
        ("\"cniVersion\":\"1.2.0\",\"cniVersions\":[\"1.1.0\",\"1.2.0\"],", true),
        ("\"cniVersion\":\"1.2.0\",\"cniVersions\":[\"1.2.0\"],", false),
        ("\"cniVersion\":\"0.4.0\",\"cniVersions\":[\"0.2.0\",\"0.1.0\"],", true),
    ] {
        let text = format!("{{{versions}\"name\":\"n\",\"plugins\":[{{\"type\":\"a\"}}]}}");
        assert_eq!(ensure(&text, &entry(), &Position::Last).is_ok(), is_fine, "{versions}");
    }
    assert!(wrap("{\"name\":\"n\",\"type\":\"a\"}", &entry()).is_err());
}

/// One row a folder: its files, its plugins, and the choice of containerd and of CRI-O.
#[test]
fn the_file_that_each_runtime_uses() {
    let list = |name: &str, version: &str, kinds: &[&str]| {
        let plugins: Vec<_> = kinds.iter().map(|kind| format!("{{\"type\":\"{kind}\"}}")).collect();
        let version =
            if version.is_empty() { String::new() } else { format!("\"cniVersion\":\"{version}\",") };
        format!("{{\"name\":\"{name}\",{version}\"plugins\":[{}]}}", plugins.join(","))
    };
    let good = |name: &str| list(name, "1.0.0", &["a"]);
    let (single, nameless) =
        ("{\"name\":\"single\",\"type\":\"old\"}", "{\"type\":\"a\",\"cniVersion\":\"1.0.0\"}");
    let offered = "{\"name\":\"n\",\"cniVersion\":\"0.4.0\",\"cniVersions\":[\"1.0.0\",\"9.0.0\"],\"plugins\":[{\"type\":\"a\"}]}";
    // What the folders of plugins hold.
    let binary = |kind: &str| match kind {
        "a" => Binary::Speaks(vec!["0.3.1".to_owned(), "1.0.0".to_owned()]),
        "old" => Binary::Speaks(vec!["0.1.0".to_owned(), "0.3.1".to_owned()]),
        "mute" => Binary::Silent,
        _ => Binary::Missing,
    };
    let (first, second) = ("10-a.conflist", "20-b.conflist");
    type Row<'a> = (&'a str, &'a [(&'a str, String)], Option<&'a str>, Option<&'a str>);
    let rows: [Row<'_>; 21] = [
        ("in order", &[(second, good("b")), (first, good("a"))], Some(first), Some(first)),
        (
            "by bytes",
            &[("a.conflist", good("a")), ("Z.conflist", good("z"))],
            Some("Z.conflist"),
            Some("Z.conflist"),
        ),
        (
            "a single one",
            &[("10-x.conflist", good("x")), ("10-x.conf", single.to_owned())],
            Some("10-x.conf"),
            Some("10-x.conf"),
        ),
        ("json", &[("10-x.json", single.to_owned())], Some("10-x.json"), Some("10-x.json")),
        (
            "other endings",
            &[
                ("00.conflist.bak", good("a")),
                (".05.conflist.7.culvert-unfinished", good("a")),
                ("05-x.conflist.cilium_bak", good("a")),
                ("conflist", good("a")),
                ("10-x.conf.culvert-original", single.to_owned()),
                ("99-z.conflist", good("z")),
            ],
            Some("99-z.conflist"),
            Some("99-z.conflist"),
        ),
        ("broken first", &[(first, "{".to_owned()), (second, good("b"))], None, Some(second)),
        ("broken behind", &[(first, good("a")), (second, "{".to_owned())], Some(first), Some(first)),
        ("a list in a .conf", &[("10-a.conf", good("a")), (second, good("b"))], None, Some(second)),
        ("no plugins", &[(first, list("a", "1.0.0", &[])), (second, good("b"))], None, Some(second)),
        (
            "a plugin is missing",
            &[(first, list("a", "1.0.0", &["a", "gone"])), (second, good("b"))],
            Some(first),
            Some(second),
        ),
        (
            "one does not speak it",
            &[(first, list("a", "1.0.0", &["a", "old"])), (second, good("b"))],
            Some(first),
            Some(second),
        ),
        (
            "both speak it",
            &[(first, list("a", "0.3.1", &["a", "old"])), (second, good("b"))],
            Some(first),
            Some(first),
        ),
        (
            "no version is 0.1.0",
            &[(first, list("a", "", &["a"])), (second, good("b"))],
            Some(first),
            Some(second),
        ),
        (
            "which an old one speaks",
            &[(first, list("a", "", &["old"])), (second, good("b"))],
            Some(first),
            Some(first),
        ),
        (
            "a single one that is missing",
            &[("10-a.conf", single.replace("old", "gone")), (second, good("b"))],
            Some("10-a.conf"),
            Some(second),
        ),
        (
            "one that cannot be asked",
            &[(first, list("a", "1.0.0", &["mute"])), (second, good("b"))],
            Some(first),
            Some(first),
        ),
        ("none is left", &[(first, list("a", "1.0.0", &["gone"]))], Some(first), None),
        ("a version to come", &[(first, offered.to_owned()), (second, good("b"))], Some(first), Some(first)),
        (
            "a list without a name",
            &[(first, "{\"plugins\":[{\"type\":\"a\"}]}".to_owned()), (second, good("b"))],
            None,
            Some(second),
        ),
        (
            "a single one without a name",
            &[("10-a.conf", nameless.to_owned()), (second, good("b"))],
            None,
            Some("10-a.conf"),
        ),
        ("empty", &[], None, None),
    ];
    let chosen = |files: &[(&str, String)], loader: &Loader| {
        let files: Vec<_> = files.iter().map(|(name, text)| ((*name).to_owned(), Ok(text.clone()))).collect();
        match effective(files.iter(), loader, &binary) {
            Choice::File { name, .. } => Some(name),
            Choice::Empty | Choice::Broken { .. } => None,
        }
    };
    for (name, files, containerd, crio) in rows {
        assert_eq!(chosen(files, &Loader::containerd(1)).as_deref(), containerd, "containerd: {name}");
        assert_eq!(chosen(files, &Loader::crio(None)).as_deref(), crio, "CRI-O: {name}");
    }
    let two = [(first, good("a")), (second, good("b"))];
    let of = |network: &str| Loader::crio(Some(network.to_owned()));
    for (name, files, loader, expected) in [
        ("of a network", &two[..], of("b"), Some(second)),
        ("of a network that is not there", &two[..1], of("b"), None),
        // containerd attaches each pod to several, or to all.
        ("two", &two, Loader::containerd(2), Some(first)),
        (
            "two of which one is broken",
            &[(first, good("a")), (second, "{".to_owned())],
            Loader::containerd(2),
            None,
        ),
        (
            "all of which one is broken",
            &[(first, good("a")), (second, "{".to_owned())],
            Loader::containerd(0),
            None,
        ),
    ] {
        assert_eq!(chosen(files, &loader).as_deref(), expected, "{name}");
    }
}

#[test]
fn an_entry_that_no_pod_could_follow_is_refused_before_it_is_written() {
    let refused = |settings: &str| {
        let errors = Entry::new(Path::new("/run/culvert"), Some(settings)).expect_err(settings);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    for (settings, named) in [
        ("[]", "JSON object"),
        ("{\"type\":\"x\"}", "\"type\""),
        ("{\"name\":\"x\",\"capabilities\":{}}", "\"capabilities\""),
        ("{\"onUnknown\":\"deny\",\"onUnknown\":\"allow\"}", "twice"),
        ("{\"onUnknown\":\"maybe\"}", "maybe"),
        ("{\"onUnknwon\":\"deny\"}", "onUnknwon"),
        ("{\"redirect\":{\"proxyUid\":\"0\"}}", "proxy"),
        ("{\"redirect\":{\"nonsense\":1}}", "nonsense"),
        ("{\"locked\":[\"nonsense\"]}", "nonsense"),
    ] {
        let said = refused(settings);
        assert!(said.contains(named), "{settings}: {said}");
    }
}

#[test]
fn another_state_folder_is_told_to_the_plugin() {
    let entry = Entry::new(Path::new("/var/run/x"), None).unwrap();
    assert_eq!(entry.get("stateDir"), Some(&Value::from("/var/run/x/attachments")));
    assert_eq!(entry.get("agentSocket"), Some(&Value::from("/var/run/x/agent.sock")));
    assert_eq!(Entry::new(Path::new("/run/culvert"), None).unwrap().get("stateDir"), None);
}

/// Any JSON value, as text, in any style.
fn json(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,2})?",
        string(),
    ];
    leaf.prop_recursive(depth, 16, 4, |inner| {
        let field = (string(), space(), inner.clone())
            .prop_map(|(key, space, value)| format!("{key}:{space}{value}"));
        let joined = |open: char, close: char| {
            move |(parts, space): (Vec<String>, String)| {
                format!("{open}{space}{}{space}{close}", parts.join(&format!("{space},{space}")))
            }
        };
        prop_oneof![
            (prop::collection::vec(inner, 0..4), space()).prop_map(joined('[', ']')),
            (prop::collection::vec(field, 0..4), space()).prop_map(joined('{', '}')),
        ]
    })
    .boxed()
}

fn string() -> impl Strategy<Value = String> {
    prop_oneof![
        "\"[a-z_]{1,8}\"",
        any::<String>().prop_map(|text| Value::from(text).to_string()),
        Just("\"\\u007d\\\\\\\"],[\"".to_owned()),
    ]
}

fn space() -> impl Strategy<Value = String> {
    "[ \t\r\n]{0,4}"
}

/// A list of plugins with any other keys, in any order and style.
fn any_list() -> impl Strategy<Value = String> {
    let plugin = ("[a-z]{1,6}", space(), prop::collection::vec((string(), json(2)), 0..3)).prop_map(
        |(kind, space, more)| {
            // A further "type" would be another plugin's: libcni takes the last.
            let more: String = more
                .into_iter()
                .filter(|(key, _)| key != "\"type\"")
                .map(|(key, value)| format!("{key}{space}:{value},{space}"))
                .collect();
            format!("{{{space}{more}\"type\":{space}\"{kind}\"{space}}}")
        },
    );
    (prop::collection::vec(plugin, 1..5), space(), space(), prop::collection::vec((string(), json(3)), 0..4)).prop_map(
        |(plugins, inner, outer, more)| {
            let more: String = more
                .into_iter()
                .filter(|(key, _)| !["\"name\"", "\"cniVersion\"", "\"cniVersions\"", "\"plugins\""].contains(&key.as_str()))
                .map(|(key, value)| format!("{key}:{outer}{value}{outer},"))
                .collect();
            let plugins = plugins.join(&format!("{inner},{outer}"));
            format!(
                "{outer}{{{more}\"cniVersion\":\"0.4.0\",{inner}\"name\":\"n\",\"plugins\":{outer}[{inner}{plugins}{outer}]{inner}}}{outer}"
            )
        },
    )
}

proptest! {
    #[test]
    fn to_insert_and_remove_is_the_identity(text in any_list(), after in "[a-z]{1,6}", last in any::<bool>()) {
        let position = if last { Position::Last } else { Position::After(after) };
        let with = put_in(&text, &position);
        prop_assert_eq!(ensure(&with, &entry(), &position), Ok(Ensured::AsItShould));
        prop_assert_eq!(remove(&with), Ok(Some(text.clone())));
        prop_assert_eq!(Conflist::parse(&with).unwrap().plugins.len(), Conflist::parse(&text).unwrap().plugins.len() + 1);
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>(), cut in any::<prop::sample::Index>(), list in any_list()) {
        let half: String = list.chars().take(cut.index(list.chars().count().max(1))).collect();
        for text in [text, half] {
            let _ = ensure(&text, &entry(), &Position::Last);
            let _ = remove(&text);
            let _ = wrap(&text, &entry());
            let _ = unwrap(&text, &list);
            let file = ("10-x.conflist".to_owned(), Ok(text));
            let _ = effective([file].iter(), &Loader::crio(None), &|_| Binary::Silent);
        }
    }
}

#[test]
fn a_list_of_ours_alone_gets_no_further_entry() {
    let entry = entry();
    for times in 1..=3 {
        let ours = vec![r#"{"type":"culvert-cni"}"#; times].join(",");
        let list = format!(r#"{{"name":"net","cniVersion":"1.0.0","plugins":[{ours}]}}"#);
        assert_eq!(ensure(&list, &entry, &Position::Last), Err(Invalid::Alone));
    }
}
