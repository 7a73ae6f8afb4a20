// SPDX-License-Identifier: Apache-2.0
//! The life of the process.

pub mod drain;
mod identity;
pub mod listeners;
pub mod prober;
pub mod reload;
pub mod run;
pub mod validate;
pub mod wait;
pub mod workers;
