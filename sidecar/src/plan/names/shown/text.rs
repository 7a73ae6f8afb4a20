// SPDX-License-Identifier: Apache-2.0
//! The answer as text, for people. Names of documents and services are free text, so that each is put on one line.

use super::{NameList, Resolved, ShownCluster, ShownName, ShownPort};
use crate::observe::one_line::one_line;
use std::fmt;
use std::net::IpAddr;

/// Widest column of the list; a longer text pushes the next one aside.
const WIDEST: usize = 60;

impl fmt::Display for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, names, notes, near } = self;
        if names.is_empty() {
            writeln!(f, "{} is not there", one_line(asked))?;
        }
        names.iter().try_for_each(|name| name.fmt(f))?;
        notes.iter().try_for_each(|note| writeln!(f, "  {}", one_line(note)))?;
        if !near.is_empty() {
            writeln!(f, "  names that look like it: {}", near.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for ShownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, addresses, ttl, service, by, ports } = self;
        writeln!(f, "{name}")?;
        writeln!(f, "  addresses  {}, for {ttl} s", list(addresses))?;
        writeln!(f, "  service    {}", one_line(service))?;
        writeln!(f, "  made by    {}", one_line(by))?;
        if ports.is_empty() {
            writeln!(f, "  no port can be called")?;
        }
        ports.iter().try_for_each(|port| port.fmt(f))
    }
}

impl fmt::Display for ShownPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_ref().map_or_else(String::new, |name| format!(" ({})", one_line(name)));
        writeln!(f, "  port {}{name}, listener {}", self.port, one_line(&self.listener))?;
        if self.clusters.is_empty() {
            writeln!(f, "    every connection is denied")?;
        }
        self.clusters.iter().try_for_each(|cluster| cluster.fmt(f))
    }
}

impl fmt::Display for ShownCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, share, total, endpoints } = self;
        let share = share.map_or_else(String::new, |[share, all]| format!(", {share} of {all} connections"));
        let count = match total {
            0 => "no endpoint".into(),
            1 => "1 endpoint".into(),
            several => format!("{several} endpoints"),
        };
        writeln!(f, "    cluster {}{share}: {count}", one_line(name))?;
        let width = endpoints.iter().map(|endpoint| endpoint.address.chars().count()).max().unwrap_or(0);
        for endpoint in endpoints {
            let address = one_line(&endpoint.address);
            let health = endpoint.health.map_or_else(String::new, |health| format!("  {health}"));
            writeln!(f, "      {address:<width$}  {}{health}", one_line(&endpoint.by))?;
        }
        match total - endpoints.len() {
            0 => Ok(()),
            more => writeln!(f, "      and {more} more"),
        }
    }
}

impl fmt::Display for NameList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { total, matching, page, pages, names, refused_total, refused } = self;
        writeln!(f, "{matching} of {total} names, page {page} of {pages}")?;
        let rows: Vec<[String; 4]> = names.iter().flat_map(rows).collect();
        let width =
            |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).min(WIDEST);
        let [first, second, third] = [width(0), width(1), width(2)];
        for [name, addresses, port, servers] in &rows {
            let row = format!("{name:<first$}  {addresses:<second$}  {port:<third$}  {servers}");
            writeln!(f, "{}", row.trim_end())?;
        }
        if *refused_total > 0 {
            writeln!(f, "\nnames that do not exist: {refused_total}")?;
        }
        for refusal in refused {
            writeln!(f, "  {}: {}", one_line(&refusal.name), one_line(&refusal.why))?;
        }
        match refused_total - refused.len() {
            0 => Ok(()),
            more => writeln!(f, "  and {more} more"),
        }
    }
}

/// Returns a row for each port; only the first one repeats the name and its addresses.
fn rows(name: &ShownName) -> Vec<[String; 4]> {
    let start = [name.name.clone(), list(&name.addresses)];
    if name.ports.is_empty() {
        let [host, addresses] = start;
        return vec![[host, addresses, "no port".into(), String::new()]];
    }
    let row = |(nth, port): (usize, &ShownPort)| {
        let [host, addresses] = if nth == 0 { start.clone() } else { Default::default() };
        let number = match &port.name {
            Some(name) => format!("{} {}", port.port, one_line(name)),
            None => port.port.to_string(),
        };
        let servers: Vec<_> = port.clusters.iter().map(servers).collect();
        let servers = if servers.is_empty() { "denied".into() } else { servers.join("; ") };
        [host, addresses, number, servers]
    };
    name.ports.iter().enumerate().map(row).collect()
}

/// Returns a cluster with the number of its endpoints, and with the number of each state of theirs, where a sidecar runs.
fn servers(cluster: &ShownCluster) -> String {
    let mut states: Vec<(&str, usize)> = Vec::new();
    for health in cluster.endpoints.iter().filter_map(|endpoint| endpoint.health) {
        match states.iter_mut().find(|(state, _)| *state == health) {
            Some((_, count)) => *count += 1,
            None => states.push((health, 1)),
        }
    }
    let share = cluster.share.map_or_else(String::new, |[share, all]| format!(" {share}/{all}"));
    let states: Vec<_> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let told = match (states.is_empty(), cluster.total - cluster.endpoints.len()) {
        (true, _) => String::new(),
        (false, 0) => format!(" ({})", states.join(", ")),
        (false, more) => format!(" ({}, {more} more)", states.join(", ")),
    };
    format!("{}{share}: {}{told}", one_line(&cluster.name), cluster.total)
}

fn list(addresses: &[IpAddr]) -> String {
    match addresses.is_empty() {
        true => "none".into(),
        false => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}
