// SPDX-License-Identifier: Apache-2.0
//! Helpers for every room: bounded reads of files, and times as text.

pub(crate) mod clock;
pub(crate) mod read;
