// SPDX-License-Identifier: Apache-2.0
//! `culvert-sidecar inspect PATH…`: who may call each port of the pod, by which documents and in which order.

use crate::observe::one_line::one_line;
use crate::options::Options;
use crate::plan::compile::{self, PortReasons, Reason};
use crate::plan::load;
use crate::plan::permissions::{Peer, Verdict};
use culvert_mesh::model::spiffe::SpiffeId;
use std::fmt::Write;
use std::path::PathBuf;

/// Widest column; a longer text pushes the next one aside.
const WIDEST: usize = 60;

/// Explains the documents below the paths, and with a caller the verdict about it.
///
/// # Errors
/// Every error in the options, the caller's identity or the documents.
pub fn inspect(options: Options, caller: Option<&str>, paths: &[PathBuf]) -> Result<String, Vec<String>> {
    let mut config = options.with_resources(paths).check().map_err(|errors| words(&errors))?;
    config.any_pod = config.dataplane.is_none();
    let caller =
        caller.map(|id| id.parse::<SpiffeId>().map_err(|error| vec![format!("--caller {id:?}: {error}")]));
    let caller = caller.transpose()?.map(|id| Peer { ids: [id].into(), tags: [].into() });
    // Without --identity nothing says more than the names: only a mesh's own trust domain names services.
    let of_mesh = |peer: &Peer| peer.id().trust_domain() == config.mesh;
    let names_services = match &config.identity {
        Some(source) => source.names_services,
        None => caller.as_ref().is_some_and(of_mesh),
    };
    let (_, found) = load::read(&config, paths, None).map_err(|errors| words(&errors))?;
    let whose = config.dataplane.as_ref().map_or("any pod".into(), |name| format!("Dataplane {name:?}"));
    let mut text = format!("mesh {:?}, {whose}\n", config.mesh);
    let ports = compile::reasons(&config, &found);
    if ports.is_empty() {
        text += "\nThe mesh has no mTLS: every peer may call every port.\n";
    }
    for port in &ports {
        // Writing to a String does not fail.
        let _ = write!(text, "\n{}", of_port(port));
        if let Some(peer) = &caller {
            let _ = writeln!(text, "  {}: {}", peer.id(), verdict(port, peer, names_services));
        }
    }
    Ok(text.trim_end().to_owned())
}

fn of_port(port: &PortReasons) -> String {
    let mut text = format!(
        "{}\n  mode: {}\n{}",
        port.port,
        port.gate.mode.name(),
        list(&port.modes.iter().collect::<Vec<_>>())
    );
    let callers: Vec<_> = port.callers.iter().map(|(_, reason)| reason).collect();
    text += if port.gate.permissions.restricted {
        "  members: of those that fit, the first of from and each of rules; the strictest decides. Others are refused\n"
    } else {
        "  members: each may call, as no MeshTrafficPermission is about this\n"
    };
    text + &list(&callers)
}

/// Numbers the reasons, in two columns.
fn list(reasons: &[&Reason]) -> String {
    let width = reasons.iter().map(|reason| reason.says.chars().count()).max().unwrap_or(0).min(WIDEST);
    let line = |(index, reason): (usize, &&Reason)| {
        let (says, by) = (one_line(&reason.says), one_line(&reason.by));
        format!("  {:>4}. {says:<width$}  {by}\n", index + 1)
    };
    reasons.iter().enumerate().map(line).collect()
}

fn verdict(port: &PortReasons, peer: &Peer, names_services: bool) -> String {
    let (verdict, by) = port.decide(peer, names_services);
    let word = match verdict {
        Verdict::Allowed => "may call",
        Verdict::ShadowDenied => "may call, and counts as denied",
        Verdict::Denied => "is refused",
    };
    by.map_or(word.into(), |number| format!("{word}, by {number}"))
}

fn words<E: ToString>(errors: &[E]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    const DOCUMENTS: &str = "
{type: Mesh, name: default, mtls: {enabledBackend: ca, backends: [{name: ca, mode: PERMISSIVE}]}}
---
{type: Dataplane, name: here, networking: {address: 10.0.0.2, inbound: [{port: 80, tags: {kuma.io/service: here}}, {port: 81, tags: {kuma.io/service: ops}}]}}
---
{type: MeshTLS, name: strict, spec: {rules: [{default: {mode: Strict}}]}}
---
{type: MeshTrafficPermission, name: all, spec: {from: [{targetRef: {kind: MeshService, name: web}, default: {action: Allow}}]}}
---
{type: MeshTrafficPermission, name: closed, spec: {targetRef: {kind: MeshService, name: here}, from: [{targetRef: {kind: Mesh}, default: {action: Deny}}],
  rules: [{default: {allow: [{spiffeID: {type: Prefix, value: 'spiffe://default/ops/'}}]}}]}}
";

    fn inspected(caller: Option<&str>, documents: &str) -> Result<String, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.yaml");
        std::fs::write(&path, documents).unwrap();
        let options = Options::try_parse_from(["culvert-sidecar", "--dataplane=here"]).unwrap();
        let text = inspect(options, caller, &[path]);
        text.map(|text| text.replace(&folder.path().display().to_string(), ""))
    }

    #[test]
    fn each_port_has_its_reasons_in_the_order_in_which_they_decide() {
        insta::assert_snapshot!(inspected(Some("spiffe://default/web"), DOCUMENTS).unwrap());
    }

    #[test]
    fn the_path_of_a_foreign_authority_names_no_service() {
        let text = inspected(Some("spiffe://cluster.local/web"), DOCUMENTS).unwrap();
        assert_eq!(text.matches("spiffe://cluster.local/web: is refused").count(), 3, "{text}");
    }

    #[test]
    fn a_mesh_without_tls_knows_no_caller_and_wrong_input_is_an_error() {
        let open = DOCUMENTS.replace("enabledBackend: ca, ", "");
        assert!(inspected(None, &open).unwrap().ends_with("every peer may call every port."));
        let wrong = inspected(Some("web"), DOCUMENTS).unwrap_err();
        assert!(wrong.len() == 1 && wrong[0].starts_with("--caller \"web\": "), "{wrong:?}");
        assert!(inspected(None, "{type: Mesh}").is_err());
    }
}
