// SPDX-License-Identifier: Apache-2.0
//! One module a command.

pub mod doctor;
pub mod unbuilt;
