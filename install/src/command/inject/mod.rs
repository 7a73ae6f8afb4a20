// SPDX-License-Identifier: Apache-2.0
//! `culvert-install inject`: manifests with sidecars, or the decisions about their pods in words. Each pod is decided as
//! at its admission.

#[cfg(test)]
mod controlled;
mod places;
#[cfg(test)]
mod tests;
mod webhook;

use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::Path;

use serde_json::Value;

use self::places::{Places, places};
use crate::cli::inject::{ControlArgs, InjectArgs, KumaLabelArg, ShapeArg};
use crate::command::answer::{Answer, Exit};
use crate::command::settings::{NodeEntry, node_entry};
use crate::inject::{Control, Decision, Injected, KumaLabel, Namespace, Settings, Shape, apply, decide};
use crate::manifest::{ManifestError, documents, edited};
use crate::system::read::read_bounded;

/// Largest manifest, in bytes: ten times what etcd takes for one object, times a thousand small ones.
const MAX_FILE: u64 = 64 << 20;

/// Reasons why a manifest has no decision.
#[derive(Debug, thiserror::Error)]
enum InjectError {
    #[error(
        "inject needs one manifest (--file FILE, --why FILE, or --file FILE --why) or a Service (--service NAME.NAMESPACE)"
    )]
    NotOneFile,
    #[error("cannot read {file}: {source}")]
    Unreadable { file: String, source: io::Error },
    #[error("{file}: {source}")]
    Malformed { file: String, source: ManifestError },
}

/// One pod of a manifest, and the decision about it.
struct Decided {
    /// Kind, namespace and name, for people.
    title: String,
    decision: Decision,
}

pub(crate) fn run(args: &InjectArgs) -> Answer {
    if let Some(service) = &args.service {
        return webhook::run(args, service);
    }
    let explain = args.why.is_some();
    let file = match (args.why.as_ref().and_then(Option::as_ref), &args.file) {
        (Some(file), None) | (None, Some(file)) => file,
        _ => return Answer::refused(&InjectError::NotOneFile, Exit::Usage),
    };
    let text = if file == Path::new("-") { read_stdin() } else { read_bounded(file, MAX_FILE) };
    let file = file.display().to_string();
    let node = match node_entry(args.conflist.as_deref()) {
        Ok(node) => node,
        Err(error) => return Answer::refused(&error, error.exit()),
    };
    let (namespace, settings) = asked(args, node);
    let answer =
        text.map_err(|source| InjectError::Unreadable { file: file.clone(), source }).and_then(|text| {
            of_text(&text, &namespace, &settings, explain)
                .map_err(|source| InjectError::Malformed { file, source })
        });
    answer.unwrap_or_else(|error| Answer::refused(&error, Exit::Attention))
}

fn read_stdin() -> io::Result<String> {
    let mut text = String::new();
    io::stdin().take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {MAX_FILE} bytes")));
    }
    Ok(text)
}

fn asked(args: &InjectArgs, node: NodeEntry) -> (Namespace, Settings) {
    let InjectArgs {
        image,
        sidecar,
        namespace_label,
        namespace_annotation,
        exclude_namespace,
        kuma_label,
        control: ControlArgs { control, trust_domain, identity },
        ..
    } = args;
    let namespace = Namespace {
        name: None,
        labels: namespace_label.iter().cloned().collect(),
        annotations: namespace_annotation.iter().cloned().collect(),
    };
    let shape = match sidecar {
        ShapeArg::Native => Shape::Native,
        ShapeArg::Plain => Shape::Plain,
    };
    let kuma_label = match kuma_label {
        KumaLabelArg::On => KumaLabel::On,
        KumaLabelArg::Off => KumaLabel::Off,
    };
    let image = image.clone().unwrap_or_default();
    // A sidecar whose pod is not redirected would never be ready.
    let NodeEntry { defaults: node, excluded } = node;
    let excluded = exclude_namespace.iter().cloned().chain(excluded).collect();
    let identity = (*identity).into();
    let control = control.clone().map(|url| Control { url, trust_domain: trust_domain.clone(), identity });
    (namespace, Settings { image, shape, excluded, kuma_label, node, control })
}

/// Decides about all pods of a text.
fn of_text(
    text: &str,
    namespace: &Namespace,
    settings: &Settings,
    explain: bool,
) -> Result<Answer, ManifestError> {
    let documents = documents(text)?;
    let mut all = Vec::new();
    let mut notes = Vec::new();
    let mut wanted = Vec::with_capacity(documents.len());
    for document in &documents {
        let mut after = None;
        let Places { pods, unknown } = places(&document.value);
        notes.extend(
            unknown.iter().map(|title| format!("{title} has a pod template, but its kind is not known")),
        );
        for place in pods {
            let pod = document.value.pointer(&place.pointer).unwrap_or(&Value::Null);
            let namespace = Namespace { name: place.namespace.clone(), ..namespace.clone() };
            let decision = decide(pod, &namespace, settings);
            if let Decision::Injected(Injected { operations, .. }) = &decision
                && !operations.is_empty()
            {
                let after = after.get_or_insert_with(|| document.value.clone());
                // The operations are made for this very pod.
                after.pointer_mut(&place.pointer).and_then(|pod| apply(pod, operations));
            }
            all.push(Decided { title: place.title, decision });
        }
        wanted.push(after);
    }
    if explain {
        return Ok(explained(&all, &notes));
    }
    let refused = lines(&all, |decision| matches!(decision, Decision::Refused(_)));
    if !refused.is_empty() {
        return Ok(Answer { out: String::new(), err: String::new(), exit: Exit::Attention }
            .with("refused", &refused));
    }
    let edited = edited(text, &documents, &wanted);
    let skipped = lines(&all, |decision| matches!(decision, Decision::Skipped(_)));
    for Decided { title, decision } in &all {
        if let Decision::Injected(injected) = decision {
            notes.extend(injected.notes.iter().map(|note| format!("{title}: {note}")));
        }
    }
    let anew = |place: &usize| {
        format!(
            "document {} could not be edited in place: it is printed anew, without its comments",
            place + 1
        )
    };
    notes.extend(edited.reprinted.iter().map(anew));
    Ok(Answer::said(edited.text, Exit::Well).with("skipped", &skipped).with("note", &notes))
}

/// A line for each pod with such a decision.
fn lines(all: &[Decided], of: impl Fn(&Decision) -> bool) -> Vec<String> {
    let line = |Decided { title, decision }: &Decided| match decision {
        Decision::Injected(injected) => format!("{title}: {}", injected.words),
        Decision::Skipped(skipped) => format!("{title}: {skipped}"),
        Decision::Refused(refusal) => format!("{title}: {refusal}"),
    };
    all.iter().filter(|decided| of(&decided.decision)).map(line).collect()
}

/// The decisions in words.
fn explained(all: &[Decided], unknown: &[String]) -> Answer {
    let mut out = String::new();
    for Decided { title, decision } in all {
        match decision {
            Decision::Skipped(skipped) => _ = writeln!(out, "{title}: skipped: {skipped}"),
            Decision::Refused(refusal) => {
                _ = writeln!(out, "{title}: refused");
                refusal.0.iter().for_each(|words| _ = writeln!(out, "  {words}"));
            }
            Decision::Injected(Injected { operations, words, notes, .. }) => {
                _ = writeln!(out, "{title}: {words}");
                notes.iter().for_each(|note| _ = writeln!(out, "  note: {note}"));
                if operations.is_empty() {
                    _ = writeln!(out, "  nothing to change: it has its sidecar");
                }
                for operation in operations {
                    _ = writeln!(out, "  {} {}", operation.verb(), operation.path());
                }
            }
        }
    }
    unknown.iter().for_each(|note| _ = writeln!(out, "note: {note}"));
    if all.is_empty() && unknown.is_empty() {
        out.push_str("no pod, and no kind with a pod template\n");
    }
    let refused = all.iter().any(|decided| matches!(decided.decision, Decision::Refused(_)));
    Answer::said(out, if refused { Exit::Attention } else { Exit::Well })
}
