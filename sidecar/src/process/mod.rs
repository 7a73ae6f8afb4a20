// SPDX-License-Identifier: Apache-2.0
//! The life of the process.

mod drain;
mod holders;
mod identity;
pub mod inspect;
mod listeners;
mod prober;
mod reload;
pub mod resolve;
pub mod run;
mod services;
mod signals;
mod start;
pub mod validate;
pub mod wait;
mod workers;

pub use start::StartError;
