// SPDX-License-Identifier: Apache-2.0
//! What the agent's tasks about pods share.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use culvert_cni::agent::PodRef;
use culvert_cni::pod::Annotations;

use super::context::Context;
use super::status::{NodeStatus, PodTable};
use crate::kube::Pods;

/// What the tasks about pods share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// What Kubernetes knows of this node's pods; `None` where no API server is asked.
    pub kube: Option<Pods>,
    /// How each pod is.
    pub table: PodTable,
    /// The plugin reported something since the pods were listed.
    pub news: AtomicBool,
    /// The last sandboxes that the plugin told the end of, newest last.
    ended: Mutex<VecDeque<String>>,
}

/// Ends that are remembered: a runtime forgets a sandbox within a second of it.
const ENDS: usize = 256;

impl Shared {
    /// An empty table beside `kube`.
    pub(crate) fn new(kube: Option<Pods>) -> Self {
        Self { kube, ..Self::default() }
    }

    /// The plugin told the end of this sandbox.
    pub(crate) fn end(&self, id: &str) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push_back(id.to_owned());
        if ended.len() > ENDS {
            ended.pop_front();
        }
    }

    /// Whether it did so lately.
    pub(crate) fn has_ended(&self, id: &str) -> bool {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|ended| ended == id)
    }

    /// The annotations of a pod, or why they are not known; takes less than a second.
    pub(crate) async fn annotations(&self, pod: &PodRef) -> Result<Annotations, String> {
        match &self.kube {
            Some(pods) => pods.annotations(pod).await,
            None => {
                Err("the agent asks no API server: it was started without --node-name, or outside of a pod"
                    .to_owned())
            }
        }
    }

    /// How each pod is, for `culvert-install status`.
    pub(crate) fn status(&self, context: &Context) -> NodeStatus {
        let mut status = self.table.status();
        status.node = context.options.node_name.clone();
        status.api_server = self.kube.as_ref().and_then(Pods::stale);
        status
    }
}
