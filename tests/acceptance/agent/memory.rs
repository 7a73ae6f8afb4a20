// SPDX-License-Identifier: Apache-2.0
//! Pods come and go for months: the agent keeps nothing of those that went.

use std::sync::atomic::AtomicUsize;

use crate::support::scaled;
use culvert_tests::lab::Lab;

use super::*;

/// The most memory of the agent after 5,000 ADDs.
const AT_MOST: u64 = 15 << 20;
/// From the plugin's last word to the agent's count of it.
const COUNTED_WITHIN: Duration = Duration::from_secs(10);
/// Pods at a time, each in a namespace of its own, which the next one takes over.
const AT_ONCE: usize = 4;

/// 200 ADDs and DELs of the plugin that the agent placed; with `CULVERT_TEST_SCALE=25` 5,000.
#[test]
fn the_agents_memory_stays_bounded_over_many_pods() -> Result<()> {
    let node = with_list()?;
    let agent = node.agent(&[])?.ready()?;
    let begin = agent.peak_memory()?;
    let (adds, next) = (scaled(200), AtomicUsize::new(0));
    std::thread::scope(|scope| -> Result<()> {
        let pods: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let lab = Lab::new()?;
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= adds {
                            return Ok(());
                        }
                        let id = format!("{number:064x}");
                        for verb in ["ADD", "DEL"] {
                            let outcome = lab
                                .invoke(verb)?
                                .redirect()
                                .program(&node.plugin())
                                .env("CNI_CONTAINERID", &id)
                                .config("stateDir", node.at("run/culvert/attachments").to_string_lossy())
                                .config("agentSocket", node.at("run/culvert/agent.sock").to_string_lossy())
                                .run()?;
                            ensure!(outcome.status.success(), "{verb}: {outcome:?}");
                        }
                    }
                })
            })
            .collect();
        pods.into_iter().try_for_each(|pod| pod.join().expect("no pod panics"))
    })?;
    let counted = || agent.metric("culvert_cni_adds_total{result=\"Redirected\"}").unwrap_or_default();
    eventually!(counted() as usize == adds, COUNTED_WITHIN);
    let peak = agent.peak_memory()?;
    println!(
        "{adds} ADDs and DELs: the agent had {} KiB at most, {} KiB before them",
        peak >> 10,
        begin >> 10
    );
    assert!(peak <= AT_MOST, "{peak} bytes");
    assert!(fs::read_dir(node.at("run/culvert/attachments"))?.next().is_none(), "a record is left");
    Ok(())
}
