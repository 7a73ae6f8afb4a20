// SPDX-License-Identifier: Apache-2.0
//! The report for people and for programs. Pure.

use std::fmt::Write;

use super::diagnosis::{Check, Report, Status};
use crate::command::answer::Colour;

/// Width of the longest of the names and of the statuses: nine letters.
const COLUMN: usize = 9;

/// A table with the meaning of each line below it.
pub(crate) fn text(report: &Report, colour: Colour) -> String {
    let Report { version, host_root, api_server, well, checks } = report;
    let subject = match (host_root, api_server) {
        (_, Some(api_server)) => format!("cluster of {api_server}"),
        (host_root, None) => format!("node at {}", host_root.as_deref().unwrap_or("/")),
    };
    let mut out = format!("culvert {version}, {subject}\n\n");
    let mut line = |name: &str, status: &str, text: &str| {
        let row = format!("{name:COLUMN$}  {status}  {text}");
        out.push_str(row.trim_end());
        out.push('\n');
    };
    line("CHECK", &format!("{:COLUMN$}", "STATUS"), "FOUND");
    let blank = " ".repeat(COLUMN);
    for Check { name, status, found, meaning, action } in checks {
        line(name, &painted(*status, colour), found);
        line("", &blank, meaning);
        if let Some(action) = action {
            line("", &blank, &format!("to do: {action}"));
        }
    }
    let attention = checks.iter().filter(|check| check.status.needs_attention()).count();
    let verdict = match (well, attention) {
        (true, _) if api_server.is_some() => "All is well: labelled pods get their sidecar.".to_owned(),
        (true, _) => "All is well: this node can carry culvert.".to_owned(),
        (false, 1) => "1 check needs attention.".to_owned(),
        (false, n) => format!("{n} checks need attention."),
    };
    // Writing to a String does not fail.
    let _ = writeln!(out, "\n{verdict}");
    out
}

pub(crate) fn json(report: &Report) -> String {
    let mut out = serde_json::to_string_pretty(report).expect("strings and booleans only");
    out.push('\n');
    out
}

fn painted(status: Status, colour: Colour) -> String {
    let (word, code) = match status {
        Status::Ok => ("ok", 32),
        Status::Absent => ("absent", 2),
        Status::Degraded => ("degraded", 33),
        Status::Missing => ("missing", 31),
        Status::Unknown => ("unknown", 33),
    };
    // Padded before painting: escapes have no width on a terminal.
    let padded = format!("{word:COLUMN$}");
    match colour {
        Colour::Terminal => format!("\x1b[{code}m{padded}\x1b[0m"),
        Colour::Plain => padded,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use nix::errno::Errno;

    use super::super::diagnosis::diagnose;
    use super::*;
    use crate::probe::deadline::Unanswered;
    use crate::probe::facts::{Facts, Ipv6, Trial};
    use crate::probe::iptables::{Backend, COMMANDS, Tool, ToolState};
    use crate::probe::namespace::NamespaceError;
    use crate::probe::nftables::{NftablesError, Part};

    fn tools(answer: impl Fn(&str) -> ToolState) -> Vec<Tool> {
        COMMANDS.map(|command| Tool { command, answer: answer(command) }).into()
    }

    fn well() -> Facts {
        Facts {
            kernel: "6.1.0-49-amd64".to_owned(),
            trial: Ok(Trial { nat: Ok(()), missing_sysctls: vec![], ipv6_on_lo: true }),
            ipv6: Ipv6::Supported,
            iptables: tools(|command| ToolState::Runs {
                version: "1.8.9".to_owned(),
                backend: if command.ends_with("legacy") { Backend::Legacy } else { Backend::Nft },
            }),
        }
    }

    fn refused(part: Part, missing_sysctls: Vec<&'static str>) -> Trial {
        Trial { nat: Err(NftablesError::Part(part, Errno::ENOENT)), missing_sysctls, ipv6_on_lo: false }
    }

    /// Every node that the checks distinguish, in both formats.
    #[test]
    fn reports() {
        let nat =
            Part { what: "NAT for both IP families", module: "nft_chain_nat", option: "CONFIG_NFT_NAT" };
        let nodes = [
            ("all_well", well()),
            (
                "no_iptables_no_ipv6",
                Facts { ipv6: Ipv6::NotInKernel, iptables: tools(|_| ToolState::Absent), ..well() },
            ),
            (
                "old_kernel",
                Facts {
                    kernel: "4.19.0-27-amd64".to_owned(),
                    trial: Ok(refused(nat, vec!["net.netfilter.nf_conntrack_tcp_loose"])),
                    iptables: tools(|_| ToolState::Absent),
                    ..well()
                },
            ),
            ("old_kernel_with_backports", Facts { kernel: "4.18.0-553.el8_10.x86_64".to_owned(), ..well() }),
            ("module_missing", Facts { trial: Ok(refused(nat, vec![])), ..well() }),
            (
                "no_nf_tables",
                Facts {
                    trial: Ok(Trial {
                        nat: Err(NftablesError::Transaction(Errno::EOPNOTSUPP)),
                        missing_sysctls: vec![],
                        ipv6_on_lo: true,
                    }),
                    iptables: tools(|command| match command {
                        "iptables" => ToolState::Broken("no answer within 3 s".to_owned()),
                        _ => ToolState::Absent,
                    }),
                    ..well()
                },
            ),
            (
                "sysctl_missing",
                Facts {
                    trial: Ok(Trial {
                        nat: Ok(()),
                        missing_sysctls: vec!["net.netfilter.nf_conntrack_tcp_be_liberal"],
                        ipv6_on_lo: false,
                    }),
                    ..well()
                },
            ),
            (
                "not_net_admin",
                Facts {
                    trial: Ok(Trial {
                        nat: Err(NftablesError::Transaction(Errno::EPERM)),
                        missing_sysctls: vec![],
                        ipv6_on_lo: true,
                    }),
                    ..well()
                },
            ),
            (
                "not_root_mounted_node",
                Facts {
                    trial: Err(NamespaceError::NeedsRoot),
                    iptables: tools(|command| match command {
                        "iptables" | "ip6tables" => ToolState::Found,
                        _ => ToolState::Absent,
                    }),
                    ..well()
                },
            ),
            (
                "nothing_answers",
                Facts {
                    kernel: String::new(),
                    trial: Err(NamespaceError::Unanswered(Unanswered(Duration::from_secs(10)))),
                    ipv6: Ipv6::Refused(Errno::EACCES),
                    iptables: tools(|_| ToolState::Absent),
                },
            ),
        ];
        for (name, facts) in nodes {
            let mut report = diagnose(Path::new("/"), &facts);
            report.version = "0.0.0";
            insta::assert_snapshot!(format!("{name}.text"), text(&report, Colour::Plain));
            insta::assert_snapshot!(format!("{name}.json"), json(&report));
        }
    }

    #[test]
    fn colour_changes_nothing_else() {
        let report = diagnose(Path::new("/"), &well());
        let painted = text(&report, Colour::Terminal);
        assert!(painted.contains("\x1b[32mok       \x1b[0m"));
        assert_eq!(painted.replace("\x1b[32m", "").replace("\x1b[0m", ""), text(&report, Colour::Plain));
    }
}
