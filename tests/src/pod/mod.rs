// SPDX-License-Identifier: Apache-2.0
//! The programs that a pod meets: the plugin, the sidecar, and bare listeners in the sidecar's place.

#[cfg(feature = "acceptance")]
pub mod bench;
pub mod landing;
pub mod plugin;
pub mod sidecar;
