// SPDX-License-Identifier: Apache-2.0
//! Sandboxes whose packets bypass the rules, by the handler of their RuntimeClass. The program behind it is runc here: only its
//! name is Kata's.

use std::time::Duration;

use anyhow::{Context, Result};
use culvert_tests::eventually;
use culvert_tests::runtime::Node;
use serde_json::Value;

use super::leaving_nothing;

const ON: (&str, &str) = ("culvert.dev/redirect", "enabled");
const SOON: Duration = Duration::from_secs(10);

/// The exit code of `culvert-install status`, and a pod's state and reason.
fn status(node: &Node, pod: &str) -> Result<(Option<i32>, String, String)> {
    let ran = node.run("status", &["--output", "json"])?;
    let answer: Value = serde_json::from_str(&ran.stdout).with_context(|| format!("{ran:?}"))?;
    let rows = answer["pods"].as_array().context("no pods")?;
    let row = rows.iter().find(|row| row["pod"] == pod).context("no such pod")?;
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    Ok((ran.status.code(), text("state"), text("reason")))
}

#[test]
fn status_says_that_the_packets_of_a_sandbox_bypass_the_rules() -> Result<()> {
    leaving_nothing(
        || Node::start("1.0.0"),
        |node| {
            let client = node.client()?;
            let agent = node.agent(&[])?.ready()?;
            let sandboxed = client.run_by("kata-lab", "sandboxed", &[ON])?;
            let plain = client.run_by("", "plain", &[ON])?;
            let other = client.run_by("kata-lab", "other", &[])?;
            // The rules are there, and are kept there.
            assert!(sandboxed.is_covered()?);
            let is =
                |pod: &str, expected: &str| status(node, pod).is_ok_and(|(_, state, _)| state == expected);
            eventually!(is("default/sandboxed", "bypassed") && is("default/plain", "redirected"), SOON);
            let (code, _, reason) = status(node, "default/sandboxed")?;
            assert_eq!(code, Some(1), "it needs attention");
            assert!(
                reason.contains("culvert.dev/redirect") && reason.contains("bypass the rules"),
                "{reason}"
            );
            // This one asks for nothing.
            eventually!(is("default/other", "direct"), SOON);
            let ran = node.run("status", &[])?;
            assert!(ran.stdout.contains("bypassed"), "{ran:?}");
            agent.terminate()?;

            // Without an agent too.
            assert!(is("default/sandboxed", "bypassed") && is("default/plain", "redirected"));
            for pod in [sandboxed, plain, other] {
                pod.end()?;
            }
            Ok(())
        },
    )
}
