// SPDX-License-Identifier: Apache-2.0
//! The controller.
#![allow(dead_code)]
pub(crate) mod authority;
pub(crate) mod compile;
pub(crate) mod key;
pub(crate) mod metrics;
pub(crate) mod options;
pub(crate) mod shared;
pub(crate) mod stream;
pub(crate) mod watch;
pub(crate) mod world;
