// SPDX-License-Identifier: Apache-2.0
//! Any text as annotations, `name=value` separated by byte 1: the result is an error, or a policy that each engine can write.
//! No panic, and no line in a rule's text that the plan does not have.
#![no_main]

use culvert_cni::pod::{self, Annotations, Decision, Settings};
use culvert_cni::redirect::ruleset::Family;
use culvert_cni::redirect::{iptables, nftables, plan};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let mut annotations: Annotations = text
        .split('\u{1}')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    annotations.insert("culvert.dev/redirect".to_owned(), "enabled".to_owned());
    let Ok(decided) = pod::decide_policy(&annotations, &Settings::default()) else { return };
    let Decision::Redirect(policy) = decided.decision else { return };
    let rules = plan(&policy);
    let wanted: usize = rules.chains.iter().map(|chain| chain.rules.len() + usize::from(chain.hook.is_some())).sum();
    let script = nftables::script(&rules);
    assert_eq!(script.lines().filter(|line| line.starts_with("\t\t")).count(), wanted, "{script}");
    for family in [Family::V4, Family::V6] {
        let text = iptables::script(&rules, family);
        let hooks = ["-I PREROUTING -j CULVERT_", "-I INPUT -j CULVERT_", "-I OUTPUT -j CULVERT_"];
        let known = ["*", ":", "-A CULVERT_", "COMMIT"].into_iter().chain(hooks);
        assert!(text.lines().all(|line| known.clone().any(|begin| line.starts_with(begin))), "{text}");
    }
});
