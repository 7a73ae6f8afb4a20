// SPDX-License-Identifier: Apache-2.0
//! What every room may use: bounded reads of files, and times as others write them.

pub(crate) mod clock;
pub(crate) mod read;
