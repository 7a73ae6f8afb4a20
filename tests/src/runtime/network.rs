// SPDX-License-Identifier: Apache-2.0
//! The names that a world's network has, and where its files are.

use std::path::{Path, PathBuf};

/// The name of the network in every conflist here.
pub const NETWORK: &str = "lab";

/// The bridge on the node; nothing else on a machine has this name.
pub(super) const BRIDGE: &str = "culvert-lab0";

pub(super) fn log_file(folder: &Path) -> PathBuf {
    folder.join("cni.log")
}

pub(super) fn state_dir(folder: &Path) -> PathBuf {
    folder.join("attachments")
}

pub(super) fn addresses(folder: &Path) -> PathBuf {
    folder.join("addresses")
}
