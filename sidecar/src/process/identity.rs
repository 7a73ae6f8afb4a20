// SPDX-License-Identifier: Apache-2.0
//! Readiness and the workload's identity: no identity, no readiness, where one is configured or the mesh's mTLS asks.

use crate::connection::proxy::Proxy;
use crate::observe::readiness::{Block, Readiness};
use std::sync::Arc;

/// Blocks readiness while the identity is missing.
#[derive(Debug)]
pub(crate) struct IdentityGate {
    proxy: Arc<Proxy>,
    block: Block,
}

impl IdentityGate {
    pub(crate) fn new(proxy: &Arc<Proxy>, readiness: &Readiness) -> Self {
        Self { proxy: Arc::clone(proxy), block: readiness.block(missing(proxy)) }
    }

    /// Asks again. Called when the identity's files were read and when documents were, which say whether mTLS is on.
    pub(crate) fn update(&self) {
        self.block.update(missing(&self.proxy));
    }
}

fn missing(proxy: &Proxy) -> Vec<String> {
    let mtls = proxy.running.load().plan.mtls.is_some();
    proxy.tls.missing(mtls).into_iter().collect()
}
