// SPDX-License-Identifier: Apache-2.0
//! The node's files: finding, reading and changing them.
//!
//! ```text
//! paths, root ──▶ runtimes (runtime_config, glob) ──▶ layout ──▶ files, plugins, folder, state ──▶ binary, entry ──▶ uninstall (reload)
//! ```

pub(crate) mod binary;
pub(crate) mod entry;
pub(crate) mod files;
pub(crate) mod folder;
mod glob;
pub(crate) mod layout;
pub(crate) mod neighbours;
pub(crate) mod paths;
pub(crate) mod plugins;
pub(crate) mod reload;
pub(crate) mod root;
pub(crate) mod runtime_config;
pub(crate) mod runtimes;
pub(crate) mod state;
pub(crate) mod uninstall;
