// SPDX-License-Identifier: Apache-2.0
//! The identities of pods, and the authorities that their peers believe.

pub mod mesh_identity;
pub mod mesh_trust;
mod template;

pub use mesh_identity::{MeshIdentity, ProviderKind};
pub use mesh_trust::MeshTrust;

#[cfg(test)]
mod tests;
