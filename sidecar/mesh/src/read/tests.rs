// SPDX-License-Identifier: Apache-2.0
use super::*;

words! {
    /// A word.
    enum Word {
        /// One.
        One = "one" | "1st",
    }
}
fields! {
    /// A pair.
    struct Pair {
        /// The first of two ports.
        first: required Port = "first",
        second: optional String = "second" | "second_of_all",
        list: default Vec<Word> = "list",
    }
}

fn read<T: Read>(value: Value) -> Result<T, Vec<String>> {
    let mut problems = Problems::default();
    let read = T::read(&value, &mut At::root(&mut problems));
    assert_eq!(read.is_some(), problems.count() == 0, "{value}: {problems:?}");
    read.ok_or_else(|| problems.into_all().iter().map(ToString::to_string).collect())
}

#[test]
fn every_problem_is_told_with_its_place() {
    let wrong =
        json!({"first": 70000, "second": 1, "second_of_all": "x", "list": ["one", "two", 3], "third": {}});
    assert_eq!(
        read::<Pair>(wrong).unwrap_err(),
        [
            "first: found 70000; allowed: a port from 1 to 65535",
            "second_of_all: found the same field a second time; allowed: second or second_of_all",
            "second: found 1; allowed: text; put it in quotes",
            "list[1]: found \"two\"; allowed: one, 1st",
            "list[2]: found 3; allowed: one, 1st",
            "third: found a field that culvert does not have, a mapping; allowed: first, second, second_of_all, list",
        ]
    );
    assert_eq!(
        read::<Pair>(json!({})).unwrap_err(),
        ["first: found nothing; allowed: this field is required"]
    );
    assert_eq!(read::<Pair>(json!([])).unwrap_err(), ["found a list of 0; allowed: a mapping"]);
}

#[test]
fn null_is_the_same_as_nothing() {
    let pair: Pair = read(json!({"first": 1, "second": null, "third": null})).unwrap();
    assert_eq!(pair, Pair { first: Port(1), second: None, list: vec![] });
}

#[test]
fn durations_are_gos_and_protobufs() {
    for (text, millis) in
        [("99s", 99_000), ("3h", 10_800_000), ("1.5s", 1_500), ("0.25s", 250), ("0s", 0), ("1m30s", 90_000)]
    {
        assert_eq!(read::<Span>(json!(text)), Ok(Span(Duration::from_millis(millis))), "{text}");
    }
    for wrong in
        [json!("3 h"), json!(".5s"), json!("1.s"), json!("1.5h"), json!(5), json!("9000h"), json!("-1s")]
    {
        assert_eq!(read::<Span>(wrong.clone()).unwrap_err().len(), 1, "{wrong}");
    }
}

#[test]
fn tags_are_plain_text() {
    assert!(read::<Tags>(json!({"kuma.io/service": "web_80", "version": "1.0"})).is_ok());
    assert_eq!(
        read::<Tags>(json!({"version": 1.0, "kuma.io/service": "a\nb"})).unwrap_err(),
        [
            "\"kuma.io/service\": found \"a\\nb\"; allowed: 1 to 253 of letters, digits, '-', '_', '.', ':' and '/' \
             (or \"*\" in a selector)",
            "version: found 1.0; allowed: text; put it in quotes",
        ]
    );
}

#[test]
fn a_crowd_of_problems_is_cut() {
    let many: Vec<_> = (0..1000).map(|_| json!("two")).collect();
    let told = read::<Vec<Word>>(json!(many)).unwrap_err();
    assert_eq!(told.len(), 101);
    assert_eq!(told[100], "found 900 more problems; allowed: none");
}

#[test]
fn the_schema_says_what_the_reader_takes() {
    let schema = Pair::schema();
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["required"], json!(["first"]));
    assert_eq!(schema["properties"]["first"]["description"], "The first of two ports.");
    assert_eq!(schema["properties"]["second_of_all"], json!({"type": "string"}));
}
