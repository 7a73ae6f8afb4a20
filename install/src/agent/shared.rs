// SPDX-License-Identifier: Apache-2.0
//! The state that the agent's tasks about pods share.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use culvert_cni::agent::PodRef;
use culvert_cni::pod::Annotations;

use super::context::Context;
use super::status::{NodeStatus, PodTable};
use crate::kube::Pods;

/// The state that the tasks about pods share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// This node's pods as the API server has them; `None` where no API server is asked. Written by the watch, read by `socket`.
    pub kube: Option<Pods>,
    /// The state of each pod. Written by `verify`, read by `socket` for `culvert-install status`.
    pub table: PodTable,
    /// True once the plugin has reported a call since the last list of pods. Set by `socket`, cleared by `verify`.
    pub news: AtomicBool,
    /// The last sandboxes whose DEL the plugin has reported, newest last. Written by `socket`, read by `verify`.
    ended: Mutex<VecDeque<String>>,
}

/// Sandboxes that are kept in `ended`: a runtime forgets a sandbox within a second of its DEL.
const ENDS: usize = 256;

impl Shared {
    pub(crate) fn new(kube: Option<Pods>) -> Self {
        Self { kube, ..Self::default() }
    }

    /// Notes the DEL of a sandbox.
    pub(crate) fn note_end(&self, id: &str) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push_back(id.to_owned());
        if ended.len() > ENDS {
            ended.pop_front();
        }
    }

    /// Returns true for a sandbox whose DEL was noted of late.
    pub(crate) fn has_ended(&self, id: &str) -> bool {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|ended| ended == id)
    }

    /// Returns the annotations of a pod, or the reason why they are unknown, within a second.
    pub(crate) async fn annotations(&self, pod: &PodRef) -> Result<Annotations, String> {
        match &self.kube {
            Some(pods) => pods.annotations(pod).await,
            None => {
                Err("the agent asks no API server: it was started without --node-name, or outside of a pod"
                    .to_owned())
            }
        }
    }

    /// Composes the answer to `culvert-install status`.
    pub(crate) fn status(&self, context: &Context) -> NodeStatus {
        let mut status = self.table.status();
        status.node = context.options.node_name.clone();
        status.api_server = self.kube.as_ref().and_then(Pods::stale);
        status
    }
}
