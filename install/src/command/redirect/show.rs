// SPDX-License-Identifier: Apache-2.0
//! `redirect show`: prints what `apply` would write, in words or in an engine's own language. Touches nothing.

use culvert_cni::redirect::policy::{ClosedPorts, IpFamilies, Policy};
use culvert_cni::redirect::ruleset::{Chain, Family, Hook, Point, Rule, Ruleset, Stage};
use culvert_cni::redirect::{iptables, nftables, plan};

use super::{RedirectRefusal, SSH_KEPT_OUT};
use crate::cli::redirect::{Format, ShowArgs};
use crate::command::answer::Answer;
use crate::command::answer::Exit;
use crate::command::settings;
use crate::command::table::table;
use crate::probe::facts::SYSCTLS;

pub(crate) fn run(args: &ShowArgs) -> Result<Answer, RedirectRefusal> {
    let ShowArgs { netns, format, settings } = args;
    let wanted = settings::wanted(settings, netns.as_deref())?;
    let notes: Vec<_> = wanted.keeps_ssh.then(|| SSH_KEPT_OUT.to_owned()).into_iter().collect();
    let policy = &wanted.policy;
    let text = match format {
        Format::Words => in_words(policy),
        Format::Nft => for_nft(&plan(policy)),
        Format::Iptables if policy.inbound.closed_ports == ClosedPorts::Refuse => {
            return Err(RedirectRefusal::NotForIptables);
        }
        Format::Iptables => for_iptables(policy),
    };
    Ok(Answer::said(text, Exit::Well).with("warning", &wanted.warnings).with("note", &notes))
}

fn in_words(policy: &Policy) -> String {
    let rules = plan(policy);
    let mut out = if rules.chains.is_empty() {
        "No rules: with these settings nothing is redirected.\n".to_owned()
    } else {
        let rows: Vec<_> = rules.chains.iter().flat_map(chain_rows).collect();
        table(["CHAIN", "ENTERED", "CONNECTION", "WHAT HAPPENS", "BECAUSE"], &rows)
    };
    out.push_str(&beside(policy));
    out
}

/// Changes that `apply` makes beside the rules.
fn beside(policy: &Policy) -> String {
    let address = policy.families.with_v6().then_some("the address ::6 on lo, where IPv6 is on");
    let sysctls = SYSCTLS.map(|name| format!("the sysctl {name}"));
    let lines = address.map(str::to_owned).into_iter().chain(sysctls);
    format!("\nBeside the rules:\n{}", lines.map(|line| format!("  {line}\n")).collect::<String>())
}

fn chain_rows(chain: &Chain) -> Vec<[String; 5]> {
    let row = |(index, rule): (usize, &Rule)| {
        let (name, entered) = match index {
            0 => (chain.name.nftables().to_owned(), entered(chain.hook)),
            _ => (String::new(), String::new()),
        };
        [name, entered, conditions(rule), rule.then.to_string(), rule.because.to_string()]
    };
    chain.rules.iter().enumerate().map(row).collect()
}

fn entered(hook: Option<Hook>) -> String {
    let Some(Hook { at, stage }) = hook else { return "from other chains".to_owned() };
    let at = match at {
        Point::Prerouting => "on arrival",
        Point::Input => "on delivery",
        Point::Output => "on leaving",
    };
    let stage = match stage {
        Stage::Raw => ", before conntrack",
        Stage::Mangle => ", after conntrack",
        Stage::Nat => "",
        Stage::Filter => ", at the end",
    };
    format!("{at}{stage}")
}

fn conditions(rule: &Rule) -> String {
    if rule.on.is_empty() {
        return "anything else".to_owned();
    }
    rule.on.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn for_nft(rules: &Ruleset) -> String {
    format!("# for nft -f: both families in one table\n{}", nftables::script(rules))
}

/// This engine writes no rules for a family that is not redirected.
fn for_iptables(policy: &Policy) -> String {
    let rules = plan(policy);
    let script = |program: &str, family, is_redirected: bool| {
        let text = iptables::script(&rules, family);
        if is_redirected && !text.is_empty() {
            format!("# for {program} --noflush\n{text}")
        } else {
            format!("# for {program}: nothing\n")
        }
    };
    let v4 = script("iptables-restore", Family::V4, policy.families != IpFamilies::V6);
    let v6 = script("ip6tables-restore", Family::V6, policy.families.with_v6());
    format!("{v4}\n{v6}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::annotations::{Options, Settings};

    fn shown(format: Format, pairs: &[(&'static str, &str)]) -> Answer {
        let options = pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let settings = Settings { annotations: None, options: Options(options) };
        run(&ShowArgs { settings, netns: Some("/run/netns/x".into()), format }).unwrap()
    }

    const FORMATS: [(Format, &str); 3] =
        [(Format::Words, "words"), (Format::Nft, "nft"), (Format::Iptables, "iptables")];

    #[test]
    fn golden() {
        let many = [
            ("redirect-dns", "10.96.0.10"),
            ("exclude-outbound-ports-for-uids", "tcp:80,443:1234;udp:53:1000-1010"),
            ("exclude-inbound-ports", "22,9000-9010"),
            ("exclude-outbound-cidrs", "10.0.0.0/8,fd00::/8"),
            ("virtual-interfaces", "docker+:172.17.0.0/16"),
            ("outbound-udp", "reject"),
            ("drop-invalid", "enabled"),
        ];
        for (format, name) in FORMATS {
            for (settings, pairs) in [("default", &[][..]), ("many", &many)] {
                let Answer { out, err, exit } = shown(format, pairs);
                assert_eq!((err.as_str(), exit), ("", Exit::Well));
                insta::assert_snapshot!(format!("{settings}.{name}"), out);
            }
        }
        insta::assert_snapshot!("ipv4.iptables", shown(Format::Iptables, &[("ip-family", "ipv4")]).out);
    }

    #[test]
    fn where_nothing_is_redirected_there_are_no_rules() {
        let none = [("redirect-inbound", "disabled"), ("redirect-outbound", "disabled")];
        assert!(shown(Format::Words, &none).out.starts_with("No rules:"));
        assert_eq!(
            shown(Format::Iptables, &none).out,
            "# for iptables-restore: nothing\n\n# for ip6tables-restore: nothing\n"
        );
    }

    #[test]
    fn the_current_namespace_keeps_ssh_out_and_says_so() {
        let args = |format| ShowArgs { settings: Settings::default(), netns: None, format };
        let Answer { out, err, .. } = run(&args(Format::Nft)).unwrap();
        assert!(out.contains("dport 22"), "{out}");
        assert!(err.contains("port 22"), "{err}");
    }

    #[test]
    fn what_iptables_cannot_is_not_shown_for_it() {
        let options = Options(vec![("closed-ports", "refuse".to_owned())]);
        let settings = Settings { annotations: None, options };
        let error = run(&ShowArgs { settings, netns: None, format: Format::Iptables }).unwrap_err();
        assert!(error.to_string().contains("--format nft"), "{error}");
        assert_eq!(error.exit(), Exit::Usage);
    }
}
