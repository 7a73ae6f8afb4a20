// SPDX-License-Identifier: Apache-2.0
//! The agent's tasks about pods, and what they share.
//!
//! ```text
//! plugin ──socket──▶ annotations ◀── kube::Pods ◀── watch ── API server ◀── events, the taint
//!            │                                                               ▲
//!            └──▶ reports ──▶ metrics, "there is news" ──▶ verify ───────────┘
//!                                                           ▲  └──▶ Table ──▶ status
//!                          runtime's CRI, attachments' records
//! ```

use std::sync::Arc;

use tokio::task::JoinSet;

use super::context::Context;
use super::shared::Shared;
use super::socket;
use super::verify;
use crate::kube::{Events, Pods, events, hold};

/// Starts them; each ends when the agent is told to.
pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let cluster = context.options.cluster();
    let shared = Arc::new(Shared::new(cluster.as_ref().map(|_| Pods::default())));
    tasks.spawn(socket::run(context.clone(), Arc::clone(&shared)));
    let Some((client, node)) = cluster else {
        tasks.spawn(verify::run(context.clone(), shared, None));
        return;
    };
    let (handed_in, events) = Events::new();
    tasks.spawn(verify::run(context.clone(), Arc::clone(&shared), Some(handed_in)));

    let (context, until) = (context.clone(), context.clone());
    tasks.spawn(async move {
        let follow = async {
            if let Some(pods) = &shared.kube {
                pods.follow(&client, &node).await;
            }
        };
        let post = events::post(&client, &node, events);
        let hold = async {
            if let Some(taint) = &context.options.hold_until_ready
                && context.until_ready().await
            {
                hold::release(&client, &node, taint).await;
            }
        };
        tokio::select! {
            () = until.shutdown() => {}
            // None of the three ends another.
            ((), (), ()) = async { tokio::join!(follow, post, hold) } => {}
        }
    });
}
