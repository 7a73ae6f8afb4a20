// SPDX-License-Identifier: Apache-2.0
//! `culvert-install doctor`: state of this node, problems, and advice.

pub(crate) mod diagnosis;
pub(crate) mod installed;
pub(crate) mod render;

use crate::cli::doctor::DoctorArgs;
use crate::cli::shared::Output;
use crate::command::answer::Answer;
use crate::command::answer::{Colour, Exit};
use crate::host::layout::{self, LayoutError};
use crate::probe::{facts, inventory};

/// Checks the node and reports.
pub(crate) fn run(args: &DoctorArgs, colour: Colour) -> Result<Answer, LayoutError> {
    let DoctorArgs { paths, output } = args;
    let layout = layout::discover(&paths.clone().into())?;
    let host_root = layout.root.path();
    let report = diagnosis::diagnose(host_root, &facts::gather(host_root))
        .with(installed::judge(&inventory::take(&layout)));
    let text = match output {
        Output::Text => render::text(&report, colour),
        Output::Json => render::json(&report),
    };
    Ok(Answer::said(text, if report.well { Exit::Well } else { Exit::Attention }))
}
