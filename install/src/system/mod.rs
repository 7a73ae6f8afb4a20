// SPDX-License-Identifier: Apache-2.0
//! Helpers for every room: listeners, status pages, bounded reads of files, texts that keep bytes of any kind, and times and metrics as text.

pub(crate) mod clock;
pub(crate) mod listen;
pub(crate) mod lossless;
pub(crate) mod openmetrics;
pub(crate) mod read;
pub(crate) mod status_port;
