// SPDX-License-Identifier: Apache-2.0
//! `culvert-install doctor`: what is on this node, what is wrong, what to do.

pub mod diagnosis;
pub mod render;

use std::io;
use std::path::{Path, PathBuf};

use super::Answer;
use crate::cli::{DoctorArgs, Output, Paths};
use crate::node::probe;
use crate::{Colour, Exit};

/// Why `doctor` did not look.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Options of the contract that this version has no use for.
    #[error(
        "doctor's {} is not built yet: it looks at the kernel and at iptables, for which --host-root is enough",
        .0.join(", ")
    )]
    NotBuilt(Vec<&'static str>),
    /// No node there.
    #[error("--host-root {}: {source}; mount the node's file system there, or leave the option out on the node itself", path.display())]
    HostRoot {
        /// As given.
        path: PathBuf,
        /// The file system's word.
        source: io::Error,
    },
}

/// Looks at the node and says what it sees.
pub fn run(args: &DoctorArgs, colour: Colour) -> Result<Answer, Refusal> {
    let DoctorArgs { paths, output } = args;
    let host_root = checked(paths)?;
    let report = diagnosis::diagnose(host_root, &probe::gather(host_root));
    let text = match output {
        Output::Text => render::text(&report, colour),
        Output::Json => render::json(&report),
    };
    Ok(Answer::said(text, if report.well { Exit::Well } else { Exit::Attention }))
}

fn checked(paths: &Paths) -> Result<&Path, Refusal> {
    let Paths { host_root, cni_conf_dir, cni_bin_dir, plugin, state_dir, runtime_socket } = paths;
    let given = [
        (cni_conf_dir, "--cni-conf-dir"),
        (cni_bin_dir, "--cni-bin-dir"),
        (plugin, "--plugin"),
        (state_dir, "--state-dir"),
        (runtime_socket, "--runtime-socket"),
    ];
    let not_built: Vec<_> =
        given.into_iter().filter(|(path, _)| path.is_some()).map(|(_, name)| name).collect();
    if !not_built.is_empty() {
        return Err(Refusal::NotBuilt(not_built));
    }
    host_root
        .read_dir()
        .map(|_| host_root.as_path())
        .map_err(|source| Refusal::HostRoot { path: host_root.clone(), source })
}
