//! No annotation, however odd, leaves rules in the kernel that it did not state: ADD reads back what it wrote, and CHECK
//! finds the same.

use anyhow::{Result, ensure};
use culvert_tests::Lab;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Values near to the grammars, good and bad.
fn value(name: &'static str) -> BoxedStrategy<String> {
    let v4 = r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(/[0-9]{1,2})?";
    let v6 = "fd[0-9a-f]{2}::[0-9a-f]{1,4}(/[0-9]{1,3})?";
    match name {
        "exclude-outbound-ports-for-uids" => {
            matching(r"(tcp|udp|\*|tcp,udp):([1-9][0-9]{0,4}|\*):[0-9]{1,10}(;[0-9]{1,6}-[0-9]{6,9})?")
        }
        "virtual-interfaces" => {
            matching(r"[a-z]{1,8}\+?:10\.[0-9]{1,3}\.0\.0/16(,v[0-9]\+:fd[0-9a-f]{2}::/16)?")
        }
        "redirect-dns" => prop_oneof![words(&["all", "10.96.0.10,fd00::53"]), matching("[ -~]{0,8}")].boxed(),
        "exclude-inbound-cidrs" | "exclude-outbound-cidrs" => {
            matching(&format!("({v4}|{v6})(,({v4}|{v6})){{0,5}}"))
        }
        "proxy-uid" => matching("[0-9]{1,10}"),
        "closed-ports" => words(&["redirect", "refuse", "Refuse"]),
        lists if lists.ends_with("-ports") => {
            matching("[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?(,[1-9][0-9]{0,3}){0,20}")
        }
        ports if ports.ends_with("-port") => matching("[0-9]{1,5}"),
        _ => words(&["enabled", "disabled", "reject", "direct", "ipv4", "ipv6", "dual", "true", "perhaps"]),
    }
}

fn matching(pattern: &str) -> BoxedStrategy<String> {
    proptest::string::string_regex(pattern).expect("the pattern is a regular expression").boxed()
}

fn words(words: &'static [&'static str]) -> BoxedStrategy<String> {
    proptest::sample::select(words).prop_map(str::to_owned).boxed()
}

fn annotations() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let names: Vec<&'static str> =
        culvert_cni::pod::names().map(|(name, _)| name).filter(|name| *name != "engine").collect();
    let one = proptest::sample::select(names)
        .prop_flat_map(|name| value(name).prop_map(move |value| (name, value)));
    proptest::collection::vec(one, 1..4)
}

#[test]
fn the_kernel_holds_just_the_rules_that_any_annotations_ask_for() -> Result<()> {
    let lab = Lab::new()?;
    let config = Config { cases: 150, failure_persistence: None, max_shrink_iters: 20, ..Config::default() };
    let accepted = std::cell::Cell::new(0);
    let run = TestRunner::new(config).run(&annotations(), |pairs| {
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let call = |verb: &str| -> Result<_> { lab.invoke(verb)?.redirect().annotations(&pairs).run() };
        let said = |error: anyhow::Error| TestCaseError::fail(format!("{error:#}"));
        let added = call("ADD").map_err(said)?;
        match added.status.code() {
            Some(0) => {
                prop_assert_eq!(call("CHECK").map_err(said)?.status.code(), Some(0), "{:?}", pairs);
                accepted.set(accepted.get() + 1);
            }
            _ => {
                added.expect_error(7);
            }
        }
        lab.del().map_err(said)?.expect_success();
        let rules = lab.pod.ruleset().map_err(said)?;
        prop_assert!(rules.is_empty(), "{:?}: {}", pairs, rules);
        Ok(())
    });
    ensure!(run.is_ok(), "{run:?}");
    let accepted = accepted.get();
    ensure!(
        accepted >= 25,
        "only {accepted} of 150 sets of annotations were good: the test tests too little"
    );
    Ok(())
}
