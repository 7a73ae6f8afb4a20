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

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use culvert_cni::agent::PodRef;
use culvert_cni::pod::Annotations;
use tokio::task::JoinSet;

use super::agent::Context;
use super::kube::{Events, Pods, events, hold};
use super::status::{Status, Table};
use super::{socket, verify};

/// What the tasks about pods share.
#[derive(Debug, Default)]
pub struct Shared {
    /// What Kubernetes knows of this node's pods; `None` where no API server is asked.
    pub kube: Option<Pods>,
    /// How each pod is.
    pub table: Table,
    /// The plugin reported something since the pods were listed.
    pub news: AtomicBool,
    /// The last sandboxes that the plugin told the end of, newest last.
    ended: Mutex<VecDeque<String>>,
}

/// Ends that are remembered: a runtime forgets a sandbox within a second of it.
const ENDS: usize = 256;

impl Shared {
    /// The plugin told the end of this sandbox.
    pub fn end(&self, id: &str) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push_back(id.to_owned());
        if ended.len() > ENDS {
            ended.pop_front();
        }
    }

    /// Whether it did so lately.
    pub fn has_ended(&self, id: &str) -> bool {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|ended| ended == id)
    }

    /// The annotations of a pod, or why they are not known; takes less than a second.
    pub async fn annotations(&self, pod: &PodRef) -> Result<Annotations, String> {
        match &self.kube {
            Some(pods) => pods.annotations(pod).await,
            None => {
                Err("the agent asks no API server: it was started without --node-name, or outside of a pod"
                    .to_owned())
            }
        }
    }

    /// How each pod is, for `culvert-install status`.
    pub fn status(&self, context: &Context) -> Status {
        let mut status = self.table.status();
        status.node = context.options.node_name.clone();
        status.api_server = self.kube.as_ref().and_then(Pods::stale);
        status
    }
}

/// Starts them; each ends when the agent is told to.
pub fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let cluster = context.options.cluster();
    let shared = Arc::new(Shared { kube: cluster.as_ref().map(|_| Pods::default()), ..Shared::default() });
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
