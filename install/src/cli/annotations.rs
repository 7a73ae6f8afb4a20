// SPDX-License-Identifier: Apache-2.0
//! Every annotation but `redirect` as an option of the same name. The plugin names them; the help for people stands
//! here.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, ValueHint};
use culvert_cni::pod::names;

/// Help for one annotation.
struct Help {
    /// Its name behind `culvert.dev/`.
    name: &'static str,
    /// Placeholder of its value.
    value: &'static str,
    /// Its effect, its values and its default.
    text: &'static str,
}

const fn help(name: &'static str, value: &'static str, text: &'static str) -> Help {
    Help { name, value, text }
}

/// Help for every annotation, in the order of the plugin's page.
const HELP: [Help; 22] = [
    help("proxy-uid", "UID", "The uid that the sidecar runs as, 1 to 4294967294 [default: 5678]"),
    help("redirect-inbound", "TOGGLE", "Connections from peers: enabled, disabled [default: enabled]"),
    help("redirect-outbound", "TOGGLE", "Connections to others: enabled, disabled [default: enabled]"),
    help("inbound-port", "PORT", "Port for redirected connections from peers [default: 15006]"),
    help("outbound-port", "PORT", "Port for redirected connections to others [default: 15001]"),
    help("status-port", "PORT", "Status port of the sidecar, never redirected inbound [default: 15020]"),
    help(
        "include-inbound-ports",
        "PORTS",
        "Ports that are redirected inbound, as in 80,443,8000-8999 [default: all]",
    ),
    help(
        "include-outbound-ports",
        "PORTS",
        "Ports that are redirected outbound, as in 80,443,8000-8999 [default: all]",
    ),
    help(
        "exclude-inbound-ports",
        "PORTS",
        "Ports that peers reach directly [default: none; 22 for redirect without --netns]",
    ),
    help("exclude-outbound-ports", "PORTS", "Destination ports that are reached directly [default: none]"),
    help(
        "exclude-inbound-cidrs",
        "CIDRS",
        "Peers that reach the pod directly, as in 10.0.0.1,fd00::/8 [default: none]",
    ),
    help(
        "exclude-outbound-cidrs",
        "CIDRS",
        "Destinations reached directly, as in 10.0.0.1,fd00::/8 [default: none]",
    ),
    help(
        "exclude-outbound-ports-for-uids",
        "LIST",
        "Uids that reach ports directly, as in tcp:80,443:1234;udp:53:1000-1010 ([protocols:][ports:]uids) [default: none]",
    ),
    help(
        "virtual-interfaces",
        "LIST",
        "Interfaces of containers or guests inside the pod, as in docker0:172.17.0.0/16,br-+:fd00::/8 [default: none]",
    ),
    help(
        "closed-ports",
        "WHAT",
        "Inbound connections to ports without a listener: redirect, refuse (nftables only) [default: redirect]",
    ),
    help("outbound-udp", "WHAT", "UDP of the application other than DNS: direct, reject [default: direct]"),
    help(
        "redirect-dns",
        "WHICH",
        "DNS queries that are redirected: disabled, all, or addresses of nameservers [default: disabled]",
    ),
    help("dns-port", "PORT", "Port for redirected DNS queries [default: 15053]"),
    help("ip-family", "FAMILY", "IP families that are redirected: dual, ipv4, ipv6 [default: dual]"),
    help(
        "drop-invalid",
        "TOGGLE",
        "Drop packets that conntrack calls invalid: enabled, disabled, true, false [default: disabled]",
    ),
    help("trace", "TOGGLE", "Mark packets for `nft monitor trace`: enabled, disabled [default: disabled]"),
    help(
        "engine",
        "ENGINE",
        "Engine that writes the rules: auto, nftables, iptables, iptables-nft, iptables-legacy [default: auto]",
    ),
];

/// Settings of a person: annotations from a file, and options that override them.
#[derive(Debug, Default, Args)]
pub(crate) struct Settings {
    /// The annotations of a pod: a JSON object, or `key: value` lines as in its metadata; options go before them
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub annotations: Option<PathBuf>,
    /// Each annotation as an option.
    #[command(flatten)]
    pub options: Options,
}

/// Annotations given as options, by their names behind `culvert.dev/`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Options(pub Vec<(&'static str, String)>);

impl Args for Options {
    fn augment_args(command: Command) -> Command {
        names().fold(command.next_help_heading("Annotations as options"), |command, (name, _)| {
            let arg = Arg::new(name).long(name);
            command.arg(match HELP.iter().find(|help| help.name == name) {
                Some(Help { value, text, .. }) => arg.value_name(*value).help(*text),
                None => arg.value_name("VALUE").help(format!("As the annotation culvert.dev/{name}")),
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Options {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut options = Self::default();
        options.update_from_arg_matches(matches)?;
        Ok(options)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let given = |(name, _)| Some((name, matches.get_one::<String>(name)?.clone()));
        self.0 = names().filter_map(given).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_annotation_has_its_help_and_no_other() {
        let explained: Vec<_> = HELP.iter().map(|help| help.name).collect();
        assert_eq!(names().map(|(name, _)| name).collect::<Vec<_>>(), explained);
    }
}
