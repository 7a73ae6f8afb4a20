// SPDX-License-Identifier: Apache-2.0
//! Readiness, the mesh and the workload's identity: no identity, no readiness, where one is configured or the mesh's mTLS
//! asks; no Mesh document, no readiness, where a controller is expected to tell it.

use crate::connection::proxy::Proxy;
use crate::observe::readiness::{Block, Readiness};
use std::sync::Arc;

/// Blocks readiness while the Mesh document or the identity is missing.
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
    let running = proxy.running.load();
    let unknown = running.plan.stand_ins.mesh;
    let no_mesh = unknown.then(|| {
        format!(
            "no Mesh document of the name {:?} yet, neither by --resources nor from the controller (--control): until one \
             comes nothing is let in and nothing leaves",
            proxy.config.mesh
        )
    });
    // The mesh that stands in says nothing about the real one's mTLS.
    let mtls = running.plan.mtls.is_some() && !unknown;
    no_mesh.into_iter().chain(proxy.tls.missing(mtls)).collect()
}
