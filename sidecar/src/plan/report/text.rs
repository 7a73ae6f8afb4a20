// SPDX-License-Identifier: Apache-2.0
//! The answer as text, for people.

use super::{CallerVerdict, Port, Report, Trial};
use crate::observe::one_line::one_line;
use crate::plan::decisions::{Change, Claim, Decision};
use std::collections::HashMap;
use std::fmt;

/// Widest column; a longer text pushes the next one aside.
const WIDEST: usize = 60;
/// Word before a claim that does not hold.
const LOST: &str = "  lost";

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mesh, dataplane, notes, identity, ports, decisions, trial } = self;
        let whose = dataplane.as_ref().map_or("any pod".into(), |name| format!("Dataplane {name:?}"));
        writeln!(f, "mesh {mesh:?}, {whose}")?;
        notes.iter().try_for_each(|note| writeln!(f, "{}", one_line(note)))?;
        if !identity.is_empty() {
            writeln!(f, "\nidentity and trust")?;
            numbered(f, identity)?;
        }
        if ports.is_empty() {
            writeln!(f, "\nThe mesh has no mTLS: every peer may call every port.")?;
        }
        ports.iter().try_for_each(|port| write!(f, "\n{port}"))?;
        for (subject, of) in by_subject(decisions) {
            writeln!(f, "\n{}", one_line(subject))?;
            fields(f, &of)?;
        }
        write!(f, "{trial}")
    }
}

/// Returns the decisions of each subject, in the order in which subjects come first.
fn by_subject(decisions: &[Decision]) -> Vec<(&str, Vec<&Decision>)> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut all: Vec<(&str, Vec<&Decision>)> = Vec::new();
    for decision in decisions {
        let subject = decision.subject.as_str();
        let place = *places.entry(subject).or_insert_with(|| {
            all.push((subject, Vec::new()));
            all.len() - 1
        });
        all[place].1.push(decision);
    }
    all
}

/// Writes the fields of a subject, each with the claims that lost below it.
fn fields(f: &mut fmt::Formatter<'_>, decisions: &[&Decision]) -> fmt::Result {
    let rows = decisions.iter().flat_map(|Decision { field, holds, lost, .. }| {
        let lost = lost.iter().map(|claim| (LOST, claim));
        std::iter::once((field.as_str(), holds)).chain(lost)
    });
    let rows: Vec<_> = rows.collect();
    let width = |texts: &mut dyn Iterator<Item = &str>| {
        texts.map(|text| text.chars().count()).max().unwrap_or(0).min(WIDEST)
    };
    let first = width(&mut rows.iter().map(|(field, _)| *field));
    let second = width(&mut rows.iter().map(|(_, claim)| claim.value.as_str()));
    for (field, claim) in rows {
        let Claim { value, by } = claim;
        writeln!(f, "  {:<first$}  {:<second$}  {}", one_line(field), one_line(value), one_line(by))?;
    }
    Ok(())
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n  mode: {}", self.port, self.mode)?;
        numbered(f, &self.modes)?;
        let members = match self.restricted {
            _ if self.closed => "none may call, as STRICT closes ports that no inbound names",
            true if self.permissions.is_empty() => {
                "none may call, as the mesh has a MeshIdentity and no MeshTrafficPermission is about this"
            }
            true => {
                "of those that fit, the first of from and each of rules; the strictest decides. Others are refused"
            }
            false => "each may call, as no MeshTrafficPermission is about this",
        };
        writeln!(f, "  members: {members}")?;
        numbered(f, &self.permissions)?;
        if let Some(mode) = self.mode_on_trial {
            writeln!(f, "  on trial: the mode would be {mode}")?;
        }
        if !self.permissions_on_trial.is_empty() {
            writeln!(f, "  on trial: the permissions would be")?;
            numbered(f, &self.permissions_on_trial)?;
        }
        self.caller.iter().try_for_each(|caller| writeln!(f, "  {caller}"))
    }
}

/// Numbers claims, in two columns.
fn numbered(f: &mut fmt::Formatter<'_>, claims: &[Claim]) -> fmt::Result {
    let lengths = claims.iter().map(|claim| claim.value.chars().count());
    let width = lengths.max().unwrap_or(0).min(WIDEST);
    for (index, Claim { value, by }) in claims.iter().enumerate() {
        writeln!(f, "  {:>4}. {:<width$}  {}", index + 1, one_line(value), one_line(by))?;
    }
    Ok(())
}

impl fmt::Display for CallerVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, verdict, by, why, on_trial } = self;
        write!(f, "{id}: {verdict}")?;
        why.iter().try_for_each(|why| write!(f, ", {why}"))?;
        by.iter().try_for_each(|number| write!(f, ", by {number}"))?;
        on_trial.iter().try_for_each(|verdict| write!(f, "; with the policies on trial it {verdict}"))
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policies, changes, errors } = self;
        if policies.is_empty() {
            return Ok(());
        }
        writeln!(f, "\non trial (kuma.io/effect: shadow), not in force")?;
        policies.iter().try_for_each(|policy| writeln!(f, "  {}", one_line(policy)))?;
        errors.iter().try_for_each(|error| writeln!(f, "  would be an error: {}", one_line(error)))?;
        if changes.is_empty() && errors.is_empty() {
            writeln!(f, "  beside who may call, nothing that is told here would change")?;
        }
        for Change { subject, field, is, would_be } in changes {
            let (is, would_be) = (values(is), values(would_be));
            writeln!(f, "  {}, {field}: is {is}; would be {would_be}", one_line(subject))?;
        }
        Ok(())
    }
}

fn values(claims: &[Claim]) -> String {
    let one = |Claim { value, by }: &Claim| format!("{} by {}", one_line(value), one_line(by));
    if claims.is_empty() { "absent".into() } else { claims.iter().map(one).collect::<Vec<_>>().join(", ") }
}
