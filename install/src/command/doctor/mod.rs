// SPDX-License-Identifier: Apache-2.0
//! `culvert-install doctor`: state of this node or of the cluster's injector, problems, and advice.

pub(crate) mod cluster;
pub(crate) mod diagnosis;
pub(crate) mod installed;
pub(crate) mod render;

use self::cluster::ClusterError;
use crate::cli::doctor::DoctorArgs;
use crate::cli::shared::Output;
use crate::command::answer::Answer;
use crate::command::answer::{Colour, Exit};
use crate::host::layout::{self, LayoutError};
use crate::probe::{facts, inventory};

/// Reasons why nothing is checked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoctorError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// Checks the node or the cluster, and reports.
pub(crate) fn run(args: &DoctorArgs, colour: Colour) -> Result<Answer, DoctorError> {
    let DoctorArgs { paths, output, .. } = args;
    let report = if args.cluster {
        cluster::report(args)?
    } else {
        let layout = layout::discover(&paths.clone().into())?;
        let host_root = layout.root.path();
        diagnosis::diagnose(host_root, &facts::gather(host_root))
            .with(installed::judge(&inventory::take(&layout)))
    };
    let text = match output {
        Output::Text => render::text(&report, colour),
        Output::Json => render::json(&report),
    };
    Ok(Answer::said(text, if report.well { Exit::Well } else { Exit::Attention }))
}
