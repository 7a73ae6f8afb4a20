// SPDX-License-Identifier: Apache-2.0
//! `culvert-install status`: each pod of this node, from the agent, or by an own check if no agent answers; or the cluster.

mod cluster;

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use culvert_cni::agent::{Answer as Answered, Request, client};
use culvert_cni::attachment::Records;
use culvert_cni::redirect::repair::{Mode, State as Redirect};

use super::answer::{Answer, Colour};
use super::table::table;
use crate::agent::status::{NodeStatus, PodRow, PodTable, RedirectState};
use crate::agent::verify::{self, Defaults, Desired, PodCheck, Subject};
use crate::cli::shared::Output;
use crate::cli::status::StatusArgs;
use crate::command::answer::Exit;
use crate::conflist::{Choice, Conflist, MAX_BYTES, TYPE};
use crate::cri::Network;
use crate::host::entry::DROP_IN;
use crate::host::folder::Folder;
use crate::host::layout::{self, Layout};
use crate::host::plugins::Plugins;
use crate::system::clock::rfc3339;
use crate::system::read::read_bounded;

/// Deadline of the agent, which only has to write down what it knows.
const AGENT_WITHIN: Duration = Duration::from_secs(2);

/// Asks the agent or checks the pods.
pub(crate) fn run(args: &StatusArgs, colour: Colour) -> Answer {
    let StatusArgs { paths, cluster, output, .. } = args;
    if *cluster {
        return cluster::run(args, colour);
    }
    let layout = match layout::discover(&paths.clone().into()) {
        Ok(layout) => layout,
        Err(refusal) => return Answer::refused(&refusal, Exit::Usage),
    };
    let status = match of_agent(&layout.at(&layout.agent_socket())) {
        Ok(status) => status,
        Err(why) => match look(&layout) {
            Ok(status) => NodeStatus { problem: status.problem.or(Some(why)), ..status },
            Err(error) => {
                let problem = Some(format!("{why}; and this command cannot look: {error}"));
                return said(&NodeStatus { problem, ..NodeStatus::default() }, *output, Exit::Attention);
            }
        },
    };
    let well = status.pods.iter().all(|row| !row.needs_attention()) && status.left_out == 0;
    said(&status, *output, if well { Exit::Well } else { Exit::Attention })
}

fn said(status: &NodeStatus, output: Output, exit: Exit) -> Answer {
    let text = match output {
        Output::Text => text(status),
        Output::Json => json(status),
    };
    Answer::said(text, exit)
}

fn of_agent(socket: &Path) -> Result<NodeStatus, String> {
    match client::ask(socket, &Request::Status {}, AGENT_WITHIN) {
        Ok(Answered::Status(status)) => serde_json::from_value(status)
            .map_err(|error| format!("the agent's answer cannot be read: {error}")),
        Ok(_) => Err("the agent does not say how pods are: it is of another version".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Makes the agent's list by one check of each pod, which changes nothing.
fn look(layout: &Layout) -> std::io::Result<NodeStatus> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut defaults, mut problem) = match defaults(layout) {
        Ok(defaults) => (defaults, None),
        Err(problem) => (Defaults::default(), Some(problem)),
    };
    defaults.handlers.clone_from(&layout.handlers);
    let records = Records::new(&layout.at(&layout.attachments())).all()?;
    let (listed_by, subjects) = runtime.block_on(async {
        let (listed_by, sandboxes, mut cri) = match verify::sandboxes(layout).await {
            Ok(Some((cri, sandboxes))) => ("the container runtime", Some(sandboxes), Some(cri)),
            Ok(None) => ("the attachments' records", None, None),
            Err(error) => {
                problem = Some(error.to_string());
                ("the attachments' records", None, None)
            }
        };
        let mut found = Vec::new();
        for subject in verify::subjects(sandboxes, records, &defaults) {
            let network = match (&subject.desired, cri.as_mut()) {
                (Desired::Redirect(..), Some(cri)) => match cri.network(&subject.id).await {
                    Err(error) if error.is_gone() => continue,
                    other => other.unwrap_or_default(),
                },
                _ => Network::default(),
            };
            found.push((subject, network));
        }
        (listed_by, found)
    });
    let table = PodTable::default();
    table.listed(listed_by.to_owned(), problem, |_| true);
    for (subject, network) in subjects {
        let bypass = subject.bypass;
        table.set(verify::with_bypass(looked_at(layout, subject, network), bypass));
    }
    Ok(NodeStatus { agent: false, ..table.status() })
}

fn looked_at(layout: &Layout, subject: Subject, network: Network) -> PodRow {
    let row = verify::row(&subject, &network, None);
    let Desired::Redirect(policy, setting) = &subject.desired else { return row };
    if network.of_node {
        return row;
    }
    let (policy, setting) = (policy.clone(), setting.clone());
    let check = PodCheck {
        root: layout.root.clone(),
        records: layout.at(&layout.attachments()),
        network_name: None,
        subject,
        network,
        netns: None,
    };
    let verified = Some(rfc3339(SystemTime::now()));
    match check.verify(policy, Mode::Report) {
        Ok((_, checked)) => {
            let row = PodRow { beside: checked.beside, ..row };
            match checked.state {
                Redirect::Well(engine) => PodRow {
                    state: RedirectState::Redirected,
                    engine: Some(engine.name().to_owned()),
                    verified,
                    reason: setting,
                    ..row
                },
                Redirect::Differs(lines) => {
                    PodRow { state: RedirectState::Damaged, verified, reason: lines.join("; "), ..row }
                }
                Redirect::Anothers(owner) => PodRow {
                    state: RedirectState::Damaged,
                    verified,
                    reason: format!("its rules were written for another: {owner}"),
                    ..row
                },
                Redirect::Incomplete(engine, lines) => PodRow {
                    state: RedirectState::Redirected,
                    engine: Some(engine.name().to_owned()),
                    verified,
                    reason: format!(
                        "{setting}; by the pod's own securityContext.sysctls, {}",
                        lines.join("; ")
                    ),
                    ..row
                },
                // Impossible in a check that only reports.
                Redirect::Repaired(_) | Redirect::Completed(_) => row,
            }
        }
        Err(error) => PodRow { reason: error.to_string(), ..row },
    }
}

/// Reads the defaults from the entry in the runtime's file, or from the drop-in beside it.
fn defaults(layout: &Layout) -> Result<Defaults, String> {
    let shown = layout.conf_dir.display();
    let none = || format!("no entry of culvert-cni is effective in {shown}: new pods are not redirected");
    let files = Folder::read(layout, &Plugins::default()).map_err(|error| format!("{shown}: {error}"))?;
    let Choice::File { name, .. } = files.effective(layout) else { return Err(none()) };
    let conflist = Conflist::parse(files.text(&name)).map_err(|_| none())?;
    if let Some(index) = conflist.plugins.iter().position(|plugin| plugin.kind == TYPE) {
        return Defaults::of_entry(conflist.plugin(index).unwrap_or_default());
    }
    let drop_in = layout.at(&layout.conf_dir.join(&conflist.name).join(DROP_IN));
    match read_bounded(&drop_in, MAX_BYTES) {
        Ok(entry) if !conflist.inlined_only => Defaults::of_entry(&entry),
        _ => Err(none()),
    }
}

/// A table, and notes below it.
fn text(status: &NodeStatus) -> String {
    let NodeStatus { node, agent, listed_by, problem, api_server, pods, left_out } = status;
    let rows: Vec<[String; 6]> = pods
        .iter()
        .map(|row| {
            let PodRow { pod, sandbox: _, onboarded, engine, state, verified, repairs: _, reason, beside } =
                row;
            let (engine, verified) = (engine.clone(), verified.clone());
            let others: String = beside.iter().map(|line| format!("; beside {line}")).collect();
            [
                pod.clone(),
                onboarded.as_str().to_owned(),
                state.as_str().to_owned(),
                engine.unwrap_or_else(|| "-".to_owned()),
                verified.unwrap_or_else(|| "never".to_owned()),
                printable(&format!("{reason}{others}")),
            ]
        })
        .collect();
    let mut out = table(["POD", "ONBOARDED", "STATE", "ENGINE", "VERIFIED", "REASON"], &rows);
    // Writing to a String does not fail.
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    line(String::new());
    let attention = pods.iter().filter(|row| row.needs_attention()).count();
    let node = node.as_ref().map(|node| format!(" of {node}")).unwrap_or_default();
    let by = listed_by.as_deref().unwrap_or("nobody yet");
    line(format!("{} pods{node}, listed by {by}; {attention} need attention.", pods.len() + left_out));
    if *left_out > 0 {
        line(format!("{left_out} pods found no room in this list."));
    }
    if !agent {
        line("No agent answers here: this command looked for itself, and changed nothing.".to_owned());
    }
    for (what, problem) in [("the list", problem), ("the API server", api_server)] {
        if let Some(problem) = problem {
            line(format!("{what}: {}", printable(problem)));
        }
    }
    out
}

/// Replaces characters that move a terminal's cursor; reasons quote texts of pods.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

fn json(status: &NodeStatus) -> String {
    let mut out = serde_json::to_string_pretty(status).expect("strings and numbers only");
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::status::Onboarded;

    fn row(pod: &str, onboarded: Onboarded, state: RedirectState, reason: &str) -> PodRow {
        PodRow {
            pod: pod.to_owned(),
            sandbox: format!("id-of-{pod}"),
            onboarded,
            engine: (state == RedirectState::Redirected).then(|| "nftables".to_owned()),
            state,
            verified: (onboarded == Onboarded::Yes).then(|| "2026-11-21T21:59:59Z".to_owned()),
            repairs: 0,
            reason: reason.to_owned(),
            beside: Vec::new(),
        }
    }

    fn status() -> NodeStatus {
        NodeStatus {
            node: Some("worker-1".to_owned()),
            agent: true,
            listed_by: Some("the container runtime".to_owned()),
            pods: vec![
                row("shop/batch", Onboarded::No, RedirectState::Direct, "not onboarded"),
                row("shop/old", Onboarded::Yes, RedirectState::Damaged, "chain inbound is missing\u{1b}[2J"),
                row("shop/web-0", Onboarded::Yes, RedirectState::Redirected, "culvert.dev/redirect"),
                row(
                    "tools/x",
                    Onboarded::Unknown,
                    RedirectState::Unknown,
                    "annotations unknown, onUnknown is allow",
                ),
            ],
            api_server: Some("cannot reach the API server at 10.0.0.1:443: timed out".to_owned()),
            ..NodeStatus::default()
        }
    }

    #[test]
    fn a_node_with_pods_of_each_kind() {
        insta::assert_snapshot!("text", text(&status()));
        insta::assert_snapshot!("json", json(&status()));
        let alone =
            NodeStatus { agent: false, problem: Some("no socket".to_owned()), pods: vec![], ..status() };
        insta::assert_snapshot!("alone", text(&alone));
    }

    #[test]
    fn a_pod_that_nobody_knows_needs_attention() {
        let attention: Vec<_> = status().pods.iter().map(PodRow::needs_attention).collect();
        assert_eq!(attention, [false, true, false, true]);
    }
}
