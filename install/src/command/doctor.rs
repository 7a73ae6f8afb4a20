// SPDX-License-Identifier: Apache-2.0
//! `culvert-install doctor`: what is on this node, what is wrong, what to do.

pub mod diagnosis;
pub mod installed;
pub mod render;

use super::Answer;
use crate::cli::{DoctorArgs, Output};
use crate::node::layout::{self, LayoutError};
use crate::node::{inventory, probe};
use crate::{Colour, Exit};

/// Looks at the node and says what it sees.
pub fn run(args: &DoctorArgs, colour: Colour) -> Result<Answer, LayoutError> {
    let DoctorArgs { paths, output } = args;
    let layout = layout::discover(paths)?;
    let host_root = layout.root.path();
    let report = diagnosis::diagnose(host_root, &probe::gather(host_root))
        .with(installed::judge(&inventory::take(&layout)));
    let text = match output {
        Output::Text => render::text(&report, colour),
        Output::Json => render::json(&report),
    };
    Ok(Answer::said(text, if report.well { Exit::Well } else { Exit::Attention }))
}
