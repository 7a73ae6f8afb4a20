// SPDX-License-Identifier: Apache-2.0
//! The answer of commands that the contract has and this version does not.

use crate::cli::Planned;

/// Says which command is missing, and what there is.
pub fn answer(command: &Planned) -> String {
    let name = match command {
        Planned::Status(_) => "status",
    };
    format!("`{name}` is not built yet: nothing was read and nothing was changed; --help lists what there is")
}
