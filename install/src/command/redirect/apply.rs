// SPDX-License-Identifier: Apache-2.0
//! `redirect apply`: writes rules, address and sysctls into a namespace that lives, and keeps a record of the changes
//! for `remove`.

use std::fmt::Write;

use culvert_cni::redirect::engine::Engine;
use culvert_cni::redirect::living::{self, Established};
use culvert_cni::redirect::loopback::HopAddress;
use culvert_cni::redirect::policy::{DnsCapture, Policy, Port, Protocol};
use culvert_cni::redirect::sysctl::Changed;
use culvert_cni::redirect::{self, Footprint, Installed, Namespace, Outcome};

use super::record::{Record, RecordFile};
use super::{RedirectRefusal, SSH_KEPT_OUT, own, rules};
use crate::cli::redirect::ApplyArgs;
use crate::command::answer::Answer;
use crate::command::answer::Exit;
use crate::command::settings;
use crate::probe::listeners::{Listener, listeners};
use crate::probe::place::Place;

/// Heads the list of other programs' rules.
const BESIDE: &str = "rules of other programs, which see redirected connections otherwise than before; see \
                      \"Beside other NAT and filters\" in cni/ANNOTATIONS.md:";
/// Connections that are listed one by one.
const MAX_TOLD: usize = 5;

pub(crate) fn run(args: &ApplyArgs) -> Result<Answer, RedirectRefusal> {
    let ApplyArgs { settings, place: where_, force } = args;
    let wanted = settings::wanted(settings, where_.netns.as_deref())?;
    let place = Place::open(where_.netns.as_deref())?;
    let file = RecordFile::new(&where_.state_dir, place.id());
    let record = file.read()?;
    let pending = file.prepare()?;

    let work = Work {
        policy: wanted.policy,
        place: place.to_string(),
        needs_listeners: place.is_current() && !force,
        // The current namespace may be that of a container of ours.
        namespace: if place.is_current() { Namespace::Container } else { Namespace::Living },
        may_replace: *force,
        record: record.clone(),
    };
    let Done { installed, established, beside: others, mut warnings } = place.run(move || work.run())??;
    warnings.splice(0..0, wanted.warnings);
    let Installed { engine, outcome, footprint, left_out: _ } = installed;
    let footprint = match &record {
        Some(Record { footprint: earlier, .. }) => footprint.after(earlier),
        None => footprint,
    };
    let record = Record { engine: engine.name().to_owned(), footprint };
    if let Err(error) = pending.commit(&record) {
        return Err(match outcome {
            // Without a record the rules could not be removed later, so they are removed now.
            Outcome::Created => take_back(&place, engine, record.footprint).map(|()| error)?.into(),
            Outcome::Unchanged | Outcome::Replaced => error.into(),
        });
    }

    let mut out = format!("Redirect {outcome} by {} in {place}.\n", engine.name());
    let mut line = |text: &str| {
        // Writing to a String does not fail.
        let _ = writeln!(out, "  {text}");
    };
    if wanted.keeps_ssh {
        line(SSH_KEPT_OUT);
    }
    if let Some(text) = carried_on(outcome, &established) {
        line(&text);
    }
    if !others.is_empty() {
        line(BESIDE);
        others.iter().for_each(|text| line(&format!("  {text}")));
    }
    line(&format!("changed beside the rules, kept in {} for `redirect remove`:", file.path().display()));
    beside(&record.footprint).iter().for_each(|text| line(&format!("  {text}")));
    Ok(Answer::said(out, Exit::Well).with("warning", &warnings))
}

fn take_back(place: &Place, engine: Engine, footprint: Footprint) -> Result<(), RedirectRefusal> {
    let mut errors = place.run(move || redirect::remove(engine, Some(&footprint)))?;
    errors.pop().map_or(Ok(()), |error| Err(error.into()))
}

/// Work inside the namespace.
struct Work {
    policy: Policy,
    place: String,
    namespace: Namespace,
    needs_listeners: bool,
    may_replace: bool,
    record: Option<Record>,
}

struct Done {
    installed: Installed,
    established: Vec<Established>,
    /// NAT rules and drop policies of other programs.
    beside: Vec<String>,
    warnings: Vec<String>,
}

impl Work {
    fn run(self) -> Result<Done, RedirectRefusal> {
        let Self { policy, place, needs_listeners, namespace, may_replace, record } = self;
        let found = rules::found(record.as_ref())?;
        if let Some(owner) =
            found.iter().find_map(|found| found.another(record.as_ref())).filter(|_| !may_replace)
        {
            return Err(RedirectRefusal::Anothers { owner, place });
        }
        let sockets = |source| RedirectRefusal::Sockets { place: place.clone(), source };
        let listening = listeners().map_err(sockets)?;
        let missing = unheard(&policy, &listening);
        if needs_listeners && !missing.is_empty() {
            return Err(RedirectRefusal::NobodyListens { ports: missing, place });
        }
        let mut warnings = by_others(&policy, &listening);
        let established = living::established().map_err(sockets)?;
        // Rules of nftables are replaced or removed in any case.
        let earlier = found.iter().map(|found| found.engine).find(|engine| *engine != Engine::Nftables);
        let installed = redirect::install(&policy, &own(), earlier, namespace)?;
        let left_out = |reason: &String| {
            format!(
                "left out: {reason}; set these by the pod's securityContext.sysctls, or let culvert-cni do it from the host"
            )
        };
        warnings.extend(installed.left_out.iter().map(left_out));
        Ok(Done { installed, established, beside: redirect::beside::others(), warnings })
    }
}

/// Ports that connections are redirected to, each with its setting and protocol.
fn needed(policy: &Policy) -> Vec<(&'static str, Port, Protocol)> {
    let Policy { inbound, outbound, dns, .. } = policy;
    let mut ports = Vec::new();
    if inbound.redirect.is_enabled() {
        ports.push(("inbound-port", inbound.port, Protocol::Tcp));
    }
    if outbound.redirect.is_enabled() {
        ports.push(("outbound-port", outbound.port, Protocol::Tcp));
    }
    if dns.capture != DnsCapture::Off {
        ports.push(("dns-port", dns.port, Protocol::Udp));
    }
    ports
}

/// Ports without a listener.
fn unheard(policy: &Policy, listening: &[Listener]) -> Vec<String> {
    needed(policy)
        .into_iter()
        .filter(|(_, port, protocol)| {
            !listening.iter().any(|found| found.port == port.get() && found.protocol == *protocol)
        })
        .map(|(setting, port, protocol)| format!("{protocol} port {port} ({setting})"))
        .collect()
}

/// Listeners of other programs than the proxy: connections that they dial would come back to them.
fn by_others(policy: &Policy, listening: &[Listener]) -> Vec<String> {
    let uid = policy.proxy_uid.get();
    needed(policy)
        .into_iter()
        .filter_map(|(setting, port, protocol)| {
            let here = |found: &&Listener| found.port == port.get() && found.protocol == protocol;
            let mut there = listening.iter().filter(here);
            let other = there.clone().next()?;
            (!there.any(|found| found.uid == uid)).then(|| {
                format!(
                    "who listens on {protocol} port {port} ({setting}) runs as uid {}, not as proxy-uid {uid}: its own \
                     connections would come back to it",
                    other.uid
                )
            })
        })
        .collect()
}

fn beside(footprint: &Footprint) -> Vec<String> {
    let Footprint { hop_address, sysctls } = footprint;
    let address = match hop_address {
        HopAddress::Added => "::6 is on lo",
        HopAddress::Present => "::6 was on lo already",
        HopAddress::Off => "no ::6, since IPv6 is off or not redirected",
    };
    let sysctl = |sysctl: &Changed| {
        let before = if sysctl.before.is_empty() { "empty" } else { &sysctl.before };
        format!("{} is {} (was {before})", sysctl.name.replace('/', "."), sysctl.after)
    };
    [address.to_owned()].into_iter().chain(sysctls.iter().map(sysctl)).collect()
}

/// Treatment of connections that were open before.
fn carried_on(outcome: Outcome, established: &[Established]) -> Option<String> {
    let how = match outcome {
        Outcome::Created => "stay direct until they end",
        Outcome::Replaced => "keep the way that they have until they end",
        // Unchanged rules do not concern them.
        Outcome::Unchanged => return None,
    };
    let told: Vec<_> = established
        .iter()
        .take(MAX_TOLD)
        .map(|Established { local, remote }| format!("{local} – {remote}"))
        .collect();
    let more = established.len() - told.len();
    let more = if more == 0 { String::new() } else { format!(", and {more} more") };
    Some(match established.len() {
        0 => "no connection was open".to_owned(),
        n => format!("open connections that {how}: {n} ({}{more})", told.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(port: u16, uid: u32, protocol: Protocol) -> Listener {
        Listener { protocol, port, uid }
    }

    #[test]
    fn every_port_that_is_redirected_to_must_be_heard() {
        let mut policy = Policy::default();
        policy.dns.capture = DnsCapture::All;
        let inbound = listener(15006, 5678, Protocol::Tcp);
        let outbound = listener(15001, 5678, Protocol::Tcp);
        assert_eq!(
            unheard(&policy, &[inbound]),
            ["TCP port 15001 (outbound-port)", "UDP port 15053 (dns-port)"]
        );
        assert_eq!(unheard(&policy, &[inbound, outbound, listener(15053, 5678, Protocol::Udp)]), [""; 0]);
        policy.dns.capture = DnsCapture::Off;
        policy.outbound.redirect = culvert_cni::redirect::policy::Toggle::Disabled;
        assert_eq!(unheard(&policy, &[inbound]), [""; 0]);
    }

    #[test]
    fn a_listener_that_is_not_the_proxy_is_told() {
        let policy = Policy::default();
        let proxy = listener(15006, 5678, Protocol::Tcp);
        let other = listener(15001, 0, Protocol::Tcp);
        let told = by_others(&policy, &[proxy, other]);
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("15001") && told[0].contains("uid 0"), "{told:?}");
        assert_eq!(by_others(&policy, &[]), [""; 0]);
    }

    #[test]
    fn the_first_open_connections_are_told() {
        let open = |n: u16| Established {
            local: ([10, 0, 0, 2], 40_000 + n).into(),
            remote: ([192, 0, 2, 1], 80).into(),
        };
        let seven: Vec<_> = (0..7).map(open).collect();
        let told = carried_on(Outcome::Created, &seven).unwrap();
        assert!(
            told.starts_with("open connections that stay direct until they end: 7 (10.0.0.2:40000 – "),
            "{told}"
        );
        assert!(told.ends_with(", and 2 more)"), "{told}");
        assert_eq!(carried_on(Outcome::Created, &[]).as_deref(), Some("no connection was open"));
        assert_eq!(carried_on(Outcome::Unchanged, &seven), None);
    }
}
