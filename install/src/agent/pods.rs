// SPDX-License-Identifier: Apache-2.0
//! Starts the agent's tasks about pods, which share [`Shared`].
//!
//! ```text
//! plugin ──socket──▶ annotations ◀── kube::Pods ◀── watch ── API server ◀── events, the taint
//!            │                                                               ▲
//!            └──▶ reports ──▶ metrics, "list again" ────▶ verify ───────────┘
//!                                                           ▲  └──▶ PodTable ──▶ status
//!                          runtime's CRI, attachments' records
//! ```

use std::sync::Arc;

use tokio::task::JoinSet;

use super::context::Context;
use super::shared::Shared;
use super::socket;
use super::verify;
use crate::kube::events::{self, Reporter};
use crate::kube::{Events, Pods, hold};

/// Starts the tasks. Each ends at the shutdown of the agent.
pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let cluster = context.options.cluster();
    let shared = Arc::new(Shared::new(cluster.as_ref().map(|_| Pods::default())));
    tasks.spawn(socket::run(context.clone(), Arc::clone(&shared)));
    let Some((client, node)) = cluster else {
        tasks.spawn(verify::run(context.clone(), shared, None));
        return;
    };
    let (queue, events) = Events::new();
    tasks.spawn(verify::run(context.clone(), Arc::clone(&shared), Some(queue)));

    let (context, until) = (context.clone(), context.clone());
    tasks.spawn(async move {
        let follow = async {
            if let Some(pods) = &shared.kube {
                pods.follow(&client, &node).await;
            }
        };
        let reporter =
            Reporter { component: "culvert-agent", controller: "culvert.dev/agent", instance: node.clone() };
        let post = events::post(&client, &reporter, events);
        let hold = async {
            if let Some(taint) = &context.options.hold_until_ready {
                let is_ready = || context.until_ready();
                hold::keep_off(&client, &node, taint, hold::LOOK_EVERY, is_ready).await;
            }
        };
        tokio::select! {
            () = until.shutdown() => {}
            // Joined, since the end of one of the three must not end another.
            ((), (), ()) = async { tokio::join!(follow, post, hold) } => {}
        }
    });
}
