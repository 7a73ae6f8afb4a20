// SPDX-License-Identifier: Apache-2.0
use serde_json::json;

use super::*;

fn values(text: &str) -> Vec<Value> {
    documents(text).unwrap().into_iter().map(|document| document.value).collect()
}

/// The text after its first document has become `wanted`, and true if that was printed anew.
fn changed_to(text: &str, wanted: Value) -> (String, bool) {
    let documents = documents(text).unwrap();
    let mut all: Vec<_> = documents.iter().map(|_| None).collect();
    all[0] = Some(wanted.clone());
    let Edited { text, reprinted } = edited(text, &documents, &all);
    assert_eq!(values(&text)[0], wanted, "{text}");
    (text, !reprinted.is_empty())
}

#[test]
fn scalars_mean_what_kubernetes_reads() {
    for (text, expected) in [
        ("a", json!("a")),
        ("'1'", json!("1")),
        ("!!str 1", json!("1")),
        ("1", json!(1)),
        ("-7", json!(-7)),
        ("0444", json!(292)),
        ("0x10", json!(16)),
        ("1.5", json!(1.5)),
        ("1.2.3", json!("1.2.3")),
        ("10m", json!("10m")),
        ("yes", json!(true)),
        ("off", json!(false)),
        ("~", json!(null)),
        ("\"a\\tb\"", json!("a\tb")),
        ("|\n  a\n  b\n", json!("a\nb\n")),
        ("{a: [1, b]}", json!({ "a": [1, "b"] })),
        ("- &x {a: 1}\n- *x\n- {<<: *x, b: 2}\n", json!([{ "a": 1 }, { "a": 1 }, { "a": 1, "b": 2 }])),
    ] {
        assert_eq!(values(text), [expected], "{text:?}");
    }
    assert_eq!(values("# nothing\n"), [json!(null); 0]);
    assert_eq!(values("a: 1\n---\nb: 2\n"), [json!({ "a": 1 }), json!({ "b": 2 })]);
}

#[test]
fn what_is_no_manifest_is_named() {
    let deep = "[".repeat(100) + &"]".repeat(100);
    let bomb = format!("- &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n{}", {
        let level = |n: u8| {
            let (this, last) = (char::from(b'b' + n), char::from(b'a' + n));
            format!(
                "- &{this} [*{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}]\n"
            )
        };
        (0..9).map(level).collect::<String>()
    });
    for (text, named) in [
        ("a: [1", "no YAML"),
        ("a: 1\na: 2\n", "line 2: \"a\" stands twice"),
        ("a: *b\n", "no YAML"),
        ("? [a]\n: b\n", "a key that is no text"),
        (deep.as_str(), "nested too deep"),
        (bomb.as_str(), "aliases repeat too much"),
    ] {
        let error = documents(text).expect_err(text).to_string();
        assert!(error.contains(named), "{text:?}: {error}");
    }
}

#[test]
fn only_what_changes_is_written() {
    let text = "# top\na: 1 # one\nlist: # of two\n  # the first\n  - name: x # x\n    v: 1\n  - name: z\n\nlast: |\n  text\n";
    let last = json!("text\n");
    for (wanted, expected) in [
        // A new key at the end, with all comments.
        (
            json!({ "a": 1, "list": [{ "name": "x", "v": 1 }, { "name": "z" }], "last": last, "new": { "b": "c" } }),
            format!("{text}new:\n  b: c\n"),
        ),
        // A new item before the first one's comment.
        (
            json!({ "a": 1, "list": [{ "name": "w" }, { "name": "x", "v": 1 }, { "name": "z" }], "last": last }),
            text.replace("two\n", "two\n  - name: w\n"),
        ),
        // One that moves to the front.
        (
            json!({ "a": 1, "list": [{ "name": "z" }, { "name": "x", "v": 1 }], "last": last }),
            text.replace("  - name: z\n", "").replace("two\n", "two\n  - name: z\n"),
        ),
        (
            json!({ "a": 2, "list": [{ "name": "x", "w": true, "v": 1 }, { "name": "z" }, "q: a"], "last": last }),
            text.replace("a: 1", "a: 2")
                .replace("    v: 1\n", "    v: 1\n    w: true\n")
                .replace("  - name: z\n", "  - name: z\n  - \"q: a\"\n"),
        ),
        // A key that goes.
        (
            json!({ "a": 1, "list": [{ "name": "x" }, { "name": "z" }], "last": last }),
            text.replace("    v: 1\n", ""),
        ),
    ] {
        let (found, anew) = changed_to(text, wanted);
        assert_eq!(found.trim_end(), expected.trim_end());
        assert!(!anew);
    }
}

#[test]
fn what_follows_stays_as_it_is() {
    let text = "a: 1\n--- # two\n{b:   2}\n...\n# end";
    let (found, anew) = changed_to(text, json!({ "a": 1, "c": [{ "d": "e" }] }));
    assert_eq!((found.as_str(), anew), ("a: 1\nc:\n  - d: e\n--- # two\n{b:   2}\n...\n# end", false));
    let (found, _) = changed_to("a:\nb: [] # none\nc: {}", json!({ "a": { "x": "y" }, "b": [1], "c": {} }));
    assert_eq!(found, "a:\n  x: \"y\"\nb: # none\n  - 1\nc: {}");
}

#[test]
fn a_change_inside_an_anchor_prints_the_document_anew() {
    let text = "# of both\na: &x\n  v: 1\nb: *x\n";
    let (found, anew) = changed_to(text, json!({ "a": { "v": 2 }, "b": { "v": 1 } }));
    assert_eq!((found.as_str(), anew), ("# of both\na:\n  v: 2\nb:\n  v: 1\n", true));
}

#[test]
fn texts_of_every_kind_are_edited() {
    for (text, wanted, expected) in [
        // Lists at the indent of their key, as kubectl prints them.
        (
            "s:\n  l:\n  - name: a\n  - name: b\n  v: 1\n",
            json!({ "s": { "l": [{ "name": "new" }, { "name": "a" }, { "name": "b", "x": [] }], "v": 1 } }),
            "s:\n  l:\n  - name: new\n  - name: a\n  - name: b\n    x: []\n  v: 1\n",
        ),
        ("ä: ö # ü\r\nb: 1\r\n", json!({ "ä": "ö", "b": 2 }), "ä: ö # ü\r\nb: 2\r\n"),
        ("a: 1", json!({ "a": 1, "b": "it's \"so\"" }), "a: 1\nb: 'it''s \"so\"'"),
        ("'a': \"x\"\n", json!({ "a": "line\n" }), "'a': \"line\\n\"\n"),
        ("# c\n\n# d\n", json!(null), "# c\n\n# d\n"),
        ("a: >-\n  x\n  w\n# end\n", json!({ "a": "x w", "b": 0 }), "a: >-\n  x\n  w\nb: 0\n# end\n"),
        (
            "a: &x {v: 1}\nb: *x\nc: 1\n",
            json!({ "a": { "v": 1 }, "b": { "v": 1 }, "c": 2 }),
            "a: &x {v: 1}\nb: *x\nc: 2\n",
        ),
        (
            "a: &x {v: 1}\nb: *x\n",
            json!({ "a": { "v": 1 }, "b": { "v": 2 } }),
            "a: &x {v: 1}\nb: {\"v\":2}\n",
        ),
        ("- a\n", json!(["b"]), "- b\n"),
        (
            "a: {x: 1} # c\n\n# d\n--- # e\n",
            json!({ "a": { "x": 1 }, "b": 1 }),
            "a: {x: 1} # c\nb: 1\n\n# d\n--- # e\n",
        ),
        ("a: |\n  x\n---\n", json!({ "a": "x\n", "b": 1 }), "a: |\n  x\nb: 1\n---\n"),
        ("a:\n  -\n", json!({ "a": [1] }), "a:\n  - 1\n"),
        ("{\"a\": 1}\n", json!({ "a": 2 }), "{\n  \"a\": 2\n}\n"),
    ] {
        let documents = documents(text).unwrap();
        let wanted: Vec<_> = (0..documents.len()).map(|place| (place == 0).then(|| wanted.clone())).collect();
        assert_eq!(edited(text, &documents, &wanted).text, expected, "{text:?}");
    }
}

#[test]
fn items_without_a_name_of_their_own_are_edited_in_place() {
    for (text, wanted, expected) in [
        (
            "l:\n  - kind: A # a\n    metadata: {name: x}\n    v: 1\n  - kind: B # b\n    metadata: {name: x}\n",
            json!({ "l": [{ "kind": "C" }, { "kind": "A", "metadata": { "name": "x" }, "v": 2 }, { "kind": "B", "metadata": { "name": "x" }, "w": 1 }] }),
            "l:\n  - kind: C\n  - kind: A # a\n    metadata: {name: x}\n    v: 2\n  - kind: B # b\n    metadata: {name: x}\n    w: 1\n",
        ),
        (
            "l:\n  - v: 1 # a\n  - v: 2 # b\n",
            json!({ "l": [{ "v": 1, "w": 1 }, { "v": 3 }] }),
            "l:\n  - v: 1 # a\n    w: 1\n  - v: 3 # b\n",
        ),
        ("l:\n- a # a\n- b\n", json!({ "l": ["a", "c"] }), "l:\n- a # a\n- c\n"),
    ] {
        assert_eq!(changed_to(text, wanted), (expected.to_owned(), false), "{text:?}");
    }
}

#[test]
fn unusual_lines_are_edited_in_place() {
    for (text, wanted, expected) in [
        (
            "l:\n  -\n    name: a\n",
            json!({ "l": [{ "name": "b" }, { "name": "a", "v": 1 }] }),
            "l:\n  - name: b\n  -\n    name: a\n    v: 1\n",
        ),
        (
            "l:\n  - # a # b\n    # c\n    name: a\n",
            json!({ "l": [{ "name": "b" }, { "name": "a" }] }),
            "l:\n  - name: b\n  - # a # b\n    # c\n    name: a\n",
        ),
        ("\u{feff}a: 1\n", json!({ "a": 1, "b": { "c": 2 } }), "\u{feff}a: 1\nb:\n  c: 2\n"),
        ("a: |+\n  x\n\n", json!({ "a": "x\n\n", "b": 1 }), "a: |+\n  x\n\nb: 1\n"),
    ] {
        assert_eq!(changed_to(text, wanted), (expected.to_owned(), false), "{text:?}");
    }
}

#[test]
fn lines_keep_the_ends_of_their_document() {
    for (text, wanted) in [
        ("a: 1\r\nl:\r\n  - x: 1\r\n", json!({ "a": 1, "l": [{ "x": 1, "y": 2 }], "b": { "c": [1] } })),
        ("a:\r\nb: 1\r\n", json!({ "a": { "c": "d" }, "b": 1 })),
        ("a: 1\r\nb: 1\r\nc: 2\r\n", json!({ "a": 1, "c": 2 })),
        ("{\r\n  a: 1}\r\n", json!({ "a": 2 })),
        ("a: &x\r\n  v: 1\r\nb: *x\r\n", json!({ "a": { "v": 2 }, "b": { "v": 1 } })),
    ] {
        let (found, _) = changed_to(text, wanted);
        let lines = found.matches('\n').count();
        assert!(lines > 1, "{found:?}");
        assert_eq!((found.matches("\r\n").count(), found.matches('\r').count()), (lines, lines), "{found:?}");
    }
}

/// Texts count by their bytes, and over all documents.
#[test]
fn aliases_are_bounded_in_memory() {
    let text = "x".repeat(100_000);
    let document = |times: usize| format!("a: &a {text}\nb: [{}]\n", vec!["*a"; times].join(", "));
    assert_eq!(values(&document(100)).len(), 1);
    let error = documents(&document(200)).unwrap_err().to_string();
    assert!(error.contains("aliases repeat too much"), "{error}");
    let error = documents(&format!("{0}---\n{0}", document(100))).unwrap_err().to_string();
    assert!(error.contains("aliases repeat too much"), "{error}");
}

#[test]
fn absurd_texts_are_edited_or_refused_and_never_a_panic() {
    for text in [
        "-",
        "- - a",
        "-\n  a: 1\n",
        "? a\n: b\n",
        "a: !x b",
        "&a a: &b b",
        "--- >\n",
        "\u{feff}a: 1\n",
        "a:\n- b\n-\n",
        "%YAML 1.2\n---\na: 1\n",
    ] {
        let Ok(documents) = documents(text) else { continue };
        for wanted in [json!({ "a": { "b": [1, { "c": "d" }] } }), json!([{ "a": [2] }]), json!("x")] {
            let all: Vec<_> = documents.iter().map(|_| Some(wanted.clone())).collect();
            let Edited { text: found, .. } = edited(text, &documents, &all);
            if !documents.is_empty() {
                assert_eq!(values(&found)[0], wanted, "{text:?} → {found:?}");
            }
        }
    }
}
