// SPDX-License-Identifier: Apache-2.0
//! Things that the agent does at its start, undone by others later, are done again.

use culvert_tests::api_server::ApiServer;
use rustix::process::Signal;
use serde_json::json;

use super::*;

/// The longest that a node may keep a taint that was put back, and the agent's folder its damage.
const AGAIN_WITHIN: Duration = Duration::from_secs(30);
const TAINT: &str = "culvert.dev/agent-not-ready";

#[test]
fn a_taint_that_is_put_back_and_a_state_folder_that_is_removed() -> Result<()> {
    let node = with_list()?;
    let server = ApiServer::local()?;
    let held = || server.node("worker-1", json!([{ "key": TAINT, "effect": "NoSchedule" }]));
    held();
    let (host, port) = (server.address().ip(), server.address().port());
    let environment = [format!("KUBERNETES_SERVICE_HOST={host}"), format!("KUBERNETES_SERVICE_PORT={port}")];
    let account = server.service_account().to_string_lossy().into_owned();
    let agent = node
        .agent_behind(
            &["env", &environment[0], &environment[1]],
            &["--node-name", "worker-1", "--hold-until-ready", "--service-account", &account],
        )?
        .ready()?;
    let is_off = || server.taints("worker-1") == json!([]);
    eventually!(is_off(), 10 * HEALS_WITHIN);

    held();
    fs::remove_dir_all(node.at("run/culvert"))?;
    let start = Instant::now();
    let came = |what: &str, is_back: &dyn Fn() -> bool| -> Result<()> {
        let took = until_some(AGAIN_WITHIN, || is_back().then(|| start.elapsed()));
        println!("{what}: again after {:?}", took.with_context(|| format!("{what}\n{}", agent.log()))?);
        Ok(())
    };
    came("the socket", &|| node.at("run/culvert/agent.sock").exists())?;
    came("the mark of an agent", &|| looks::found(&node, "agent").is_ok_and(|found| found == "runs"))?;
    came("no taint", &is_off)?;
    eventually!(agent.log().contains("the taint was put back"), HEALS_WITHIN);
    Ok(())
}

#[test]
fn the_signals_that_a_runbook_sends_to_reload_do_not_end_the_agent() -> Result<()> {
    let node = with_list()?;
    let agent = node.agent(&[])?.ready()?;
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2] {
        agent.signal(signal)?;
    }
    // Signals are handled before the process answers, and the entry is still kept after them.
    fs::write(node.configuration(NAME), LIST)?;
    eventually!(has_entry(&node.configuration(NAME)), HEALS_WITHIN);
    // The entry is there a moment before the agent says so.
    eventually!(agent.get("/ready").is_ok_and(|ready| ready.status == 200), HEALS_WITHIN);
    agent.terminate().map(drop)
}
